//! Progress of a full sync: the same numbers for the terminal, the log and `/status`.

use std::collections::BTreeMap;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use oplog_relay_core::state::CopyRecord;
use serde_json::{Value, json};

/// Maximum number of collections that are shown at once, the largest first.
const SHOWN: usize = 6;
/// Width of a bar in characters.
const BAR: u64 = 20;

/// The progress of a full sync. Shared by reference.
#[derive(Debug, Default)]
pub struct Progress(Mutex<Figures>);

#[derive(Debug, Default)]
struct Figures {
    begun: Option<Instant>,
    took: Option<Duration>,
    /// Bytes that had been sent when this process started or resumed the full sync.
    earlier: u64,
    open: BTreeMap<String, Size>,
    done: Size,
    collections_done: u64,
}

/// Number of documents and bytes: those sent, and those that the source reported at the start.
#[derive(Debug, Default, Clone, Copy)]
struct Size {
    documents: u64,
    bytes: u64,
    expected_documents: u64,
    expected_bytes: u64,
}

impl Size {
    fn of(record: &CopyRecord) -> Self {
        Self {
            documents: record.documents,
            bytes: record.bytes,
            // The collection may have grown since the estimate.
            expected_documents: record.expected_documents.max(record.documents),
            expected_bytes: record.expected_bytes.max(record.bytes),
        }
    }

    fn add(&mut self, other: Self) {
        self.documents += other.documents;
        self.bytes += other.bytes;
        self.expected_documents += other.expected_documents;
        self.expected_bytes += other.expected_bytes;
    }

    fn json(self) -> Value {
        json!({
            "documents": self.documents,
            "bytes": self.bytes,
            "expected_documents": self.expected_documents,
            "expected_bytes": self.expected_bytes,
        })
    }

    fn line(self, name: &str, rate: u64) -> String {
        let filled = match self.expected_bytes {
            0 => BAR,
            all => (self.bytes.saturating_mul(BAR) / all).min(BAR),
        };
        let bar: String = (0..BAR)
            .map(|at| if at < filled { '#' } else { '-' })
            .collect();
        let left = self.expected_bytes.saturating_sub(self.bytes);
        let eta = left.checked_div(rate).map_or_else(
            || "?".to_owned(),
            |seconds| format!("{}:{:02}", seconds / 60, seconds % 60),
        );
        format!(
            "[{bar}] {name}  {} of {} documents  {} of {} MB  ETA {eta}",
            self.documents,
            self.expected_documents,
            self.bytes / 1_000_000,
            self.expected_bytes / 1_000_000
        )
    }
}

impl Figures {
    fn total(&self) -> Size {
        let mut total = self.done;
        for size in self.open.values() {
            total.add(*size);
        }
        total
    }

    /// Returns the bytes per second since this process started or resumed the full sync.
    fn rate(&self) -> u64 {
        let took = self.took.or_else(|| Some(self.begun?.elapsed()));
        let millis = took.map_or(0, |took| {
            u64::try_from(took.as_millis()).unwrap_or(u64::MAX)
        });
        let sent = self.total().bytes.saturating_sub(self.earlier);
        sent.saturating_mul(1000).checked_div(millis).unwrap_or(0)
    }
}

impl Progress {
    fn figures(&self) -> MutexGuard<'_, Figures> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Records that a collection is planned, or that more of it is sent.
    pub fn update(&self, record: &CopyRecord) {
        let mut figures = self.figures();
        if figures.begun.is_none() || figures.took.is_some() {
            *figures = Figures {
                begun: Some(Instant::now()),
                ..Figures::default()
            };
        }
        let size = Size::of(record);
        if figures.open.insert(record.ns.clone(), size).is_none() {
            figures.earlier += size.bytes;
        }
    }

    /// Records that a collection is sent completely, or no longer exists.
    pub fn finished(&self, record: &CopyRecord) {
        let mut figures = self.figures();
        figures.open.remove(&record.ns);
        let mut size = Size::of(record);
        size.expected_documents = size.documents;
        size.expected_bytes = size.bytes;
        figures.done.add(size);
        figures.collections_done += 1;
    }

    /// Records that all collections are sent, and logs the totals.
    pub fn done(&self) {
        let mut figures = self.figures();
        if let (Some(begun), None) = (figures.begun, figures.took) {
            figures.took = Some(begun.elapsed());
            let total = figures.total();
            tracing::info!(
                collections = figures.collections_done,
                documents = total.documents,
                bytes = total.bytes,
                bytes_per_second = figures.rate(),
                "full sync done"
            );
        }
    }

    /// Returns the progress for `/status`; `None` if no full sync ran in this process.
    #[must_use]
    pub fn status(&self) -> Option<Value> {
        let figures = self.figures();
        figures.begun?;
        let rate = figures.rate();
        let total = figures.total();
        let left = total.expected_bytes.saturating_sub(total.bytes);
        let open: BTreeMap<&str, Value> = figures
            .open
            .iter()
            .map(|(ns, size)| (ns.as_str(), size.json()))
            .collect();
        Some(json!({
            "running": figures.took.is_none(),
            "collections_done": figures.collections_done,
            "collections_open": figures.open.len(),
            "total": total.json(),
            "bytes_per_second": rate,
            "eta_seconds": left.checked_div(rate),
            "open": open,
        }))
    }

    /// Returns progress bars for the terminal or the log: the largest collections in progress, and
    /// the total.
    #[must_use]
    pub fn lines(&self) -> Vec<String> {
        let figures = self.figures();
        if figures.begun.is_none() || figures.took.is_some() {
            return Vec::new();
        }
        let rate = figures.rate();
        let in_progress = figures.open.iter().filter(|(_, size)| size.documents > 0);
        let mut open: Vec<(&String, &Size)> = in_progress.collect();
        open.sort_by_key(|(_, size)| std::cmp::Reverse(size.expected_bytes));
        let mut lines: Vec<String> = open
            .into_iter()
            .take(SHOWN)
            .map(|(ns, size)| size.line(ns, rate))
            .collect();
        let collections = figures.collections_done + figures.open.len() as u64;
        let name = format!("full sync, {} of {collections}", figures.collections_done);
        lines.push(format!(
            "{}  {}.{} MB/s",
            figures.total().line(&name, rate),
            rate / 1_000_000,
            rate / 100_000 % 10
        ));
        lines
    }
}

#[cfg(test)]
mod tests {
    use oplog_relay_core::state::{CopyKind, CopyStage};

    use super::*;

    fn record(ns: &str, documents: u64) -> CopyRecord {
        CopyRecord {
            v: 1,
            ns: ns.to_owned(),
            ui: None,
            kind: CopyKind::Collection,
            stage: CopyStage::Reading,
            requested: false,
            only_documents: false,
            filter: None,
            documents,
            bytes: documents * 1000,
            expected_documents: 100,
            expected_bytes: 100_000,
        }
    }

    #[test]
    fn terminal_and_status_report_the_same_numbers() {
        let progress = Progress::default();
        assert!(progress.status().is_none() && progress.lines().is_empty());
        progress.update(&record("a.b", 0));
        progress.update(&record("a.c", 0));
        progress.update(&record("a.b", 50));
        let lines = progress.lines();
        assert!(lines[0].starts_with("[##########----------] a.b  50 of 100"));
        assert!(
            lines[1].contains("full sync, 0 of 2  50 of 200 documents"),
            "{lines:?}"
        );
        let status = progress.status().unwrap();
        assert_eq!(status["total"]["documents"], 50);
        assert_eq!(status["open"]["a.b"]["expected_bytes"], 100_000);
        progress.finished(&record("a.b", 90));
        progress.finished(&record("a.c", 100));
        progress.done();
        let status = progress.status().unwrap();
        assert_eq!(
            (&status["running"], &status["collections_done"]),
            (&json!(false), &json!(2))
        );
        assert_eq!(status["total"]["documents"], 190);
        assert!(progress.lines().is_empty());
    }
}
