//! The comparison of one collection.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

use oplog_relay_core::document::Document;
use oplog_relay_core::namespace::Namespace;
use oplog_relay_runtime::retry::Backoff;
use oplog_relay_runtime::shutdown::Shutdown;

use super::cursor::CursorError;
use super::definition::{Compared, Definition, Expected, compare};
use super::difference::{DifferingPaths, differences};
use super::digest::Digester;
use super::namespaces;
use super::range::OwnedId;
use super::recheck::{AGREEING, Differing, FIRST_PAUSE, LONGEST_PAUSE, MAX_CHECKS};
use super::repair::Repair;
use super::report::{Counts, Found, Kind, Report};
use super::saved::Saved;
use super::side::{Server, identity};
use crate::config::{VerifyConfig, VerifyMode};
use crate::error::ConsumerError;
use crate::verify::replay_progress::Replay;

/// Maximum number of differing paths that are reported for a document.
const PATHS: usize = 10;
/// Maximum number of documents of a collection for which paths are reported. Each of them is read again
/// to find the paths.
const WITH_PATHS: u64 = 1000;
/// Maximum number of times that differing definitions are read.
const DEFINITION_READS: u32 = 3;

/// The reason why a comparison stops.
pub(super) enum Stop {
    /// A side cannot be read, or it returned documents that are damaged or not sorted.
    Cursor(CursorError),
    /// The collection cannot be compared.
    Incomparable(String),
    /// The report cannot be written, or Kafka or a command to a server failed.
    Fatal(ConsumerError),
}

impl From<CursorError> for Stop {
    fn from(error: CursorError) -> Self {
        Self::Cursor(error)
    }
}

impl From<ConsumerError> for Stop {
    fn from(error: ConsumerError) -> Self {
        Self::Fatal(error)
    }
}

/// The state that the comparisons of all collections share.
pub(super) struct Comparison<'c> {
    pub(super) source: Server,
    pub(super) target: Server,
    pub(super) config: &'c VerifyConfig,
    pub(super) replay: Option<Replay>,
    pub(super) repair: Option<Repair>,
    pub(super) report: Mutex<Report>,
    pub(super) saved: Saved,
    /// The number of the last range.
    pub(super) ranges: AtomicU64,
    /// Number of documents that were compared so far, to show the progress.
    pub(super) seen: AtomicU64,
    /// Number of documents of the current collection for which paths were reported.
    pub(super) with_paths: AtomicU64,
    /// True if the replay did not catch up in time in the current collection. The comparison then does
    /// not wait for it again.
    pub(super) stuck: AtomicBool,
    pub(super) shutdown: Shutdown,
}

impl Comparison<'_> {
    pub(super) fn report(&self) -> MutexGuard<'_, Report> {
        self.report.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Compares one namespace. An error that concerns only this namespace is reported and not returned,
    /// so that the other namespaces are compared.
    pub(super) async fn collection(
        &self,
        ns: &str,
        sides: &[Option<Definition>; 2],
        expected: &Expected,
    ) -> Result<(), ConsumerError> {
        self.report().begin(ns);
        self.with_paths.store(0, Ordering::Relaxed);
        self.stuck.store(false, Ordering::Relaxed);
        let mut outcome = self.definition(ns, expected).await;
        if outcome.is_ok() {
            outcome = self.data(ns, sides).await;
        }
        match outcome {
            Ok(()) => self.report().end(None),
            Err(Stop::Cursor(error)) => self.report().end(Some(&error.to_string())),
            Err(Stop::Incomparable(reason)) => self.report().end(Some(&reason)),
            Err(Stop::Fatal(error)) => Err(error),
        }
    }

    /// Compares options and indexes. Differences are checked again before they are reported.
    async fn definition(&self, ns: &str, expected: &Expected) -> Result<(), Stop> {
        let Compared {
            mut found,
            mut notes,
        } = self.definition_now(ns, expected).await?;
        let mut backoff = Backoff::new(FIRST_PAUSE, LONGEST_PAUSE);
        for _ in 1..DEFINITION_READS {
            if found.is_empty() {
                break;
            }
            if !self.wait(&mut backoff).await? {
                let reason = "its definition differs, and the replay has not caught up in time";
                return Err(Stop::Incomparable(reason.to_owned()));
            }
            Compared { found, notes } = self.definition_now(ns, expected).await?;
        }
        if let Some(repair) = &self.repair
            && !found.is_empty()
        {
            let source = namespaces::one(&self.source, ns).await?;
            let created = repair
                .definitions(ns, source.as_ref(), &found, expected)
                .await?;
            for what in &created {
                self.report().created(what)?;
            }
            Compared { found, notes } = self.definition_now(ns, expected).await?;
        }
        let mut report = self.report();
        for note in &notes {
            report.note(note)?;
        }
        for found in &found {
            report.definition(found)?;
        }
        Ok(())
    }

    async fn definition_now(&self, ns: &str, expected: &Expected) -> Result<Compared, Stop> {
        let source = namespaces::one(&self.source, ns).await?;
        let target = namespaces::one(&self.target, ns).await?;
        Ok(compare(source.as_ref(), target.as_ref(), expected))
    }

    async fn data(&self, ns: &str, sides: &[Option<Definition>; 2]) -> Result<(), Stop> {
        let any = |form: &str| sides.iter().flatten().any(|side| side.form == form);
        if any("timeseries") && !self.has_buckets(ns).await? {
            let reason = "the time series has no separate buckets collection, and its documents \
                          have no _id by which they could be compared";
            return Err(Stop::Incomparable(reason.to_owned()));
        }
        if !any("collection") {
            return Ok(());
        }
        let collated = sides.iter().flatten().any(Definition::is_collated);
        match self.config.mode {
            VerifyMode::Count => self.count(ns).await,
            VerifyMode::Sample(size) => self.sample(ns, size).await,
            VerifyMode::Full => self.full(ns, collated).await,
        }
    }

    /// Returns true if each side that has the time series also has its buckets collection, which is
    /// compared instead. MongoDB 8.3 and later store both under one name.
    async fn has_buckets(&self, ns: &str) -> Result<bool, Stop> {
        let Namespace {
            db,
            collection: name,
        } = Namespace::split(ns);
        let buckets = format!("{db}.system.buckets.{name}");
        for server in [&self.source, &self.target] {
            let exists = namespaces::one(server, ns).await?.is_some();
            if exists && namespaces::one(server, &buckets).await?.is_none() {
                return Ok(false);
            }
        }
        Ok(true)
    }

    /// Compares the numbers of documents, which is the weakest comparison.
    async fn count(&self, ns: &str) -> Result<(), Stop> {
        let mut backoff = Backoff::new(FIRST_PAUSE, LONGEST_PAUSE);
        let mut agreeing = 0;
        for check in 0..MAX_CHECKS.without_replay {
            let before = self.source.count(ns).await?;
            if check > 0 && !self.wait(&mut backoff).await? {
                break;
            }
            let target = self.target.count(ns).await?;
            let after = self.source.count(ns).await?;
            agreeing = if before == after { agreeing + 1 } else { 0 };
            let is_equal = target == before || target == after;
            if is_equal || agreeing >= AGREEING.without_replay {
                // The target may be equal to the earlier of the two counts of the source.
                let wanted = if is_equal { target } else { after };
                let counts = Counts {
                    equal: target.min(wanted),
                    missing: wanted.saturating_sub(target),
                    extra: target.saturating_sub(wanted),
                    ..Counts::default()
                };
                return Ok(self.report().range(self.next_range(), &counts)?);
            }
        }
        let counts = Counts {
            unsettled: 1,
            ..Counts::default()
        };
        Ok(self.report().range(self.next_range(), &counts)?)
    }

    /// Compares random documents of each side with those of the other.
    async fn sample(&self, ns: &str, size: u32) -> Result<(), Stop> {
        let mut counts = Counts::default();
        let range = self.next_range();
        let mut digester = Digester::new(self.config.ignore_field_order);
        for server in [&self.source, &self.target] {
            let drawn = server.sample(ns, size).await?;
            for ids in drawn.chunks(1000) {
                let wanted: Vec<&OwnedId> = ids.iter().collect();
                let source = self.source.digests(ns, &wanted, &mut digester).await?;
                let target = self.target.digests(ns, &wanted, &mut digester).await?;
                let differs = |id: &&OwnedId| {
                    let identity = identity(id);
                    source.get(&identity) != target.get(&identity)
                };
                let again: Vec<OwnedId> = ids.iter().filter(differs).cloned().collect();
                counts.equal += number(ids.len() - again.len());
                self.check_again(ns, range, again, &mut counts).await?;
            }
            self.seen.fetch_add(number(drawn.len()), Ordering::Relaxed);
        }
        Ok(self.report().range(range, &counts)?)
    }

    pub(super) fn next_range(&self) -> u64 {
        self.ranges.fetch_add(1, Ordering::Relaxed) + 1
    }

    /// Rechecks documents that seem to differ, repairs them if that is enabled, and reports the
    /// remaining differences.
    pub(super) async fn check_again(
        &self,
        ns: &str,
        range: u64,
        ids: Vec<OwnedId>,
        counts: &mut Counts,
    ) -> Result<(), Stop> {
        let mut settled = self.settle(ns, ids).await?;
        counts.equal += settled.equal;
        if let Some(repair) = &self.repair {
            settled.found = self
                .repair_documents(repair, ns, range, settled.found, counts)
                .await?;
        }
        for Differing { id, kind } in settled.found {
            let found = self.found(ns, id, kind).await?;
            counts.take(found.kind);
            self.report().difference(range, &found)?;
        }
        Ok(())
    }

    async fn found(&self, ns: &str, id: OwnedId, kind: Kind) -> Result<Found, Stop> {
        let mut paths = DifferingPaths::default();
        let reported = self.with_paths.load(Ordering::Relaxed);
        if kind == Kind::Different && reported < WITH_PATHS {
            self.with_paths.fetch_add(1, Ordering::Relaxed);
            let one = self.source.one(ns, &id).await?.unwrap_or_default();
            let other = self.target.one(ns, &id).await?.unwrap_or_default();
            if let (Ok(one), Ok(other)) = (Document::new(&one), Document::new(&other)) {
                paths = differences(one, other, self.config.ignore_field_order, PATHS);
            }
        }
        Ok(Found { kind, id, paths })
    }
}

pub(super) fn number(count: usize) -> u64 {
    u64::try_from(count).expect("a count has at most 64 bits")
}
