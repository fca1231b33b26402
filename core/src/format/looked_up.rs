//! The documents of a change, as they were looked up on the source.
//!
//! An update in the oplog contains only the changed fields, unless it is a replacement. Readers
//! that need the whole document receive it as the source has it when the entry is encoded, as with
//! `fullDocument: "updateLookup"` of MongoDB's change streams. The document contains every change
//! up to the update, and may contain later ones.
//!
//! The oplog does not contain the document before a change either. MongoDB 6.0 and later keep it in
//! `config.system.preimages` for collections with `changeStreamPreAndPostImages`, until it expires.

use crate::document::Document;
use crate::position::Timestamp;

/// What was looked up for an entry.
#[derive(Debug, Clone, Copy)]
pub struct LookedUp<'d> {
    /// The document that the source has now; `None` if it was not looked up.
    pub current: Option<CurrentDocument<'d>>,
    /// The document before the change.
    pub before: DocumentBefore<'d>,
}

/// A document as the source has it now.
#[derive(Debug, Clone, Copy)]
pub struct CurrentDocument<'d> {
    /// The document; `None` if the source no longer has it, or no longer has its collection.
    pub document: Option<Document<'d>>,
    /// The `operationTime` of the source's reply: no later change is in the document. `None` if the
    /// server does not report it.
    pub at: Option<Timestamp>,
}

/// The document before a change.
#[derive(Debug, Clone, Copy)]
pub enum DocumentBefore<'d> {
    /// It was not looked up.
    NotLookedUp,
    /// The source does not have it: its collection keeps none, or it has expired.
    Missing,
    /// The document.
    Document(Document<'d>),
}

impl<'d> DocumentBefore<'d> {
    /// Returns the document, if the source has it.
    #[must_use]
    pub const fn document(self) -> Option<Document<'d>> {
        match self {
            Self::Document(document) => Some(document),
            Self::NotLookedUp | Self::Missing => None,
        }
    }
}
