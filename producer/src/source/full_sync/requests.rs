//! Requests for copies while the stream runs, and checks of the oplog window.

use std::time::Instant;

use oplog_relay_core::document::{DocumentBuilder, kind};
use oplog_relay_core::filter::NamespaceFilter;
use oplog_relay_core::state::{CopyKind, RequestRecord, State};
use oplog_relay_runtime::mongo::is_transient;
use tracing::Instrument;

use super::copies::{Copy, parse_filter};
use super::estimate::Estimate;
use super::listing::Listed;
use crate::error::ProducerError;
use crate::position_lost::Gap;
use crate::saved::checkpoint::Requests;
use crate::source::Save;
use crate::source::full_sync::interleave::Interleaving;
use crate::source::full_sync::rejected::RequestRejected;
use crate::source::oplog::Oplog;

/// A query, and the collections that it applies to.
type Wanted = (Option<Vec<u8>>, Vec<Listed>);

/// The requests that a task has read.
#[derive(Debug)]
pub(crate) struct ReadRequests {
    requests: Requests,
    result: Result<(), ProducerError>,
}

impl Interleaving {
    /// Plans the copies that were requested, and checks the oplog window while copies are incomplete.
    /// At the interval of [`super::Options::check_every`] a task begins to read the requests, which takes a tenth of a second. The
    /// entries of the tail do not wait for it: a later call plans what it has read.
    pub(super) async fn check_requests(&mut self) -> Result<(), ProducerError> {
        if let Some(read) = self.reading.try_join_next() {
            let read =
                read.map_err(|_| ProducerError::Ended("the task that reads requests ended"))?;
            return self.plan_read(read).await;
        }
        if !self.reading.is_empty() || self.last_check.elapsed() < self.sync.options.check_every {
            return Ok(());
        }
        self.last_check = Instant::now();
        if !self.sync.copies.is_empty() {
            self.check_window().await?;
        }
        if let Some(mut requests) = self.sync.requests.take() {
            let reading = async move {
                let result = requests.read().await;
                ReadRequests { requests, result }
            };
            self.reading.spawn(reading.in_current_span());
        }
        Ok(())
    }

    /// Plans the copies of the requests that a task has read.
    async fn plan_read(
        &mut self,
        ReadRequests { requests, result }: ReadRequests,
    ) -> Result<(), ProducerError> {
        let planned = match result {
            Ok(()) => self.plan_all(requests.state()).await,
            Err(error) => Err(error),
        };
        self.sync.requests = Some(requests);
        planned
    }

    async fn plan_all(&mut self, state: &State) -> Result<(), ProducerError> {
        // The deletion of a request that was accepted may not be committed yet.
        self.planned
            .retain(|number| state.requests.contains_key(number));
        let open = state.requests.iter();
        let open = open.filter(|(number, _)| !self.planned.contains(*number));
        for (number, request) in open.collect::<Vec<_>>() {
            self.plan(number, request, state).await?;
        }
        Ok(())
    }

    /// Warns if the tail's position could soon be gone from the oplog.
    async fn check_window(&self) -> Result<(), ProducerError> {
        let position = self.sync.position.ts;
        let oplog = Oplog::new(self.sync.source.client());
        let Some(window) = oplog.window(Some(position)).await? else {
            return Ok(());
        };
        if window.endangers(position) {
            tracing::warn!(
                left = %Gap::between(window.oldest, position),
                oplog_window = %Gap::between(window.oldest, window.newest),
                "the tail falls behind during the full sync: limit the full sync \
                 (--full-sync-rate), or enlarge the oplog"
            );
        }
        Ok(())
    }

    /// Plans a requested copy. The request is deleted when the plan is saved. A request waits while
    /// another copy of one of its collections is not complete.
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
            Err(error @ (ProducerError::RequestRejected(_) | ProducerError::SourceUnfit(_))) => {
                tracing::error!(number, reason = %error, "a requested full sync is rejected");
                self.planned.insert(number.to_owned());
                return self.send_saves(saves).await;
            }
            wanted => wanted?,
        };
        let mut planned = Vec::new();
        for listed in wanted {
            let size = self.sync.source.size(&listed.ns).await;
            let mut copy = Copy::planned(&listed, size);
            if self.sync.copies.get_mut(&copy.key).is_some() {
                tracing::debug!(
                    number,
                    ns = listed.ns,
                    "a full sync request waits until another copy of the collection ends"
                );
                return Ok(());
            }
            let routes = &state.routes;
            copy.record.requested = true;
            copy.record.only_documents = listed.kind != CopyKind::View
                && (routes.contains_key(&copy.key) || routes.contains_key(&listed.ns));
            copy.record.filter.clone_from(&request.filter);
            copy.filter.clone_from(&query);
            copy.is_named = false;
            planned.push(copy);
        }
        tracing::info!(number, "a full sync was requested");
        let (source, position) = (&self.sync.source, self.sync.position);
        let options = self.sync.options;
        let estimate = Estimate::make(source, planned.iter(), position, options).await?;
        estimate.log(planned.len(), position);
        for copy in planned {
            self.sync.metrics.full_sync.update(&copy.record);
            saves.push(copy.save());
            self.sync.copies.add(copy);
        }
        self.planned.insert(number.to_owned());
        self.send_saves(saves).await
    }

    /// Returns the query and the collections of a request.
    async fn wanted(&self, request: &RequestRecord) -> Result<Wanted, ProducerError> {
        let unreadable = |reason| RequestRejected::Unreadable { reason };
        let patterns = request.namespaces.iter().map(String::as_str);
        let wanted = NamespaceFilter::new(patterns, []);
        let wanted = wanted.map_err(|error| unreadable(error.to_string()))?;
        let query = request.filter.as_deref().map(parse_filter).transpose();
        let query = query.map_err(unreadable)?;
        let mut listed = self.sync.source.list(&self.sync.filter).await?;
        listed.retain(|listed| wanted.passes(&listed.ns));
        if listed.is_empty() {
            let namespaces = request.namespaces.clone();
            return Err(RequestRejected::NoCollection { namespaces }.into());
        }
        self.check_filter(query.as_deref(), &listed).await?;
        Ok((query, listed))
    }

    /// Checks that the source accepts a filter. A filter that the source rejects would end every later
    /// session.
    async fn check_filter(
        &self,
        filter: Option<&[u8]>,
        listed: &[Listed],
    ) -> Result<(), ProducerError> {
        let Some(filter) = filter else {
            return Ok(());
        };
        // The second filter matches nothing, so a server that plans a query before it runs the
        // query examines no document.
        let mut nothing = Vec::new();
        let mut query = DocumentBuilder::start(&mut nothing);
        query.nested("_id", kind::DOCUMENT, |id| {
            id.nested("$in", kind::ARRAY, |_| ());
        });
        query.finish();
        let (source, from) = (&self.sync.source, self.sync.position.ts);
        for Listed { ns, .. } in listed.iter().filter(|it| it.kind != CopyKind::View) {
            let read = source.documents(ns, filter, Some(&nothing), 1, from);
            match read.await {
                Err(ProducerError::Source(error)) if !is_transient(&error) => {
                    return Err(RequestRejected::FilterRejected {
                        ns: ns.clone(),
                        reason: error.to_string(),
                    }
                    .into());
                }
                read => drop(read?),
            }
        }
        Ok(())
    }
}
