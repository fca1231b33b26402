//! The document of an update, as it was looked up on the source.
//!
//! An update in the oplog contains only the changed fields, unless it is a replacement. Readers
//! that need the whole document receive it as the source has it when the entry is encoded, as with
//! `fullDocument: "updateLookup"` of MongoDB's change streams. The document contains every change
//! up to the update, and may contain later ones.

use crate::document::Document;
use crate::position::Timestamp;

/// A document that was looked up.
#[derive(Debug, Clone, Copy)]
pub struct LookedUp<'d> {
    /// The document; `None` if the source no longer has it, or no longer has its collection.
    pub document: Option<Document<'d>>,
    /// The `operationTime` of the source's reply: no later change is in the document. `None` if the
    /// server does not report it.
    pub at: Option<Timestamp>,
}
