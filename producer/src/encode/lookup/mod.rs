//! Lookups of documents: which documents are looked up, and when.
//!
//! The encoder asks for many documents at a time, ahead of their entries. If a document is not known
//! when its entry is encoded, the encoder asks for this document alone, so asking ahead only saves
//! time.
//!
//! # Modules
//!
//! - `current`: the current documents of updates
//! - `before`: the documents before changes

mod before;
mod current;

pub(super) use before::first_place;
