//! Routes of commands, and their changes to the routing table.

use oplog_relay_core::collection_uuid::CollectionUuid;
use oplog_relay_core::command::{
    Scope, Treatment, index_specs, is_set, is_view_entry, scope, treatment,
};
use oplog_relay_core::document::kind;
use oplog_relay_core::entry::{Entry, EntryError, Operation};
use oplog_relay_core::filter::{NamespaceFilter, is_internal};
use oplog_relay_core::index::{Demand, demand};
use oplog_relay_core::namespace::Namespace;
use oplog_relay_core::state::{Order, OrderRule, RouteRecord};
use oplog_relay_core::time_series::{self, VIEWS};
use oplog_relay_core::topic::{collection_topic, command_topic};

use super::{Decision, NewRoute, Router, Target};
use crate::entry_fault::EntryFault;
use crate::error::ProducerError;

/// A change of the saved routing table.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RouteChange {
    /// The key in the table: UUID or namespace.
    pub name: String,
    /// The new route; `None` if the route ends.
    pub record: Option<RouteRecord>,
}

/// The route of a command that waits for barriers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CommandRoute {
    /// The topics of the command, each once. The command itself is sent to the first one.
    pub topics: Vec<String>,
    /// The name of the collection, if the command is sent as a drop because it renames the
    /// collection to a namespace that is not streamed.
    pub as_drop_of: Option<String>,
    /// Changes of the routing table.
    pub changes: Vec<RouteChange>,
    /// True if later writes of the collection all go to one partition.
    pub ordered: bool,
    /// True if later writes of the collection do not wait for the command, except in the leader's
    /// partition.
    pub passable: bool,
}

impl Router {
    /// Decides the route of a command.
    pub(crate) fn decide_command(&mut self, entry: &Entry<'_>) -> Result<Decision, ProducerError> {
        let damaged = |error: EntryError| ProducerError::damaged(entry, &error);
        let treatment = treatment(entry).map_err(damaged)?;
        if treatment.is_none() && is_internal(entry.ns) && self.filter.passes(entry.ns) {
            // An unknown command on an internal database is sent too, unless the filter excludes
            // it, because its effect is unknown.
            return Ok(self.without_barrier(entry, None));
        }
        let Some(scope) = scope(entry).map_err(damaged)? else {
            // An unknown command that names no collection is always sent. A known one affects the
            // whole database, so it is sent only if no filter is set.
            let all = self.filter == NamespaceFilter::default() && !is_internal(entry.ns);
            return Ok(match treatment {
                Some(_) if !all => Decision::Known(Target::Dropped),
                _ => self.without_barrier(entry, None),
            });
        };
        let leaves_stream = match (
            self.passes(&scope.ns()),
            scope.to_ns().map(|to| self.passes(&to)),
        ) {
            (true, None | Some(true)) => false,
            (true, Some(false)) => {
                self.forget_excluded(entry, &scope).map_err(damaged)?;
                true
            }
            (false, None | Some(false)) => {
                self.forget_excluded(entry, &scope).map_err(damaged)?;
                return Ok(Decision::Known(Target::Dropped));
            }
            (false, Some(true)) => return Err(renamed_into_stream(entry, &scope)),
        };
        match treatment {
            Some(Treatment::Barrier | Treatment::Build) => {
                let mut route = self.with_barrier(entry, &scope, leaves_stream)?;
                route.passable = treatment == Some(Treatment::Build);
                Ok(Decision::Command(route))
            }
            Some(Treatment::Inline) => Ok(self.without_barrier(entry, Some(&scope))),
            Some(Treatment::Ignore | Treatment::Stop) | None => {
                Ok(self.without_barrier(entry, None))
            }
        }
    }

    /// Returns the topics of the collections that a command names, if it is sent to them.
    pub(crate) fn topics_of_command(&self, entry: &Entry<'_>) -> Vec<String> {
        let scope = match treatment(entry).ok().flatten() {
            Some(Treatment::Barrier | Treatment::Build | Treatment::Inline) => {
                scope(entry).ok().flatten()
            }
            Some(Treatment::Ignore | Treatment::Stop) | None => None,
        };
        let Some(scope) = scope else {
            return Vec::new();
        };
        if !self.passes(&scope.ns()) {
            return Vec::new();
        }
        let mut topics = vec![collection_topic(&self.prefix, scope.db, scope.collection)];
        if is_view_entry(entry) {
            topics.push(collection_topic(&self.prefix, scope.db, "system.views"));
        }
        if let Some(to) = scope.to
            && self.passes(&to.to_string())
        {
            topics.push(collection_topic(&self.prefix, to.db, to.collection));
        }
        topics
    }

    pub(crate) fn passes(&self, ns: &str) -> bool {
        !is_internal(ns) && self.filter.passes(ns)
    }

    /// Returns the decision for a command that does not wait for barriers: it goes to partition 0
    /// of the collection's topic, or of the database's command topic.
    fn without_barrier(&self, entry: &Entry<'_>, scope: Option<&Scope<'_>>) -> Decision {
        let topic = match scope {
            Some(scope) => collection_topic(&self.prefix, scope.db, scope.collection),
            None => command_topic(&self.prefix, entry.namespace().db),
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
        leaves_stream: bool,
    ) -> Result<CommandRoute, ProducerError> {
        let topics = self.topics_of(entry, scope, leaves_stream);
        let order = self.order_after(entry, scope, leaves_stream)?;
        let changes = self.changes(entry, scope, leaves_stream, order)?;
        Ok(CommandRoute {
            topics,
            as_drop_of: leaves_stream.then(|| scope.collection.to_owned()),
            changes,
            ordered: order == Order::Collection,
            passable: false,
        })
    }

    /// Returns the known collections of a database that have no UUIDs, as on servers up to 3.4.
    #[must_use]
    pub fn collections_without_uuid(&self, db: &str) -> Vec<String> {
        let routes = || self.saved.routes.values();
        let known = routes().filter(|route| route.ui.is_none());
        let known = known.filter_map(|route| route.ns.strip_prefix(db)?.strip_prefix('.'));
        let mut known: Vec<String> = known.map(str::to_owned).collect();
        // Views have no routes; they are in the topic of `system.views`. A route with a UUID shows
        // that the server logs the drop of `system.views` itself.
        let views = collection_topic(&self.prefix, db, "system.views");
        let has_views = self.saved.topics.contains_key(&views);
        if has_views && routes().all(|route| route.ui.is_none()) {
            known.push("system.views".to_owned());
        }
        known.sort();
        known
    }

    /// Returns the topics that a command belongs to, each once. Two commands with a common topic run in
    /// the order of the source.
    fn topics_of(&self, entry: &Entry<'_>, scope: &Scope<'_>, leaves_stream: bool) -> Vec<String> {
        let name = |collection| Namespace {
            db: scope.db,
            collection,
        };
        let mut names = vec![name(scope.collection)];
        if let Some(series) = time_series::of_buckets(scope.collection) {
            names.push(name(series));
            names.push(name(VIEWS));
        }
        if is_view_entry(entry) {
            // Dropping system.views drops all views of the database.
            names.push(name(VIEWS));
        }
        names.extend(scope.to.filter(|_| !leaves_stream));
        let mut topics = Vec::with_capacity(names.len());
        for Namespace { db, collection } in names {
            let topic = collection_topic(&self.prefix, db, collection);
            if !topics.contains(&topic) {
                topics.push(topic);
            }
        }
        topics
    }

    fn name_of(&self, entry: &Entry<'_>, ns: &str) -> String {
        entry.ui.map_or_else(|| ns.to_owned(), |ui| ui.to_string())
    }

    /// Returns the order of a command's collection after the command.
    fn order_after(
        &self,
        entry: &Entry<'_>,
        scope: &Scope<'_>,
        leaves_stream: bool,
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
        // The properties of a new collection are in its `create`, and those of a collection that
        // ends no longer matter.
        let needs_no_query = leaves_stream || matches!(entry.command()?.name, b"create" | b"drop");
        if needs_no_query || self.saved.routes.contains_key(&name) {
            return Ok(self.order_of(&name));
        }
        self.learn_order(entry, &scope.to_ns().unwrap_or(ns))
    }

    /// Returns the changes that a command makes to the routing table: a drop ends a route; a rename
    /// changes its name and topic, and ends the route of a collection that it replaces; a command
    /// that makes documents depend on each other changes the order; a `create` without a UUID adds
    /// a route.
    fn changes(
        &self,
        entry: &Entry<'_>,
        scope: &Scope<'_>,
        leaves_stream: bool,
        order: Order,
    ) -> Result<Vec<RouteChange>, ProducerError> {
        if is_view_entry(entry) {
            return Ok(Vec::new());
        }
        let old = self.name_of(entry, &scope.ns());
        let ends = leaves_stream || entry.command()?.name == b"drop";
        let has_route = |name: &String| self.saved.routes.contains_key(name);
        let gone = |name: String| RouteChange { name, record: None };
        if ends {
            return Ok(Some(old).filter(has_route).map(gone).into_iter().collect());
        }
        let replaced = replaced_by_rename(entry)?.map(|ui| ui.to_string());
        let replaced = replaced.filter(|name| *name != old && has_route(name));
        let ns = scope.to_ns().unwrap_or_else(|| scope.ns());
        // A `dropDatabase` of a server up to 3.4 does not name the collections, so the routes of
        // all of them must be known, including those of empty ones.
        let is_new = entry.ui.is_none()
            && entry.command()?.name == b"create"
            && !self.saved.routes.contains_key(&old);
        if scope.to.is_none() && order == self.order_of(&old) && !is_new {
            return Ok(Vec::new());
        }
        let Namespace { db, collection } = scope.to.unwrap_or(Namespace {
            db: scope.db,
            collection: scope.collection,
        });
        let topic = collection_topic(&self.prefix, db, collection);
        let ui = entry.ui.map(|ui| ui.to_string());
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

    /// Forgets the excluded collection that this command drops or, as a rename, replaces: no later
    /// entry has its UUID. Also forgets the namespace of the command, so that the filter is applied
    /// again to a later collection of that name.
    fn forget_excluded(&mut self, entry: &Entry<'_>, scope: &Scope<'_>) -> Result<(), EntryError> {
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

    /// Applies changes to the routing table. The target of a changed route is determined again at
    /// the next entry of its collection.
    pub fn apply(&mut self, changes: Vec<RouteChange>) {
        for RouteChange { name, record } in changes {
            self.last = None;
            match name.parse::<CollectionUuid>().ok() {
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

/// Returns the UUID of the collection that a rename replaces and drops. A source without UUIDs names
/// its routes by namespace: there the renamed collection takes over that route.
fn replaced_by_rename(entry: &Entry<'_>) -> Result<Option<CollectionUuid>, EntryError> {
    match entry.o.get("dropTarget")? {
        Some(target) if target.kind == kind::BINARY => {
            Ok(target.binary()?.bytes.try_into().ok().map(CollectionUuid))
        }
        _ => Ok(None),
    }
}

/// Returns true if the documents of a collection depend on each other after this command.
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
        b"createIndexes" | b"commitIndexBuild" => {
            let mut specs = index_specs(entry.o)?.into_iter();
            specs.any(|spec| demand(spec) == Ok(Demand::Uniqueness))
        }
        b"collMod" => match entry.o.get("index")? {
            Some(index) => demand(index.document()?)? == Demand::Uniqueness,
            None => false,
        },
        _ => false,
    })
}

/// Returns the error for a rename of a collection that is not streamed to a namespace that is.
fn renamed_into_stream(entry: &Entry<'_>, scope: &Scope<'_>) -> ProducerError {
    let (from, to) = (scope.ns(), scope.to_ns().unwrap_or_default());
    debug_assert_eq!(entry.operation, Operation::Command);
    EntryFault::RenamedIntoStream {
        entry: entry.ts,
        from,
        to,
    }
    .into()
}
