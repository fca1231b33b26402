//! How the documents of collections spread over partitions, and how that is found out of a
//! collection that has no route yet.

use std::fmt;

use oplog_relay_core::entry::Entry;
use oplog_relay_core::state::{Order, OrderRule, State};

use super::Router;
use crate::error::ProducerError;

/// What a source reports about its collections as they are now.
pub trait Collections: fmt::Debug + Send {
    /// Whether the documents of a collection depend on each other: false where there is no such
    /// collection any more. `ui` finds it under whatever name it has now.
    ///
    /// # Errors
    /// [`ProducerError::Source`].
    fn depend(&self, ns: &str, ui: Option<[u8; 16]>) -> Result<bool, ProducerError>;
}

impl Router {
    /// The same, asking a live source about collections that have no route yet. Without it only
    /// commands tell of them.
    #[must_use]
    pub fn asking(mut self, collections: Option<Box<dyn Collections>>) -> Self {
        self.collections = collections;
        self
    }

    /// The same with another rule for the order of collections.
    ///
    /// # Errors
    /// [`ProducerError::Usage`] if a saved route was made by another rule.
    pub fn ordered(mut self, rule: OrderRule) -> Result<Self, ProducerError> {
        check_rule(rule, &self.saved)?;
        self.rule = rule;
        Ok(self)
    }

    /// The saved order of a collection, else what the rule alone says.
    pub(crate) fn order_of(&self, name: &str) -> Order {
        let saved = self.saved.routes.get(name).map(|record| record.order);
        saved.unwrap_or(self.rule.order())
    }

    /// The order of a collection without a route, which is `ns` now, by the rule and by what the
    /// source says. That may be of a later time than the entry: then it is stricter than needed,
    /// or the command that ended the dependence is still to come and waits for barriers.
    pub(crate) fn learn_order(&self, entry: &Entry<'_>, ns: &str) -> Result<Order, ProducerError> {
        let (OrderRule::Auto, Some(collections)) = (self.rule, &self.collections) else {
            return Ok(self.rule.order());
        };
        ask(collections.as_ref(), ns, entry.ui)
    }
}

pub(crate) fn ask(
    collections: &dyn Collections,
    ns: &str,
    ui: Option<[u8; 16]>,
) -> Result<Order, ProducerError> {
    if !collections.depend(ns, ui)? {
        return Ok(Order::Id);
    }
    tracing::info!(
        ns,
        "the collection goes to one partition: its documents depend on each other (a unique \
         index, capped, or a collation)"
    );
    Ok(Order::Collection)
}

/// The rule is a part of the saved table: under another one the entries of one document would go
/// on in another partition, with nothing that keeps them behind the earlier ones.
///
/// # Errors
/// [`ProducerError::Usage`] if a saved route was made by another rule.
pub fn check_rule(rule: OrderRule, saved: &State) -> Result<(), ProducerError> {
    let Some(other) = saved.routes.values().find(|route| route.rule != rule) else {
        return Ok(());
    };
    Err(ProducerError::Usage(format!(
        "the saved routes of this source were made with --order {}, among them that of {} to topic \
         {}; with --order {rule} later entries would overtake earlier ones in other partitions. \
         Give --order {}, or go on with --order {rule} behind barriers by --change-routing, or begin \
         under another --topic-prefix",
        other.rule, other.ns, other.topic, other.rule
    )))
}
