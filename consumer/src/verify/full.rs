//! Compares every document of a collection, range by range, by digests. A range that differs is read
//! again, sorted by `_id`, to find the documents that differ.

use std::cmp::Ordering;
use std::sync::atomic;
use std::time::Duration;

use futures_util::{TryStreamExt as _, stream, try_join};
use oplog_relay_core::compare::compare_values;
use oplog_relay_core::document::Document;
use oplog_relay_runtime::retry::Backoff;

use super::comparison::{Comparison, Stop};
use super::cursor::{CursorError, Documents};
use super::digest::Digester;
use super::range::{OwnedId, Range};
use super::report::Counts;
use super::saved::Begun;
use super::side::{Manner, Server};

/// Maximum number of documents that seem to differ and are checked again together, and maximum
/// number of bytes of their `_id`s.
const TOGETHER: (usize, usize) = (10_000, 4 << 20);
/// Maximum number of further attempts to read a range, after the first one. From the second of them
/// on, batches are small.
const ATTEMPTS: u32 = 4;
/// First and longest pause between two attempts.
const PAUSES: (Duration, Duration) = (Duration::from_millis(200), Duration::from_secs(5));

/// A range and its number.
#[derive(Debug, Clone)]
struct Numbered {
    number: u64,
    range: Range,
}

/// The state of cutting a collection into ranges.
struct Cutting {
    begun: Begun,
    /// The types that are not started yet.
    types: Vec<OwnedId>,
    /// The start of the next range.
    low: Option<OwnedId>,
    /// True until the range of all other types is started.
    rest: bool,
}

/// The result of comparing the current documents of both sides.
enum Pair {
    /// Both sides are at their ends.
    Done,
    /// The documents are the same.
    Same,
    /// They differ, or one of them is missing.
    Other(OwnedId),
    /// An earlier attempt has already compared the documents.
    Settled,
}

impl Comparison<'_> {
    /// Compares every document.
    pub(super) async fn full(&self, ns: &str, collated: bool) -> Result<(), Stop> {
        let begun = self.saved.begun(ns);
        let mut types = None;
        if begun.is_cut() || !(collated || self.is_small(ns).await) {
            types = self.types(ns).await;
        }
        let Some(mut types) = types else {
            let numbered = self.begin(ns, begun.everything, Range::Everything)?;
            return self.range(ns, numbered, collated).await;
        };
        types.reverse();
        let cutting = Cutting {
            begun,
            low: types.pop(),
            types,
            rest: true,
        };
        let ranges = stream::try_unfold(cutting, |mut cutting| async move {
            let next = self.next(ns, &mut cutting).await?;
            Ok::<_, Stop>(next.map(|next| (next, cutting)))
        });
        ranges
            .map_ok(|numbered| self.range(ns, numbered, collated))
            .try_buffer_unordered(self.config.ranges_at_once)
            .try_collect()
            .await
    }

    /// Returns true if the documents of the source fit in one range.
    async fn is_small(&self, ns: &str) -> bool {
        let count = self.source.count(ns).await;
        count.is_ok_and(|count| count <= self.config.range_documents)
    }

    /// Returns the least value of each type of `_id` that either side has. Returns `None` if a
    /// query fails, as on servers that cannot compare `_id`s of all types; the collection is then
    /// not cut.
    async fn types(&self, ns: &str) -> Option<Vec<OwnedId>> {
        let mut types = Vec::new();
        for low in Range::types() {
            let both = try_join!(self.source.cut(ns, &low, 0), self.target.cut(ns, &low, 0));
            match both {
                Ok((None, None)) => {}
                Ok(_) => types.push(low),
                Err(error) => {
                    tracing::info!(
                        ns,
                        %error,
                        "the server cannot cut the collection; comparing it as one range"
                    );
                    return None;
                }
            }
        }
        Some(types)
    }

    fn begin(&self, ns: &str, known: Option<u64>, range: Range) -> Result<Numbered, Stop> {
        tracing::debug!(ns, ?range, "comparing a range");
        if let Some(number) = known {
            return Ok(Numbered { number, range });
        }
        let number = self.next_range();
        self.report().begun(number, &range)?;
        Ok(Numbered { number, range })
    }

    /// Cuts the next range. A range that an interrupted comparison has started keeps its bounds.
    async fn next(&self, ns: &str, cutting: &mut Cutting) -> Result<Option<Numbered>, Stop> {
        let Some(low) = cutting.low.take() else {
            let rest = std::mem::take(&mut cutting.rest);
            return rest
                .then(|| self.begin(ns, cutting.begun.rest, Range::Rest))
                .transpose();
        };
        let (number, high) = match cutting.begun.cut(&low) {
            Some(begun) => (Some(begun.number), begun.high),
            None => {
                let size = self.config.range_documents;
                (None, self.source.cut(ns, &low, size).await?)
            }
        };
        cutting.low = high.clone().or_else(|| cutting.types.pop());
        self.begin(ns, number, Range::Between { low, high })
            .map(Some)
    }

    /// Compares a range.
    async fn range(&self, ns: &str, numbered: Numbered, collated: bool) -> Result<(), Stop> {
        let number = numbered.number;
        if let Some(counts) = self.saved.range(number) {
            self.report().known(&counts);
            let done = counts.equal + counts.different + counts.missing;
            self.seen.fetch_add(done, atomic::Ordering::Relaxed);
            return Ok(());
        }
        let mut counts = Counts::default();
        if let Some(documents) = self.is_equal(ns, &numbered.range).await? {
            counts.equal = documents;
            return Ok(self.report().range(number, &counts)?);
        }
        let mut floor = None;
        let mut backoff = Backoff::new(PAUSES.0, PAUSES.1);
        loop {
            let small = backoff.attempts() > 1;
            let manner = Manner {
                sorted: true,
                collated,
                small,
            };
            let merged = self
                .merge(ns, &numbered, manner, &mut floor, &mut counts)
                .await;
            match merged {
                Ok(()) => return Ok(self.report().range(number, &counts)?),
                Err(stop) => self.wait_for_retry(ns, stop, &mut backoff).await?,
            }
        }
    }

    /// Returns the number of documents of a range if both sides have the same documents.
    async fn is_equal(&self, ns: &str, range: &Range) -> Result<Option<u64>, Stop> {
        let mut backoff = Backoff::new(PAUSES.0, PAUSES.1);
        loop {
            let small = backoff.attempts() > 1;
            let digester = || Digester::new(self.config.ignore_field_order);
            let seen = || {
                self.seen.fetch_add(1, atomic::Ordering::Relaxed);
            };
            let both = try_join!(
                self.source.digest(ns, range, small, digester(), seen),
                self.target.digest(ns, range, small, digester(), || {}),
            );
            match both {
                Ok((one, other)) => return Ok((one == other).then_some(one.documents)),
                Err(error) => self.wait_for_retry(ns, error.into(), &mut backoff).await?,
            }
        }
    }

    /// Waits before a range is read again, if a read failed and attempts are left. Otherwise
    /// returns the error.
    async fn wait_for_retry(
        &self,
        ns: &str,
        stop: Stop,
        backoff: &mut Backoff,
    ) -> Result<(), Stop> {
        match &stop {
            Stop::Cursor(error @ CursorError::Failed { .. }) if backoff.attempts() < ATTEMPTS => {
                tracing::warn!(ns, %error, "reading a range failed; retrying");
                if backoff.sleep(&self.shutdown).await {
                    Ok(())
                } else {
                    Err(stop)
                }
            }
            _ => Err(stop),
        }
    }

    /// Reads both sides of a range concurrently, sorted by `_id`. Documents up to `floor` were compared
    /// by an earlier attempt.
    async fn merge(
        &self,
        ns: &str,
        numbered: &Numbered,
        manner: Manner,
        floor: &mut Option<OwnedId>,
        counts: &mut Counts,
    ) -> Result<(), Stop> {
        let Numbered { number, range } = numbered;
        let read = |server: &Server| {
            let server = server.clone();
            async move { server.read(ns, range, manner).await }
        };
        let (mut source, mut target) = try_join!(read(&self.source), read(&self.target))?;
        try_join!(source.advance(), target.advance())?;
        let mut digester = Digester::new(self.config.ignore_field_order);
        let (mut equal, mut again, mut bytes) = (0, Vec::new(), 0);
        loop {
            let pair = pair(&source, &target, floor.as_ref(), &mut digester);
            let full = again.len() >= TOGETHER.0 || bytes >= TOGETHER.1;
            if full || matches!(pair, Pair::Done) {
                let last: Option<OwnedId> = again.last().cloned();
                bytes = 0;
                self.check_again(ns, *number, std::mem::take(&mut again), counts)
                    .await?;
                counts.equal += std::mem::take(&mut equal);
                *floor = last.or_else(|| floor.take());
            }
            let order = order(&source, &target);
            match pair {
                Pair::Done => return Ok(()),
                Pair::Same => equal += 1,
                Pair::Other(id) => {
                    bytes += id.cost();
                    again.push(id);
                }
                Pair::Settled => {}
            }
            if order != Ordering::Greater {
                source.advance().await?;
            }
            if order != Ordering::Less {
                target.advance().await?;
            }
        }
    }
}

/// Returns the order of the current documents of both sides.
fn order(source: &Documents, target: &Documents) -> Ordering {
    match (source.id(), target.id()) {
        (None, None) => Ordering::Equal,
        (Some(_), None) => Ordering::Less,
        (None, Some(_)) => Ordering::Greater,
        (Some(left), Some(right)) => compare_values(left, right),
    }
}

fn pair(
    source: &Documents,
    target: &Documents,
    floor: Option<&OwnedId>,
    digester: &mut Digester,
) -> Pair {
    let order = order(source, target);
    let id = if order == Ordering::Greater {
        target.id()
    } else {
        source.id()
    };
    let Some(id) = id else {
        return Pair::Done;
    };
    if floor.is_some_and(|floor| floor.cmp(id) != Ordering::Less) {
        return Pair::Settled;
    }
    let (left, right) = (source.document(), target.document());
    let mut is_same = || {
        left == right
            || match (Document::new(left), Document::new(right)) {
                (Ok(left), Ok(right)) => digester.document(left) == digester.document(right),
                _ => false,
            }
    };
    if order == Ordering::Equal && is_same() {
        return Pair::Same;
    }
    Pair::Other(OwnedId::of(id))
}
