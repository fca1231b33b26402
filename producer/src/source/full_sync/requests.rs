//! What is asked for while the stream runs, and a look at the oplog window.

use std::time::Instant;

use oplog_relay_core::filter::NamespaceFilter;
use oplog_relay_core::state::{CopyKind, RequestRecord, State};

use super::copies::{Copy, parse_filter};
use super::reader::Listed;
use super::seam::{LOOK_EVERY, Seam};
use super::window;
use crate::error::ProducerError;
use crate::source::Save;

/// A query, and the collections that it is for.
type Wanted = (Option<Vec<u8>>, Vec<Listed>);

impl Seam {
    /// Looks for requests, and at the oplog window.
    pub(super) async fn look(&mut self) -> Result<(), ProducerError> {
        if self.looked.elapsed() < LOOK_EVERY {
            return Ok(());
        }
        self.looked = Instant::now();
        if !self.sync.copies.is_empty() {
            self.look_at_window().await?;
        }
        let Some(requests) = &self.sync.requests else {
            return Ok(());
        };
        let state = requests.read().await?;
        for (number, request) in &state.requests {
            self.plan(number, request, &state).await?;
        }
        Ok(())
    }

    /// Warns where the tail could lose its place.
    async fn look_at_window(&self) -> Result<(), ProducerError> {
        let source = &self.sync.source;
        let left = window(source.client(), self.sync.position).await?;
        let whole = match source.newest().await? {
            Some(newest) => window(source.client(), newest).await?,
            None => left,
        };
        if left.seconds < whole.seconds / 4 {
            tracing::warn!(
                %left,
                oplog_window = %whole,
                "the tail falls behind beside the full sync: limit it (--full-sync-rate), or \
                 enlarge the oplog"
            );
        }
        Ok(())
    }

    /// Plans what was asked for. The request ends with the plan.
    async fn plan(
        &mut self,
        number: &str,
        request: &RequestRecord,
        state: &State,
    ) -> Result<(), ProducerError> {
        let mut saves = vec![Save {
            key: format!("request/{number}"),
            value: None,
        }];
        let (query, wanted) = match self.wanted(request).await {
            Err(ProducerError::Usage(reason)) => {
                tracing::error!(number, reason, "a full sync that was asked for is left out");
                return self.send_saves(saves).await;
            }
            wanted => wanted?,
        };
        for listed in wanted {
            let size = self.sync.source.size(&listed.ns).await;
            let mut copy = Copy::planned(&listed, size);
            let routes = &state.routes;
            copy.record.requested = true;
            copy.record.only_documents = listed.kind != CopyKind::View
                && (routes.contains_key(&copy.key) || routes.contains_key(&listed.ns));
            copy.record.filter.clone_from(&request.filter);
            copy.filter.clone_from(&query);
            copy.is_named = false;
            self.sync.metrics.full_sync.update(&copy.record);
            saves.push(copy.save());
            self.sync.copies.add(copy);
        }
        tracing::info!(
            number,
            collections = saves.len() - 1,
            "a full sync was asked for"
        );
        self.send_saves(saves).await
    }

    /// The query and the collections of a request.
    async fn wanted(&self, request: &RequestRecord) -> Result<Wanted, ProducerError> {
        let patterns = request.namespaces.iter().map(String::as_str);
        let wanted = NamespaceFilter::new(patterns, []).map_err(ProducerError::Usage)?;
        let query = request.filter.as_deref().map(parse_filter).transpose();
        let query = query.map_err(ProducerError::Usage)?;
        let mut listed = self.sync.source.list(&self.sync.filter).await?;
        listed.retain(|listed| wanted.passes(&listed.ns));
        Ok((query, listed))
    }
}
