//! The proof: source and target compared document by document, and repaired.
//!
//! - a collection is cut into `range`s of `_id`, which cover all types; both sides of a range are
//!   read at once, in any order, and come to a `digest`; equal ranges cost one pass (`full`)
//! - a range that differs is read once more in order (`cursor`) and narrowed to its `_id`s
//! - what differs is looked at again (`recheck`) until the replay has passed it (`passed`)
//! - options, indexes and views are compared as a replay leaves them (`definition`)
//! - a difference that remains is repaired if that is wanted (`repair`)
//! - all is told, and the finished ranges are kept in the `report`, from which an interrupted
//!   comparison goes on (`saved`)
//!
//! Memory holds one batch of each side for each range at work, and the `_id`s of what is looked at
//! again, at most ten thousand for each, however large the collections are. Nothing is written to
//! the source, and without a repair nothing to the target.

mod comparison;
mod cursor;
mod definition;
mod difference;
mod digest;
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

/// How often the live line changes, and how often a log line stands for it.
const LINE_INTERVAL: Duration = Duration::from_millis(500);
const LOG_INTERVAL: Duration = Duration::from_secs(5);

/// What the comparison came to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    /// All documents of all namespaces are equal.
    Equal,
    /// Some differ.
    Different,
    /// None was seen to differ, but some could not be compared.
    Unknown,
}

impl Verdict {
    /// The code that the program ends with.
    #[must_use]
    pub const fn exit_code(self) -> ExitCode {
        match self {
            Self::Equal => ExitCode::Done,
            Self::Different => ExitCode::VerifyDifferent,
            Self::Unknown => ExitCode::VerifyUnknown,
        }
    }
}

/// Compares all namespaces that pass the filter; writes the result to standard output and to the report.
///
/// # Errors
/// When a side or the replay cannot be reached, or the report cannot be read or written.
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
    let expected = expected(&target, group, replay.as_ref()).await?;
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
        // What was waited for is not compared.
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
            tracing::info!(ns, "compared before the comparison was interrupted");
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

/// Shows how far a collection is. Never ends.
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
            // The server does not tell how many there are.
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

/// What a replay is known to have changed, by namespace.
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
