//! Where commands go, and what they change in the table of routes.

use oplog_relay_core::command::{
    Scope, Treatment, index_specs, is_set, is_view_entry, scope, treatment,
};
use oplog_relay_core::document::kind;
use oplog_relay_core::entry::{Entry, EntryError, Operation};
use oplog_relay_core::filter::{NamespaceFilter, is_internal};
use oplog_relay_core::state::{Order, OrderRule, RouteRecord};
use oplog_relay_core::time_series::{self, VIEWS};
use oplog_relay_core::topic::{collection_topic, command_topic};

use super::{Decision, NewRoute, Router, Target, uuid_bytes, uuid_text};
use crate::error::ProducerError;

/// A change of the saved table.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RouteChange {
    /// The table's key: UUID or namespace.
    pub name: String,
    /// The route from here on; `None`: the collection is gone.
    pub record: Option<RouteRecord>,
}

/// Where a command goes that waits for barriers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CommandRoute {
    /// The topics concerned, each once; the first one leads.
    pub topics: Vec<String>,
    /// It is carried as a drop of this collection: it moves it to where nothing is carried from.
    pub as_drop_of: Option<String>,
    /// What changes in the table of routes.
    pub changes: Vec<RouteChange>,
    /// Whether later writes of the collection all go to one partition.
    pub ordered: bool,
    /// Whether later writes of the collection go on without waiting for it.
    pub passable: bool,
}

impl Router {
    /// Decides for a command.
    pub(crate) fn decide_command(&mut self, entry: &Entry<'_>) -> Result<Decision, ProducerError> {
        let damaged = |error: EntryError| ProducerError::damaged(entry, &error);
        let treatment = treatment(entry).map_err(damaged)?;
        if treatment.is_none() && is_internal(entry.ns) && self.filter.passes(entry.ns) {
            // Also of a server's own databases nobody knows what an unknown one does.
            return Ok(self.without_barrier(entry, None));
        }
        let Some(scope) = scope(entry).map_err(damaged)? else {
            // Nobody may miss an unknown command; a known one of a whole database must not reach
            // collections that a filter keeps out.
            let all = self.filter == NamespaceFilter::default() && !is_internal(entry.ns);
            return Ok(match treatment {
                Some(_) if !all => Decision::Known(Target::Dropped),
                _ => self.without_barrier(entry, None),
            });
        };
        let leaves = match (
            self.passes(&scope.ns()),
            scope.to_ns().map(|to| self.passes(&to)),
        ) {
            (true, None | Some(true)) => false,
            (true, Some(false)) => {
                self.forget_left_out(entry, &scope).map_err(damaged)?;
                true
            }
            (false, None | Some(false)) => {
                self.forget_left_out(entry, &scope).map_err(damaged)?;
                return Ok(Decision::Known(Target::Dropped));
            }
            (false, Some(true)) => return Err(brought_in(entry, &scope)),
        };
        match treatment {
            Some(Treatment::Barrier | Treatment::Build) => {
                let mut route = self.with_barrier(entry, &scope, leaves)?;
                route.passable = treatment == Some(Treatment::Build);
                Ok(Decision::Command(route))
            }
            Some(Treatment::Inline) => Ok(self.without_barrier(entry, Some(&scope))),
            Some(Treatment::PassOver | Treatment::Stop) | None => {
                Ok(self.without_barrier(entry, None))
            }
        }
    }

    /// The topics of the collections that a command names.
    pub(crate) fn topics_of_command(&self, entry: &Entry<'_>) -> Vec<String> {
        let is_sent = |treatment| matches!(treatment, Treatment::Barrier | Treatment::Inline);
        let treatment = treatment(entry).ok().flatten();
        let scope = scope(entry).ok().flatten();
        let Some(scope) = scope.filter(|_| treatment.is_some_and(is_sent)) else {
            return Vec::new();
        };
        if !self.passes(&scope.ns()) {
            return Vec::new();
        }
        let mut topics = vec![collection_topic(&self.prefix, scope.db, scope.collection)];
        if is_view_entry(entry) {
            topics.push(collection_topic(&self.prefix, scope.db, "system.views"));
        }
        if let (Some((db, collection)), Some(to)) = (scope.to, scope.to_ns())
            && self.passes(&to)
        {
            topics.push(collection_topic(&self.prefix, db, collection));
        }
        topics
    }

    pub(crate) fn passes(&self, ns: &str) -> bool {
        !is_internal(ns) && self.filter.passes(ns)
    }

    /// To partition 0 of the collection's topic, or of the database's command topic.
    fn without_barrier(&self, entry: &Entry<'_>, scope: Option<&Scope<'_>>) -> Decision {
        let topic = match scope {
            Some(scope) => collection_topic(&self.prefix, scope.db, scope.collection),
            None => command_topic(&self.prefix, entry.namespace().0),
        };
        if let Some(target) = self.by_topic.get(&topic) {
            return Decision::Known(*target);
        }
        let record = self.route(entry.ns, None, topic, self.rule.order());
        Decision::Unknown(NewRoute {
            name: String::new(),
            record,
        })
    }

    fn with_barrier(
        &self,
        entry: &Entry<'_>,
        scope: &Scope<'_>,
        leaves: bool,
    ) -> Result<CommandRoute, ProducerError> {
        let topics = self.topics_of(entry, scope, leaves);
        let order = self.order_after(entry, scope, leaves)?;
        let changes = self.changes(entry, scope, leaves, order)?;
        Ok(CommandRoute {
            topics,
            as_drop_of: leaves.then(|| scope.collection.to_owned()),
            changes,
            ordered: order == Order::Collection,
            passable: false,
        })
    }

    /// The collections of a database that the source is known to have, of a source that gives them no
    /// UUIDs: servers up to 3.4.
    #[must_use]
    pub fn collections_without_uuid(&self, db: &str) -> Vec<String> {
        let routes = || self.saved.routes.values();
        let known = routes().filter(|route| route.ui.is_none());
        let known = known.filter_map(|route| route.ns.strip_prefix(db)?.strip_prefix('.'));
        let mut known: Vec<String> = known.map(str::to_owned).collect();
        // Views have no routes; they go with the collection of their definitions.
        let views = collection_topic(&self.prefix, db, "system.views");
        let has_views = self.saved.topics.contains_key(&views);
        if has_views && routes().all(|route| route.ui.is_none()) {
            known.push("system.views".to_owned());
        }
        known.sort();
        known
    }

    /// The topics in which a command has its place, each once. Two commands that have one in common
    /// run in the order of the source.
    fn topics_of(&self, entry: &Entry<'_>, scope: &Scope<'_>, leaves: bool) -> Vec<String> {
        let mut names = vec![(scope.db, scope.collection)];
        if let Some(series) = time_series::of_buckets(scope.collection) {
            names.push((scope.db, series));
            names.push((scope.db, VIEWS));
        }
        if is_view_entry(entry) {
            // Dropping system.views drops all views of the database.
            names.push((scope.db, VIEWS));
        }
        names.extend(scope.to.filter(|_| !leaves));
        let mut topics = Vec::with_capacity(names.len());
        for (db, collection) in names {
            let topic = collection_topic(&self.prefix, db, collection);
            if !topics.contains(&topic) {
                topics.push(topic);
            }
        }
        topics
    }

    fn name_of(&self, entry: &Entry<'_>, ns: &str) -> String {
        entry.ui.map_or_else(|| ns.to_owned(), |ui| uuid_text(&ui))
    }

    /// The order of a command's collection after it.
    fn order_after(
        &self,
        entry: &Entry<'_>,
        scope: &Scope<'_>,
        leaves: bool,
    ) -> Result<Order, ProducerError> {
        let ns = scope.ns();
        let name = self.name_of(entry, &ns);
        if is_view_entry(entry) {
            return Ok(self.order_of(&name));
        }
        if self.rule == OrderRule::Auto
            && makes_dependent(entry).map_err(|error| ProducerError::damaged(entry, &error))?
        {
            return Ok(Order::Collection);
        }
        // A collection that begins or ends here is all that the command says.
        let told = leaves || matches!(entry.command()?.name, b"create" | b"drop");
        if told || self.saved.routes.contains_key(&name) {
            return Ok(self.order_of(&name));
        }
        self.learn_order(entry, &scope.to_ns().unwrap_or(ns))
    }

    /// What a command changes in the table: the name of a renamed collection, the order of one
    /// whose documents now depend on each other, the end of one that is dropped.
    fn changes(
        &self,
        entry: &Entry<'_>,
        scope: &Scope<'_>,
        leaves: bool,
        order: Order,
    ) -> Result<Vec<RouteChange>, ProducerError> {
        if is_view_entry(entry) {
            return Ok(Vec::new());
        }
        let old = self.name_of(entry, &scope.ns());
        let ends = leaves || entry.command()?.name == b"drop";
        let has_route = |name: &String| self.saved.routes.contains_key(name);
        let gone = |name: String| RouteChange { name, record: None };
        if ends {
            return Ok(Some(old).filter(has_route).map(gone).into_iter().collect());
        }
        let replaced = replaced_by_rename(entry)?.map(|ui| uuid_text(&ui));
        let replaced = replaced.filter(|name| *name != old && has_route(name));
        let ns = scope.to_ns().unwrap_or_else(|| scope.ns());
        // A server up to 3.4 does not say what a database holds when it drops it.
        let is_new = entry.ui.is_none()
            && entry.command()?.name == b"create"
            && !self.saved.routes.contains_key(&old);
        if scope.to.is_none() && order == self.order_of(&old) && !is_new {
            return Ok(Vec::new());
        }
        let (db, collection) = scope.to.unwrap_or((scope.db, scope.collection));
        let topic = collection_topic(&self.prefix, db, collection);
        let ui = entry.ui.map(|ui| uuid_text(&ui));
        let name = self.name_of(entry, &ns);
        let record = self.route(&ns, ui, topic, order);
        let renamed = (name != old && self.saved.routes.contains_key(&old)).then(|| gone(old));
        let new = RouteChange {
            name,
            record: Some(record),
        };
        let replaced = replaced.map(gone);
        Ok([new].into_iter().chain(renamed).chain(replaced).collect())
    }

    /// Forgets that nothing is carried from a collection that ends here: no later entry has its
    /// UUID, and of a later collection of its name the filter says so again.
    fn forget_left_out(&mut self, entry: &Entry<'_>, scope: &Scope<'_>) -> Result<(), EntryError> {
        let is_renamed = scope.to.is_some();
        if !is_renamed && entry.command()?.name != b"drop" {
            return Ok(());
        }
        let dropped = entry.ui.filter(|_| !is_renamed);
        for ui in replaced_by_rename(entry)?.into_iter().chain(dropped) {
            self.last = None;
            self.by_ui.remove(&ui);
        }
        self.by_ns.remove(&scope.ns());
        Ok(())
    }

    /// Takes the changes of a command that is on its way.
    pub fn apply(&mut self, changes: Vec<RouteChange>) {
        for RouteChange { name, record } in changes {
            self.last = None;
            match uuid_bytes(&name) {
                Some(ui) => drop(self.by_ui.remove(&ui)),
                None => drop(self.by_ns.remove(&name)),
            }
            match record {
                Some(record) => drop(self.saved.routes.insert(name, record)),
                None => drop(self.saved.routes.remove(&name)),
            }
        }
    }
}

/// The UUID of the collection whose name a rename takes, and which ends with it. A source without
/// UUIDs names its routes by namespace: there the renamed collection takes that route over.
fn replaced_by_rename(entry: &Entry<'_>) -> Result<Option<[u8; 16]>, EntryError> {
    match entry.o.get("dropTarget")? {
        Some(target) if target.kind == kind::BINARY => Ok(target.binary()?.1.try_into().ok()),
        _ => Ok(None),
    }
}

/// Whether the documents of a collection depend on each other after this command.
fn makes_dependent(entry: &Entry<'_>) -> Result<bool, EntryError> {
    Ok(match entry.command()?.name {
        b"create" => {
            let collation = entry.o.get("collation")?;
            let locale = match collation {
                Some(collation) => collation.document()?.get("locale")?,
                None => None,
            };
            is_set(entry.o, "capped")? || locale.is_some_and(|locale| locale.str() != Ok("simple"))
        }
        b"convertToCapped" => true,
        b"createIndexes" | b"commitIndexBuild" => index_specs(entry.o)?
            .into_iter()
            .any(|spec| is_set(spec, "unique") == Ok(true)),
        b"collMod" => match entry.o.get("index")? {
            // `prepareUnique` lets no new duplicate in already.
            Some(index) => {
                let index = index.document()?;
                is_set(index, "unique")? || is_set(index, "prepareUnique")?
            }
            None => false,
        },
        _ => false,
    })
}

fn brought_in(entry: &Entry<'_>, scope: &Scope<'_>) -> ProducerError {
    let (from, to) = (scope.ns(), scope.to_ns().unwrap_or_default());
    debug_assert_eq!(entry.operation, Operation::Command);
    ProducerError::Undecodable(format!(
        "entry {}: {from}, which is not carried, was renamed to {to}, which is: its documents were \
         never sent. Include {from} and start under another --topic-prefix, or exclude {to}",
        entry.ts
    ))
}
