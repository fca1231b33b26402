//! Routes of entries to topics. The routing table is part of the source's saved state: a collection
//! keeps its route even if the rules would now choose another one, until a command or
//! `--change-routing` changes it behind a barrier.
//!
//! # Modules
//!
//! - `command` finds the routes of commands, and their changes to the routing table
//! - `order` determines how the documents of a collection are spread over partitions
//! - `change` applies the new rules of `--change-routing`

mod change;
mod command;
mod order;

use oplog_relay_core::collection_uuid::CollectionUuid;
use oplog_relay_core::command::is_command;
use oplog_relay_core::entry::{Entry, Operation};
use oplog_relay_core::filter::NamespaceFilter;
use oplog_relay_core::namespace::Namespace;
use oplog_relay_core::state::{Order, OrderRule, RouteRecord, STATE_VERSION, State};
use oplog_relay_core::topic::collection_topic;
use rustc_hash::FxHashMap;

use crate::encode::chunk::TopicIndex;
use crate::error::ProducerError;

pub use change::Rerouted;
pub use command::{CommandRoute, RouteChange};
pub use order::{Collections, check_rule};

/// Version of the rules in this module.
pub const RULES: u32 = 1;

/// The destination of an entry.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Target {
    /// The entry is not sent, and only its position is saved: it is a noop, internal to the server,
    /// or excluded by the filter.
    Dropped,
    /// The partition of a topic that is determined by the key.
    Keyed {
        /// The topic.
        topic: TopicIndex,
        /// Its number of partitions.
        partitions: u32,
    },
    /// Partition 0 of a topic, without a key.
    First(TopicIndex),
}

/// A route whose target is not known yet: a new one, one from the saved table, or that of a
/// command.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NewRoute {
    /// The key in the table: UUID or namespace; empty for a command.
    pub name: String,
    /// The route.
    pub record: RouteRecord,
}

/// The router's decision about an entry.
#[derive(Debug)]
pub enum Decision {
    /// The target is known.
    Known(Target),
    /// The target is not known yet. The caller makes sure that the topic exists, then calls
    /// [`Router::add`].
    Unknown(NewRoute),
    /// A command that waits for barriers. The caller encodes it, then calls [`Router::apply`].
    Command(CommandRoute),
}

/// The routing table and the rules that extend it.
#[derive(Debug)]
pub struct Router {
    prefix: String,
    filter: NamespaceFilter,
    rule: OrderRule,
    collections: Option<Box<dyn Collections>>,
    saved: State,
    by_ui: FxHashMap<CollectionUuid, Target>,
    by_ns: FxHashMap<String, Target>,
    /// Targets of commands that do not wait for barriers.
    by_topic: FxHashMap<String, Target>,
    /// The last collection and its target, because consecutive entries are often of one collection.
    last: Option<(CollectionUuid, Target)>,
}

impl Router {
    /// Creates a router with the saved table.
    #[must_use]
    pub fn new(prefix: &str, filter: NamespaceFilter, saved: State) -> Self {
        Self {
            prefix: prefix.to_owned(),
            filter,
            rule: OrderRule::default(),
            collections: None,
            saved,
            by_ui: FxHashMap::default(),
            by_ns: FxHashMap::default(),
            by_topic: FxHashMap::default(),
            last: None,
        }
    }

    /// Returns the saved state, which [`Router::add`] and [`Router::apply`] keep up to date.
    #[must_use]
    pub const fn state(&self) -> &State {
        &self.saved
    }

    /// Returns the saved state, whose records of topics the caller keeps up to date.
    pub const fn state_mut(&mut self) -> &mut State {
        &mut self.saved
    }

    /// Decides the route of an entry.
    ///
    /// # Errors
    /// [`ProducerError::Undecodable`] for a damaged command, and for a rename from a namespace that
    /// is not streamed to one that is; the error of a live source that is queried about a
    /// collection.
    #[inline]
    pub fn decide(&mut self, entry: &Entry<'_>) -> Result<Decision, ProducerError> {
        match entry.operation {
            Operation::Noop => return Ok(Decision::Known(Target::Dropped)),
            Operation::Command => return self.decide_command(entry),
            Operation::Insert | Operation::Update | Operation::Delete => {}
        }
        if let Some(known) = self.known(entry) {
            return Ok(Decision::Known(known));
        }
        if is_command(entry) {
            return self.decide_command(entry);
        }
        self.decide_new(entry)
    }

    /// Returns true if a namespace is not streamed, because it is internal to the server or
    /// excluded by the filter.
    #[must_use]
    pub fn leaves_out(&self, ns: &str) -> bool {
        !self.passes(ns)
    }

    #[inline]
    fn known(&mut self, entry: &Entry<'_>) -> Option<Target> {
        match entry.ui {
            Some(ui) => {
                if let Some((last, target)) = self.last
                    && last == ui
                {
                    return Some(target);
                }
                let target = *self.by_ui.get(&ui)?;
                self.last = Some((ui, target));
                Some(target)
            }
            None => self.by_ns.get(entry.ns).copied(),
        }
    }

    fn decide_new(&mut self, entry: &Entry<'_>) -> Result<Decision, ProducerError> {
        if self.leaves_out(entry.ns) {
            self.remember(entry, Target::Dropped);
            return Ok(Decision::Known(Target::Dropped));
        }
        let ui = entry.ui.map(|ui| ui.to_string());
        let name = ui.clone().unwrap_or_else(|| entry.ns.to_owned());
        if let Some(record) = self.saved.routes.get(&name) {
            return Ok(Decision::Unknown(NewRoute {
                name,
                record: record.clone(),
            }));
        }
        let order = self.learn_order(entry, entry.ns)?;
        let Namespace { db, collection } = entry.namespace();
        let topic = collection_topic(&self.prefix, db, collection);
        Ok(Decision::Unknown(NewRoute {
            name,
            record: self.route(entry.ns, ui, topic, order),
        }))
    }

    /// Returns the topics that an entry will need: for a write, the topic of its collection if that
    /// has no route yet; for a command, the topics of its collections if it is sent to them.
    #[must_use]
    pub fn topics_ahead(&self, entry: &Entry<'_>) -> Vec<String> {
        if entry.operation == Operation::Noop {
            return Vec::new();
        }
        if is_command(entry) {
            return self.topics_of_command(entry);
        }
        let is_known = match entry.ui {
            Some(ui) => {
                self.by_ui.contains_key(&ui) || self.saved.routes.contains_key(&ui.to_string())
            }
            None => self.by_ns.contains_key(entry.ns) || self.saved.routes.contains_key(entry.ns),
        };
        if is_known || !self.passes(entry.ns) {
            return Vec::new();
        }
        let Namespace { db, collection } = entry.namespace();
        vec![collection_topic(&self.prefix, db, collection)]
    }

    /// Adds a route whose topic exists now. Returns true if the route has to be saved, because the
    /// table did not contain it. The route of a command is never saved: the command determines it.
    pub fn add(&mut self, entry: &Entry<'_>, new: &NewRoute, target: Target) -> bool {
        if entry.operation == Operation::Command {
            self.by_topic.insert(new.record.topic.clone(), target);
            return false;
        }
        self.remember(entry, target);
        self.saved
            .routes
            .insert(new.name.clone(), new.record.clone())
            .is_none()
    }

    fn route(&self, ns: &str, ui: Option<String>, topic: String, order: Order) -> RouteRecord {
        RouteRecord {
            v: STATE_VERSION,
            ns: ns.to_owned(),
            ui,
            topic,
            order,
            rules: RULES,
            rule: self.rule,
        }
    }

    fn remember(&mut self, entry: &Entry<'_>, target: Target) {
        match entry.ui {
            Some(ui) => drop(self.by_ui.insert(ui, target)),
            None => drop(self.by_ns.insert(entry.ns.to_owned(), target)),
        }
    }
}

#[cfg(test)]
mod tests;
