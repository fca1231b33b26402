//! MongoDB's wire protocol, as the servers of these tests speak it.
//!
//! | file | holds |
//! | --- | --- |
//! | `message` | `OP_MSG` and `OP_QUERY`, in and out |
//! | `listener` | the listener and its connections |

mod listener;
mod message;

pub(crate) use listener::{Closing, Listener, Reply, Service};
pub(crate) use message::{MAX_MESSAGE_BYTES, Request};
