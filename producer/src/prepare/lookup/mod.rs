//! The documents that are not in the oplog: those of updates, as the source has them now
//! (`--full-document lookup` and topics of latest states), and those before changes
//! (`--full-document-before lookup`).
//!
//! The encoder looks ahead in the entries that it has received and asks for the documents of many
//! entries at once. The read waits until the server has applied all these entries, so it sees their
//! effects.
//!
//! # Modules
//!
//! - [`current`] looks up the documents of updates; a `window` holds them, and is valid for entries up
//!   to the last one that was asked for, because a later update may change a document again
//! - [`before`] looks up the documents before changes, which never change
//! - [`stored_documents`] is the source of both; [`request`] and [`reply`] are the requests to it
//!   and its replies, and [`pre_image`] identifies a document before a change

pub mod before;
pub mod current;
pub mod pre_image;
pub mod reply;
pub mod request;
pub mod stored_documents;
mod window;

pub use before::{BeforeLookup, OperationPlace};
pub use current::CurrentLookup;
pub use pre_image::PreImageId;
pub use request::Wanted;
pub use stored_documents::StoredDocuments;

/// Maximum number of documents that are asked for at a time.
const MOST_DOCUMENTS: usize = 1000;
/// Number of bytes that the documents of one read should have. The number of documents is derived
/// from their average size in the previous read.
const WANTED_BYTES: usize = 8 << 20;

#[cfg(test)]
pub(crate) mod fake;
