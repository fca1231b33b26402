//! The documents that a source stores, apart from its oplog.

use oplog_relay_core::position::Timestamp;

#[cfg(test)]
use super::fake::Documents;
use super::pre_image::PreImageId;
use super::reply::Reply;
use super::request::Request;
use crate::error::ProducerError;
use crate::source::live_documents::LiveDocuments;

/// The documents of a source.
#[derive(Debug)]
pub enum StoredDocuments {
    /// The documents of a live source.
    Live(LiveDocuments),
    /// Documents in memory.
    #[cfg(test)]
    InMemory(Documents),
}

impl StoredDocuments {
    /// Reads documents by `_id`, after the source has reached the time `after`. Returns the replies
    /// to the requests in order. If the replies become too large, those to the last requests are
    /// left out, but never the reply to the first one.
    ///
    /// # Errors
    /// [`ProducerError::Source`]; [`ProducerError::SourceUnfit`] if a privilege is missing;
    /// [`ProducerError::Undecodable`] for a damaged reply; [`ProducerError::Interrupted`]. A
    /// collection that is gone is not an error.
    pub fn read(
        &mut self,
        requests: &[Request],
        after: Timestamp,
    ) -> Result<Vec<Reply>, ProducerError> {
        match self {
            Self::Live(documents) => documents.read(requests, after),
            #[cfg(test)]
            Self::InMemory(documents) => Ok(documents.read(requests, after)),
        }
    }

    /// Reads the documents of `config.system.preimages` with these `_id`s, after the source has reached
    /// the time `after`.
    ///
    /// # Errors
    /// As for [`StoredDocuments::read`].
    pub fn read_before(
        &mut self,
        ids: &[PreImageId],
        after: Timestamp,
    ) -> Result<Reply, ProducerError> {
        match self {
            Self::Live(documents) => documents.read_before(ids, after),
            #[cfg(test)]
            Self::InMemory(documents) => Ok(documents.read_before(ids, after)),
        }
    }
}
