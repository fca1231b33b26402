//! The audit reads the topics back and checks that every record can be decoded, that the entries of
//! each key are in order, and that no entry occurs twice, in the same or in different partitions. The
//! audit does not join a consumer group, commit offsets or write records.
//!
//! A topic that a source has claimed but that does not exist is a fault. A partition that does not
//! start at offset 0 has lost records to retention or to an operator, which may be intended. The
//! audit reports it and checks the remaining records.
//!
//! Each partition is read up to the end offset that it has when the audit starts. The audit first
//! waits for open transactions: see `log_end_offsets`. Memory does not grow with the number of
//! records: see `order` and `runs`. Barriers, and copies of a command in other topics, do not count
//! as repeated entries, and records of a full sync may occur several times. Fragments are
//! reassembled, and an incomplete record is a fault. The position of a fragmented record is that of
//! its last fragment; if the record cannot be decoded, it is that of the first one.
//!
//! # Modules
//!
//! - `reading` reads a partition from its first record up to an offset; `log_end_offsets` finds
//!   that offset
//! - `decoder` decodes records into entries
//! - `order` checks the order of the entries of each key
//! - `runs` finds entries that occur twice
//! - `tally` has the counts, and writes the findings
//! - `progress` shows the progress

mod decoder;
pub(crate) mod log_end_offsets;
mod order;
mod progress;
mod reading;
mod runs;
mod tally;

use std::collections::BTreeMap;
use std::sync::Arc;

use oplog_relay_runtime::shutdown::Shutdown;

use crate::audit::decoder::DecodingFault;
use crate::config::AuditConfig;
use crate::error::ConsumerError;
use crate::group::start::{LogRange, log_ranges};
use crate::input::Input;
use crate::record_position::RecordPosition;
use crate::verify::Verdict;
use crate::worker::topic_error::TopicError;
use crate::worker::topics::{Topic, Topics};

use crate::audit::log_end_offsets::{Ends, wait_for_open_transactions};
use decoder::Decoder;
use order::{Disorder, Kind, SecondPass, Sequence, Suspect};
use progress::Progress;
use reading::{Client, read};
use runs::{Place, Runs};
use tally::{Fault, Tally};

/// Maximum number of suspected entries of one partition.
const SUSPECTS: usize = 100_000;

/// Returns the claims of the topics that have records.
async fn claimed_topics(
    topics: &Topics,
    partitions: &[LogRange],
) -> Result<BTreeMap<String, Arc<Topic>>, ConsumerError> {
    let mut claimed = BTreeMap::new();
    for range in partitions.iter().filter(|range| range.low < range.end) {
        let name = &range.name.topic;
        if !claimed.contains_key(name) {
            let topic = topics.get(name).await?;
            if !topic.format.is_decodable() {
                return Err(TopicError::ForReaders {
                    topic: name.clone(),
                    format: topic.format,
                }
                .into());
            }
            claimed.insert(name.clone(), topic);
        }
    }
    Ok(claimed)
}

/// Reads the topics of a prefix and writes the findings to standard output and to the report.
///
/// # Errors
/// Returns an error if Kafka cannot be read, if a topic cannot be audited, or if the report cannot
/// be written.
pub async fn audit(config: &AuditConfig, shutdown: &Shutdown) -> Result<Verdict, ConsumerError> {
    let consumer = Arc::new(reading::open(&config.kafka)?);
    let input = Input::Relay {
        prefix: config.prefix.clone(),
    };
    let (asked, searched) = (Arc::clone(&consumer), input.clone());
    let ending = shutdown.clone();
    let mut partitions = blocking(move || log_ranges(&asked, &searched, &ending)).await?;
    let exists = |topic: &&String| partitions.iter().any(|range| range.name.topic == **topic);
    if let Some(missing) = config.topics.iter().find(|topic| !exists(topic)) {
        return Err(TopicError::NotOfPrefix {
            topic: missing.clone(),
            prefix: config.prefix.clone(),
        }
        .into());
    }
    if !config.topics.is_empty() {
        partitions.retain(|range| config.topics.contains(&range.name.topic));
    }
    let (asked, kafka, ending) = (
        Arc::clone(&consumer),
        config.kafka.clone(),
        shutdown.clone(),
    );
    let Ends { partitions, open } =
        blocking(move || wait_for_open_transactions(&asked, &kafka, partitions, &ending)).await?;
    // The topic table is read after the end offsets, so that it lists the formats of all records before
    // them.
    let topics = Topics::open(&config.kafka, &input, shutdown.clone()).await?;
    let claimed = claimed_topics(&topics, &partitions).await?;
    let mut tally = Tally::open(config.report.as_deref())?;
    for missing in topics.missing().await? {
        if config.topics.is_empty() {
            tally.missing(&missing.name, &missing.topic.source)?;
        }
    }
    tally.gaps(&topics.gaps())?;
    for range in partitions.iter().filter(|range| range.low > 0) {
        tally.removed(range)?;
    }
    for range in &open {
        let (name, end) = (named(range), range.end);
        tally.unknown(format!(
            "{name} has an open transaction at offset {end}; later records were not read"
        ))?;
    }
    let ending = shutdown.clone();
    blocking(move || {
        let audit = Audit {
            consumer: &consumer,
            partitions: &partitions,
            shutdown: &ending,
            progress: Progress::of(&partitions),
            tally,
        };
        audit.run(&claimed)
    })
    .await
}

async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, ConsumerError> + Send + 'static,
) -> Result<T, ConsumerError> {
    tokio::task::spawn_blocking(work)
        .await
        .map_err(|_| ConsumerError::Ended("the audit"))?
}

struct Audit<'a> {
    consumer: &'a Client,
    partitions: &'a [LogRange],
    shutdown: &'a Shutdown,
    progress: Progress,
    tally: Tally,
}

impl Audit<'_> {
    /// Audits source by source, because an entry can occur twice only within one source.
    fn run(mut self, topics: &BTreeMap<String, Arc<Topic>>) -> Result<Verdict, ConsumerError> {
        let mut sources: Vec<&str> = topics.values().map(|topic| topic.source.as_str()).collect();
        sources.sort_unstable();
        sources.dedup();
        for range in self.partitions {
            self.tally.topic(&range.name.topic);
        }
        for source in sources {
            let mut runs = Runs::create().map_err(spilling)?;
            for (number, range) in self.partitions.iter().enumerate() {
                let topic = topics.get(&range.name.topic);
                if let Some(topic) = topic.filter(|topic| topic.source == source) {
                    self.partition(number, range, topic, &mut runs)?;
                }
            }
            self.twice(runs)?;
        }
        drop(self.progress);
        self.tally.finish()
    }

    fn partition(
        &mut self,
        number: usize,
        range: &LogRange,
        topic: &Topic,
        runs: &mut Runs,
    ) -> Result<(), ConsumerError> {
        let (mut sequence, mut suspects) = (Sequence::default(), Vec::new());
        let mut decoder = Decoder::new(topic);
        let (tally, progress) = (&mut self.tally, &mut self.progress);
        runs.begin(number);
        let mut overflow = false;
        let whole = read(self.consumer, range, range.end, self.shutdown, |record| {
            progress.record(range, record.offset);
            let numbers = tally.topic(&range.name.topic);
            numbers.records += 1;
            if record.value.is_none() {
                numbers.tombstones += 1;
            }
            let mut pushed = Ok(());
            let faults = decoder.entries(record, |entry| {
                if !entry.count(numbers) {
                    return;
                }
                if !sequence.take(entry.id) {
                    overflow |= suspects.len() >= SUSPECTS;
                    if !overflow {
                        suspects.push(entry.suspect(record.offset));
                    }
                } else if entry.kind == Kind::Change && pushed.is_ok() {
                    pushed = runs.push(entry.id, record.offset);
                }
            });
            pushed.map_err(spilling)?;
            undecodable(tally, range, faults)
        })?;
        self.progress.partition(range);
        let name = named(range);
        if whole {
            undecodable(&mut self.tally, range, decoder.finish())?;
        } else {
            self.tally
                .unknown(format!("{name} could not be read to its end"))?;
        }
        if overflow {
            self.tally.unknown(format!(
                "{name} has more than {SUSPECTS} entries that are out of order in the partition"
            ))?;
        }
        if suspects.is_empty() {
            return Ok(());
        }
        self.check_suspects(range, topic, &suspects)?;
        suspects.sort_by_key(|suspect| (suspect.id, suspect.offset));
        runs.begin(number);
        for suspect in suspects
            .iter()
            .filter(|suspect| suspect.kind == Kind::Change)
        {
            runs.push(suspect.id, suspect.offset).map_err(spilling)?;
        }
        Ok(())
    }

    /// Reads a partition again to check the order of the keys of the suspected entries.
    fn check_suspects(
        &mut self,
        range: &LogRange,
        topic: &Topic,
        suspects: &[Suspect],
    ) -> Result<(), ConsumerError> {
        let mut second_pass = SecondPass::new(suspects);
        let last = suspects.iter().map(|suspect| suspect.offset).max();
        let end = last.map_or(range.low, |last| last + 1);
        let mut decoder = Decoder::new(topic);
        let tally = &mut self.tally;
        let mut ignored = tally::Numbers::default();
        let whole = read(self.consumer, range, end, self.shutdown, |record| {
            let mut faults = Vec::new();
            // The first pass has reported the decoding faults.
            drop(decoder.entries(record, |entry| {
                if entry.count(&mut ignored)
                    && let Some(disorder) = second_pass.take(&entry.suspect(record.offset))
                {
                    faults.push((entry.id, disorder));
                }
            }));
            for (id, disorder) in faults {
                let position = position(range, record.offset);
                match disorder {
                    Disorder::After(later) => {
                        let reason = format!("entry {id} comes after {later} of the same key");
                        tally.fault(Fault::OutOfOrder, &position, &reason)?;
                    }
                    Disorder::Twice => {
                        let reason = format!("command {id} occurs twice");
                        tally.fault(Fault::Twice, &position, &reason)?;
                    }
                }
            }
            Ok(())
        })?;
        if !whole {
            self.tally
                .unknown(format!("{} could not be read a second time", named(range)))?;
        }
        Ok(())
    }

    fn twice(&mut self, runs: Runs) -> Result<(), ConsumerError> {
        let mut failure = None;
        let (partitions, tally) = (self.partitions, &mut self.tally);
        let at = |place: Place| {
            let range = partitions.get(place.partition)?;
            Some(position(range, place.offset))
        };
        let merged = runs.merge(|id, one, other| {
            if failure.is_none()
                && let (Some(one), Some(other)) = (at(one), at(other))
            {
                let reason = format!("entry {id} is also in {one}");
                failure = tally.fault(Fault::Twice, &other, &reason).err();
            }
            Ok(())
        });
        merged.map_err(spilling)?;
        failure.map_or(Ok(()), Err)
    }
}

fn undecodable(
    tally: &mut Tally,
    range: &LogRange,
    faults: impl IntoIterator<Item = DecodingFault>,
) -> Result<(), ConsumerError> {
    for DecodingFault { offset, fault } in faults {
        tally.fault(
            Fault::Undecodable,
            &position(range, offset),
            &with_causes(&fault),
        )?;
    }
    Ok(())
}

fn named(range: &LogRange) -> String {
    format!("{}, partition {}", range.name.topic, range.name.partition)
}

fn position(range: &LogRange, offset: i64) -> RecordPosition {
    let name = range.name.clone();
    RecordPosition { name, offset }
}

fn spilling(error: std::io::Error) -> ConsumerError {
    ConsumerError::Output {
        file: "a temporary file".to_owned(),
        source: error,
    }
}

/// Returns the text of an error and its causes.
fn with_causes(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(next) = cause {
        text = format!("{text}: {next}");
        cause = next.source();
    }
    text
}
