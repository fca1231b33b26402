//! The arguments that determine which documents are looked up on the source: `--full-document`,
//! `--full-document-before` and `--topic-mode`.

use std::str::FromStr;

use oplog_relay_core::format::Format;
use oplog_relay_core::format::envelope::Envelope;
use oplog_relay_runtime::config::Faults;

use crate::config::Origin;
use crate::config::arguments::StreamArguments;

const CURRENT: &str = "--full-document";
const BEFORE: &str = "--full-document-before";

/// The content of the topics.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum TopicMode {
    /// One record per change.
    Changes,
    /// The latest state of each document.
    Snapshot,
}

impl FromStr for TopicMode {
    type Err = &'static str;

    fn from_str(name: &str) -> Result<Self, Self::Err> {
        match name {
            "changes" => Ok(Self::Changes),
            "snapshot" => Ok(Self::Snapshot),
            _ => Err("must be changes or snapshot"),
        }
    }
}

/// Adds the faults of arguments that do not fit `--topic-mode snapshot`.
pub(super) fn check_snapshot(
    arguments: &StreamArguments,
    is_json: bool,
    envelope: Envelope,
    faults: &mut Faults,
) {
    if !is_json {
        faults.add("--topic-mode", "snapshot needs --format json");
    }
    if envelope != Envelope::ChangeEvent {
        faults.add(
            "--envelope",
            "cannot be used with --topic-mode snapshot, whose records are documents without an envelope",
        );
    }
    if arguments.replayable == Some(true) {
        faults.add(
            "--replayable",
            "cannot be true with --topic-mode snapshot, whose topics have no changes to replay",
        );
    }
}

/// The documents that are looked up on the source.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Lookups {
    /// The current documents of updates.
    pub current: bool,
    /// The documents before updates and deletes.
    pub before: bool,
}

/// Returns the documents that are looked up, or adds the faults of the arguments.
pub(super) fn check_lookup(
    arguments: &StreamArguments,
    format: Option<Format>,
    origin: Option<&Origin>,
    faults: &mut Faults,
) -> Option<Lookups> {
    let current = faults.take_or(CURRENT, is_wanted(&arguments.full_document));
    let before = faults.take_or(BEFORE, is_wanted(&arguments.full_document_before));
    let (current, before) = (current?, before?);
    let format = format?;
    let is_dump = matches!(origin, Some(Origin::Dump(_)));
    if format.is_latest_state() {
        if is_dump {
            faults.add(
                "--topic-mode",
                "snapshot needs a live source: a dump of an oplog holds no documents to look up",
            );
        }
        if before {
            faults.add(
                BEFORE,
                "cannot be used with --topic-mode snapshot, whose records are the documents after changes",
            );
        }
        return Some(Lookups {
            current: true,
            before: false,
        });
    }
    let has_place = matches!(
        format,
        Format::Json(_) | Format::ReaderJson(_) | Format::Debezium(_)
    );
    let wanted = [current.then_some(CURRENT), before.then_some(BEFORE)];
    for flag in wanted.into_iter().flatten() {
        if is_dump {
            faults.add(
                flag,
                "lookup needs a live source: a dump of an oplog holds no documents to look up",
            );
        }
        if !has_place {
            faults.add(
                flag,
                "lookup needs --format json with --envelope change-event or debezium",
            );
        }
    }
    Some(Lookups { current, before })
}

fn is_wanted(value: &str) -> Result<bool, &'static str> {
    match value {
        "none" => Ok(false),
        "lookup" => Ok(true),
        _ => Err("must be none or lookup"),
    }
}
