//! The output of a comparison: a line for each difference, a line for each collection, and a verdict.
//! The report file also has the data from which an interrupted comparison continues.

use std::fs::{File, OpenOptions};
use std::io::{BufWriter, Write as _};
use std::path::Path;

use super::Verdict;
use super::definition::Discrepancy;
use super::difference::DifferingPaths;
use super::range::{OwnedId, Range};
use super::saved::Saved;
use super::side::id_text;
use crate::error::ConsumerError;
use crate::json_line::JsonLine;
use crate::stdout::print_line;

/// The version of the report's lines.
pub(super) const VERSION: u64 = 1;
/// Maximum number of printed differences and repairs of one collection. The report file contains
/// all of them.
const SHOWN: u64 = 5;

/// The way in which a document differs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    /// The document is missing on the target.
    Missing,
    /// The document exists only on the target.
    Extra,
    /// The document exists on both sides, but is not the same.
    Different,
    /// The document keeps changing, or the replay does not catch up.
    Unsettled,
}

impl Kind {
    const fn name(self) -> &'static str {
        match self {
            Self::Missing => "missing",
            Self::Extra => "extra",
            Self::Different => "different",
            Self::Unsettled => "unsettled",
        }
    }
}

/// A document that differs.
#[derive(Debug, Clone)]
pub(super) struct Found {
    pub(super) kind: Kind,
    pub(super) id: OwnedId,
    /// The fields that differ.
    pub(super) paths: DifferingPaths,
}

/// Numbers of documents by result.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Counts {
    pub(super) equal: u64,
    pub(super) missing: u64,
    pub(super) extra: u64,
    pub(super) different: u64,
    pub(super) unsettled: u64,
    /// Number of the equal documents that a repair made equal.
    pub(super) repaired: u64,
}

impl Counts {
    pub(super) const fn differences(&self) -> u64 {
        self.missing + self.extra + self.different
    }

    pub(super) const fn add(&mut self, other: &Self) {
        self.equal += other.equal;
        self.missing += other.missing;
        self.extra += other.extra;
        self.different += other.different;
        self.unsettled += other.unsettled;
        self.repaired += other.repaired;
    }

    pub(super) const fn take(&mut self, kind: Kind) {
        match kind {
            Kind::Missing => self.missing += 1,
            Kind::Extra => self.extra += 1,
            Kind::Different => self.different += 1,
            Kind::Unsettled => self.unsettled += 1,
        }
    }

    fn write(&self, line: JsonLine) -> JsonLine {
        let line = line.number("equal", self.equal);
        let line = line.number("missing", self.missing);
        let line = line.number("extra", self.extra);
        let line = line.number("different", self.different);
        let line = line.number("unsettled", self.unsettled);
        line.number("repaired", self.repaired)
    }
}

/// Collects the results and reports them.
pub(super) struct Report {
    path: String,
    lines: Option<BufWriter<File>>,
    /// The current collection, with its counts.
    ns: String,
    counts: Counts,
    definitions: u64,
    shown: u64,
    /// The counts of all collections.
    totals: Counts,
    all_definitions: u64,
    /// Number of collections, views and indexes that a repair created.
    created: u64,
    /// Number of collections that could not be compared completely.
    unknown: u64,
}

impl Report {
    /// Creates the report file if one is wanted, or continues an existing one.
    pub(super) fn open(
        path: Option<&Path>,
        saved: &Saved,
        question: &str,
    ) -> Result<Self, ConsumerError> {
        let name = path
            .map(|path| path.display().to_string())
            .unwrap_or_default();
        let lines = match path {
            Some(path) if saved.found => Some(OpenOptions::new().append(true).open(path)),
            Some(path) => Some(File::create(path)),
            None => None,
        };
        let lines = lines.transpose();
        let lines = lines.map_err(|error| ConsumerError::Output {
            file: name.clone(),
            source: error,
        })?;
        let mut report = Self {
            path: name,
            lines: lines.map(BufWriter::new),
            ns: String::new(),
            counts: Counts::default(),
            definitions: 0,
            shown: 0,
            totals: saved.totals,
            all_definitions: saved.definitions,
            created: 0,
            unknown: 0,
        };
        if !saved.found {
            let line = JsonLine::new("verify").number("version", VERSION);
            report.write(line.text("question", question))?;
            report.flush()?;
        }
        Ok(report)
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

    fn flush(&mut self) -> Result<(), ConsumerError> {
        let Some(lines) = &mut self.lines else {
            return Ok(());
        };
        lines.flush().map_err(|error| ConsumerError::Output {
            file: self.path.clone(),
            source: error,
        })
    }

    fn show(&mut self, text: &str) -> Result<(), ConsumerError> {
        self.shown += 1;
        if self.shown <= SHOWN {
            print_line(text)?;
        }
        Ok(())
    }

    /// Starts a collection.
    pub(super) fn begin(&mut self, ns: &str) {
        ns.clone_into(&mut self.ns);
        (self.counts, self.definitions, self.shown) = (Counts::default(), 0, 0);
    }

    /// Reports a difference in options, indexes or a view.
    pub(super) fn definition(&mut self, found: &Discrepancy) -> Result<(), ConsumerError> {
        self.definitions += 1;
        let what = found.what();
        let side = |side: &Option<String>| side.clone().unwrap_or_else(|| "nothing".to_owned());
        let text = format!(
            "different: {}, {what}: {} at the source, {} at the target",
            self.ns,
            side(&found.source),
            side(&found.target)
        );
        self.show(&text)?;
        let line = JsonLine::new("definition").text("ns", &self.ns);
        let line = line.text("what", &what);
        let line = line.json("source", found.source.as_deref());
        self.write(line.json("target", found.target.as_deref()))
    }

    /// Reports a note, which is not a difference.
    pub(super) fn note(&mut self, text: &str) -> Result<(), ConsumerError> {
        print_line(&format!("note: {}: {text}", self.ns))?;
        let line = JsonLine::new("note").text("ns", &self.ns);
        self.write(line.text("text", text))
    }

    /// Reports that a collection, view or index was created.
    pub(super) fn created(&mut self, what: &str) -> Result<(), ConsumerError> {
        self.created += 1;
        self.show(&format!("repaired: {}, {what}: created", self.ns))?;
        let line = JsonLine::new("repaired").text("ns", &self.ns);
        self.write(line.text("what", what).text("action", "created"))
    }

    /// Reports the repair of a document, which is about to be sent or deleted.
    pub(super) fn repaired(
        &mut self,
        range: u64,
        id: &OwnedId,
        action: &str,
    ) -> Result<(), ConsumerError> {
        let text = format!("repaired: {} _id {}: {action}", self.ns, id_text(id));
        self.show(&text)?;
        let line = JsonLine::new("repaired").text("ns", &self.ns);
        let line = line.value("_id", id.element()).text("action", action);
        self.write(line.number("range", range))
    }

    /// Reports a document that differs.
    pub(super) fn difference(&mut self, range: u64, found: &Found) -> Result<(), ConsumerError> {
        let DifferingPaths { paths, more } = &found.paths;
        let mut place = String::new();
        if !paths.is_empty() {
            let dots = if *more { " …" } else { "" };
            place = format!(", in {}{dots}", paths.join(", "));
        }
        let (name, id) = (found.kind.name(), id_text(&found.id));
        self.show(&format!("{name}: {} _id {id}{place}", self.ns))?;
        let line = JsonLine::new(name).text("ns", &self.ns);
        let mut line = line.value("_id", found.id.element()).number("range", range);
        if found.kind == Kind::Different {
            line = line.texts("paths", paths);
        }
        if *more {
            line = line.json("more", Some("true"));
        }
        self.write(line)
    }

    /// Notes the start of a range, so that a resumed comparison uses the same bounds.
    pub(super) fn begun(&mut self, range: u64, bounds: &Range) -> Result<(), ConsumerError> {
        let line = JsonLine::new("begun").text("ns", &self.ns);
        let mut line = line.number("range", range);
        match bounds {
            Range::Everything => line = line.text("bounds", "everything"),
            Range::Rest => line = line.text("bounds", "rest"),
            Range::Between { low, high } => {
                line = line.value("low", low.element());
                if let Some(high) = high {
                    line = line.value("high", high.element());
                }
            }
        }
        self.write(line)
    }

    /// Notes that a range is finished.
    pub(super) fn range(&mut self, range: u64, counts: &Counts) -> Result<(), ConsumerError> {
        self.counts.add(counts);
        let line = JsonLine::new("range").text("ns", &self.ns);
        self.write(counts.write(line.number("range", range)))?;
        self.flush()
    }

    /// Adds a range that was finished before the comparison was interrupted.
    pub(super) const fn known(&mut self, counts: &Counts) {
        self.counts.add(counts);
    }

    /// Ends a collection. `reason` is set if it could not be compared completely.
    pub(super) fn end(&mut self, reason: Option<&str>) -> Result<(), ConsumerError> {
        let counts = self.counts;
        self.totals.add(&counts);
        self.all_definitions += self.definitions;
        let differs = counts.differences() + self.definitions > 0;
        let mut verdict = String::new();
        if let Some(reason) = reason {
            self.unknown += 1;
            verdict = format!("COULD NOT TELL: {reason}; ");
        } else if differs {
            "DIFFERENT: ".clone_into(&mut verdict);
        } else if counts.unsettled > 0 {
            "COULD NOT TELL: ".clone_into(&mut verdict);
        }
        let mut text = format!(
            "{}: {verdict}{} equal, {} missing, {} extra, {} different",
            self.ns, counts.equal, counts.missing, counts.extra, counts.different
        );
        for (number, what) in [
            (self.definitions, "differences of definition"),
            (counts.unsettled, "that keep changing"),
            (counts.repaired, "repaired"),
        ] {
            if number > 0 {
                text = format!("{text}, {number} {what}");
            }
        }
        print_line(&text)?;
        let line = JsonLine::new("collection").text("ns", &self.ns);
        let mut line = counts.write(line).number("definitions", self.definitions);
        if let Some(reason) = reason {
            line = line.text("couldNotTell", reason);
        }
        self.write(line)?;
        self.flush()
    }

    /// Ends the comparison and prints the verdict.
    pub(super) fn finish(mut self) -> Result<Verdict, ConsumerError> {
        let totals = self.totals;
        let differences = totals.differences() + self.all_definitions;
        let (verdict, word) = match (differences, self.unknown + totals.unsettled) {
            (0, 0) => (Verdict::Equal, "equal"),
            (0, _) => (Verdict::Unknown, "could not tell"),
            _ => (Verdict::Different, "different"),
        };
        let documents = totals.equal + totals.differences() + totals.unsettled;
        let line = JsonLine::new("verdict").text("verdict", word);
        let line = line.number("documents", documents);
        let line = line.number("differences", differences);
        let line = line.number("unsettled", totals.unsettled);
        let line = line.number("repaired", totals.repaired + self.created);
        self.write(line.number("collectionsNotCompared", self.unknown))?;
        self.flush()?;
        print_line(&format!(
            "verdict: {word} ({documents} documents compared, {differences} differences, {} that \
             keep changing, {} repaired, {} collections not compared completely)",
            totals.unsettled,
            totals.repaired + self.created,
            self.unknown
        ))?;
        Ok(verdict)
    }
}
