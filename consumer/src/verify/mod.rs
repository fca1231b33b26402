//! The comparison of source and target, document by document, and the repair of the target.
//!
//! - A collection is cut into `range`s of `_id`, which cover all types. Both sides of a range are read
//!   concurrently, in any order, and digested (`digest`), so equal ranges are read once (`full`).
//! - A range that differs is read again, sorted by `_id` (`cursor`), to find the documents that differ.
//! - Documents that seem to differ are checked again (`recheck`), after the replay has passed the
//!   time at which the source was read (`replay_progress`).
//! - Options, indexes and views are compared, except for changes that a replay makes on purpose
//!   (`definition`).
//! - A difference that remains is repaired if that is enabled (`repair`).
//! - Differences and finished ranges are written to the `report`, from which an interrupted comparison
//!   can be resumed (`saved`).
//!
//! Memory holds one batch of each side for each range in progress, and the `_id`s of documents that are
//! checked again, at most ten thousand for each range, independently of the size of the collections.
//! Nothing is written to the source, and nothing to the target unless repairs are enabled.
//!
//! # Modules
//!
//! - `side` has the two servers and the queries to each; `cursor` reads documents in raw batches
//! - `namespaces` lists the collections; `definition` compares their options and indexes
//! - `comparison` compares one collection: `full` reads ranges (`range`) and compares digests
//!   (`digest`); `sample` draws a random sample
//! - `difference` describes the differences between two documents
//! - `recheck` checks differences again after the replay has passed them (`replay_progress`)
//! - `repair` sends what still differs
//! - `report` writes the report; `saved` reads the report of an interrupted comparison
//! - `error` has the reasons why a comparison cannot start or continue

mod comparison;
mod cursor;
mod definition;
mod difference;
mod digest;
pub mod error;
mod full;
mod namespaces;
mod range;
mod recheck;
mod repair;
pub(crate) mod replay_progress;
mod report;
mod sample;
mod saved;
mod side;

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use oplog_relay_core::state::Order;
use oplog_relay_runtime::exit::ExitCode;
use oplog_relay_runtime::mongo::{self, MongoError, READ, in_time};
use oplog_relay_runtime::shutdown::Shutdown;
use oplog_relay_runtime::status_line::StatusLine;

use crate::config::VerifyConfig;
use crate::cutover::Expiries;
use crate::error::ConsumerError;
use crate::replay::catalog::histories;

use crate::verify::replay_progress::Replay;
use comparison::Comparison;
use definition::Expected;
use namespaces::Listing;
use repair::Repair;
use report::Report;
use saved::Saved;
use side::{Server, Side};

/// Interval between updates of the live line.
const LINE_INTERVAL: Duration = Duration::from_millis(500);
/// Interval between log lines if the output is not a terminal.
const LOG_INTERVAL: Duration = Duration::from_secs(5);

/// The result of a comparison or of an audit.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    /// Source and target are equal, or the audit found no fault.
    Equal,
    /// Documents or definitions differ, or the audit found a fault.
    Different,
    /// No difference or fault was found, but some parts could not be compared or audited.
    Unknown,
}

impl Verdict {
    /// Returns the exit code of the program for this result.
    #[must_use]
    pub const fn exit_code(self) -> ExitCode {
        match self {
            Self::Equal => ExitCode::Done,
            Self::Different => ExitCode::VerifyDifferent,
            Self::Unknown => ExitCode::VerifyUnknown,
        }
    }
}

/// Compares all namespaces that the filter includes. Writes the result to standard output and to the
/// report.
///
/// # Errors
/// Returns an error if a side or the replay cannot be reached, if the report cannot be read or
/// written, or if a shutdown interrupts the comparison.
pub async fn verify(config: &VerifyConfig, shutdown: &Shutdown) -> Result<Verdict, ConsumerError> {
    let saved = match &config.report {
        Some(path) if config.resume => Saved::read(path, &config.question)?,
        _ => Saved::default(),
    };
    let name = "oplog-consumer verify";
    let source = mongo::connect(&config.source, name, |_| {}).await?;
    let target = mongo::connect(&config.target, name, |_| {}).await?;
    let server = |side, client| Server { side, client };
    let (source, target) = (server(Side::Source, source), server(Side::Target, target));
    let replay = match &config.replay {
        Some(place) => {
            let shutdown = shutdown.clone();
            Some(Replay::open(place, &source.client, config.patience, shutdown).await?)
        }
        None => None,
    };
    let group = config.replay.as_ref().map(|place| place.group.as_str());
    let repair = match config.repair {
        true => Some(Repair::open(&target, group, shutdown.clone()).await?),
        false => None,
    };
    let report = Report::open(config.report.as_deref(), &saved, &config.question)?;
    let listing = namespaces::both([&source, &target], &config.filter).await?;
    let mut expected = expected(&target, group, replay.as_ref()).await?;
    for (place, server) in [&source, &target].into_iter().enumerate() {
        for (ns, key) in namespaces::shard_keys(server).await {
            let keys = &mut expected.entry(ns).or_default().shard_keys;
            if let Some(side) = keys.get_mut(place) {
                *side = Some(key);
            }
        }
    }
    let comparison = Comparison {
        source,
        target,
        config,
        replay,
        repair,
        report: Mutex::new(report),
        ranges: AtomicU64::new(saved.last),
        saved,
        seen: AtomicU64::new(0),
        with_paths: AtomicU64::new(0),
        stuck: AtomicBool::new(false),
        shutdown: shutdown.clone(),
    };
    compare_all(&comparison, &listing, &expected).await?;
    if shutdown.triggered() {
        // A shutdown ends a wait as a timeout does, so the last collection has no valid result.
        return Err(ConsumerError::interrupted(shutdown));
    }
    let Comparison { report, .. } = comparison;
    let report = report.into_inner();
    report.unwrap_or_else(PoisonError::into_inner).finish()
}

async fn compare_all(
    comparison: &Comparison<'_>,
    listing: &Listing,
    expected: &BTreeMap<String, Expected>,
) -> Result<(), ConsumerError> {
    let none = Expected::default();
    for (ns, sides) in listing {
        if comparison.saved.collections.contains(ns) {
            tracing::info!(ns, "already compared before the comparison was interrupted");
            continue;
        }
        let expected = expected.get(ns).unwrap_or(&none);
        let work = Box::pin(comparison.collection(ns, sides, expected));
        tokio::select! {
            done = work => done?,
            () = show(comparison, ns) => {}
        }
    }
    Ok(())
}

/// Shows the progress of a collection. Never returns.
async fn show(comparison: &Comparison<'_>, ns: &str) {
    let line = StatusLine::new(true);
    let total = comparison.source.count(ns).await.unwrap_or_default();
    let (begun, before) = (Instant::now(), comparison.seen.load(Ordering::Relaxed));
    let mut logged = Instant::now();
    loop {
        tokio::time::sleep(LINE_INTERVAL).await;
        let done = comparison.seen.load(Ordering::Relaxed) - before;
        let per_second = u128::from(done) * 1000 / begun.elapsed().as_millis().max(1);
        if line.is_visible() && total == 0 {
            // The server did not report the number of documents, or it is 0.
            line.update(format!("{ns}: {done} documents, {per_second}/s"));
        } else if line.is_visible() {
            let text = format!("{ns}: {done} of {total} documents, {per_second}/s");
            line.advance(done, total, text);
        } else if logged.elapsed() >= LOG_INTERVAL {
            logged = Instant::now();
            tracing::info!(ns, documents = done, of = total, per_second, "comparing");
        }
    }
}

/// Returns the changes to definitions that a replay is known to have made, by namespace.
async fn expected(
    target: &Server,
    group: Option<&str>,
    replay: Option<&Replay>,
) -> Result<BTreeMap<String, Expected>, ConsumerError> {
    let histories = in_time(READ, histories(&target.client)).await;
    let histories =
        histories.map_err(|error| MongoError::from_driver("the target's catalog", &error))?;
    let mut all: BTreeMap<String, Expected> = BTreeMap::new();
    for (name, sources) in histories {
        if group.is_some_and(|group| group != name) {
            continue;
        }
        for history in sources.values() {
            for (ns, withheld) in Expiries::of(history).0 {
                all.entry(ns).or_default().withheld.extend(withheld);
            }
        }
    }
    let orders: BTreeMap<String, Order> = match replay {
        Some(replay) => replay.orders().await?,
        None => BTreeMap::new(),
    };
    for (ns, order) in orders {
        all.entry(ns).or_default().order = Some(order);
    }
    Ok(all)
}
