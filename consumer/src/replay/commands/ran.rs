//! The commands that have run, and the resulting incarnations of collections, from the catalog.

use std::sync::Arc;

use oplog_relay_core::position::EntryId;

use crate::error::ConsumerError;
use crate::replay::catalog::{Incarnations, Note};
use crate::replay::sink::MongoSink;

impl MongoSink {
    /// Returns the part of a source's incarnations that is held in memory.
    #[must_use]
    pub fn incarnations(&self, source: &str) -> Arc<Incarnations> {
        self.catalog.incarnations(source)
    }

    /// Returns the incarnations of a source's collections, valid for an entry and all later ones.
    ///
    /// # Errors
    /// Returns an error if the target refuses to return commands that are not held in memory.
    pub async fn incarnations_at(
        &self,
        source: &str,
        id: EntryId,
    ) -> Result<Arc<Incarnations>, ConsumerError> {
        let reading = self.persist("reading the catalog", || {
            self.catalog.incarnations_at(source, id)
        });
        let incarnations = reading.await?;
        self.target.metrics.set_catalog_held(self.catalog.held());
        Ok(incarnations)
    }

    /// Reads the catalog from the target again.
    ///
    /// # Errors
    /// Returns an error if the target refuses the read.
    pub async fn reload(&self) -> Result<(), ConsumerError> {
        self.persist("reading the catalog", || self.catalog.reload())
            .await
    }

    /// Returns the incarnations after reading the catalog again, because another member may have run
    /// a command since it was read.
    ///
    /// # Errors
    /// Returns an error if the target refuses the read.
    pub(crate) async fn incarnations_now(
        &self,
        source: &str,
    ) -> Result<Arc<Incarnations>, ConsumerError> {
        self.reload().await?;
        Ok(self.incarnations(source))
    }

    /// Returns true if any member of the group has run the command.
    ///
    /// # Errors
    /// Returns an error if the target refuses the query.
    pub async fn has_run(&self, source: &str, id: EntryId) -> Result<bool, ConsumerError> {
        if self.incarnations(source).is_done(id) {
            return Ok(true);
        }
        let ran = self
            .persist("reading the catalog", || self.catalog.learn(source, id))
            .await?;
        if ran {
            // Another member ran it, so the cached order requirements may no longer be valid.
            self.forget_order();
        }
        Ok(ran)
    }

    /// Returns true if the command has run. It always queries the target, because a member of an
    /// earlier version may have removed the command's note.
    ///
    /// # Errors
    /// Returns an error if the target refuses the query.
    pub async fn has_run_now(&self, source: &str, id: EntryId) -> Result<bool, ConsumerError> {
        self.persist("reading the catalog", || {
            self.catalog.learn_again(source, id)
        })
        .await
    }

    /// Records a command in the catalog.
    ///
    /// # Errors
    /// Returns an error if the target refuses the write.
    pub(crate) async fn note(&self, source: &str, note: &Note) -> Result<(), ConsumerError> {
        self.persist("recording a command in the catalog", || {
            self.catalog.finish(source, note.clone())
        })
        .await
    }
}
