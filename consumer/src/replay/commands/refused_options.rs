//! Command options that the target does not support: options of newer servers on an older target, and
//! options that old servers accepted without a check.
//!
//! An option that has no effect on the documents is left out, with a warning. If the target cannot
//! convert an index between unique and non-unique, the index is dropped and built again. Any other
//! option stops the replay, or is left out with `--refused-options leave-out`, unless it defines
//! the index or the collection.

use mongodb::bson::{Bson, Document};
use mongodb::error::ErrorKind;
use oplog_relay_core::namespace::Namespace;
use oplog_relay_runtime::mongo::error_code;

use crate::error::ConsumerError;
use crate::replay::catalog::Ran;
use crate::replay::commands::{is_unique_across_shards, unwritable};
use crate::replay::sink::MongoSink;
use crate::worker::applied::Applied;
use crate::worker::assignment::Token;

/// Error codes with which servers refuse an option: `BadValue`, `FailedToParse`, `TypeMismatch`,
/// `CannotCreateIndex`, `InvalidOptions`, `InvalidIndexSpecificationOption`, and 40415 for an
/// unknown field.
const REFUSED: [i32; 7] = [2, 9, 14, 67, 72, 197, 40415];
/// Options that affect only storage or query planning, or that enforce a rule that the source has
/// already enforced.
const WITHOUT_EFFECT: [&str; 5] = [
    "bucketSize",
    "hidden",
    "indexOptionDefaults",
    "prepareUnique",
    "storageEngine",
];
/// Fields that define an index or a collection, and are therefore never left out.
const ESSENTIAL: [&str; 12] = [
    "capped",
    "collation",
    "index",
    "indexes",
    "key",
    "keyPattern",
    "name",
    "pipeline",
    "size",
    "timeseries",
    "viewOn",
    "writeConcern",
];

/// How to continue with a command that the target refused.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Fallback {
    /// There is no fallback: the command has failed.
    None,
    /// The command has nothing left to do.
    Done,
    /// The partition was revoked, or the program ends.
    Abandoned,
    /// The command is sent again without this option.
    Without(String),
}

impl MongoSink {
    /// Returns how to continue with a command that has an option that the target refuses. If the
    /// option converts an index, the index is rebuilt here.
    ///
    /// # Errors
    /// Returns an error if the target refuses to rebuild the index.
    pub(crate) async fn fallback_for(
        &self,
        db: &str,
        command: &[u8],
        ran: &Ran,
        refused: &mongodb::error::Error,
        token: &Token,
    ) -> Result<Fallback, ConsumerError> {
        let ErrorKind::Command(reply) = refused.kind.as_ref() else {
            return Ok(Fallback::None);
        };
        if !error_code(refused).is_some_and(|code| REFUSED.contains(&code)) {
            return Ok(Fallback::None);
        }
        let command = Document::from_reader(command).map_err(|error| unwritable(ran, &error))?;
        let option = if is_unique_across_shards(refused) {
            Some("unique".to_owned())
        } else {
            refused_option(&reply.message, &command)
        };
        let Some(option) = option else {
            return Ok(Fallback::None);
        };
        let is_conversion = matches!(option.as_str(), "unique" | "forceNonUnique")
            && !is_unique_across_shards(refused);
        if is_conversion {
            let (Ok(collection), Ok(change)) =
                (command.get_str("collMod"), command.get_document("index"))
            else {
                return Ok(Fallback::None);
            };
            let namespace = Namespace { db, collection };
            let unique = option == "unique";
            let converting = Box::pin(self.convert_index(namespace, change, unique, ran, token));
            return Ok(match converting.await? {
                Applied::Done => Fallback::Done,
                Applied::Abandoned => Fallback::Abandoned,
            });
        }
        if !(self.policies.leaves_out_options || WITHOUT_EFFECT.contains(&option.as_str())) {
            return Ok(Fallback::None);
        }
        tracing::warn!(
            ns = ran.ns,
            entry = %ran.id,
            option,
            reason = reply.message,
            "the target does not support an option of a command; running the command without it"
        );
        match without(&command, &option) {
            Some(rest) if rest == command => Ok(Fallback::None),
            Some(_) => Ok(Fallback::Without(option)),
            None => Ok(Fallback::Done),
        }
    }

    /// Rebuilds an index as unique or non-unique, for a target that cannot convert an index.
    async fn convert_index(
        &self,
        namespace: Namespace<'_>,
        change: &Document,
        unique: bool,
        ran: &Ran,
        token: &Token,
    ) -> Result<Applied, ConsumerError> {
        let ns = namespace.to_string();
        let is_requested = |index: &&Document| match change.get("name") {
            Some(name) => index.get("name") == Some(name),
            None => index.get("key") == change.get("keyPattern"),
        };
        let indexes = self.indexes_of(&ns).await?;
        let Some(index) = indexes.iter().find(is_requested) else {
            return Ok(Applied::Done);
        };
        if index.get_bool("unique").unwrap_or(false) == unique {
            return Ok(Applied::Done);
        }
        tracing::warn!(
            ns = ran.ns,
            entry = %ran.id,
            %index,
            unique,
            "the target cannot convert an index; dropping it and building it again"
        );
        let mut definition = index.clone();
        for field in ["ns", "unique", "prepareUnique"] {
            definition.remove(field);
        }
        if unique {
            definition.insert("unique", true);
        }
        self.rebuild_index(&ns, ran.id, definition, token).await
    }
}

/// Returns the option of the command that a server's message names. The name is in quotes, with or
/// without the name of the command before it, or it is the last word.
fn refused_option(message: &str, command: &Document) -> Option<String> {
    let quoted = message.split(['\'', '"']).skip(1).step_by(2);
    let last = message.rsplit(' ').next();
    let named = quoted
        .chain(last)
        .filter_map(|text| text.rsplit('.').next());
    let mut options = named.filter(|option| !ESSENTIAL.contains(option));
    let found = options.find(|option| without(command, option).is_none_or(|rest| rest != *command));
    found.map(str::to_owned)
}

/// Returns the command without an option, which is removed from its indexes too. Returns `None` if
/// the command then has nothing left to do.
pub(crate) fn without(command: &Document, option: &str) -> Option<Document> {
    let mut rest = command.clone();
    let is_first = rest.keys().next().is_some_and(|first| first == option);
    if !is_first {
        rest.remove(option);
    }
    if let Ok(indexes) = rest.get_array_mut("indexes") {
        for index in indexes.iter_mut().filter_map(Bson::as_document_mut) {
            index.remove(option);
        }
    }
    if let Ok(index) = rest.get_document_mut("index") {
        index.remove(option);
        if index
            .keys()
            .all(|field| field == "name" || field == "keyPattern")
        {
            rest.remove("index");
        }
    }
    let is_empty_change = rest.contains_key("collMod") && rest.len() == 1;
    (!is_empty_change).then_some(rest)
}

#[cfg(test)]
mod tests {
    use super::*;
    use mongodb::bson::doc;

    #[test]
    fn the_refused_option_is_found_in_server_messages() {
        let index =
            doc! { "key": { "a": 1 }, "name": "a_1", "backgroud": true, "background": true };
        let create = doc! { "createIndexes": "c", "indexes": [index] };
        let change = doc! { "collMod": "c", "index": { "name": "a_1", "prepareUnique": true } };
        let old = doc! { "collMod": "c", "noPadding": true };
        for (message, command, option) in [
            (
                "Error in specification { name: \"a_1\" } :: caused by :: The field 'backgroud' is \
                 not valid for an index specification. Specification: { backgroud: true }",
                &create,
                Some("backgroud"),
            ),
            (
                "BSON field 'collMod.index.prepareUnique' is an unknown field.",
                &change,
                Some("prepareUnique"),
            ),
            (
                "unknown option to collMod: noPadding",
                &old,
                Some("noPadding"),
            ),
            ("the field 'name' is not a string", &create, None),
            ("The field 'other' is not valid", &create, None),
        ] {
            assert_eq!(
                refused_option(message, command).as_deref(),
                option,
                "{message}"
            );
        }
    }

    #[test]
    fn an_option_is_removed_from_a_command_and_its_indexes() {
        let index = doc! { "key": { "a": 1 }, "name": "a_1", "odd": true };
        let create = doc! { "createIndexes": "c", "indexes": [index] };
        let left = doc! { "createIndexes": "c", "indexes": [{ "key": { "a": 1 }, "name": "a_1" }] };
        assert_eq!(without(&create, "odd"), Some(left));
        let change = doc! { "collMod": "c", "index": { "name": "a_1", "odd": true } };
        assert_eq!(without(&change, "odd"), None);
        let change =
            doc! { "collMod": "c", "index": { "name": "a_1", "odd": true }, "validator": {} };
        let left = doc! { "collMod": "c", "validator": {} };
        assert_eq!(without(&change, "odd"), Some(left));
        let odd = doc! { "collMod": "c", "cappedSize": 4096 };
        assert_eq!(without(&odd, "cappedSize"), None);
        assert_eq!(without(&odd, "collMod"), Some(odd));
    }
}
