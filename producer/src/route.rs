//! Which topic an entry goes to. The table of routes is saved state of the source: a collection
//! keeps the route it has, whatever the rules would say of it today.

use oplog_relay_core::entry::{Entry, Operation};
use oplog_relay_core::filter::{NamespaceFilter, is_internal};
use oplog_relay_core::state::{Order, RouteRecord, STATE_VERSION, State};
use oplog_relay_core::topic::{collection_topic, command_topic};
use rustc_hash::FxHashMap;

use crate::chunk::TopicIndex;
use crate::error::ProducerError;

/// Version of the rules in this file.
pub const RULES: u32 = 1;

/// Where an entry goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Target {
    /// Nowhere: the filter drops it. Its position counts.
    Dropped,
    /// To a topic, by key.
    Keyed {
        /// The topic.
        topic: TopicIndex,
        /// Its number of partitions.
        partitions: u32,
    },
    /// To partition 0 of a topic, without a key.
    First(TopicIndex),
}

/// A route that the table does not have yet.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NewRoute {
    /// The table's key: UUID or namespace.
    pub name: String,
    /// The route.
    pub record: RouteRecord,
}

/// What the router says of an entry.
#[derive(Debug)]
pub enum Decision {
    /// Known.
    Known(Target),
    /// The topic has to be there first; then [`Router::add`].
    Unknown(NewRoute),
}

/// The routing table and the rules that extend it.
#[derive(Debug)]
pub struct Router {
    prefix: String,
    filter: NamespaceFilter,
    saved: State,
    by_ui: FxHashMap<[u8; 16], Target>,
    by_ns: FxHashMap<String, Target>,
    last: Option<([u8; 16], Target)>,
}

impl Router {
    /// Begins with the saved table.
    #[must_use]
    pub fn new(prefix: &str, filter: NamespaceFilter, saved: State) -> Self {
        Self {
            prefix: prefix.to_owned(),
            filter,
            saved,
            by_ui: FxHashMap::default(),
            by_ns: FxHashMap::default(),
            last: None,
        }
    }

    /// The saved state, kept up to date by [`Router::add`].
    #[must_use]
    pub const fn state(&self) -> &State {
        &self.saved
    }

    /// The saved state, for claims of topics.
    pub const fn state_mut(&mut self) -> &mut State {
        &mut self.saved
    }

    /// Decides for an entry.
    ///
    /// # Errors
    /// [`ProducerError::Undecodable`] for a command without a name.
    #[inline]
    pub fn decide(&mut self, entry: &Entry<'_>) -> Result<Decision, ProducerError> {
        match entry.operation {
            Operation::Noop => return Ok(Decision::Known(Target::Dropped)),
            Operation::Command => return self.decide_command(entry),
            Operation::Insert | Operation::Update | Operation::Delete => {}
        }
        match entry.ui {
            Some(ui) => {
                if let Some((last, target)) = self.last
                    && last == ui
                {
                    return Ok(Decision::Known(target));
                }
                if let Some(target) = self.by_ui.get(&ui) {
                    self.last = Some((ui, *target));
                    return Ok(Decision::Known(*target));
                }
            }
            None => {
                if let Some(target) = self.by_ns.get(entry.ns) {
                    return Ok(Decision::Known(*target));
                }
            }
        }
        Ok(self.decide_new(entry))
    }

    fn decide_new(&mut self, entry: &Entry<'_>) -> Decision {
        if is_internal(entry.ns) || !self.filter.passes(entry.ns) {
            self.remember(entry, Target::Dropped);
            return Decision::Known(Target::Dropped);
        }
        let ui = entry.ui.map(|ui| uuid_text(&ui));
        let name = ui.clone().unwrap_or_else(|| entry.ns.to_owned());
        if let Some(record) = self.saved.routes.get(&name) {
            return Decision::Unknown(NewRoute {
                name,
                record: record.clone(),
            });
        }
        let (db, collection) = entry.namespace();
        let topic = collection_topic(&self.prefix, db, collection);
        Decision::Unknown(NewRoute {
            name,
            record: route(entry.ns, ui, topic),
        })
    }

    fn decide_command(&mut self, entry: &Entry<'_>) -> Result<Decision, ProducerError> {
        if !self.command_passes(entry)? {
            return Ok(Decision::Known(Target::Dropped));
        }
        if let Some(target) = self.by_ns.get(entry.ns) {
            return Ok(Decision::Known(*target));
        }
        let name = entry.ns.to_owned();
        let topic = command_topic(&self.prefix, entry.namespace().0);
        let record = self.saved.routes.get(&name).cloned();
        let record = record.unwrap_or_else(|| route(entry.ns, None, topic));
        Ok(Decision::Unknown(NewRoute { name, record }))
    }

    /// A command passes if a collection that it names does. Transactions name none here; a
    /// dropDatabase says nothing that the drops before it have not said, and would reach
    /// collections that a filter keeps out.
    fn command_passes(&self, entry: &Entry<'_>) -> Result<bool, ProducerError> {
        let command = entry.command()?;
        let (db, _) = entry.namespace();
        let passes = |ns: &str| !is_internal(ns) && self.filter.passes(ns);
        Ok(match command.name {
            b"applyOps" | b"commitTransaction" | b"abortTransaction" => true,
            b"dropDatabase" => !is_internal(entry.ns) && self.filter == NamespaceFilter::default(),
            b"renameCollection" => {
                let to = entry.o.get("to").ok().flatten();
                let to = to.and_then(|to| to.str().ok()).unwrap_or_default();
                passes(command.str().unwrap_or_default()) || passes(to)
            }
            _ => passes(&format!("{db}.{}", command.str().unwrap_or_default())),
        })
    }

    /// Takes a route whose topic is there now. Returns whether the saved table did not have it.
    pub fn add(&mut self, entry: &Entry<'_>, new: &NewRoute, target: Target) -> bool {
        self.remember(entry, target);
        self.saved
            .routes
            .insert(new.name.clone(), new.record.clone())
            .is_none()
    }

    fn remember(&mut self, entry: &Entry<'_>, target: Target) {
        match entry.ui.filter(|_| entry.operation != Operation::Command) {
            Some(ui) => drop(self.by_ui.insert(ui, target)),
            None => drop(self.by_ns.insert(entry.ns.to_owned(), target)),
        }
    }
}

fn route(ns: &str, ui: Option<String>, topic: String) -> RouteRecord {
    RouteRecord {
        v: STATE_VERSION,
        ns: ns.to_owned(),
        ui,
        topic,
        order: Order::Id,
        rules: RULES,
    }
}

/// A UUID as people write it.
fn uuid_text(bytes: &[u8; 16]) -> String {
    let mut text = String::with_capacity(36);
    for (index, byte) in bytes.iter().enumerate() {
        if matches!(index, 4 | 6 | 8 | 10) {
            text.push('-');
        }
        text.push_str(&format!("{byte:02x}"));
    }
    text
}

#[cfg(test)]
mod tests;
