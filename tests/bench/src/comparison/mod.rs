//! How fast it is, as ratios within one run on one machine, and in how much memory.
//!
//! Everything but the stub servers is real: a Kafka broker, FerretDB, the release binaries, the
//! client libraries. Each case runs in a process of its own, so that processor time and memory are
//! comparable, and what arrived is counted afterwards: in Kafka as a `read_committed` reader sees
//! it, in a target by what it acknowledged. Another count is an error, not a result. That each
//! entry is there once is for other tests.
//!
//! | case | what runs | its ratio is against |
//! | --- | --- | --- |
//! | `cursor` | the driver's raw batch cursor, tailable; every batch is walked, nothing more | |
//! | `producer` | librdkafka with lz4, payloads and keys made before | |
//! | `loop` | the two in a straight line: cursor, key, librdkafka; no transactions, no headers | |
//! | `raw`, `bson`, `json` | `oplog-producer run --until-caught-up` in that format, exactly once | `loop` |
//! | `ranges` | four of the driver's cursors at once, each over a range of `_id` of one collection; every batch is walked, nothing more | `ranges-loop` |
//! | `ranges-loop` | the same, with key and librdkafka behind them; no transactions, no headers | |
//! | `copy` | `oplog-producer run --sync full` of that collection, bson, exactly once | `ranges-loop`, and `ranges` below the table |
//! | `consume` | librdkafka's consumer reads the bson topic | |
//! | `emit-raw`, `emit-bson` | `oplog-consumer emit` of the same entries to `/dev/null` | `consume` |
//! | `commands-…` | the driver sends the bulk commands of a replay, planned and written from entries in memory; no Kafka | |
//! | `replay-raw-…`, `replay-…` | `oplog-consumer replay` of a raw and of a bson topic: inserts, updates, both with deletes, into a stub that acknowledges at once; inserts from bson into FerretDB | `commands-…` of the same entries |
//!
//! | beside them | what is told |
//! | --- | --- |
//! | `latency` | a thousand entries a second, caught up: source commit to `read_committed` reader |
//! | `idle` | processor time while nothing happens |
//! | `large` | the memory that documents of 16 MB take |
//! | `ddl` | how far behind both programs are while collections come and go |
//! | `growth` | speed and memory over partitions, collections and entries; the curves as a picture |
//!
//! The cases of a group have the same number of entries and the same settings of librdkafka's
//! queue. A rate counts from the moment that a case is connected, and the ratio is that of the rates.
//! What comes before, the start, has its own column: connecting, and for ours creating topics,
//! opening the transactional producer, reading the checkpoint, joining the group. What comes after
//! the last entry is in the rate: the last commit, and of a consumer seeing that it is caught up.
//! Beside each figure stands what was aimed at, and whether it was met.
//!
//! | file | holds |
//! | --- | --- |
//! | `options` | what can be typed |
//! | `case` | the cases, and how each is started |
//! | `baseline` | those that are not ours, as the child process runs them |
//! | `scene` | the servers; runs a case and looks whether everything arrived |
//! | `ratios` | the cases with one number of partitions, and what they read |
//! | `latency`, `idle`, `large`, `ddl`, `growth` | what is told beside ratios |
//! | `sample` | processor time and memory of a process |
//! | `measure` | one case, from start to end |
//! | `topic`, `target` | topics: made, counted, removed; what reached a target |
//! | `table`, `verdict`, `svg` | the result: as text, beside what was aimed at, as a picture |

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
mod target;
mod topic;
mod verdict;

use anyhow::{Context, Result, ensure};

use self::case::Group;
use self::options::{Extra, Options};
use self::ratios::Ratios;
use self::scene::Scene;
use oplog_relay_kit::stub::{Flow, Recipe, Shape, StubProcess};

/// What the command line may hold.
pub use self::options::USAGE;

/// The argument by which the bench starts itself as a case.
const CASE: &str = "case";

/// Does what the command line asks for.
///
/// # Errors
/// A case that failed, or whose entries did not all arrive.
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
        Extra::Idle => idle::measure(scene, options),
        Extra::Large => large::measure(scene, options),
        Extra::Ddl => ddl::measure(scene, options),
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
