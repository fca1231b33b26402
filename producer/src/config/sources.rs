//! The values of `--source`: one source, or several with names.

use std::collections::BTreeSet;
use std::path::Path;

use oplog_relay_core::topic::check_source_name;
use oplog_relay_runtime::config::{Fault, Faults};
use serde::Deserialize;

use crate::config::arguments::{RunArguments, StreamArguments};
use crate::config::required::IS_REQUIRED;
use crate::config::stream::is_connection_string;

const FLAG: &str = "--source";
/// The keys of an object, for messages.
const KEYS: &str = "the keys name, uri, topic_prefix, source_mode, start and sync, whose values are \
                    texts, and include_namespaces and exclude_namespaces, whose values are lists";

/// A source as it was given: its address, and the settings that apply to it alone.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct GivenSource {
    name: Option<String>,
    /// The connection string, or the path of a dump. It may contain a password.
    uri: Option<String>,
    topic_prefix: Option<String>,
    source_mode: Option<String>,
    start: Option<String>,
    sync: Option<String>,
    include_namespaces: Option<Vec<String>>,
    exclude_namespaces: Option<Vec<String>>,
    /// True if the value could not be parsed, which is reported already.
    #[serde(skip)]
    is_unreadable: bool,
}

impl GivenSource {
    /// Returns a source that was not given, whose check reports that it is missing.
    pub(super) fn none() -> Self {
        Self::default()
    }

    /// Parses a value of the flag, or adds its fault.
    fn parse_or_report(value: &str, faults: &mut Faults) -> Self {
        let parsed = faults.take_or(FLAG, Self::parse(value));
        parsed.unwrap_or_else(|| Self {
            is_unreadable: true,
            ..Self::default()
        })
    }

    /// Returns true if a fault that the check of the source has found is one. A value that could not be
    /// parsed may contain the settings that seem to be missing.
    fn has_fault(&self, fault: &Fault) -> bool {
        let may_be_given = [FLAG, "--topic-prefix"].contains(&fault.place.as_str());
        !(self.is_unreadable && may_be_given && fault.message == IS_REQUIRED)
    }

    /// Parses a value of the flag: an object, `NAME=URI`, or an address alone.
    fn parse(value: &str) -> Result<Self, String> {
        if value.trim_start().starts_with('{') {
            // The message of the parser may contain a value, which may be a secret.
            return serde_json::from_str(value).map_err(|error| {
                let (line, column) = (error.line(), error.column());
                format!("is not an object with {KEYS} (line {line}, column {column})")
            });
        }
        let named = value.split_once('=').filter(|(name, uri)| {
            // A connection string has "=" in its options, and a path may contain one.
            let is_word = !name.contains([':', '/']);
            is_word
                && (is_connection_string(uri)
                    || check_source_name(name).is_ok() && !Path::new(value).exists())
        });
        Ok(match named {
            Some((name, uri)) => Self {
                name: Some(name.to_owned()),
                uri: Some(uri.to_owned()),
                ..Self::default()
            },
            None => Self {
                uri: Some(value.to_owned()),
                ..Self::default()
            },
        })
    }

    /// Returns the name, if it was given with the source.
    pub(super) fn name(&self) -> Option<&str> {
        self.name.as_deref()
    }

    /// Returns the address, if there is one.
    pub(super) fn uri(&self) -> Option<&str> {
        self.uri.as_deref()
    }

    /// Returns the prefix of this source alone, if it was given.
    pub(super) fn topic_prefix(&self) -> Option<&str> {
        self.topic_prefix.as_deref()
    }

    /// Returns the arguments with this source alone.
    pub(super) fn apply(&self, arguments: &RunArguments) -> RunArguments {
        RunArguments {
            stream: self.apply_to_stream(&arguments.stream),
            sync: self.sync.clone().or_else(|| arguments.sync.clone()),
            ..arguments.clone()
        }
    }

    /// Returns the arguments of the stream with this source alone.
    pub(super) fn apply_to_stream(&self, arguments: &StreamArguments) -> StreamArguments {
        let arguments = arguments.clone();
        StreamArguments {
            source: self.uri.iter().cloned().collect(),
            source_name: self.name.clone().or(arguments.source_name),
            topic_prefix: self.topic_prefix.clone().or(arguments.topic_prefix),
            source_mode: self.source_mode.clone().unwrap_or(arguments.source_mode),
            start: self.start.clone().or(arguments.start),
            include_namespaces: (self.include_namespaces.clone())
                .unwrap_or(arguments.include_namespaces),
            exclude_namespaces: (self.exclude_namespaces.clone())
                .unwrap_or(arguments.exclude_namespaces),
            ..arguments
        }
    }
}

/// Returns the sources that were given. Adds a fault for a value that cannot be parsed, and for names
/// that are missing or not unique. A value that cannot be parsed is a source too, so that the flags that
/// apply to all sources are checked.
pub(super) fn given_sources(arguments: &StreamArguments, faults: &mut Faults) -> Vec<GivenSource> {
    let values = arguments.source.iter();
    let given: Vec<GivenSource> = values
        .map(|value| GivenSource::parse_or_report(value, faults))
        .collect();
    if arguments.source.is_empty() {
        // The check of an empty source reports that the source is missing, with all other faults.
        return vec![GivenSource::none()];
    }
    if given.len() < 2 {
        check_only(&given, arguments, faults);
        return given;
    }
    if arguments.source_name.is_some() {
        faults.add(
            "--source-name",
            "names one source; give several as --source NAME=URI",
        );
    }
    let names: Vec<&str> = given.iter().filter_map(|it| it.name.as_deref()).collect();
    let readable = given.iter().filter(|it| !it.is_unreadable);
    if names.len() < readable.count() {
        faults.add(
            FLAG,
            "each of several sources needs a name: NAME=URI, or the key name of a table",
        );
    }
    let mut known = BTreeSet::new();
    for name in names {
        if !known.insert(name) {
            faults.add(FLAG, format!("two sources have the name {name}"));
        }
    }
    given
}

/// Returns the one of the given sources that a command concerns: the one with a name, or the only one.
/// Adds a fault if a value cannot be parsed, if no source has the name, or if there are several and no
/// name.
pub(super) fn chosen_source(
    values: &[String],
    name: Option<&str>,
    faults: &mut Faults,
) -> Option<GivenSource> {
    let given = values.iter();
    let given: Vec<GivenSource> = given
        .filter_map(|value| faults.take_or(FLAG, GivenSource::parse(value)))
        .collect();
    if given.len() < values.len() {
        return None;
    }
    let is_meant = |source: &GivenSource| match (source.name(), name) {
        (Some(named), Some(name)) => named == name,
        // A source without a name has the name that is given elsewhere.
        _ => given.len() == 1,
    };
    match given.iter().find(|source| is_meant(source)) {
        Some(found) => Some(found.clone()),
        None if given.is_empty() => Some(GivenSource::none()),
        None => {
            let reason = name.map_or_else(
                || "is required, because several sources are given".to_owned(),
                |name| format!("is {name}, but --source gives no source of this name"),
            );
            faults.add("--source-name", reason);
            None
        }
    }
}

/// Checks the name of a single source, which may be given in two places.
fn check_only(given: &[GivenSource], arguments: &StreamArguments, faults: &mut Faults) {
    let named = given.first().and_then(|source| source.name.as_deref());
    let flag = arguments.source_name.as_deref();
    if let (Some(named), Some(flag)) = (named, flag)
        && named != flag
    {
        faults.add(
            "--source-name",
            format!("is {flag}, but --source names the source {named}"),
        );
    }
}

/// Checks each source, and returns the configurations of those without faults. A fault that all
/// sources have is reported once; the others with the name of their source.
pub(super) fn check_each<C>(
    given: &[GivenSource],
    faults: &mut Faults,
    check: impl Fn(&GivenSource, &mut Faults) -> Option<C>,
) -> Vec<C> {
    let mut configs = Vec::new();
    let mut found = Vec::new();
    for source in given {
        let mut own = Faults::new();
        configs.extend(check(source, &mut own));
        let own = own.found().iter().filter(|fault| source.has_fault(fault));
        found.push(own.cloned().collect::<Vec<Fault>>());
    }
    let is_common = |fault: &Fault| found.iter().all(|own| own.contains(fault));
    for (number, (source, own)) in given.iter().zip(&found).enumerate() {
        for fault in own {
            let Fault { place, message } = fault.clone();
            match &source.name {
                Some(name) if !is_common(fault) => {
                    faults.add(format!("source {name}, {place}"), message);
                }
                _ if number == 0 || !is_common(fault) => faults.add(place, message),
                _ => {}
            }
        }
    }
    configs
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_value_has_a_name_only_before_an_address() {
        let parse = |value: &str| {
            let given = GivenSource::parse(value).unwrap();
            (given.name, given.uri.unwrap())
        };
        for address in [
            "mongodb://h/?replicaSet=rs0",
            "file:/run/secrets/a=b",
            "-",
            "dumps/oplog.bson",
        ] {
            assert_eq!(parse(address), (None, address.to_owned()));
        }
        assert_eq!(parse("Upper=mongodb://h").0.as_deref(), Some("Upper"));
        let named = parse("eu-1=mongodb://h/?a=b");
        assert_eq!(
            named,
            (Some("eu-1".to_owned()), "mongodb://h/?a=b".to_owned())
        );
    }

    #[test]
    fn an_object_has_settings_of_its_own_and_its_faults_hide_its_values() {
        let table = r#"{"name":"eu","uri":"mongodb://u:hunter2@h","start":"now",
            "include_namespaces":["shop"]}"#;
        let given = GivenSource::parse(table).unwrap();
        assert_eq!(given.start.as_deref(), Some("now"));
        assert_eq!(given.include_namespaces, Some(vec!["shop".to_owned()]));
        for wrong in [
            r#"{"name":"eu","url":"mongodb://u:hunter2@h"}"#,
            r#"{"name":"eu","uri":["mongodb://u:hunter2@h"]}"#,
            r#"{"uri":"mongodb://u:hunter2@h""#,
            r#"{"name":"eu","include_namespaces":"mongodb://u:hunter2@h"}"#,
        ] {
            let fault = GivenSource::parse(wrong).unwrap_err();
            assert!(!fault.contains("hunter2"), "{fault}");
        }
    }
}
