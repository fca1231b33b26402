//! The topics, read back: every record can be decoded, the entries of each key are in order, and
//! none comes twice, in whatever partition. Nothing is joined, committed or written.
//!
//! A topic that a source has claimed and that is not there is a fault. A partition that does not begin
//! at offset 0 has lost records to its retention, which may be what the operator wants: it is
//! reported, and what is left is judged.
//!
//! A partition is read to the end that it has when the audit begins, whose transactions are waited
//! for: see `ends`. Memory does not grow with the records: see `order` and `runs`. Barriers and the
//! copies of a command in other topics are no repetitions; snapshot records may repeat. Fragments are put together, and those of a record that
//! is not whole are a fault. A record that comes in fragments is where its last one is.

mod decoder;
pub(crate) mod log_end_offsets;
mod order;
mod progress;
mod reading;
mod runs;
mod tally;

use std::collections::BTreeMap;
use std::sync::Arc;

use oplog_relay_core::format::FormatError;
use oplog_relay_runtime::shutdown::Shutdown;

use crate::config::AuditConfig;
use crate::error::{ConsumerError, RecordPlace};
use crate::group::start::{Held, held};
use crate::verify::Verdict;
use crate::worker::topics::{Topic, Topics};

use crate::audit::log_end_offsets::Ends;
use decoder::Decoder;
use order::{Disorder, Kind, Sequence, Suspect, Trial};
use progress::Progress;
use reading::{Client, read};
use runs::{Place, Runs};
use tally::{Fault, Tally};

/// Entries of one partition that are suspected at most.
const SUSPECTS: usize = 100_000;

/// Reads the topics of a prefix; writes its findings to standard output and to the report.
///
/// # Errors
/// When Kafka cannot be read, or the report cannot be written.
pub async fn audit(config: &AuditConfig, shutdown: &Shutdown) -> Result<Verdict, ConsumerError> {
    let consumer = Arc::new(reading::open(&config.kafka)?);
    let (asked, prefix) = (Arc::clone(&consumer), config.prefix.clone());
    let ending = shutdown.clone();
    let mut partitions = blocking(move || held(&asked, &prefix, &ending)).await?;
    let is_there = |topic: &&String| partitions.iter().any(|held| held.name.topic == **topic);
    if let Some(missing) = config.topics.iter().find(|topic| !is_there(topic)) {
        return Err(ConsumerError::Usage(format!(
            "--topic: the prefix {} has no topic {missing}",
            config.prefix
        )));
    }
    if !config.topics.is_empty() {
        partitions.retain(|held| config.topics.contains(&held.name.topic));
    }
    let (asked, kafka, ending) = (
        Arc::clone(&consumer),
        config.kafka.clone(),
        shutdown.clone(),
    );
    let Ends { partitions, open } = blocking(move || {
        crate::audit::log_end_offsets::settled(&asked, &kafka, partitions, &ending)
    })
    .await?;
    // After the ends, so that every record up to them is of a format that its topic has or had.
    let topics = Topics::open(&config.kafka, &config.prefix, shutdown.clone()).await?;
    let mut claimed = BTreeMap::new();
    for held in partitions.iter().filter(|held| held.low < held.end) {
        if !claimed.contains_key(&held.name.topic) {
            let topic = topics.get(&held.name.topic).await?;
            claimed.insert(held.name.topic.clone(), topic);
        }
    }
    let mut tally = Tally::open(config.report.as_deref())?;
    for (topic, claimed) in topics.missing().await? {
        if config.topics.is_empty() {
            tally.missing(&topic, &claimed.source)?;
        }
    }
    for held in partitions.iter().filter(|held| held.low > 0) {
        tally.removed(held)?;
    }
    for held in &open {
        let (name, end) = (named(held), held.end);
        tally.unknown(format!(
            "{name} is committed up to offset {end} only; what was written since was not read"
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
    partitions: &'a [Held],
    shutdown: &'a Shutdown,
    progress: Progress,
    tally: Tally,
}

impl Audit<'_> {
    /// Source by source: only within one an entry can come twice.
    fn run(mut self, topics: &BTreeMap<String, Arc<Topic>>) -> Result<Verdict, ConsumerError> {
        let mut sources: Vec<&str> = topics.values().map(|topic| topic.source.as_str()).collect();
        sources.sort_unstable();
        sources.dedup();
        for held in self.partitions {
            self.tally.topic(&held.name.topic);
        }
        for source in sources {
            let mut runs = Runs::create().map_err(spilling)?;
            for (number, held) in self.partitions.iter().enumerate() {
                let topic = topics.get(&held.name.topic);
                if let Some(topic) = topic.filter(|topic| topic.source == source) {
                    self.partition(number, held, topic, &mut runs)?;
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
        held: &Held,
        topic: &Topic,
        runs: &mut Runs,
    ) -> Result<(), ConsumerError> {
        let (mut sequence, mut suspects) = (Sequence::default(), Vec::new());
        let mut decoder = Decoder::new(topic);
        let (tally, progress) = (&mut self.tally, &mut self.progress);
        runs.begin(number);
        let mut overflow = false;
        let whole = read(self.consumer, held, held.end, self.shutdown, |record| {
            progress.record(held, record.offset);
            let numbers = tally.topic(&held.name.topic);
            numbers.records += 1;
            if record.value.is_none() {
                numbers.tombstones += 1;
            }
            let mut kept = Ok(());
            let faults = decoder.entries(record, |entry| {
                if !entry.count(numbers) {
                    return;
                }
                if !sequence.take(entry.id) {
                    overflow |= suspects.len() >= SUSPECTS;
                    if !overflow {
                        suspects.push(entry.suspect(record.offset));
                    }
                } else if entry.kind == Kind::Change && kept.is_ok() {
                    kept = runs.push(entry.id, record.offset);
                }
            });
            kept.map_err(spilling)?;
            undecodable(tally, held, faults)
        })?;
        self.progress.partition(held);
        let name = named(held);
        if whole {
            undecodable(&mut self.tally, held, decoder.finish())?;
        } else {
            self.tally
                .unknown(format!("{name} could not be read to its end"))?;
        }
        if overflow {
            self.tally.unknown(format!(
                "{name} has more than {SUSPECTS} entries that are not behind all before them"
            ))?;
        }
        if suspects.is_empty() {
            return Ok(());
        }
        self.judge(held, topic, &suspects)?;
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

    /// Reads a partition once more for the keys of those that are suspected.
    fn judge(
        &mut self,
        held: &Held,
        topic: &Topic,
        suspects: &[Suspect],
    ) -> Result<(), ConsumerError> {
        let mut trial = Trial::new(suspects);
        let last = suspects.iter().map(|suspect| suspect.offset).max();
        let end = last.map_or(held.low, |last| last + 1);
        let mut decoder = Decoder::new(topic);
        let tally = &mut self.tally;
        let mut ignored = tally::Numbers::default();
        let whole = read(self.consumer, held, end, self.shutdown, |record| {
            let mut faults = Vec::new();
            // What cannot be decoded was reported the first time.
            drop(decoder.entries(record, |entry| {
                if entry.count(&mut ignored)
                    && let Some(disorder) = trial.take(&entry.suspect(record.offset))
                {
                    faults.push((entry.id, disorder));
                }
            }));
            for (id, disorder) in faults {
                let place = place(held, record.offset);
                match disorder {
                    Disorder::After(later) => {
                        let reason = format!("entry {id} comes after {later} of the same key");
                        tally.fault(Fault::OutOfOrder, &place, &reason)?;
                    }
                    Disorder::Twice => {
                        let reason = format!("command {id} comes twice");
                        tally.fault(Fault::Twice, &place, &reason)?;
                    }
                }
            }
            Ok(())
        })?;
        if !whole {
            self.tally
                .unknown(format!("{} could not be read a second time", named(held)))?;
        }
        Ok(())
    }

    fn twice(&mut self, runs: Runs) -> Result<(), ConsumerError> {
        let mut failure = None;
        let (partitions, tally) = (self.partitions, &mut self.tally);
        let at = |(number, offset): Place| partitions.get(number).map(|held| place(held, offset));
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
    held: &Held,
    faults: impl IntoIterator<Item = (i64, FormatError)>,
) -> Result<(), ConsumerError> {
    for (offset, error) in faults {
        tally.fault(Fault::Undecodable, &place(held, offset), &told(&error))?;
    }
    Ok(())
}

fn named(held: &Held) -> String {
    format!("{}, partition {}", held.name.topic, held.name.partition)
}

fn place(held: &Held, offset: i64) -> RecordPlace {
    RecordPlace {
        topic: held.name.topic.clone(),
        partition: held.name.partition,
        offset,
    }
}

fn spilling(error: std::io::Error) -> ConsumerError {
    ConsumerError::Output("a temporary file".to_owned(), error)
}

/// The error and what caused it.
fn told(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(next) = cause {
        text = format!("{text}: {next}");
        cause = next.source();
    }
    text
}
