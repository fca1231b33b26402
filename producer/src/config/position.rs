//! Checks the arguments of `oplog-producer position`.

use std::path::PathBuf;
use std::time::Duration;

use oplog_relay_core::topic::check_prefix;
use oplog_relay_runtime::config::{ConfigError, Faults, Secret, parse_duration, resolve_secret};
use oplog_relay_runtime::kafka::KafkaOptions;
use oplog_relay_runtime::telemetry::LogOptions;

use crate::config::WantedMode;
use crate::config::kafka::{check_kafka, parse_replication_factor};
use crate::config::position_arguments::{
    ChangeArguments, ImportArguments, ListArguments, PositionCommand, SavedSourceArguments,
    SetArguments, ShowArguments,
};
pub use crate::config::position_values::{CheckpointPlace, NewPosition, OtherProgram, Output};
use crate::config::required::{required, required_name, required_prefix};
use crate::config::sources::chosen_source;
use crate::config::stream::is_connection_string;

/// The source whose position is shown or changed.
#[derive(Debug, Clone)]
pub struct SavedSource {
    /// First part of the topic names.
    pub topic_prefix: String,
    /// Name of the source.
    pub source_name: String,
    /// Connection string of the source, if it is given.
    pub uri: Option<Secret>,
}

/// What the operator accepts in a change of a position, and the term of the new one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Accepted {
    /// Election term of the entry at the position, if it is given.
    pub term: Option<i64>,
    /// True if entries may be skipped.
    pub gap: bool,
    /// True if the position may be before the beginning of the stream.
    pub before_start: bool,
    /// True if a producer that seems to be running may be fenced.
    pub fence: bool,
}

/// The configuration of `position show`.
#[derive(Debug, Clone)]
pub struct ShowConfig {
    /// The source.
    pub of: SavedSource,
    /// Form of the output.
    pub output: Output,
}

/// The configuration of `position list`.
#[derive(Debug, Clone)]
pub struct ListConfig {
    /// The prefix, if only one is listed.
    pub topic_prefix: Option<String>,
    /// Form of the output.
    pub output: Output,
}

/// The configuration of `position set`.
#[derive(Debug, Clone)]
pub struct SetConfig {
    /// The source.
    pub of: SavedSource,
    /// The new position.
    pub to: NewPosition,
    /// What is accepted.
    pub accepted: Accepted,
}

/// The configuration of `position import`.
#[derive(Debug, Clone)]
pub struct ImportConfig {
    /// The source.
    pub of: SavedSource,
    /// The other program.
    pub program: OtherProgram,
    /// The place of its checkpoint.
    pub place: CheckpointPlace,
    /// Name of the checkpoint, if it is given.
    pub checkpoint_name: Option<String>,
    /// The time by which the position is moved back.
    pub back: Duration,
    /// The way in which the source will be read.
    pub mode: WantedMode,
    /// True if a saved position may be replaced.
    pub replace: bool,
    /// Replication factor of new topics; -1 for the broker's default.
    pub replication_factor: i32,
    /// What is accepted.
    pub accepted: Accepted,
}

/// A command and its checked arguments.
#[derive(Debug, Clone)]
pub enum PositionAction {
    /// `position show`
    Show(ShowConfig),
    /// `position list`
    List(ListConfig),
    /// `position set`
    Set(SetConfig),
    /// `position import`
    Import(Box<ImportConfig>),
}

/// The configuration of `position`.
#[derive(Debug, Clone)]
pub struct PositionConfig {
    /// Connection settings of Kafka.
    pub kafka: KafkaOptions,
    /// Settings of the log.
    pub log: LogOptions,
    /// The command.
    pub action: PositionAction,
}

impl PositionConfig {
    /// Checks the arguments of a command.
    ///
    /// # Errors
    /// The error contains all faults.
    pub fn check(command: &PositionCommand) -> Result<Self, ConfigError> {
        let mut faults = Faults::new();
        let (kafka, action) = match command {
            PositionCommand::Show(show) => (&show.kafka, check_show(show, &mut faults)),
            PositionCommand::List(list) => (&list.kafka, check_list(list, &mut faults)),
            PositionCommand::Set(set) => (&set.kafka, check_set(set, &mut faults)),
            PositionCommand::Import(import) => (&import.kafka, check_import(import, &mut faults)),
        };
        let kafka = check_kafka(kafka, &mut faults);
        faults.finish()?;
        let (Some((kafka, log)), Some(action)) = (kafka, action) else {
            return Err(ConfigError::Faults(Vec::new()));
        };
        Ok(Self { kafka, log, action })
    }
}

fn check_source(given: &SavedSourceArguments, faults: &mut Faults) -> Option<SavedSource> {
    let Some(chosen) = chosen_source(&given.source, given.source_name.as_deref(), faults) else {
        // The source that was meant may contain the prefix and the name that seem to be missing.
        let prefix = given.topic_prefix.as_deref();
        let name = given.source_name.as_deref();
        prefix.and_then(|prefix| required_prefix(Some(prefix), faults));
        name.and_then(|name| required_name(Some(name), faults));
        return None;
    };
    let topic_prefix = chosen.topic_prefix().or(given.topic_prefix.as_deref());
    let topic_prefix = required_prefix(topic_prefix, faults);
    let source_name = chosen.name().or(given.source_name.as_deref());
    let source_name = required_name(source_name, faults);
    let uri = check_uri("--source", chosen.uri().filter(|uri| !is_dump(uri)), faults)?;
    Some(SavedSource {
        topic_prefix: topic_prefix?,
        source_name: source_name?,
        uri,
    })
}

/// Returns true if the address of a source is the path of a dump.
fn is_dump(uri: &str) -> bool {
    !uri.contains("://") && !uri.starts_with("file:")
}

/// Checks a connection string; the result is `Some(None)` if none is given.
fn check_uri(flag: &str, given: Option<&str>, faults: &mut Faults) -> Option<Option<Secret>> {
    let Some(given) = given else {
        return Some(None);
    };
    let secret = faults.take_or(flag, resolve_secret(given))?;
    let uri = secret.expose();
    if is_connection_string(uri) {
        return Some(Some(secret));
    }
    faults.add(flag, "must be a mongodb:// connection string");
    None
}

fn check_change(given: &ChangeArguments, faults: &mut Faults) -> Option<Accepted> {
    let term = given.term.as_deref().map(str::parse::<i64>).transpose();
    let term = term.map_err(|_| "must be a number");
    Some(Accepted {
        term: faults.take_or("--term", term)?,
        gap: given.allow_gap,
        before_start: given.allow_before_start,
        fence: given.fence,
    })
}

fn check_show(given: &ShowArguments, faults: &mut Faults) -> Option<PositionAction> {
    let of = check_source(&given.of, faults);
    let output = faults.take_or("--output", given.output.parse())?;
    Some(PositionAction::Show(ShowConfig { of: of?, output }))
}

fn check_list(given: &ListArguments, faults: &mut Faults) -> Option<PositionAction> {
    let topic_prefix = given.topic_prefix.clone();
    if let Some(prefix) = &topic_prefix {
        faults.take_or("--topic-prefix", check_prefix(prefix));
    }
    let output = faults.take_or("--output", given.output.parse())?;
    Some(PositionAction::List(ListConfig {
        topic_prefix,
        output,
    }))
}

fn check_set(given: &SetArguments, faults: &mut Faults) -> Option<PositionAction> {
    let of = check_source(&given.of, faults);
    let accepted = check_change(&given.change, faults);
    let to = required("--to", given.to.as_deref(), faults);
    let to = faults.take_or("--to", to?.parse())?;
    Some(PositionAction::Set(SetConfig {
        of: of?,
        to,
        accepted: accepted?,
    }))
}

fn check_import(given: &ImportArguments, faults: &mut Faults) -> Option<PositionAction> {
    let of = check_source(&given.of, faults);
    let accepted = check_change(&given.change, faults);
    let program = required("--from", given.from.as_deref(), faults);
    let program = program.and_then(|name| faults.take_or("--from", name.parse()));
    let place = check_place(given, of.as_ref(), program, faults);
    let back = faults.take_or("--back", parse_duration(&given.back));
    let mode = faults.take_or("--source-mode", given.source_mode.parse());
    let replication_factor = faults.take_or(
        "--replication-factor",
        parse_replication_factor(&given.replication_factor),
    );
    Some(PositionAction::Import(Box::new(ImportConfig {
        of: of?,
        program: program?,
        place: place?,
        checkpoint_name: given.checkpoint_name.clone(),
        back: back?,
        mode: mode?,
        replace: given.replace,
        replication_factor: replication_factor?,
        accepted: accepted?,
    })))
}

fn check_place(
    given: &ImportArguments,
    of: Option<&SavedSource>,
    program: Option<OtherProgram>,
    faults: &mut Faults,
) -> Option<CheckpointPlace> {
    if let Some(file) = &given.file {
        return Some(CheckpointPlace::File(PathBuf::from(file)));
    }
    if program? != OtherProgram::MongoShake {
        faults.add("--file", "is required");
        return None;
    }
    let uri = check_uri("--checkpoint-uri", given.checkpoint_uri.as_deref(), faults)?;
    let uri = uri.or_else(|| of?.uri.clone());
    let Some(uri) = uri else {
        faults.add(
            "--file",
            "is required without --source and --checkpoint-uri, from which the checkpoint could be read",
        );
        return None;
    };
    let names = given.checkpoint_collection.split_once('.');
    let Some((db, collection)) = names else {
        faults.add("--checkpoint-collection", "must be db.collection");
        return None;
    };
    Some(CheckpointPlace::Collection {
        uri,
        db: db.to_owned(),
        collection: collection.to_owned(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_source_is_chosen_among_those_given_to_run() {
        let check = |sources: &[&str], name: Option<&str>| {
            let given = SavedSourceArguments {
                source_name: name.map(str::to_owned),
                topic_prefix: Some("cdc".to_owned()),
                source: sources.iter().map(|text| (*text).to_owned()).collect(),
            };
            let mut faults = Faults::new();
            let found = check_source(&given, &mut faults).filter(|_| faults.is_empty());
            found.map(|found| {
                let uri = found.uri.map(|uri| uri.expose().to_owned());
                (found.topic_prefix, found.source_name, uri)
            })
        };
        let found = |prefix: &str, name: &str, uri: Option<&str>| {
            Some((prefix.to_owned(), name.to_owned(), uri.map(str::to_owned)))
        };
        let both = [
            "eu=mongodb://a",
            r#"{"name":"us","uri":"mongodb://b","topic_prefix":"p"}"#,
        ];
        assert_eq!(
            check(&both, Some("eu")),
            found("cdc", "eu", Some("mongodb://a"))
        );
        assert_eq!(
            check(&both, Some("us")),
            found("p", "us", Some("mongodb://b"))
        );
        assert_eq!(check(&both, Some("asia")), None);
        assert_eq!(check(&both, None), None);
        let only = ["mongodb://a"];
        assert_eq!(
            check(&only, Some("eu")),
            found("cdc", "eu", Some("mongodb://a"))
        );
        assert_eq!(check(&only, None), None);
        assert_eq!(
            check(&both[..1], None),
            found("cdc", "eu", Some("mongodb://a"))
        );
        let unreadable = SavedSourceArguments {
            source_name: None,
            topic_prefix: Some("a.b".to_owned()),
            source: vec![r#"{"x":1}"#.to_owned()],
        };
        let mut faults = Faults::new();
        assert!(check_source(&unreadable, &mut faults).is_none());
        let places: Vec<&str> = (faults.found().iter().map(|it| &*it.place)).collect();
        assert_eq!(places, ["--source", "--topic-prefix"]);
        let dump = ["eu=dumps/oplog.bson"];
        assert_eq!(check(&dump, None), found("cdc", "eu", None));
        assert_eq!(check(&["http://a"], Some("eu")), None);
        assert_eq!(check(&[], Some("eu")), found("cdc", "eu", None));
    }
}
