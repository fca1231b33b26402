//! The finished parts of an interrupted comparison, read from its report.
//!
//! The finished ranges stay in the report with their differences. The bounds of the other ranges stay
//! too, so that a resumed comparison uses the same ones. All other lines of ranges and collections that
//! were not finished are removed from the report.

use std::fs::File;
use std::io::{BufRead as _, BufReader, BufWriter, Write as _};
use std::path::Path;

use oplog_relay_core::document::Document;
use oplog_relay_core::json::parse_document;
use rustc_hash::{FxHashMap, FxHashSet};

use super::range::OwnedId;
use super::report::{Counts, VERSION};
use crate::error::ConsumerError;
use crate::verify::error::VerifyError;

/// A range that an interrupted comparison has begun.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct BegunRange {
    /// The number of the range.
    pub(super) number: u64,
    /// The lower bound of the next range.
    pub(super) high: Option<OwnedId>,
}

/// The ranges of one collection, by their lower bounds.
type Cuts = FxHashMap<OwnedId, BegunRange>;

/// The known ranges of a collection that is not finished.
#[derive(Debug, Clone, Default)]
pub(super) struct Begun {
    /// The ranges, by their lower bounds.
    cuts: Cuts,
    /// The numbers of the ranges `Range::Everything` and `Range::Rest`.
    pub(super) everything: Option<u64>,
    pub(super) rest: Option<u64>,
}

impl Begun {
    /// Returns the range that starts at `low`.
    pub(super) fn cut(&self, low: &OwnedId) -> Option<BegunRange> {
        self.cuts.get(low).cloned()
    }

    /// Returns true if the collection was cut into ranges.
    pub(super) fn is_cut(&self) -> bool {
        !self.cuts.is_empty() || self.rest.is_some()
    }
}

/// The finished parts of the comparison.
#[derive(Debug, Default)]
pub(super) struct Saved {
    /// True if a report to continue exists.
    pub(super) found: bool,
    /// The counts of the finished collections.
    pub(super) totals: Counts,
    pub(super) definitions: u64,
    /// The finished collections.
    pub(super) collections: FxHashSet<String>,
    begun: FxHashMap<String, Begun>,
    ranges: FxHashMap<u64, Counts>,
    /// The greatest number of a range.
    pub(super) last: u64,
    finished: bool,
}

impl Saved {
    /// Reads a report and removes unfinished parts from it. A report that does not exist, or whose
    /// first line was not written completely, counts as not found.
    ///
    /// # Errors
    /// Returns a [`VerifyError`] for a report of another comparison, or of one that is
    /// finished, and [`ConsumerError::Output`] if the report cannot be read or rewritten.
    pub(super) fn read(path: &Path, question: &str) -> Result<Self, ConsumerError> {
        let name = path.display().to_string();
        let failed = |error| ConsumerError::Output {
            file: name.clone(),
            source: error,
        };
        let file = match File::open(path) {
            Ok(file) => file,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
                return Ok(Self::default());
            }
            Err(error) => return Err(failed(error)),
        };
        let mut saved = Self::default();
        for line in BufReader::new(file).split(b'\n') {
            saved.take(&line.map_err(failed)?, question, &name)?;
        }
        if saved.finished {
            return Err(VerifyError::Finished { file: name }.into());
        }
        if saved.found {
            saved.rewrite(path).map_err(failed)?;
        }
        Ok(saved)
    }

    /// Processes a line. The last line may be cut off.
    fn take(&mut self, line: &[u8], question: &str, name: &str) -> Result<(), ConsumerError> {
        let Some(line) = Line::parse(line) else {
            return Ok(());
        };
        let (ns, range) = (line.text("ns"), line.number("range"));
        match line.text("kind").as_str() {
            "verify" => {
                self.found = true;
                let other = line.text("question") != question || line.number("version") != VERSION;
                if other {
                    return Err(VerifyError::OtherComparison {
                        file: name.to_owned(),
                        question: line.text("question"),
                    }
                    .into());
                }
            }
            "begun" => {
                self.last = self.last.max(range);
                let begun = self.begun.entry(ns).or_default();
                match (line.id("low"), line.text("bounds").as_str()) {
                    (Some(low), _) => {
                        let (number, high) = (range, line.id("high"));
                        begun.cuts.insert(low, BegunRange { number, high });
                    }
                    (None, "rest") => begun.rest = Some(range),
                    (None, _) => begun.everything = Some(range),
                }
            }
            // A range with unsettled documents is compared again.
            "range" if line.number("unsettled") == 0 => {
                self.ranges.insert(range, line.counts());
            }
            "collection"
                if line.text("couldNotTell").is_empty() && line.number("unsettled") == 0 =>
            {
                self.totals.add(&line.counts());
                self.definitions += line.number("definitions");
                self.begun.remove(&ns);
                self.collections.insert(ns);
            }
            "verdict" => self.finished = true,
            _ => {}
        }
        Ok(())
    }

    /// Returns true if a line stays in the report.
    fn keeps(&self, line: &[u8]) -> bool {
        let Some(line) = Line::parse(line) else {
            return false;
        };
        let range = line.number("range");
        match line.text("kind").as_str() {
            "verify" | "begun" => true,
            "collection" => self.collections.contains(&line.text("ns")),
            _ if range > 0 => self.ranges.contains_key(&range),
            _ => self.collections.contains(&line.text("ns")),
        }
    }

    fn rewrite(&self, path: &Path) -> std::io::Result<()> {
        let mut name = path.as_os_str().to_owned();
        name.push(".new");
        let mut kept = BufWriter::new(File::create(&name)?);
        for line in BufReader::new(File::open(path)?).split(b'\n') {
            let line = line?;
            if self.keeps(&line) {
                kept.write_all(&line)?;
                kept.write_all(b"\n")?;
            }
        }
        kept.into_inner()?.sync_all()?;
        std::fs::rename(&name, path)
    }

    /// Returns the known ranges of a collection.
    pub(super) fn begun(&self, ns: &str) -> Begun {
        self.begun.get(ns).cloned().unwrap_or_default()
    }

    /// Returns the counts of a finished range.
    pub(super) fn range(&self, number: u64) -> Option<Counts> {
        self.ranges.get(&number).copied()
    }
}

/// A line of a report, converted to BSON.
struct Line(Vec<u8>);

impl Line {
    fn parse(text: &[u8]) -> Option<Self> {
        let mut bytes = Vec::new();
        parse_document(text, &mut bytes).ok()?;
        Some(Self(bytes))
    }

    fn document(&self) -> Document<'_> {
        Document::new(&self.0).expect("the parser has built it")
    }

    fn text(&self, name: &str) -> String {
        let found = self.document().get(name).ok().flatten();
        let text = found.and_then(|found| found.str().ok());
        text.unwrap_or_default().to_owned()
    }

    fn number(&self, name: &str) -> u64 {
        let found = self.document().get(name).ok().flatten();
        let number = found.and_then(|found| found.integer().ok());
        number
            .and_then(|number| u64::try_from(number).ok())
            .unwrap_or_default()
    }

    fn id(&self, name: &str) -> Option<OwnedId> {
        self.document().get(name).ok().flatten().map(OwnedId::of)
    }

    fn counts(&self) -> Counts {
        Counts {
            equal: self.number("equal"),
            missing: self.number("missing"),
            extra: self.number("extra"),
            different: self.number("different"),
            unsettled: self.number("unsettled"),
            repaired: self.number("repaired"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const REPORT: &str = r#"{"kind":"verify","version":1,"question":"q"}
{"kind":"begun","ns":"a.b","range":1,"low":{"$numberInt":"1"},"high":{"$numberInt":"5"}}
{"kind":"begun","ns":"a.b","range":2,"low":{"$numberInt":"5"}}
{"kind":"missing","ns":"a.b","_id":{"$numberInt":"2"},"range":1}
{"kind":"extra","ns":"a.b","_id":{"$numberInt":"6"},"range":2}
{"kind":"range","ns":"a.b","range":1,"equal":3,"missing":1,"extra":0,"different":0,"unsettled":0,"repaired":0}
{"kind":"definition","ns":"a.b","what":"index x"}
{"kind":"collection","ns":"a.a","equal":9,"missing":0,"extra":0,"different":0,"unsettled":0,"repaired":0,"definitions":1}
{"kind":"range","ns":"a.b","range":2,"equal":3,"unset"#;

    fn id(number: i32) -> OwnedId {
        OwnedId::of(oplog_relay_core::document::Element {
            name: b"_id",
            kind: oplog_relay_core::document::kind::INT32,
            value: &number.to_le_bytes(),
        })
    }

    #[test]
    fn finished_parts_are_read_and_unfinished_ones_are_removed_from_the_report() {
        let folder = std::env::temp_dir().join(format!("oplog-relay-saved-{}", std::process::id()));
        std::fs::create_dir_all(&folder).unwrap();
        let path = folder.join("report");
        let none = Saved::read(&path, "q").unwrap();
        assert!(!none.found);
        std::fs::write(&path, REPORT).unwrap();
        let saved = Saved::read(&path, "q").unwrap();
        assert!(saved.found && saved.collections.contains("a.a"));
        assert_eq!(
            (saved.totals.equal, saved.definitions, saved.last),
            (9, 1, 2)
        );
        let begun = saved.begun("a.b");
        assert_eq!(
            begun.cut(&id(1)),
            Some(BegunRange {
                number: 1,
                high: Some(id(5))
            })
        );
        assert_eq!(
            begun.cut(&id(5)),
            Some(BegunRange {
                number: 2,
                high: None
            })
        );
        assert_eq!(saved.range(1).map(|counts| counts.missing), Some(1));
        assert_eq!(saved.range(2), None);
        let kept = std::fs::read_to_string(&path).unwrap();
        assert_eq!(kept.lines().count(), 6, "{kept}");
        assert!(
            !kept.contains(r#""extra","ns""#) && !kept.contains("index x"),
            "{kept}"
        );
        let other = Saved::read(&path, "another").unwrap_err().to_string();
        assert!(other.contains("another comparison"), "{other}");
        let ended = kept + r#"{"kind":"verdict"}"#;
        std::fs::write(&path, ended).unwrap();
        let ended = Saved::read(&path, "q").unwrap_err().to_string();
        assert!(ended.contains("finished"), "{ended}");
        std::fs::remove_dir_all(&folder).unwrap();
    }
}
