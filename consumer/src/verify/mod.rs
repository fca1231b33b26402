//! The proof: source and target compared document by document.
//!
//! Each collection is read on both sides in order of `_id` and merged, so memory holds one batch
//! of each side however large the collections are. Documents are compared byte for byte, or
//! without regard to the order of fields where told. Nothing is written to either side.
//!
//! It compares what it reads. Where the source still changes, or the replay has not caught up,
//! differences may be of that moment only.

mod cursor;
mod difference;
mod namespaces;
mod report;

use std::cmp::Ordering;

use mongodb::Client;
use oplog_relay_core::compare::compare_values;
use oplog_relay_core::document::Document;
use oplog_relay_core::runtime::exit::ExitCode;
use oplog_relay_core::runtime::mongo;

use crate::config::VerifyConfig;
use crate::error::ConsumerError;

use cursor::{CursorError, OrderedCursor, Side};
pub use difference::first_difference;
use report::{Kind, Report};

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

/// Compares all namespaces that pass the filter; tells it on standard output and in the report.
///
/// # Errors
/// When a side cannot be reached, or the report cannot be written.
pub async fn verify(config: &VerifyConfig) -> Result<Verdict, ConsumerError> {
    let source = mongo::connect(&config.source, "oplog-consumer verify", |_| {}).await?;
    let target = mongo::connect(&config.target, "oplog-consumer verify", |_| {}).await?;
    let mut report = Report::open(config.report.as_deref())?;
    for ns in namespaces::both(&source, &target, &config.filter).await? {
        compare(
            &source,
            &target,
            &ns,
            config.ignore_field_order,
            &mut report,
        )
        .await?;
    }
    report.finish()
}

/// Documents of a reply where large ones made a reply too large: some servers don't limit it.
const SMALL_BATCH: u32 = 2;

/// Compares one collection. What stops it is reported, not returned: the others go on.
async fn compare(
    source: &Client,
    target: &Client,
    ns: &str,
    ignore_field_order: bool,
    report: &mut Report,
) -> Result<(), ConsumerError> {
    report.begin(ns);
    let mut outcome = compare_in(source, target, ns, None, ignore_field_order, report).await;
    if let Err(Stop::Cursor(CursorError::Failed { reason, .. })) = &outcome {
        tracing::warn!(
            ns,
            reason,
            "reading failed; once more from the beginning, in small batches"
        );
        report.restart()?;
        let batch = Some(SMALL_BATCH);
        outcome = compare_in(source, target, ns, batch, ignore_field_order, report).await;
    }
    match outcome {
        Ok(()) => report.end(None),
        Err(Stop::Cursor(error)) => report.end(Some(&error.to_string())),
        Err(Stop::Report(error)) => Err(error),
    }
}

async fn compare_in(
    source: &Client,
    target: &Client,
    ns: &str,
    batch: Option<u32>,
    ignore_field_order: bool,
    report: &mut Report,
) -> Result<(), Stop> {
    let mut source = OrderedCursor::open(source, ns, Side::Source, batch).await?;
    let mut target = OrderedCursor::open(target, ns, Side::Target, batch).await?;
    merge(&mut source, &mut target, ignore_field_order, report).await
}

/// Why a comparison stops.
enum Stop {
    /// A side cannot be read, or not in order.
    Cursor(CursorError),
    /// The report cannot be written.
    Report(ConsumerError),
}

impl From<CursorError> for Stop {
    fn from(error: CursorError) -> Self {
        Self::Cursor(error)
    }
}

impl From<ConsumerError> for Stop {
    fn from(error: ConsumerError) -> Self {
        Self::Report(error)
    }
}

/// Walks both sides at once, in order of `_id`.
async fn merge(
    source: &mut OrderedCursor,
    target: &mut OrderedCursor,
    ignore_field_order: bool,
    report: &mut Report,
) -> Result<(), Stop> {
    source.advance().await?;
    target.advance().await?;
    loop {
        let order = match (source.id(), target.id()) {
            (None, None) => return Ok(()),
            (Some(_), None) => Ordering::Less,
            (None, Some(_)) => Ordering::Greater,
            (Some(left), Some(right)) => compare_values(left, right),
        };
        match (order, source.id(), target.id()) {
            (Ordering::Less, Some(id), _) => report.add(Kind::Missing, id, None)?,
            (Ordering::Greater, _, Some(id)) => report.add(Kind::Extra, id, None)?,
            (Ordering::Equal, Some(id), _) => {
                let (left, right) = (source.document(), target.document());
                match difference(left, right, ignore_field_order) {
                    Some(path) => report.add(Kind::Different, id, Some(&path))?,
                    None => report.equal(),
                }
            }
            _ => {}
        }
        if order != Ordering::Greater {
            source.advance().await?;
        }
        if order != Ordering::Less {
            target.advance().await?;
        }
    }
}

fn difference(left: &[u8], right: &[u8], ignore_field_order: bool) -> Option<String> {
    if left == right {
        return None;
    }
    match (Document::new(left), Document::new(right)) {
        (Ok(left), Ok(right)) => first_difference(left, right, ignore_field_order),
        _ => Some(String::new()),
    }
}
