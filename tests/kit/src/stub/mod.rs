//! A server that speaks MongoDB's wire protocol and does as little as possible. It serves a
//! prepared oplog from memory, and documents of one collection, and acknowledges writes by counting
//! them.
//!
//! A measurement against it measures the client. A batch is a slice of memory that was laid out
//! before, and no byte of an entry is read while the server serves a tail.
//!
//! | file | holds |
//! | --- | --- |
//! | `entry` | the entries, generated from their number |
//! | `recipe_commands` | the commands among them |
//! | `oplog` | all entries as consecutive array elements, with the start of each |
//! | `point` | reads of single entries, some fields of them or all |
//! | `documents` | the collection: documents generated when they are read |
//! | `command`, `collection` | the answer to each command |
//! | `cursor` | the open cursors |
//! | `fault` | the failures that a test configures for a tail |
//! | `server` | the state that its connections share |
//! | `timing` | the times of inserts, if they are measured |
//! | `process` | the server as a separate process |
//!
//! | command | answer |
//! | --- | --- |
//! | `hello`, `isMaster` | a primary of `rs0` without sessions; the majority has everything |
//! | `find`, `getMore` on `local.oplog.rs` | entries from a `ts` on, tailable; or the one at a `ts` |
//! | `find`, `getMore` on `bench.orders` | documents in a range of `_id` |
//! | `listDatabases`, `listCollections`, `listIndexes`, `collStats` | the two collections |
//! | `aggregate` | `$sample`: `_id`s spread over the collection |
//! | `insert`, `update`, `delete` | `n` = the number of its statements; nothing is stored |
//! | `create`, `createIndexes`, `dropDatabase` | `ok`; nothing changes |
//! | all commands on the database `oplog_relay`, if times are measured | those of a `Model`, which stores the catalog |
//! | `serverStatus` | `opcounters` of the statements, and the times of inserts if they are measured |
//! | `ping`, `buildInfo`, `killCursors`, `endSessions` | `ok` |
//! | other commands | error 59 |

mod collection;
mod command;
mod cursor;
mod documents;
mod entry;
mod fault;
mod oplog;
mod point;
mod process;
mod recipe_commands;
mod server;
mod timing;

pub use documents::Contents;
pub use entry::{NAMESPACE, Recipe, Shape, object_id};
pub use fault::Fault;
pub use oplog::Oplog;
pub(crate) use point::project;
pub use process::{Flow, StubProcess};
pub use recipe_commands::Command;
pub use server::{Pace, Server};
pub use timing::TimedInsert;
