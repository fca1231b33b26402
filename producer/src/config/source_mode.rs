//! The argument `--source-mode`, and the arguments that do not fit a change stream.

use std::str::FromStr;

use oplog_relay_core::state::SourceMode;
use oplog_relay_runtime::config::{Faults, Start};

use crate::config::arguments::StreamArguments;
use crate::config::{Origin, StreamConfig};

const FLAG: &str = "--source-mode";

/// The way in which a live source is read, as the operator wants it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum WantedMode {
    /// The oplog if it can be read, otherwise a change stream.
    Auto,
    /// The oplog.
    Oplog,
    /// A change stream.
    ChangeStream,
}

impl From<SourceMode> for WantedMode {
    fn from(mode: SourceMode) -> Self {
        match mode {
            SourceMode::Oplog => Self::Oplog,
            SourceMode::ChangeStream => Self::ChangeStream,
        }
    }
}

impl FromStr for WantedMode {
    type Err = &'static str;

    fn from_str(name: &str) -> Result<Self, Self::Err> {
        match name {
            "auto" => Ok(Self::Auto),
            "oplog" => Ok(Self::Oplog),
            "change-stream" => Ok(Self::ChangeStream),
            _ => Err("must be auto, oplog or change-stream"),
        }
    }
}

/// Returns the mode, or adds the faults of arguments that a change stream cannot fulfil.
pub(super) fn check_source_mode(
    arguments: &StreamArguments,
    origin: Option<&Origin>,
    start: Option<Start>,
    faults: &mut Faults,
) -> Option<WantedMode> {
    let mode = faults.take_or(FLAG, arguments.source_mode.parse())?;
    if mode != WantedMode::ChangeStream {
        return Some(mode);
    }
    if matches!(origin, Some(Origin::Dump(_))) {
        faults.add(
            FLAG,
            "change-stream needs a live source: a dump is an oplog. Omit the flag",
        );
    }
    if start == Some(Start::Oldest) {
        faults.add(
            "--start",
            "oldest cannot be used with --source-mode change-stream: a change stream does not report \
             the oldest entry of the oplog. Give now or a time",
        );
    }
    if arguments.full_document_before == "lookup" {
        faults.add(
            "--full-document-before",
            "lookup cannot be used with --source-mode change-stream: the document before a change \
             is found by the index of the operation in its oplog entry, which a change event does not contain",
        );
    }
    Some(mode)
}

/// Refuses a copy of the existing documents beside a change stream.
pub(super) fn check_copy(copies: bool, stream: Option<&StreamConfig>, faults: &mut Faults) {
    if copies && stream.is_some_and(|stream| stream.mode == WantedMode::ChangeStream) {
        faults.add(
            "--sync",
            "a full sync cannot be used with --source-mode change-stream: note a time, copy the documents \
             with mongodump and mongorestore, and give --start with that time",
        );
    }
}
