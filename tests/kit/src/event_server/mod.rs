//! A server that serves recorded or handmade events of a change stream over MongoDB's wire
//! protocol, as a mongos or as a replica set.
//!
//! | file | holds |
//! | --- | --- |
//! | `events` | the events and their order |
//! | `answer` | the answer to each command |
//! | `server` | the state that its connections share, and the controls of a test |
//!
//! | command | answer |
//! | --- | --- |
//! | `hello`, `isMaster` | a mongos or a primary, with the logical time |
//! | `aggregate` with `$changeStream` | a cursor from a token or a time on; 280 or 286 if there is none |
//! | `getMore` | the events that exist by now, with the resume token of the reply |
//! | `find` | the document with an `_id` |
//! | `listCollections`, `listIndexes`, `find` on system collections | nothing |
//! | `find` on the oplog | 13, as for a user without rights on `local` |
//! | `buildInfo`, `ping`, `killCursors`, `endSessions` | the version, or `ok` |
//! | all others | 59 |

mod answer;
mod events;
mod server;

pub use events::Events;
pub use server::{EventServer, Role};
