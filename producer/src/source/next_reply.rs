//! Waiting for the next reply of a cursor that stays open at the end of a stream.

use std::time::Duration;

use futures_util::StreamExt as _;
use mongodb::raw_batch_cursor::{RawBatch, RawBatchCursor};
use tokio::sync::mpsc::Sender;
use tokio::sync::mpsc::error::TrySendError;

use crate::source::SourceEvent;

/// The result of waiting for a cursor.
#[derive(Debug)]
pub(super) enum NextReply {
    /// A reply, which may be empty.
    Reply(RawBatch),
    /// The driver reports an error.
    Failed(mongodb::error::Error),
    /// The cursor has ended.
    End,
    /// There was no reply for too long, not even an empty one.
    Silence,
    /// The receiver of the events is gone.
    Closed,
}

/// The times after which a cursor without a reply counts as idle, and its server as unreachable.
#[derive(Debug, Clone, Copy)]
pub(super) struct Patience {
    /// Time after which the cursor counts as idle.
    pub(super) idle_after: Duration,
    /// Time, once the cursor counts as idle, after which its server counts as unreachable.
    pub(super) silent_after: Duration,
}

/// Returns the event of a source that has no further entries at the moment.
pub(super) const fn at_rest(is_caught_up: bool) -> SourceEvent {
    match is_caught_up {
        true => SourceEvent::CaughtUp,
        false => SourceEvent::Idle,
    }
}

/// Passes on an empty reply, so that later stages know that the source responds. A full queue shows
/// that as well, so the event is omitted then. Returns false if the receiver of the events is gone.
pub(super) fn pass_on_empty(is_caught_up: bool, events: &Sender<SourceEvent>) -> bool {
    let passed = events.try_send(at_rest(is_caught_up));
    !matches!(passed, Err(TrySendError::Closed(_)))
}

/// Waits for the next reply. Sends [`SourceEvent::Idle`] once if no reply arrives within
/// `idle_after`; `is_idle_sent` is true if the event was sent.
pub(super) async fn next_reply(
    cursor: &mut RawBatchCursor,
    patience: Patience,
    is_idle_sent: &mut bool,
    events: &Sender<SourceEvent>,
) -> NextReply {
    let next = cursor.next();
    tokio::pin!(next);
    loop {
        tokio::select! {
            biased;
            reply = &mut next => {
                return match reply {
                    None => NextReply::End,
                    Some(Ok(reply)) => NextReply::Reply(reply),
                    Some(Err(error)) => NextReply::Failed(error),
                };
            }
            () = tokio::time::sleep(patience.silent_after), if *is_idle_sent => {
                return NextReply::Silence;
            }
            () = tokio::time::sleep(patience.idle_after), if !*is_idle_sent => {
                *is_idle_sent = true;
                if events.send(SourceEvent::Idle).await.is_err() {
                    return NextReply::Closed;
                }
            }
        }
    }
}
