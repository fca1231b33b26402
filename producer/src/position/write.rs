//! Writes a changed position.

use oplog_relay_core::topic::{position_topic, state_topic};
use oplog_relay_runtime::clock::now_ms;
use oplog_relay_runtime::kafka::{KafkaOptions, Reader};

use crate::error::ProducerError;
use crate::position::change::{Change, Decided, Direction};
use crate::publish::{Oversize, Publisher, RecordSizes};
use crate::saved::checkpoint::Checkpoint;

/// The largest record that is written here: a record of a source with its gaps.
const LARGEST: usize = 1 << 20;

/// The source whose position changes.
#[derive(Debug, Clone, Copy)]
pub(super) struct Place<'p> {
    /// Connection settings of Kafka.
    pub(super) kafka: &'p KafkaOptions,
    /// First part of the topic names.
    pub(super) prefix: &'p str,
    /// Name of the source.
    pub(super) source: &'p str,
}

/// Reads what is saved for a source.
pub(super) async fn read(place: Place<'_>) -> Result<Checkpoint, ProducerError> {
    Checkpoint::read(&Reader::new(place.kafka), place.prefix, place.source).await
}

/// Makes a change: checks it, fences a running producer, checks it again against what that producer
/// has saved last, and writes it. Returns what was written; `None` if the position was saved already.
///
/// # Errors
/// [`crate::position::error::PositionChangeError`]; [`ProducerError::Fenced`] if a producer has started
/// meanwhile: nothing is changed then.
pub(super) async fn change(
    place: Place<'_>,
    change: &Change,
) -> Result<Option<Decided>, ProducerError> {
    // A change that is refused must not fence a producer.
    let saved = read(place).await?;
    if change.decide(&saved, now_ms())?.is_none() {
        return Ok(None);
    }
    change.check_stopped(&saved, now_ms())?;
    let publisher = fence(place).await?;
    let decided = change.decide(&read(place).await?, now_ms());
    let decided = decided.inspect_err(|_| {
        tracing::warn!(
            "a producer has moved the position meanwhile. It is fenced now, and ends with exit code 5 or, \
             with --high-availability, continues by itself; nothing was changed"
        );
    })?;
    let Some(decided) = decided else {
        return Ok(None);
    };
    let (written, states) = (decided.clone(), state_topic(place.prefix, place.source));
    blocking(move || write(publisher, &states, &written)).await?;
    Ok(Some(decided))
}

/// Logs what a change means for the topics and the targets. `saved` is what was saved before it.
pub(super) fn report(saved: &Checkpoint, decided: Option<&Decided>) {
    let before = saved
        .position
        .map_or_else(|| "none".to_owned(), |position| position.to_string());
    let Some(decided) = decided else {
        tracing::info!(position = before, "the position is saved already");
        return;
    };
    let (position, term) = (&decided.position.ts, decided.position.term);
    match decided.direction {
        Direction::First => tracing::info!(
            position,
            term,
            "the first position is saved: oplog-producer run continues after it, without --start and \
             without a copy of the existing documents"
        ),
        Direction::Back => tracing::info!(
            position,
            term,
            before,
            "the position is set back: the entries after it are sent again, with the same identities. A \
             replay applies them again; other readers get them twice, and oplog-consumer audit reports \
             them"
        ),
        Direction::Forward => tracing::warn!(
            position,
            term,
            before,
            "the position is set forward: the entries between the two are never sent. The gap is \
             recorded; correct the targets with oplog-consumer verify --repair"
        ),
    }
}

/// Opens the transactional producer of a source.
async fn fence(place: Place<'_>) -> Result<Publisher, ProducerError> {
    let kafka = place.kafka.clone();
    let (prefix, source) = (place.prefix.to_owned(), place.source.to_owned());
    let sizes = RecordSizes {
        oversize: Oversize::Stop,
        smallest_limit: LARGEST,
        position_limit: LARGEST,
    };
    blocking(move || {
        let transactional_id = format!("{prefix}.{source}");
        let topic = position_topic(&prefix, &source);
        Publisher::open(&kafka, &transactional_id, &topic, &source, sizes)
    })
    .await
}

fn write(mut publisher: Publisher, states: &str, decided: &Decided) -> Result<(), ProducerError> {
    if let Some(source) = &decided.source {
        let value = serde_json::to_vec(source)
            .expect("a record of a source has only texts and numbers, which JSON can express");
        publisher.save(states, "source", &value)?;
    }
    publisher.commit(&decided.position).map(drop)
}

async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, ProducerError> + Send + 'static,
) -> Result<T, ProducerError> {
    tokio::task::spawn_blocking(work)
        .await
        .map_err(|_| ProducerError::Ended("the thread that writes the position ended"))?
}
