//! A server that speaks MongoDB's wire protocol and does as little as possible: it serves a
//! prepared oplog from memory, and documents of one collection, and acknowledges writes by counting
//! them.
//!
//! What is measured against it is the client. A batch is a slice of memory that was laid out
//! before; no byte of an entry is looked at while serving a tail.
//!
//! | file | holds |
//! | --- | --- |
//! | `entry` | the entries, made from their number |
//! | `oplog` | all of them as one stretch of array elements, and where each begins |
//! | `point` | reads of single entries, some fields of them or all |
//! | `documents` | the collection: documents made when they are read |
//! | `command`, `collection` | what each command is answered |
//! | `cursor` | the cursors that are open |
//! | `fault` | failures that it was told to have while it is tailed |
//! | `server` | what its connections share |
//! | `process` | the server as a process of its own |
//!
//! | command | answer |
//! | --- | --- |
//! | `hello`, `isMaster` | a primary of `rs0` without sessions; the majority has everything |
//! | `find`, `getMore` on `local.oplog.rs` | entries from a `ts` on, tailable; or the one at a `ts` |
//! | `find`, `getMore` on `bench.orders` | documents in a range of `_id` |
//! | `listDatabases`, `listCollections`, `listIndexes`, `collStats` | the two collections |
//! | `aggregate` | `$sample`: `_id`s all over the collection |
//! | `insert`, `update`, `delete` | `n` = the statements in it; nothing is kept |
//! | `create`, `createIndexes`, `dropDatabase` | `ok`; nothing changes |
//! | `serverStatus` | `opcounters` of the statements |
//! | `ping`, `buildInfo`, `killCursors`, `endSessions` | `ok` |
//! | all else | error 59 |

mod collection;
mod command;
mod cursor;
mod documents;
mod entry;
mod fault;
mod oplog;
mod point;
mod process;
mod server;

pub use documents::Contents;
pub use entry::{NAMESPACE, Recipe, Shape, object_id};
pub use fault::Fault;
pub use oplog::Oplog;
pub(crate) use point::project;
pub use process::{Flow, StubProcess};
pub use server::{Pace, Server};
