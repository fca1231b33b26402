//! What a comparison tells: a line for each difference, a line for each collection, a verdict.

use std::fs::File;
use std::io::{BufWriter, Write as _};
use std::path::Path;

use oplog_relay_core::document::Element;
use oplog_relay_core::json::{Mode, write_string, write_value};

use super::Verdict;
use super::cursor::shown;
use crate::error::ConsumerError;
use crate::stdout::tell;

/// Differences of one collection that are shown; all of them are in the report file.
const SHOWN: u64 = 5;

/// How a document differs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    /// The target lacks it.
    Missing,
    /// Only the target has it.
    Extra,
    /// Both have it, not the same.
    Different,
}

impl Kind {
    const fn name(self) -> &'static str {
        match self {
            Self::Missing => "missing",
            Self::Extra => "extra",
            Self::Different => "different",
        }
    }
}

/// Counts of one collection.
#[derive(Debug, Default)]
struct Counts {
    ns: String,
    equal: u64,
    missing: u64,
    extra: u64,
    different: u64,
}

impl Counts {
    const fn differences(&self) -> u64 {
        self.missing + self.extra + self.different
    }
}

/// Collects and tells.
pub(super) struct Report {
    path: String,
    lines: Option<BufWriter<File>>,
    counts: Counts,
    documents: u64,
    differences: u64,
    unknown: u64,
}

impl Report {
    /// Makes the report file anew, if one is asked for.
    pub(super) fn open(path: Option<&Path>) -> Result<Self, ConsumerError> {
        let name = path
            .map(|path| path.display().to_string())
            .unwrap_or_default();
        let lines = match path.map(File::create) {
            Some(Ok(file)) => Some(BufWriter::new(file)),
            Some(Err(error)) => return Err(ConsumerError::Output(name, error)),
            None => None,
        };
        let counts = Counts::default();
        Ok(Self {
            path: name,
            lines,
            counts,
            documents: 0,
            differences: 0,
            unknown: 0,
        })
    }

    /// Begins a collection.
    pub(super) fn begin(&mut self, ns: &str) {
        self.counts = Counts {
            ns: ns.to_owned(),
            ..Counts::default()
        };
    }

    /// The collection is compared again from its beginning: what was said of it does not count.
    pub(super) fn restart(&mut self) -> Result<(), ConsumerError> {
        let ns = std::mem::take(&mut self.counts.ns);
        let mut line = b"{\"kind\":\"restart\",\"ns\":".to_vec();
        write_string(ns.as_bytes(), &mut line);
        line.extend_from_slice(b"}\n");
        self.begin(&ns);
        let Some(lines) = &mut self.lines else {
            return Ok(());
        };
        lines
            .write_all(&line)
            .map_err(|error| ConsumerError::Output(self.path.clone(), error))
    }

    /// A document is the same on both sides.
    pub(super) fn equal(&mut self) {
        self.counts.equal += 1;
    }

    /// A document is not.
    pub(super) fn add(
        &mut self,
        kind: Kind,
        id: Element<'_>,
        path: Option<&str>,
    ) -> Result<(), ConsumerError> {
        if self.counts.differences() < SHOWN {
            let place = path.map_or_else(String::new, |path| format!(", first at field {path:?}"));
            let (name, ns) = (kind.name(), self.counts.ns.as_str());
            tell(&format!("{name}: {ns} _id {}{place}", shown(id)))?;
        }
        match kind {
            Kind::Missing => self.counts.missing += 1,
            Kind::Extra => self.counts.extra += 1,
            Kind::Different => self.counts.different += 1,
        }
        let Some(lines) = &mut self.lines else {
            return Ok(());
        };
        let line = difference_line(kind, &self.counts.ns, id, path);
        lines
            .write_all(&line)
            .map_err(|error| ConsumerError::Output(self.path.clone(), error))
    }

    /// Ends a collection; `reason` says why it could not be compared to its end.
    pub(super) fn end(&mut self, reason: Option<&str>) -> Result<(), ConsumerError> {
        let Counts {
            ns,
            equal,
            missing,
            extra,
            different,
        } = &self.counts;
        self.documents += equal + self.counts.differences();
        self.differences += self.counts.differences();
        let verdict = match reason {
            Some(reason) => {
                self.unknown += 1;
                format!("COULD NOT TELL: {reason}; ")
            }
            None if self.counts.differences() == 0 => String::new(),
            None => "DIFFERENT: ".to_owned(),
        };
        tell(&format!(
            "{ns}: {verdict}{equal} equal, {missing} missing, {extra} extra, {different} different"
        ))?;
        let Some(lines) = &mut self.lines else {
            return Ok(());
        };
        let line = collection_line(&self.counts, reason);
        lines
            .write_all(&line)
            .map_err(|error| ConsumerError::Output(self.path.clone(), error))
    }

    /// Ends the comparison.
    pub(super) fn finish(mut self) -> Result<Verdict, ConsumerError> {
        if let Some(lines) = &mut self.lines {
            lines
                .flush()
                .map_err(|error| ConsumerError::Output(self.path.clone(), error))?;
        }
        let Self {
            documents,
            differences,
            unknown,
            ..
        } = self;
        let (verdict, word) = match (differences, unknown) {
            (0, 0) => (Verdict::Equal, "equal"),
            (0, _) => (Verdict::Unknown, "could not tell"),
            _ => (Verdict::Different, "different"),
        };
        tell(&format!(
            "verdict: {word} ({documents} documents compared, {differences} differences, \
             {unknown} collections not compared to their end)"
        ))?;
        Ok(verdict)
    }
}

fn difference_line(kind: Kind, ns: &str, id: Element<'_>, path: Option<&str>) -> Vec<u8> {
    let mut line = format!("{{\"kind\":\"{}\",\"ns\":", kind.name()).into_bytes();
    write_string(ns.as_bytes(), &mut line);
    line.extend_from_slice(b",\"_id\":");
    let start = line.len();
    if write_value(id, Mode::Canonical, &mut line).is_err() {
        line.truncate(start);
        line.extend_from_slice(b"null");
    }
    if let Some(path) = path {
        line.extend_from_slice(b",\"path\":");
        write_string(path.as_bytes(), &mut line);
    }
    line.extend_from_slice(b"}\n");
    line
}

fn collection_line(counts: &Counts, reason: Option<&str>) -> Vec<u8> {
    let Counts {
        ns,
        equal,
        missing,
        extra,
        different,
    } = counts;
    let mut line = b"{\"kind\":\"collection\",\"ns\":".to_vec();
    write_string(ns.as_bytes(), &mut line);
    line.extend_from_slice(
        format!(
            ",\"equal\":{equal},\"missing\":{missing},\"extra\":{extra},\"different\":{different}"
        )
        .as_bytes(),
    );
    if let Some(reason) = reason {
        line.extend_from_slice(b",\"couldNotTell\":");
        write_string(reason.as_bytes(), &mut line);
    }
    line.extend_from_slice(b"}\n");
    line
}

#[cfg(test)]
mod tests {
    use super::*;
    use oplog_relay_core::document::kind;

    #[test]
    fn lines_have_their_form() {
        let id = Element {
            name: b"_id",
            kind: kind::INT32,
            value: &[7, 0, 0, 0],
        };
        let text = |line: Vec<u8>| String::from_utf8(line).unwrap();
        assert_eq!(
            text(difference_line(Kind::Different, "a.b", id, Some("x.0"))),
            "{\"kind\":\"different\",\"ns\":\"a.b\",\"_id\":{\"$numberInt\":\"7\"},\"path\":\"x.0\"}\n"
        );
        let counts = Counts {
            ns: "a.b".into(),
            equal: 1,
            missing: 2,
            extra: 3,
            different: 4,
        };
        assert_eq!(
            text(collection_line(&counts, Some("why"))),
            "{\"kind\":\"collection\",\"ns\":\"a.b\",\"equal\":1,\"missing\":2,\"extra\":3,\
             \"different\":4,\"couldNotTell\":\"why\"}\n"
        );
    }
}
