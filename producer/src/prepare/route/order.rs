//! The order of collections: how their documents are spread over partitions, and how the order of a
//! collection without a route is determined.

use std::fmt;

use oplog_relay_core::collection_uuid::CollectionUuid;
use oplog_relay_core::entry::Entry;
use oplog_relay_core::state::{Order, OrderRule, State};

use super::Router;
use crate::error::ProducerError;
use crate::prepare::topics::error::TopicError;

/// The current properties of a source's collections.
pub trait Collections: fmt::Debug + Send {
    /// Returns true if the documents of a collection depend on each other, because it has a unique
    /// index besides `_id`, is capped or has a collation; false also if the collection no longer
    /// exists. If `ui` is given, the collection is found under any current name.
    ///
    /// # Errors
    /// [`ProducerError::Source`].
    fn depend(&self, ns: &str, ui: Option<CollectionUuid>) -> Result<bool, ProducerError>;
}

impl Router {
    /// Sets the live source to query about collections that have no route yet. Without it, their
    /// properties are known only from commands.
    #[must_use]
    pub fn with_collections(mut self, collections: Option<Box<dyn Collections>>) -> Self {
        self.collections = collections;
        self
    }

    /// Sets the rule for the order of collections.
    ///
    /// # Errors
    /// [`TopicError::OtherOrder`] if a saved route was made by another rule.
    pub fn ordered(mut self, rule: OrderRule) -> Result<Self, ProducerError> {
        check_rule(rule, &self.saved)?;
        self.rule = rule;
        Ok(self)
    }

    /// Returns the saved order of a collection, otherwise the default order of the rule.
    pub(crate) fn order_of(&self, name: &str) -> Order {
        let saved = self.saved.routes.get(name).map(|record| record.order);
        saved.unwrap_or(self.rule.order())
    }

    /// Returns the order of a collection without a route, currently named `ns`, by the rule and the
    /// properties on the source. These may be newer than the entry. If so, the order is stricter
    /// than needed, or the command that ended the dependence follows later and waits for barriers.
    pub(crate) fn learn_order(&self, entry: &Entry<'_>, ns: &str) -> Result<Order, ProducerError> {
        let (OrderRule::Auto, Some(collections)) = (self.rule, &self.collections) else {
            return Ok(self.rule.order());
        };
        query_order(collections.as_ref(), ns, entry.ui)
    }
}

pub(crate) fn query_order(
    collections: &dyn Collections,
    ns: &str,
    ui: Option<CollectionUuid>,
) -> Result<Order, ProducerError> {
    if !collections.depend(ns, ui)? {
        return Ok(Order::Id);
    }
    tracing::info!(
        ns,
        "all documents of the collection go to one partition: they depend on each other (a unique \
         index, a capped collection, or a collation)"
    );
    Ok(Order::Collection)
}

/// Checks that the saved routes were made by this rule. The rule is part of the saved table: under
/// another rule, the later entries of a document would go to another partition and lose their order
/// relative to the earlier ones.
///
/// # Errors
/// [`TopicError::OtherOrder`] if a saved route was made by another rule.
pub fn check_rule(rule: OrderRule, saved: &State) -> Result<(), TopicError> {
    let Some(other) = saved.routes.values().find(|route| route.rule != rule) else {
        return Ok(());
    };
    Err(TopicError::OtherOrder {
        saved: other.rule,
        rule,
        ns: other.ns.clone(),
        topic: other.topic.clone(),
    })
}
