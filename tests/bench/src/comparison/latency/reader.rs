//! A `read_committed` reader of the first collection's topic.

use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use oplog_relay_core::document::Document;
use oplog_relay_core::entry::Entry;
use rdkafka::Message;
use rdkafka::consumer::BaseConsumer;
use rdkafka::error::KafkaError;

use super::times::{Span, Times, now_millis};
use crate::comparison::case::Place;
use crate::comparison::topic;

/// The longest time without a record.
const SILENT: Duration = Duration::from_secs(30);

/// The reader.
pub(super) struct Reader {
    consumer: BaseConsumer,
}

impl Reader {
    /// Opens the topic, which must exist.
    pub(super) fn open(place: &Place<'_>) -> Result<Reader> {
        let topics = [(topic::name(place), i32::try_from(place.partitions)?)];
        Ok(Reader {
            consumer: topic::reader(place.brokers, &topics)?,
        })
    }

    /// Returns the latencies of the entries that were committed within the span. `between` runs
    /// between two records, and at least ten times a second.
    pub(super) fn read(
        &self,
        span: &Span,
        mut between: impl FnMut() -> Result<()>,
    ) -> Result<Times> {
        let mut times = Times::default();
        let mut last = Instant::now();
        loop {
            ensure!(last.elapsed() < SILENT, "no record arrives");
            between()?;
            let message = match self.consumer.poll(Duration::from_millis(100)) {
                None | Some(Err(KafkaError::PartitionEOF(_))) => continue,
                Some(message) => message?,
            };
            let now = now_millis();
            last = Instant::now();
            let Some(payload) = message.payload().filter(|_| message.key().is_some()) else {
                // A barrier or a command, which a reader of documents skips.
                continue;
            };
            let entry = Entry::parse(Document::new(payload).context("no entry")?)?;
            let Some(wall) = entry.wall else {
                bail!("an entry without wall");
            };
            if span.is_over(wall) {
                return Ok(times);
            }
            if span.includes(wall) {
                times.add(wall, now - wall as f64);
            }
        }
    }
}
