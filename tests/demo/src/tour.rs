//! A guided tour: writes at a source pass through Kafka to a target and to the screen, with a crash
//! and a rewind on the way, and a check of the result at the end.

use std::collections::HashSet;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use oplog_relay_core::format::Format;
use oplog_relay_core::position::EntryId;
use oplog_relay_kit::http_status::status;
use oplog_relay_kit::load::Load;
use oplog_relay_kit::services::{Program, wait_until};
use oplog_relay_kit::topic_reader::{self, read_topics};
use serde_json::Value;

use crate::scene::Scene;

pub(crate) const DATABASE: &str = "shop";
pub(crate) const PREFIX: &str = "demo";
pub(crate) const GROUP: &str = "demo-replay";
/// Number of writes of the load, and the time that they take.
const WRITES: u64 = 12_000;
const WRITING: Duration = Duration::from_secs(16);
const LIMIT: Duration = Duration::from_secs(120);

/// The progress of each program.
#[derive(Debug, Default)]
struct Shown {
    producer: Progress,
    replay: Progress,
    emit: Progress,
}

/// The progress of a program, summed over its processes.
#[derive(Debug, Default)]
struct Progress {
    /// Number of entries of the processes that have ended, as they last reported it.
    earlier: u64,
    /// Number of entries of the process that runs.
    entries: u64,
    /// Seconds behind the source; `None` while the program does not report it.
    lag_seconds: Option<f64>,
}

impl Progress {
    /// Updates the progress from `/status`. While the program does not answer, the number of
    /// entries stays the same and the lag is unknown.
    fn take(&mut self, status: Option<&Value>) {
        let entries = status.and_then(|status| status["entries"].as_u64());
        self.entries = self.entries.max(entries.unwrap_or(0));
        self.lag_seconds = status.and_then(|status| status["lag_seconds"].as_f64());
    }

    /// Keeps the number of entries of the ended process, because a new process counts from 0.
    fn restarted(&mut self) {
        self.earlier += std::mem::take(&mut self.entries);
    }

    fn total(&self) -> u64 {
        self.earlier + self.entries
    }

    fn lag(&self) -> String {
        self.lag_seconds.map_or_else(
            || "     ?".to_owned(),
            |seconds| format!("{seconds:>4.1} s"),
        )
    }
}

/// The servers and programs of the demo. Those that still run when it is dropped are killed.
#[derive(Debug)]
pub(crate) struct Demo {
    scene: Scene,
    shown: Shown,
    producer: Program,
    replay: Program,
    emit: Program,
}

impl Demo {
    /// Starts the servers and the programs.
    ///
    /// # Errors
    /// A server or a program does not start.
    pub(crate) fn start() -> Result<Self> {
        say("1. Real servers: Kafka, a source and a target (the first run installs them)");
        let scene = Scene::start()?;
        println!("   Kafka  {}", scene.kafka.brokers());
        println!("   source {}", scene.source.uri());
        println!("   target {}", scene.target.uri());
        say(
            "2. oplog-producer tails the source; oplog-consumer replays into the target and emits JSON",
        );
        let producer = scene.producer()?;
        let replay = scene.replay(false)?;
        let emit = scene.emit()?;
        Ok(Self {
            scene,
            shown: Shown::default(),
            producer,
            replay,
            emit,
        })
    }

    /// Runs all steps of the demo. Returns true if every check passed.
    ///
    /// # Errors
    /// A program or a server fails in a way that is not part of the demo.
    pub(crate) async fn run(&mut self) -> Result<bool> {
        self.write_and_crash().await?;
        self.catch_up()?;
        self.show_events()?;
        self.rewind()?;
        self.verdict().await
    }

    /// Writes for some time. In the middle of it, the producer is killed and started again.
    async fn write_and_crash(&mut self) -> Result<()> {
        say("3. A writer changes four collections; midway the producer is killed with kill -9");
        let mut load = Load::connect(&self.scene.source.uri(), DATABASE, 7).await?;
        let start = Instant::now();
        let mut shown = Instant::now();
        let mut killed = false;
        while load.writes() < WRITES {
            load.round(250).await?;
            let due = WRITING.mul_f64(load.writes() as f64 / WRITES as f64);
            tokio::time::sleep(due.saturating_sub(start.elapsed())).await;
            if !killed && load.writes() > WRITES / 2 {
                killed = true;
                self.refresh();
                self.producer.kill_9()?;
                self.shown.producer.restarted();
                println!("   -- producer killed (kill -9) and started again");
                self.producer = self.scene.producer()?;
            }
            if shown.elapsed() > Duration::from_secs(2) {
                shown = Instant::now();
                self.show(load.writes());
            }
        }
        self.show(load.writes());
        Ok(())
    }

    /// Updates the progress of the programs from their status.
    fn refresh(&mut self) {
        let ports = [
            (&self.scene.producer_port, &mut self.shown.producer),
            (&self.scene.replay_port, &mut self.shown.replay),
            (&self.scene.emit_port, &mut self.shown.emit),
        ];
        for (port, progress) in ports {
            progress.take(status(port.number()).as_ref());
        }
    }

    fn show(&mut self, written: u64) {
        self.refresh();
        let Shown {
            producer,
            replay,
            emit,
        } = &self.shown;
        println!(
            "   written {written:>6} | producer: {:>6} entries, lag {} | replay: {:>6} entries, lag {} \
             | emit: {:>6} lines",
            producer.total(),
            producer.lag(),
            replay.total(),
            replay.lag(),
            emit.total(),
        );
    }

    /// Stops the producer and runs it again until it has caught up, then waits until both groups
    /// have no lag.
    fn catch_up(&mut self) -> Result<()> {
        say("4. The writer stops; everything catches up");
        self.producer.terminate()?;
        self.producer.wait(LIMIT)?;
        let mut last = self.scene.producer_until_caught_up()?;
        ensure!(
            last.wait(LIMIT)? == 0,
            "the producer did not catch up: {}",
            last.stderr_text()?
        );
        wait_until("lag 0 of both groups", LIMIT, || self.scene.lag_is_zero())?;
        println!("   kafka-consumer-groups: lag 0 in every partition of both groups");
        Ok(())
    }

    fn show_events(&mut self) -> Result<()> {
        say("5. What downstream teams read (the last events that emit wrote)");
        self.emit.terminate()?;
        self.emit.wait(LIMIT)?;
        let text = self.emit.stdout_text()?;
        let lines: Vec<&str> = text.lines().collect();
        for line in lines.iter().rev().take(3) {
            let shown: String = line.chars().take(180).collect();
            println!("   {shown}…");
        }
        println!("   {} lines in all", lines.len());
        Ok(())
    }

    /// Resets the group with Kafka's own tool and replays everything again.
    fn rewind(&mut self) -> Result<()> {
        say("6. The group is reset to the start with kafka-consumer-groups and replays again");
        self.replay.terminate()?;
        self.replay.wait(LIMIT)?;
        let arguments = [
            "--group",
            GROUP,
            "--reset-offsets",
            "--to-earliest",
            "--all-topics",
            "--execute",
        ];
        let reset = self.scene.kafka.tool("kafka-consumer-groups", &arguments)?;
        ensure!(
            reset.status.success(),
            "{}",
            String::from_utf8_lossy(&reset.stderr)
        );
        let start = Instant::now();
        let mut again = self.scene.replay(true)?;
        ensure!(
            again.wait(LIMIT)? == 0,
            "the replay failed: {}",
            again.stderr_text()?
        );
        println!(
            "   replayed from the start in {:.1} s",
            start.elapsed().as_secs_f64()
        );
        Ok(())
    }

    /// Compares source and target, and looks for missing and duplicate entries in the topics.
    /// Returns true if there are none.
    async fn verdict(&self) -> Result<bool> {
        say("7. Check: oplog-consumer verify compares source and target document by document");
        let mut verify = self.scene.verify()?;
        let code = verify.wait(LIMIT)?;
        for line in verify.stdout_text()?.lines() {
            println!("   {line}");
        }
        let entries = self.scene.source_entries().await?;
        let contents = read_topics(&self.scene.kafka.brokers(), PREFIX, Format::Bson)
            .context("reading the topics back")?;
        let ids: Vec<EntryId> = topic_reader::entries(&contents)
            .map(|(_, _, e)| e.id)
            .collect();
        let distinct = ids.iter().collect::<HashSet<_>>().len();
        let (duplicates, missing) = (ids.len() - distinct, entries.saturating_sub(distinct));
        println!(
            "   entries in the oplog {entries} | in the topics {distinct} | missing {missing} | \
             duplicates {duplicates}"
        );
        let passed = code == 0 && duplicates == 0 && missing == 0;
        say(if passed { "Passed." } else { "A check FAILED." });
        Ok(passed)
    }

    /// Stops the servers.
    ///
    /// # Errors
    /// A server does not stop.
    pub(crate) fn stop(mut self) -> Result<()> {
        self.scene.stop()
    }
}

fn say(line: &str) {
    println!("\n{line}");
}
