//! The tail of the oplog: a cursor that is reopened after network faults and elections.

use std::time::{Duration, Instant};

use oplog_relay_core::position::{Position, Timestamp};
use oplog_relay_runtime::mongo;
use oplog_relay_runtime::retry::Backoff;
use oplog_relay_runtime::shutdown::Shutdown;
use tokio::sync::mpsc::Sender;

use super::{AWAIT, BATCH_ENTRIES, Oplog, position_of};
use crate::error::ProducerError;
use crate::position_lost::{Gap, PositionLost, RolledBackRange};
use crate::source::next_reply::{NextReply, Patience, next_reply, pass_on_empty};
use crate::source::{Batch, SourceEvent, StartAt};

/// Time without a reply after which a new cursor counts as idle.
const IDLE_AFTER: Duration = Duration::from_millis(5);
/// Size at which a reply counts as full, as does a reply of `BATCH_ENTRIES` entries: another reply
/// follows, however slowly. A smaller reply contained everything.
const FULL_REPLY: usize = 4 << 20;
/// Shortest time without a reply, not even an empty batch, after which a server counts as unreachable.
/// A server may need this long to open a cursor at a position.
const LEAST_SILENCE: Duration = Duration::from_secs(60);
/// Interval at which the set is queried for its majority commit point while the tail is caught up.
const ASK_AGAIN: Duration = Duration::from_secs(5);
/// Time after which a stall is reported unless another time is set.
pub(in crate::source) const STALLED_AFTER: Duration = Duration::from_secs(60);

/// The member whose oplog is read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Member {
    /// The same member as before.
    Same,
    /// The primary from now on, because its oplog goes back further.
    Primary,
}

/// The contents of a reply of the cursor.
enum Reply {
    /// No entries.
    Nothing,
    /// No entries, because another member is read from now on and the cursor is closed.
    OtherMember,
    /// Entries that follow those that were sent.
    Entries {
        batch: Batch,
        last: Position,
        /// True if the reply was full, so that another one follows.
        is_full: bool,
    },
}

/// The time for which the member has been behind its set while it returned no entries.
#[derive(Debug, Default)]
struct Behind {
    asked: Option<Instant>,
    since: Option<Instant>,
    is_reported: bool,
}

/// A tail that continues after network faults and elections, from the last entry that it fetched.
#[derive(Debug)]
pub struct Tail {
    oplog: Oplog,
    /// The entry that the next cursor must find first.
    after: Option<Position>,
    from: Timestamp,
    /// True if an entry at `from` itself is to be sent.
    inclusive: bool,
    /// True if the source has not replied since it failed.
    failed: bool,
    behind: Behind,
    /// Time after which a stall is reported.
    stalled_after: Duration,
    /// The meaning of an empty reply; `None` until the server has been queried about it.
    empty_reply: Option<EmptyReply>,
}

/// The meaning of an empty reply of a member.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum EmptyReply {
    /// The set may have more entries; the empty reply is compared with its majority commit point.
    OfMember,
    /// The server reports no majority to compare with, and its cursors end where those of other servers
    /// return empty replies (FerretDB).
    OfAll,
}

impl EmptyReply {
    const fn of(majority: Option<Timestamp>) -> Self {
        match majority {
            Some(_) => Self::OfMember,
            None => Self::OfAll,
        }
    }

    const fn event(self) -> SourceEvent {
        match self {
            Self::OfMember => SourceEvent::Idle,
            Self::OfAll => SourceEvent::CaughtUp,
        }
    }
}

impl Tail {
    /// Creates a tail at a starting point.
    ///
    /// # Errors
    /// [`ProducerError::PositionLost`] if the oplog starts later; [`ProducerError::Source`].
    pub async fn begin(oplog: Oplog, start: StartAt) -> Result<Self, ProducerError> {
        let (after, from, inclusive) = match start {
            // With an ordinal a part of the entry's operations is still to be sent.
            StartAt::After(position) => (Some(position), position.ts, position.ord > 0),
            StartAt::Oldest => (None, Timestamp::default(), true),
            StartAt::At(ts) => (None, ts, true),
            // `Origin::start` has already replaced this variant.
            StartAt::Now => (None, Timestamp::default(), true),
        };
        let mut tail = Self {
            oplog,
            after,
            from,
            inclusive,
            failed: false,
            behind: Behind::default(),
            stalled_after: STALLED_AFTER,
            empty_reply: None,
        };
        if let StartAt::After(_) | StartAt::At(_) = start {
            tail.check_not_rolled_over().await?;
        }
        Ok(tail)
    }

    /// Sets the time for which a member may return nothing although its set has later entries, before
    /// this is reported. A server that does not reply at all counts as unreachable after this time
    /// too, but not within a minute.
    #[must_use]
    pub const fn reporting_stalls_after(mut self, stalled_after: Duration) -> Self {
        self.stalled_after = stalled_after;
        self
    }

    /// Checks that the oplog reaches back to the position of the tail.
    ///
    /// The oplog of a member that was synced recently is shorter than those of the other members.
    /// Before the position counts as lost, the primary is queried, and read from then on if its
    /// oplog reaches back to the position.
    async fn check_not_rolled_over(&mut self) -> Result<Member, ProducerError> {
        let Some(oldest) = self.oplog.oldest().await? else {
            return Ok(Member::Same);
        };
        if oldest.ts <= self.from {
            return Ok(Member::Same);
        }
        let primary = self.oplog.on_primary();
        let longest = primary.oldest().await?.unwrap_or(oldest);
        if longest.ts <= self.from {
            tracing::warn!(
                from = %self.from,
                oldest = %oldest.ts,
                "the oplog of the member that was read starts after the position, but that of the \
                 primary does not: the primary is read from now on"
            );
            self.oplog = primary;
            return Ok(Member::Primary);
        }
        let wanted = Position {
            ts: self.from,
            term: -1,
            ord: 0,
        };
        Err(Box::new(PositionLost::RolledOver {
            checkpoint: self.after.unwrap_or(wanted),
            oldest: longest.ts,
            gap: Gap::between(self.from, longest.ts),
        })
        .into())
    }

    /// Sends the entries of the oplog until the queue is closed or a shutdown is requested. `failing`
    /// is called with the reason when the source fails, and with `None` when it replies again.
    ///
    /// # Errors
    /// Errors that a retry cannot fix: a lost position, missing permissions, damaged entries.
    pub async fn run(
        mut self,
        events: &Sender<SourceEvent>,
        shutdown: &Shutdown,
        failing: impl Fn(Option<&str>),
    ) -> Result<(), ProducerError> {
        let mut backoff = Backoff::new(Duration::from_millis(200), Duration::from_secs(10));
        while !shutdown.triggered() && !events.is_closed() {
            match self.follow(events, shutdown, &mut backoff, &failing).await {
                Ok(()) => {}
                Err(ProducerError::Source(error)) => {
                    if mongo::is_truncated(&error) {
                        self.check_not_rolled_over().await?;
                    } else if !mongo::is_transient(&error) && !mongo::is_cursor_gone(&error) {
                        return Err(ProducerError::Source(error));
                    }
                    let reason = mongo::error_text(&error);
                    tracing::warn!(reason, from = %self.from, "the source failed; the tail is reopened");
                    self.failed = true;
                    failing(Some(&reason));
                    if !backoff.sleep(shutdown).await {
                        return Ok(());
                    }
                }
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }

    async fn meaning_of_empty_reply(&mut self) -> Result<EmptyReply, ProducerError> {
        if let Some(known) = self.empty_reply {
            return Ok(known);
        }
        let majority = self.oplog.majority().await?;
        Ok(*self.empty_reply.insert(EmptyReply::of(majority)))
    }

    /// Follows one cursor, from opening to its end.
    async fn follow(
        &mut self,
        events: &Sender<SourceEvent>,
        shutdown: &Shutdown,
        backoff: &mut Backoff,
        failing: &impl Fn(Option<&str>),
    ) -> Result<(), ProducerError> {
        let mut cursor = self.oplog.open(self.from).await?;
        let empty_reply = self.meaning_of_empty_reply().await?;
        let mut first = true;
        let mut is_idle_sent = false;
        let mut is_caught_up = false;
        loop {
            let patience = Patience {
                idle_after: if first { IDLE_AFTER } else { AWAIT },
                silent_after: longest_silence(self.stalled_after),
            };
            let next = next_reply(&mut cursor, patience, &mut is_idle_sent, events);
            let next = tokio::select! {
                biased;
                next = next => next,
                () = shutdown.wait() => return Ok(()),
            };
            let batch = match next {
                NextReply::Reply(reply) => Batch::Reply(reply),
                NextReply::Failed(error) => return Err(ProducerError::Source(error)),
                NextReply::Silence => {
                    self.note_silence(failing);
                    return Ok(());
                }
                NextReply::Closed => return Ok(()),
                // The oplog is empty or was dropped, or this server ends a cursor where others
                // return an empty reply.
                NextReply::End => return self.reopen(backoff, shutdown).await,
            };
            if std::mem::replace(&mut self.failed, false) {
                failing(None);
            }
            let (batch, last, is_full) = match self.take(batch, first).await? {
                Reply::OtherMember => return Ok(()),
                Reply::Nothing => {
                    is_caught_up = self.has_caught_up(is_caught_up, failing).await?;
                    if pass_on_empty(is_caught_up, events) {
                        continue;
                    }
                    return Ok(());
                }
                Reply::Entries {
                    batch,
                    last,
                    is_full,
                } => (batch, last, is_full),
            };
            first = false;
            // Under a steady load every reply has entries, so a reply that is not full has to count
            // as idle.
            is_idle_sent = !is_full;
            is_caught_up = false;
            self.behind = Behind::default();
            backoff.reset();
            self.after = Some(last);
            self.from = last.ts;
            self.inclusive = false;
            if events.send(SourceEvent::Batch(batch)).await.is_err()
                || (is_idle_sent && events.send(empty_reply.event()).await.is_err())
            {
                return Ok(());
            }
        }
    }

    /// Notes that the server has not replied for too long.
    fn note_silence(&mut self, failing: &impl Fn(Option<&str>)) {
        let reason = "the source does not respond; the tail is reopened";
        tracing::warn!(reason);
        self.failed = true;
        failing(Some(reason));
    }

    /// Returns true if everything that a majority of the set has was fetched. A positive result
    /// remains valid for [`ASK_AGAIN`].
    async fn has_caught_up(
        &mut self,
        is_caught_up: bool,
        failing: &impl Fn(Option<&str>),
    ) -> Result<bool, ProducerError> {
        let stalled_after = self.stalled_after;
        let behind = &mut self.behind;
        if is_caught_up && behind.asked.is_some_and(|at| at.elapsed() < ASK_AGAIN) {
            return Ok(true);
        }
        let majority = self.oplog.majority().await?;
        if majority.is_none_or(|majority| majority <= self.from) {
            if std::mem::take(behind).is_reported {
                failing(None);
            }
            behind.asked = Some(Instant::now());
            return Ok(true);
        }
        let since = *behind.since.get_or_insert_with(Instant::now);
        if since.elapsed() >= stalled_after && !std::mem::replace(&mut behind.is_reported, true) {
            let reason = format!(
                "the member of the source that is read has returned no entries after {} for {} s, \
                 although its replica set has later ones: it is a delayed member, no longer \
                 replicates, or is disconnected from the other members",
                self.from,
                stalled_after.as_secs()
            );
            tracing::warn!("{reason}");
            failing(Some(&reason));
        }
        Ok(false)
    }

    async fn reopen(
        &mut self,
        backoff: &mut Backoff,
        shutdown: &Shutdown,
    ) -> Result<(), ProducerError> {
        if self.after.is_some() {
            self.check_not_rolled_over().await?;
        }
        backoff.sleep(shutdown).await;
        Ok(())
    }

    /// Checks the first batch of a cursor against the position, and removes the entry that was
    /// fetched before.
    async fn take(&mut self, batch: Batch, first: bool) -> Result<Reply, ProducerError> {
        let (mut ends, mut count) = (None, 0);
        for document in batch.documents()? {
            let document = document.map_err(ProducerError::undecodable)?;
            count += 1;
            ends = Some(match ends {
                None => (document, document),
                Some((begin, _)) => (begin, document),
            });
        }
        let is_full = batch.size() >= FULL_REPLY || count >= BATCH_ENTRIES;
        let Some((begin, end)) = ends else {
            return Ok(Reply::Nothing);
        };
        let last = position_of(end.as_bytes())?;
        let entries = |batch| Reply::Entries {
            batch,
            last,
            is_full,
        };
        if !first {
            return Ok(entries(batch));
        }
        let found = position_of(begin.as_bytes())?;
        if let Some(wanted) = self.after
            && (wanted.ts, wanted.term) != (found.ts, found.term)
        {
            if self.check_not_rolled_over().await? == Member::Primary {
                return Ok(Reply::OtherMember);
            }
            let oldest = self
                .oplog
                .oldest()
                .await?
                .map_or(found.ts, |oldest| oldest.ts);
            let shared = self.oplog.last_shared(wanted).await?;
            let lost = PositionLost::RolledBack {
                checkpoint: wanted,
                found,
                oldest,
                range: RolledBackRange::new(shared, wanted),
            };
            return Err(Box::new(lost).into());
        }
        let known = self.after.map_or(self.from, |after| after.ts);
        if self.inclusive || found.ts > known {
            return Ok(entries(batch));
        }
        // The entry at the position itself was sent; the entries after it are copied, once per cursor.
        let mut rest = Vec::new();
        for document in batch.documents()?.skip(1) {
            rest.extend_from_slice(document.map_err(ProducerError::undecodable)?.as_bytes());
        }
        Ok(entries(Batch::Bytes(rest)))
    }
}

/// Returns the time without a reply after which a server counts as unreachable.
fn longest_silence(stalled_after: Duration) -> Duration {
    stalled_after.max(LEAST_SILENCE)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_server_may_be_silent_until_a_stall_is_reported_but_at_least_for_a_minute() {
        for (stalled_after, silence) in [(5, 60), (60, 60), (300, 300)] {
            let silent = longest_silence(Duration::from_secs(stalled_after));
            assert_eq!(silent, Duration::from_secs(silence));
        }
    }
}
