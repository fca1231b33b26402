//! The speed and the memory of both programs, as ratios within one run on one machine.
//!
//! Everything but the stub servers and the schema registry is real: a Kafka broker, FerretDB, the
//! release binaries, the client libraries. Each case runs in its own process, so that processor
//! time and memory are comparable. The bench counts the entries that arrived: in Kafka as a
//! `read_committed` reader sees them, in the stub as acknowledged statements, and in FerretDB as
//! documents. Missing entries are an error, not a result. Other tests check that each entry arrives
//! exactly once.
//!
//! | case | what runs | its ratio is relative to |
//! | --- | --- | --- |
//! | `cursor` | the driver's raw batch cursor, tailable; it iterates over every batch, nothing else | `loop` |
//! | `producer` | librdkafka with lz4; payloads and keys are prepared | `loop` |
//! | `loop` | a loop of both: cursor, key, librdkafka; no transactions, no headers | |
//! | `raw`, `bson`, `json` | `oplog-producer run --until-caught-up` in that format, exactly once | `loop` |
//! | `json-oplog`, `json-debezium`, `json-snapshot`, `json-headers`, `avro` | the same in the other envelopes, as latest states, with headers for routers, and in Avro | `loop` |
//! | `ranges` | four of the driver's cursors at once, each over a range of `_id` of one collection; they iterate over every batch, nothing else | `ranges-loop` |
//! | `ranges-loop` | the same, sent by librdkafka with keys; no transactions, no headers | |
//! | `copy` | `oplog-producer run --sync full` of that collection, bson, exactly once | `ranges-loop`, and `ranges` below the table |
//! | `consume` | librdkafka's consumer reads the bson topic | |
//! | `emit-raw`, `emit-bson` | `oplog-consumer emit` of the same entries to `/dev/null` | `consume` |
//! | `commands-…` | the driver sends the bulk commands of a replay, planned and written from entries in memory; no Kafka | |
//! | `replay-raw-…`, `replay-…` | `oplog-consumer replay` of a raw and of a bson topic: inserts, updates, both with deletes, into a stub that acknowledges at once; inserts from bson into FerretDB | `commands-…` of the same entries |
//!
//! | other measurement | what is reported |
//! | --- | --- |
//! | `latency` | at three rates, caught up: from the source commit to a `read_committed` reader and to the target |
//! | `steady` | the worst seconds of ten minutes, with new topics, commands and rebalances in between |
//! | `idle` | processor time of idle programs |
//! | `large` | the memory that documents of 16 MB need |
//! | `ddl` | the lag of both programs while collections are created and dropped |
//! | `takeover` | the time until another instance follows the source of an instance that has ended |
//! | `growth` | speed and memory over partitions, collections and entries; the curves as a picture |
//!
//! The cases of a group have the same number of entries. The plain producer has the compression,
//! the batch size and the queue size of `oplog-producer`. A rate counts from the moment at which a
//! case is connected, and the ratio is that of the rates. The start before that has its own column:
//! connecting, and for this project's programs creating topics, initializing the transactional
//! producer, reading the checkpoint and joining the group. The work after the last entry is part of
//! the rate: the last commit, and for a consumer the detection that it is caught up. Each figure is
//! shown beside its goal, with a note that says whether the goal was met.
//!
//! | file | holds |
//! | --- | --- |
//! | `options` | the command line |
//! | `case` | the cases, and how each is started |
//! | `baseline` | the baseline cases, as the child process runs them |
//! | `scene` | the servers; runs a case and checks that everything arrived |
//! | `ratios` | the cases with one number of partitions, and what they read |
//! | `latency`, `idle`, `large`, `ddl`, `takeover`, `growth` | the measurements other than ratios |
//! | `sample` | processor time and memory of a process |
//! | `measure` | one case, from start to end |
//! | `topic`, `target` | topics: created, counted, removed; the writes that reached a target |
//! | `table`, `verdict`, `svg` | the results: as text, beside their goals, as a picture |

mod baseline;
mod case;
mod ddl;
mod growth;
mod idle;
mod large;
mod latency;
mod measure;
mod options;
mod ratios;
mod sample;
mod scene;
mod svg;
mod table;
mod takeover;
mod target;
mod topic;
mod verdict;

use anyhow::{Context, Result, ensure};

use self::case::Group;
use self::options::{Extra, Options};
use self::ratios::Ratios;
use self::scene::Scene;
use oplog_relay_kit::stub::{Flow, Recipe, Shape, StubProcess};

/// The usage text of the command line.
pub use self::options::USAGE;

/// The argument with which the bench starts itself as a case.
const CASE: &str = "case";

/// Runs the cases that the command line names.
///
/// # Errors
/// A case failed, or its entries did not all arrive.
pub fn run(args: &[String]) -> Result<()> {
    if let Some((CASE, args)) = args
        .split_first()
        .map(|(first, rest)| (first.as_str(), rest))
    {
        return match args.split_first() {
            Some((name, args)) if name == latency::plain::NAME => latency::plain::run(args),
            _ => baseline::run(args),
        };
    }
    let options = Options::parse(args)?;
    ensure!(
        !cfg!(debug_assertions) || options.allow_debug,
        "the figures of a debug build are meaningless: use cargo run --release"
    );
    println!("{}", table::machine());
    let scene = Scene::start()?;
    if !options.cases.is_empty() {
        compare(&scene, &options)?;
    }
    for extra in &options.extras {
        println!("\n{}", measure_extra(*extra, &scene, &options)?);
    }
    Ok(())
}

fn compare(scene: &Scene, options: &Options) -> Result<()> {
    let recipe = Recipe::new(options.entries, Shape::Inserts);
    let source = StubProcess::start(&recipe, Flow::Past)?;
    for partitions in &options.partitions {
        let mut ratios = Ratios {
            scene,
            options,
            source: &source,
            partitions: *partitions,
            inputs: Vec::new(),
        };
        for (group, _) in Group::NAMES {
            if let Some(table) = ratios.table(group)? {
                println!("\n{table}");
            }
        }
        ratios.close()?;
    }
    Ok(())
}

fn measure_extra(extra: Extra, scene: &Scene, options: &Options) -> Result<String> {
    match extra {
        Extra::Latency => latency::measure(scene, options),
        Extra::Steady => latency::steady::measure(scene, options),
        Extra::Idle => idle::measure(scene, options),
        Extra::Large => large::measure(scene, options),
        Extra::Ddl => ddl::measure(scene, options),
        Extra::Takeover => takeover::measure(scene, options),
        Extra::Growth => {
            let (text, charts) = growth::measure(scene, options)?;
            if let Some(path) = &options.svg {
                std::fs::write(path, svg::draw(&charts)?)
                    .with_context(|| format!("cannot write {}", path.display()))?;
            }
            Ok(text)
        }
    }
}
