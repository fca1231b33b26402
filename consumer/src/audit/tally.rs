//! The counts and findings of an audit.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{BufWriter, Write as _};
use std::path::Path;

use oplog_relay_core::state::GapRecord;

use crate::error::ConsumerError;
use crate::group::start::LogRange;
use crate::json_line::JsonLine;
use crate::record_position::RecordPosition;
use crate::stdout::print_line;
use crate::verify::Verdict;

/// Number of faults after which further faulty records are not printed. The report file contains
/// all of them.
const SHOWN: u64 = 20;

/// The kind of a fault.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Fault {
    Undecodable,
    OutOfOrder,
    Twice,
}

impl Fault {
    const fn name(self) -> &'static str {
        match self {
            Self::Undecodable => "undecodable",
            Self::OutOfOrder => "out-of-order",
            Self::Twice => "twice",
        }
    }
}

/// The counts of one topic.
#[derive(Debug, Clone, Default)]
pub(super) struct Numbers {
    pub(super) records: u64,
    pub(super) tombstones: u64,
    pub(super) barriers: u64,
    /// Number of entries by operation.
    pub(super) entries: BTreeMap<&'static str, u64>,
    pub(super) faults: u64,
}

impl Numbers {
    pub(super) fn count(&mut self, operation: &'static str) {
        *self.entries.entry(operation).or_default() += 1;
    }
}

/// Counts and reports the findings.
#[derive(Debug)]
pub(super) struct Tally {
    path: String,
    lines: Option<BufWriter<File>>,
    topics: BTreeMap<String, Numbers>,
    faults: u64,
    /// Number of partitions whose first records were removed.
    removed: u64,
    /// The reasons why parts of the audit are inconclusive.
    unknown: Vec<String>,
}

impl Tally {
    pub(super) fn open(path: Option<&Path>) -> Result<Self, ConsumerError> {
        let name = path
            .map(|path| path.display().to_string())
            .unwrap_or_default();
        let lines = path.map(File::create).transpose();
        let lines = lines.map_err(|error| ConsumerError::Output {
            file: name.clone(),
            source: error,
        })?;
        Ok(Self {
            path: name,
            lines: lines.map(BufWriter::new),
            topics: BTreeMap::new(),
            faults: 0,
            removed: 0,
            unknown: Vec::new(),
        })
    }

    fn write(&mut self, line: JsonLine) -> Result<(), ConsumerError> {
        let Some(lines) = &mut self.lines else {
            return Ok(());
        };
        lines
            .write_all(&line.finish())
            .map_err(|error| ConsumerError::Output {
                file: self.path.clone(),
                source: error,
            })
    }

    pub(super) fn topic(&mut self, topic: &str) -> &mut Numbers {
        self.topics.entry(topic.to_owned()).or_default()
    }

    /// Reports a faulty record.
    pub(super) fn fault(
        &mut self,
        fault: Fault,
        position: &RecordPosition,
        reason: &str,
    ) -> Result<(), ConsumerError> {
        self.faults += 1;
        self.topic(&position.name.topic).faults += 1;
        if self.faults <= SHOWN {
            print_line(&format!("{}: {position}: {reason}", fault.name()))?;
        }
        let line = JsonLine::new(fault.name()).text("topic", &position.name.topic);
        let line = line.number("partition", position.name.partition);
        let line = line.number("offset", position.offset);
        self.write(line.text("reason", reason))
    }

    /// Reports a topic that a source has claimed and that does not exist.
    pub(super) fn missing(&mut self, topic: &str, source: &str) -> Result<(), ConsumerError> {
        self.faults += 1;
        let reason = format!(
            "source {source} has written to this topic, but the topic does not exist, or the Kafka \
             user has no permission to describe it"
        );
        print_line(&format!("missing: topic {topic}: {reason}"))?;
        let line = JsonLine::new("missing").text("topic", topic);
        self.write(line.text("reason", &reason))
    }

    /// Reports the gaps in the streams of sources, which their producers have recorded. They are no faults
    /// of the records that exist.
    pub(super) fn gaps(
        &mut self,
        gaps: &BTreeMap<String, Vec<GapRecord>>,
    ) -> Result<(), ConsumerError> {
        for (source, gaps) in gaps {
            for gap in gaps {
                self.gap(source, gap)?;
            }
        }
        Ok(())
    }

    fn gap(&mut self, source: &str, gap: &GapRecord) -> Result<(), ConsumerError> {
        let (after, through, reason) = (&gap.after, &gap.through, gap.reason.text());
        let resent = gap.resent_after.as_deref();
        let later = resent.map_or_else(String::new, |resent| {
            format!("; those after {resent} were sent later, out of their order")
        });
        print_line(&format!(
            "gap: source {source}: the entries after {after} through {through} were never sent \
             ({reason}){later}"
        ))?;
        let line = JsonLine::new("gap").text("source", source);
        let line = line.text("after", after).text("through", through);
        let line = match resent {
            Some(resent) => line.text("resent_after", resent),
            None => line,
        };
        self.write(line.text("reason", reason))
    }

    /// Reports a partition that does not start at offset 0.
    pub(super) fn removed(&mut self, range: &LogRange) -> Result<(), ConsumerError> {
        self.removed += 1;
        let (name, low) = (&range.name, range.low);
        print_line(&format!(
            "removed: {}, partition {} begins at offset {low}: older records were removed (by \
             retention or kafka-delete-records) and are not part of this audit",
            name.topic, name.partition
        ))?;
        let line = JsonLine::new("removed").text("topic", &name.topic);
        let line = line.number("partition", name.partition);
        self.write(line.number("offset", low))
    }

    /// Reports that a part of the audit is inconclusive.
    pub(super) fn unknown(&mut self, reason: String) -> Result<(), ConsumerError> {
        print_line(&format!("could not tell: {reason}"))?;
        self.write(JsonLine::new("couldNotTell").text("reason", &reason))?;
        self.unknown.push(reason);
        Ok(())
    }

    /// Prints the counts and the verdict.
    pub(super) fn finish(mut self) -> Result<Verdict, ConsumerError> {
        let topics = std::mem::take(&mut self.topics);
        let width = topics.keys().map(String::len).max().unwrap_or(5).max(5);
        print_line(&format!(
            "{:width$} {:>10} {:>10} {:>10} {:>6}  entries by operation",
            "topic", "records", "tombstones", "barriers", "faults"
        ))?;
        let mut records = 0;
        for (topic, numbers) in topics {
            records += numbers.records;
            let entries = numbers.entries.iter();
            let shown: Vec<String> = entries
                .map(|(operation, count)| format!("{operation} {count}"))
                .collect();
            print_line(&format!(
                "{topic:width$} {:>10} {:>10} {:>10} {:>6}  {}",
                numbers.records,
                numbers.tombstones,
                numbers.barriers,
                numbers.faults,
                shown.join(", ")
            ))?;
            let line = JsonLine::new("topic").text("topic", &topic);
            let line = line.number("records", numbers.records);
            let line = line.number("tombstones", numbers.tombstones);
            let line = line.number("barriers", numbers.barriers);
            let mut line = line.number("faults", numbers.faults);
            for (operation, count) in &numbers.entries {
                line = line.number(operation, *count);
            }
            self.write(line)?;
        }
        let (verdict, word) = match (self.faults, self.unknown.is_empty()) {
            (0, true) => (Verdict::Equal, "sound"),
            (0, false) => (Verdict::Unknown, "could not tell"),
            _ => (Verdict::Different, "faulty"),
        };
        let line = JsonLine::new("verdict").text("verdict", word);
        self.write(
            line.number("records", records)
                .number("faults", self.faults),
        )?;
        if let Some(lines) = &mut self.lines {
            lines.flush().map_err(|error| ConsumerError::Output {
                file: self.path.clone(),
                source: error,
            })?;
        }
        let removed = match self.removed {
            0 => String::new(),
            partitions => format!("; partitions that do not begin at offset 0: {partitions}"),
        };
        print_line(&format!(
            "verdict: {word} (records: {records}, faults: {}{removed})",
            self.faults
        ))?;
        Ok(verdict)
    }
}
