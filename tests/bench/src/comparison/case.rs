//! The cases whose ratio is reported, and how each is started.

use std::sync::OnceLock;

use anyhow::{Context, Result};

use super::{CASE, baseline, topic};
use oplog_relay_kit::fake_registry::FakeRegistry;
use oplog_relay_kit::services::Program;
use oplog_relay_kit::stub::Shape;

/// A case to measure.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Case {
    Cursor,
    Producer,
    Loop,
    Raw,
    Bson,
    Json,
    JsonOplog,
    JsonDebezium,
    JsonSnapshot,
    JsonHeaders,
    Avro,
    Ranges,
    RangesLoop,
    Copy,
    Consume,
    EmitRaw,
    EmitBson,
    CommandsInserts,
    ReplayRawInserts,
    ReplayInserts,
    CommandsUpdates,
    ReplayRawUpdates,
    ReplayUpdates,
    CommandsMixed,
    ReplayRawMixed,
    ReplayMixed,
    CommandsFerretdb,
    ReplayFerretdb,
}

/// Groups of cases that are compared with one another.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Group {
    Produce,
    FullSync,
    Emit,
    Replay,
    Ferretdb,
}

/// The servers and the topics that a case reads and writes, and their content.
#[derive(Debug)]
pub(super) struct Place<'p> {
    /// The topic prefix. For a consumer, the prefix of the topics that it reads.
    pub(super) prefix: String,
    /// The consumer group.
    pub(super) group: String,
    /// The address of the MongoDB server that is read.
    pub(super) source: &'p str,
    /// The address of the MongoDB server that is written to.
    pub(super) target: &'p str,
    pub(super) brokers: &'p str,
    pub(super) partitions: u32,
    pub(super) collections: u64,
    pub(super) entries: u64,
    /// Total bytes of the entries.
    pub(super) bytes: u64,
}

/// All cases, in the order of the tables, with their names on the command line.
const NAMES: [(Case, &str); 28] = [
    (Case::Cursor, "cursor"),
    (Case::Producer, "producer"),
    (Case::Loop, "loop"),
    (Case::Raw, "raw"),
    (Case::Bson, "bson"),
    (Case::Json, "json"),
    (Case::JsonOplog, "json-oplog"),
    (Case::JsonDebezium, "json-debezium"),
    (Case::JsonSnapshot, "json-snapshot"),
    (Case::JsonHeaders, "json-headers"),
    (Case::Avro, "avro"),
    (Case::Ranges, "ranges"),
    (Case::RangesLoop, "ranges-loop"),
    (Case::Copy, "copy"),
    (Case::Consume, "consume"),
    (Case::EmitRaw, "emit-raw"),
    (Case::EmitBson, "emit-bson"),
    (Case::CommandsInserts, "commands-inserts"),
    (Case::ReplayRawInserts, "replay-raw-inserts"),
    (Case::ReplayInserts, "replay-inserts"),
    (Case::CommandsUpdates, "commands-updates"),
    (Case::ReplayRawUpdates, "replay-raw-updates"),
    (Case::ReplayUpdates, "replay-updates"),
    (Case::CommandsMixed, "commands-mixed"),
    (Case::ReplayRawMixed, "replay-raw-mixed"),
    (Case::ReplayMixed, "replay-mixed"),
    (Case::CommandsFerretdb, "commands-ferretdb"),
    (Case::ReplayFerretdb, "replay-ferretdb"),
];

impl Group {
    /// All groups, with their names on the command line.
    pub(super) const NAMES: [(Group, &str); 5] = [
        (Group::Produce, "produce"),
        (Group::FullSync, "full-sync"),
        (Group::Emit, "emit"),
        (Group::Replay, "replay"),
        (Group::Ferretdb, "ferretdb"),
    ];

    /// Returns the cases of the group.
    pub(super) fn cases(self) -> impl Iterator<Item = Case> {
        Case::all().filter(move |case| case.group() == self)
    }
}

impl Case {
    /// Returns all cases.
    pub(super) fn all() -> impl Iterator<Item = Case> {
        NAMES.iter().map(|(case, _)| *case)
    }

    /// Returns the name on the command line and in the table.
    pub(super) fn name(self) -> &'static str {
        let named = NAMES.iter().find(|(case, _)| *case == self);
        named.map_or("", |(_, name)| name)
    }

    /// Returns the case of that name.
    pub(super) fn from_name(name: &str) -> Option<Case> {
        let named = NAMES.iter().find(|(_, known)| *known == name);
        named.map(|(case, _)| *case)
    }

    /// Returns the group of cases that the case is compared with.
    pub(super) const fn group(self) -> Group {
        match self {
            Case::Cursor
            | Case::Producer
            | Case::Loop
            | Case::Raw
            | Case::Bson
            | Case::Json
            | Case::JsonOplog
            | Case::JsonDebezium
            | Case::JsonSnapshot
            | Case::JsonHeaders
            | Case::Avro => Group::Produce,
            Case::Ranges | Case::RangesLoop | Case::Copy => Group::FullSync,
            Case::Consume | Case::EmitRaw | Case::EmitBson => Group::Emit,
            Case::CommandsFerretdb | Case::ReplayFerretdb => Group::Ferretdb,
            _ => Group::Replay,
        }
    }

    /// Returns the baseline to which its ratio is relative.
    pub(super) const fn against(self) -> Case {
        match self {
            Case::Ranges | Case::RangesLoop | Case::Copy => Case::RangesLoop,
            Case::Consume | Case::EmitRaw | Case::EmitBson => Case::Consume,
            Case::CommandsInserts | Case::ReplayRawInserts | Case::ReplayInserts => {
                Case::CommandsInserts
            }
            Case::CommandsUpdates | Case::ReplayRawUpdates | Case::ReplayUpdates => {
                Case::CommandsUpdates
            }
            Case::CommandsMixed | Case::ReplayRawMixed | Case::ReplayMixed => Case::CommandsMixed,
            Case::CommandsFerretdb | Case::ReplayFerretdb => Case::CommandsFerretdb,
            _ => Case::Loop,
        }
    }

    /// Returns the ratio that the case should reach; `None` for a baseline.
    pub(super) const fn least(self) -> Option<f64> {
        match self {
            Case::Raw | Case::Bson | Case::Copy => Some(0.80),
            Case::Json
            | Case::JsonOplog
            | Case::JsonSnapshot
            | Case::ReplayRawInserts
            | Case::ReplayInserts
            | Case::ReplayRawUpdates
            | Case::ReplayUpdates
            | Case::ReplayRawMixed
            | Case::ReplayMixed => Some(0.60),
            Case::JsonDebezium | Case::Avro | Case::EmitRaw | Case::EmitBson => Some(0.50),
            Case::JsonHeaders => Some(0.40),
            Case::ReplayFerretdb => Some(0.90),
            _ => None,
        }
    }

    /// Returns true if the bench runs the case itself, without the producer or the consumer.
    pub(super) const fn is_baseline(self) -> bool {
        self.least().is_none()
    }

    /// Returns true if the case writes to Kafka.
    pub(super) const fn writes(self) -> bool {
        matches!(self.group(), Group::Produce | Group::FullSync)
            && !matches!(self, Case::Cursor | Case::Ranges)
    }

    /// Returns the shape of its entries.
    pub(super) const fn shape(self) -> Shape {
        match self {
            Case::CommandsUpdates | Case::ReplayRawUpdates | Case::ReplayUpdates => Shape::Updates,
            Case::CommandsMixed | Case::ReplayRawMixed | Case::ReplayMixed => Shape::Mixed,
            _ => Shape::Inserts,
        }
    }

    /// Returns the case that writes the topic in the format that this case reads; `None` if it
    /// reads no topic.
    pub(super) const fn reads(self) -> Option<Case> {
        match self {
            Case::EmitRaw
            | Case::ReplayRawInserts
            | Case::ReplayRawUpdates
            | Case::ReplayRawMixed => Some(Case::Raw),
            Case::Consume
            | Case::EmitBson
            | Case::ReplayInserts
            | Case::ReplayUpdates
            | Case::ReplayMixed
            | Case::ReplayFerretdb => Some(Case::Bson),
            _ => None,
        }
    }

    /// Returns the text in the log of the program that marks the end of its start: from then on it
    /// requests entries.
    pub(super) const fn mark(self) -> &'static str {
        if self.is_baseline() {
            baseline::MARK
        } else if self.reads().is_some() {
            "partitions assigned"
        } else {
            "session opened"
        }
    }

    /// Starts the program of the case.
    pub(super) fn start(self, place: &Place<'_>) -> Result<Program> {
        let (entries, partitions) = (place.entries.to_string(), place.partitions.to_string());
        if self.is_baseline() {
            let topic = topic::name(place);
            let server = match self.group() {
                Group::Replay | Group::Ferretdb => place.target,
                Group::Produce | Group::FullSync | Group::Emit => place.source,
            };
            let mut args = vec![CASE, self.name(), server, place.brokers];
            let collections = place.collections.to_string();
            args.extend([topic.as_str(), &partitions, &collections, &entries]);
            return Program::start("bench", args, &[]).context("the bench cannot start itself");
        }
        if self.reads().is_some() {
            return self.start_consumer(place, &["--until-caught-up"]);
        }
        self.start_producer(place, &["--until-caught-up"])
    }

    /// Starts `oplog-producer run`.
    pub(super) fn start_producer(self, place: &Place<'_>, more: &[&str]) -> Result<Program> {
        let partitions = place.partitions.to_string();
        let mut args = vec!["run", "--source", place.source, "--brokers", place.brokers];
        args.extend(["--topic-prefix", &place.prefix, "--partitions", &partitions]);
        args.extend(without_http(more));
        args.extend(match self {
            Case::Copy => ["--format", "bson", "--sync", "full"],
            Case::JsonOplog | Case::JsonDebezium | Case::JsonSnapshot | Case::JsonHeaders => {
                ["--format", "json", "--start", "oldest"]
            }
            _ => ["--format", self.name(), "--start", "oldest"],
        });
        match self {
            Case::JsonOplog => args.extend(["--envelope", "oplog"]),
            Case::JsonDebezium => args.extend(["--envelope", "debezium"]),
            Case::JsonSnapshot => args.extend(["--topic-mode", "snapshot"]),
            Case::JsonHeaders => args.extend(["--headers", "full"]),
            _ => {}
        }
        let registry = match self {
            Case::Avro => Some(format!("--registry-url={}", registry()?.url())),
            _ => None,
        };
        args.extend(registry.as_deref());
        args.extend(more);
        Program::producer(args)
    }

    /// Starts `oplog-consumer replay` or `emit`.
    pub(super) fn start_consumer(self, place: &Place<'_>, more: &[&str]) -> Result<Program> {
        let mut args = match self.group() {
            Group::Emit => vec!["emit", "--to", "file:/dev/null"],
            _ => vec!["replay", "--target", place.target],
        };
        args.extend(["--brokers", place.brokers, "--topic-prefix", &place.prefix]);
        args.extend(["--group", &place.group]);
        args.extend(without_http(more));
        args.extend(more);
        Program::consumer(args)
    }
}

/// Returns the fake schema registry for all runs. A producer sends it two requests before its first
/// record.
fn registry() -> Result<&'static FakeRegistry> {
    static REGISTRY: OnceLock<FakeRegistry> = OnceLock::new();
    if let Some(registry) = REGISTRY.get() {
        return Ok(registry);
    }
    let started = FakeRegistry::start("200 OK", r#"{"id":1}"#)?;
    Ok(REGISTRY.get_or_init(|| started))
}

/// Returns the flag that turns HTTP off unless `more` sets it, because several programs run at
/// once.
fn without_http(more: &[&str]) -> &'static [&'static str] {
    match more.iter().any(|flag| flag.starts_with("--http")) {
        true => &[],
        false => &["--http", "off"],
    }
}
