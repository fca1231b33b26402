//! How fast it is, as ratios within one run on one machine.
//!
//! Everything but the stub server is real: a Kafka broker, the release binary, the client
//! libraries. Each case runs in a process of its own, so that processor time and memory are
//! comparable, and its entries are counted in Kafka afterwards as a `read_committed` reader sees
//! them: another count is an error, not a result. That each is there once is for other tests.
//!
//! | case | what runs |
//! | --- | --- |
//! | `cursor` | the driver's raw batch cursor, tailable; every batch is walked, nothing more |
//! | `producer` | librdkafka with lz4, payloads and keys made before |
//! | `loop` | the two in a straight line: cursor, key, librdkafka; no transactions, no headers |
//! | `raw`, `bson`, `json` | `oplog-producer run --until-caught-up` in that format, exactly once |
//!
//! All cases have the same number of entries and the same settings of librdkafka's queue. The
//! time of a case is that from the start of its process to its end: it includes starting,
//! connecting, and for ours creating topics and reading the checkpoint. The `steady` rate leaves
//! out what comes before the first request for entries. The ratio is that of the whole times.
//!
//! | file | holds |
//! | --- | --- |
//! | `options` | what can be typed |
//! | `case` | the cases, and how each is started |
//! | `baseline` | the first three cases, as the child process runs them |
//! | `sample` | processor time and memory of a process |
//! | `measure` | one case, from start to end |
//! | `topic` | topics: made, counted, removed |
//! | `table` | the result |

mod baseline;
mod case;
mod measure;
mod options;
mod sample;
mod table;
mod topic;

use anyhow::{Result, ensure};

use self::case::{Case, Place};
use self::measure::{Measured, measure};
use self::options::Options;
use self::table::Table;
use crate::services::{Kafka, KafkaOptions};
use crate::stub::{Shape, StubProcess};

/// What the command line may hold.
pub use self::options::USAGE;

/// The argument by which the bench starts itself as a case.
const CASE: &str = "case";

/// Does what the command line asks for.
///
/// # Errors
/// A case that failed, or whose entries are not all in Kafka.
pub fn run(args: &[String]) -> Result<()> {
    if let Some((CASE, args)) = args
        .split_first()
        .map(|(first, rest)| (first.as_str(), rest))
    {
        return baseline::run(args);
    }
    let options = Options::parse(args)?;
    ensure!(
        !cfg!(debug_assertions) || options.allow_debug,
        "a debug build measures nothing: cargo run --release"
    );
    println!("{}", table::machine());
    let kafka = Kafka::start(&KafkaOptions {
        heap_mb: 2048,
        properties: vec![("log.segment.delete.delay.ms".into(), "1000".into())],
    })?;
    let stub = StubProcess::start(options.entries, Shape::Inserts)?;
    for partitions in &options.partitions {
        let bench = Bench {
            kafka: &kafka,
            stub: &stub,
            options: &options,
            partitions: *partitions,
        };
        println!("\n{}", bench.table()?);
    }
    Ok(())
}

/// The cases with one number of partitions.
#[derive(Debug)]
struct Bench<'b> {
    kafka: &'b Kafka,
    stub: &'b StubProcess,
    options: &'b Options,
    partitions: u32,
}

impl Bench<'_> {
    fn table(&self) -> Result<Table> {
        // Java compiles what it runs often: the first case must not pay for it.
        eprintln!("warming up");
        self.run(Case::Loop, "warm")?;
        let mut table = Table::new(self.partitions, self.options.entries, self.stub.bytes());
        for round in 1..=self.options.rounds {
            for case in &self.options.cases {
                let measured = self.run(*case, &round.to_string())?;
                eprintln!("round {round}: {} in {:.2?}", case.name(), measured.total);
                table.add(*case, measured);
            }
        }
        Ok(table)
    }

    fn run(&self, case: Case, round: &str) -> Result<Measured> {
        let brokers = self.kafka.brokers();
        let place = Place {
            prefix: format!("{}-{}-{round}", case.name(), self.partitions),
            source: self.stub.uri(),
            brokers: &brokers,
            partitions: self.partitions,
            entries: self.options.entries,
        };
        if case.is_baseline() && case.writes() {
            topic::create(&place)?;
        }
        let measured = measure(case, &place, self.stub.id())?;
        if case.writes() {
            let found = topic::count_entries(&place)?;
            ensure!(
                found == self.options.entries,
                "{}: {found} of {} entries are in Kafka",
                case.name(),
                self.options.entries,
            );
            topic::remove(&place)?;
        }
        Ok(measured)
    }
}
