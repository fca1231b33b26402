//! `--on-position-lost skip-with-marker`: continues after the oldest entry that still exists.

use oplog_relay_core::position::Position;
use oplog_relay_core::state::{GapReason, SourceMode, SourceRecord};
use oplog_relay_runtime::kafka::KafkaOptions;

use crate::config::position::Accepted;
use crate::error::ProducerError;
use crate::position::change::{Change, FirstPosition};
use crate::position::write::{self, Place};

/// Moves the saved position of a source forward to the oldest entry that its oplog has, and records the
/// gap. The oldest entry itself counts as part of the gap.
///
/// # Errors
/// [`crate::position::error::PositionChangeError`] if the position cannot be moved, as during a full
/// sync.
pub(crate) async fn skip_gap(
    kafka: &KafkaOptions,
    prefix: &str,
    source: &str,
    oldest: Position,
) -> Result<(), ProducerError> {
    let place = Place {
        kafka,
        prefix,
        source,
    };
    let saved = write::read(place).await?;
    let change = Change {
        prefix: prefix.to_owned(),
        wanted: oldest,
        accepted: Accepted {
            gap: true,
            // The position of this process itself is recent.
            fence: true,
            ..Accepted::default()
        },
        first: FirstPosition::Refused,
        reason: GapReason::PositionLost,
        identity: SourceRecord::new(source.to_owned(), SourceMode::Oplog),
    };
    let decided = write::change(place, &change).await?;
    write::report(&saved, decided.as_ref());
    Ok(())
}
