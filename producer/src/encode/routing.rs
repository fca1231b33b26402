//! Changes of the routing rules, which apply from the first new entry on (`--change-routing`).
//!
//! The changes are saved in one Kafka transaction with the position and with a barrier in every
//! partition of the topics whose entries are routed differently from then on. So the change is saved
//! together with its barriers or not at all, and a replay continues after it only when everything
//! before it is applied.
//!
//! A change takes place between two entries of the source, never inside a transaction that was sent in
//! part: the rest of that transaction still follows the old rules.

use std::collections::BTreeMap;

use oplog_relay_core::format::Format;
use oplog_relay_core::position::Position;
use oplog_relay_core::routing::RoutingChange;
use oplog_relay_core::state::{OrderRule, TopicRecord};

use super::{Encoder, HandOn};
use crate::encode::barrier::BarrierRequest;
use crate::encode::chunk::Chunk;
use crate::encode::state_records::write_topic;
use crate::error::ProducerError;
use crate::prepare::route::Rerouted;

/// The version of a routing table that no operator has changed.
pub const FIRST_ROUTING: u32 = 1;

/// The rules that determine the partitions and the format of entries.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Rules {
    /// Rule by which collections are spread over partitions.
    pub order: OrderRule,
    /// Format of record values.
    pub format: Format,
}

impl Encoder {
    /// Continues with `version` of the routing table. The saved rules apply until the next entry of
    /// the source, and `rules`, if given, from then on.
    #[must_use]
    pub fn changing(mut self, version: u32, rules: Option<Rules>) -> Self {
        self.place.routing = version;
        self.rules = rules;
        if rules.is_some()
            && let Some(saved) = self.router.state().topics.values().next()
        {
            self.format = saved.format;
        }
        self
    }

    /// Sets topic records to save at the start.
    #[must_use]
    pub fn noting(mut self, topics: BTreeMap<String, TopicRecord>) -> Self {
        let state = &mut self.router.state_mut().topics;
        state.extend(
            topics
                .iter()
                .map(|(name, record)| (name.clone(), record.clone())),
        );
        self.unsaved.noted = topics;
        self
    }

    /// Saves the source and topic records that have changed, and changes the rules immediately
    /// unless the position is inside a transaction.
    ///
    /// # Errors
    /// The errors of [`Encoder::encode`].
    pub fn begin(
        &mut self,
        chunk: &mut Chunk,
        hand_on: &mut HandOn<'_>,
    ) -> Result<(), ProducerError> {
        let has_news = self.unsaved.identity.is_some() || !self.unsaved.noted.is_empty();
        if has_news && self.place.position.is_some() {
            self.open_state(chunk)?;
            for (name, record) in std::mem::take(&mut self.unsaved.noted) {
                write_topic(&name, &record, self.place.stamp, chunk)?;
            }
            self.complete(chunk);
            hand_on(chunk)?;
        }
        if self.rules.is_some() && self.place.position.is_some_and(|end| end.ord == 0) {
            return self.change_routing(chunk, hand_on);
        }
        Ok(())
    }

    /// Hands over what was encoded before, then sends the change.
    #[cold]
    pub(crate) fn change_routing(
        &mut self,
        chunk: &mut Chunk,
        hand_on: &mut HandOn<'_>,
    ) -> Result<(), ProducerError> {
        let (Some(rules), Some(end)) = (self.rules.take(), self.place.position) else {
            return Ok(());
        };
        self.complete(chunk);
        hand_on(chunk)?;
        self.place.routing += 1;
        // The change gets the last millisecond of the second, which is not before any entry that
        // precedes it. Later entries of the same second get the same timestamp.
        self.place.stamp = self.place.stamp.max(end.ts.clamp_wall(Some(i64::MAX)));
        self.open_state(chunk)?;
        self.change_format(rules.format, chunk)?;
        let rerouted = self.router.reroute(rules.order)?;
        self.save_routes(&rerouted.changes, chunk)?;
        tracing::info!(
            order = %rules.order,
            format = %rules.format,
            version = self.place.routing,
            topics = rerouted.topics.len(),
            after = %end,
            "changing the routing behind barriers in the topics concerned"
        );
        self.add_barriers(rerouted, end, chunk)?;
        chunk.reached.wall = end.ts.clamp_wall(None);
        self.complete(chunk);
        hand_on(chunk)
    }

    fn change_format(&mut self, format: Format, chunk: &mut Chunk) -> Result<(), ProducerError> {
        self.format = format;
        let stamp = self.place.stamp;
        for (name, record) in &mut self.router.state_mut().topics {
            if record.format != format {
                *record = record.in_format(format);
                write_topic(name, record, stamp, chunk)?;
            }
        }
        Ok(())
    }

    fn add_barriers(
        &mut self,
        rerouted: Rerouted,
        end: Position,
        chunk: &mut Chunk,
    ) -> Result<(), ProducerError> {
        if rerouted.topics.is_empty() || !self.format.is_replayable() {
            return Ok(());
        }
        let mut topics = Vec::with_capacity(rerouted.topics.len());
        for name in &rerouted.topics {
            topics.push(self.barrier_topic(name, chunk)?);
        }
        let change = RoutingChange {
            version: self.place.routing,
            spread: rerouted.spread,
        };
        let start = chunk.arena.len();
        change.write(end, &mut chunk.arena);
        let barrier = BarrierRequest {
            id: change.id(end.ts),
            entry: start..chunk.arena.len(),
            built: false,
            topics,
            ordered: false,
            passable: false,
            timestamp: self.place.stamp,
            format: self.format,
            router_headers: self.router_headers,
        };
        self.put_barrier(barrier, rerouted.topics.iter().next(), chunk)
    }
}
