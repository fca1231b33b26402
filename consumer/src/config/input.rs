//! The options that select the input: `--topic-prefix`, or `--input` and `--topics`.

use oplog_relay_core::foreign::{Updates, Writer};
use oplog_relay_runtime::config::Faults;

use super::proof::check_topic_prefix;
use crate::config::arguments::{GroupArguments, ReplayArguments};
use crate::input::{ForeignInput, Input, TopicPatterns};

/// The value of `--input` for oplog-producer's topics.
pub(super) const RELAY: &str = "oplog-relay";

/// The deficiencies of other programs' records that `replay` or `emit` accepts, and the part of
/// their update events that it uses.
#[derive(Debug, Clone, Copy)]
pub(super) struct Consent {
    /// True if records that have lost types are accepted.
    pub(super) lossy: bool,
    /// True if the order of the records in different partitions does not matter, or if the operator
    /// has accepted that it is unknown.
    pub(super) unordered: bool,
    /// The part of an update event that is used.
    pub(super) updates: Updates,
}

/// Returns what a replay accepts. If an event has the whole document, the replay uses it rather
/// than the changed fields, because the result then does not depend on the target's document.
pub(super) fn consent_of_replay(arguments: &ReplayArguments, faults: &mut Faults) -> Consent {
    if arguments.allow_unordered && arguments.group.input == RELAY {
        faults.add(
            "--allow-unordered",
            "needs --input with another program; the topics of oplog-producer are in order per document",
        );
    }
    Consent {
        lossy: arguments.allow_lossy,
        unordered: arguments.allow_unordered,
        updates: Updates::Documents,
    }
}

/// Returns what `emit` accepts. It changes no documents, so lost types and an unknown order of the
/// records in different partitions do no harm. The readers of its lines need to know what changed.
pub(super) const fn consent_of_emit() -> Consent {
    Consent {
        lossy: true,
        unordered: true,
        updates: Updates::Changes,
    }
}

/// Checks the options that select the input.
pub(super) fn check(
    arguments: &GroupArguments,
    consent: Consent,
    faults: &mut Faults,
) -> Option<Input> {
    if arguments.input == RELAY {
        if !arguments.topics.is_empty() {
            faults.add(
                "--topics",
                "needs --input with another program; the topics of oplog-producer are selected by \
                 --topic-prefix and --include-namespaces",
            );
        }
        let prefix = check_topic_prefix(arguments.topic_prefix.as_deref(), faults)?;
        return Some(Input::Relay { prefix });
    }
    let writer = arguments.input.parse::<Writer>();
    let writer = faults.take_or("--input", writer.map_err(|()| unknown()));
    if arguments.topic_prefix.is_some() {
        faults.add(
            "--topic-prefix",
            "belongs to the topics of oplog-producer; those of another program (--input) are given by \
             --topics",
        );
    }
    if arguments.topics.is_empty() {
        faults.add(
            "--topics",
            "is required with --input: the topics that the other program writes",
        );
        return None;
    }
    let topics = faults.take_or("--topics", TopicPatterns::new(&arguments.topics));
    Some(Input::Foreign(ForeignInput {
        writer: writer?,
        topics: topics?,
        updates: consent.updates,
        accepts_lossy: consent.lossy,
        accepts_any_order: consent.unordered,
    }))
}

fn unknown() -> String {
    let names: Vec<&str> = Writer::ALL.iter().map(|writer| writer.name()).collect();
    format!("must be {RELAY}, or one of {}", names.join(", "))
}
