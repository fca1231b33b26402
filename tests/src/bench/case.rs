//! The cases, and how each is started.

use anyhow::{Context, Result};

use super::{CASE, topic};
use crate::services::Program;

/// What is measured.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Case {
    Cursor,
    Producer,
    Loop,
    Raw,
    Bson,
    Json,
}

/// Where a case reads and writes.
#[derive(Debug)]
pub(super) struct Place<'p> {
    /// The topic prefix, fresh for every run.
    pub(super) prefix: String,
    pub(super) source: &'p str,
    pub(super) brokers: &'p str,
    pub(super) partitions: u32,
    pub(super) entries: u64,
}

impl Case {
    /// All of them, in the order of the table.
    pub(super) const ALL: [Case; 6] = [
        Case::Cursor,
        Case::Producer,
        Case::Loop,
        Case::Raw,
        Case::Bson,
        Case::Json,
    ];

    /// The name on the command line and in the table.
    pub(super) const fn name(self) -> &'static str {
        match self {
            Case::Cursor => "cursor",
            Case::Producer => "producer",
            Case::Loop => "loop",
            Case::Raw => "raw",
            Case::Bson => "bson",
            Case::Json => "json",
        }
    }

    /// The case of that name.
    pub(super) fn from_name(name: &str) -> Option<Case> {
        Case::ALL.into_iter().find(|case| case.name() == name)
    }

    /// Whether the bench itself is the program.
    pub(super) const fn is_baseline(self) -> bool {
        matches!(self, Case::Cursor | Case::Producer | Case::Loop)
    }

    /// Whether it writes to Kafka.
    pub(super) const fn writes(self) -> bool {
        !matches!(self, Case::Cursor)
    }

    /// What the program says on standard error when it is about to ask for entries.
    pub(super) const fn mark(self) -> &'static str {
        if self.is_baseline() {
            super::baseline::MARK
        } else {
            "session opened"
        }
    }

    /// Starts its program.
    pub(super) fn start(self, place: &Place<'_>) -> Result<Program> {
        let (entries, partitions) = (place.entries.to_string(), place.partitions.to_string());
        let topic = topic::name(place);
        if self.is_baseline() {
            let mut args = vec![CASE, self.name(), place.source, place.brokers];
            args.extend([topic.as_str(), &partitions, &entries]);
            return Program::start("bench", args, &[]).context("the bench starts itself");
        }
        let mut args = vec!["run", "--source", place.source, "--brokers", place.brokers];
        args.extend(["--topic-prefix", &place.prefix, "--partitions", &partitions]);
        args.extend(["--format", self.name(), "--start", "oldest"]);
        args.extend(["--until-caught-up", "--http", "off"]);
        Program::producer(args)
    }
}
