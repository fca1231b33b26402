//! The worst seconds of a longer time at an even rate. At even intervals, a collection is created,
//! which gets a topic of its own, or a unique index, which needs a barrier. Half an interval later,
//! a second consumer joins the group or leaves it.

use std::collections::HashSet;
use std::fmt::Display;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use oplog_relay_kit::services::{Program, wait_until};
use oplog_relay_kit::stub::{Command, Flow, Recipe, Shape, StubProcess, TimedInsert};

use super::pair::Pair;
use super::reader::Reader;
use super::times::{Span, Times, now_millis};
use super::{SETTLING, STARTED_WITHIN, TO_READER, TO_TARGET};
use crate::comparison::case::{Case, Place};
use crate::comparison::options::Options;
use crate::comparison::scene::Scene;
use crate::comparison::verdict::at_most;

const PREFIX: &str = "steady";
/// Entries a second.
const RATE: u64 = 1000;
/// Number of commands during the measurement, and of changes of the group.
const COMMANDS: u32 = 10;
/// The longest time after an event whose latencies are attributed to it.
const AFTER: Duration = Duration::from_secs(5);
/// The longest time until all entries are in the target.
const ARRIVED_WITHIN: Duration = Duration::from_secs(120);

/// What happens during the measurement.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum What {
    NewTopic,
    UniqueIndex,
    Join,
    Leave,
}

impl What {
    const ALL: [(What, &str); 4] = [
        (What::NewTopic, "a collection with a new topic"),
        (What::UniqueIndex, "a unique index"),
        (What::Join, "a second consumer joins"),
        (What::Leave, "the second consumer leaves"),
    ];
}

/// An event during the measurement.
#[derive(Debug, Clone, Copy)]
struct Event {
    what: What,
    /// Its time in milliseconds since 1970.
    at: i64,
}

/// Measures with the first number of partitions, and returns the report.
pub(in crate::comparison) fn measure(scene: &Scene, options: &Options) -> Result<String> {
    let partitions = *options.partitions.first().context("partitions")?;
    let interval = (options.steady / COMMANDS).max(Duration::from_secs(1));
    let seconds = (STARTED_WITHIN + SETTLING + options.steady).as_secs();
    let mut recipe = Recipe {
        per_second: RATE,
        command_every: Some(RATE * interval.as_secs()),
        ..Recipe::new(seconds * RATE, Shape::Inserts)
    };
    let source = StubProcess::start(&recipe, Flow::Live)?;
    recipe.first_second = source.first_second();
    let pair = Pair::start(scene, source, PREFIX, partitions)?;
    let span = Span::starting_in(SETTLING, options.steady);
    let mut second = SecondConsumer::new(pair.place(), &span, interval);
    let read = Reader::open(&second.place)?.read(&span, || second.change_if_due())?;
    let mut events = second.stop()?;
    events.extend(commands(&recipe, &span));
    // The partitions are applied independently, and some may be moving to another member.
    wait_until("all entries in the target", ARRIVED_WITHIN, || {
        let inserts = pair.inserts().unwrap_or_default();
        Applied::of(&inserts, &recipe, &span).missing == 0
    })?;
    let applied = Applied::of(&pair.stop()?, &recipe, &span);
    let steady = Steady {
        read,
        applied,
        events,
        after: AFTER.min(interval / 2),
    };
    let head = format!(
        "steady: {RATE} entries a second for {:.0} s, {partitions} partitions, an event each {:.1} s",
        options.steady.as_secs_f64(),
        interval.as_secs_f64() / 2.0
    );
    Ok(steady.report(head))
}

/// What was measured.
struct Steady {
    read: Times,
    applied: Applied,
    events: Vec<Event>,
    /// The time after an event whose latencies are attributed to it.
    after: Duration,
}

impl Steady {
    fn report(&self, head: String) -> String {
        let mut lines = vec![
            head,
            self.read.line("to a read_committed reader"),
            self.applied.old.line("to the target"),
            self.applied
                .new
                .line("documents of new collections, to the target"),
            row(
                "median of the worst second / worst entry, ms",
                "times",
                ["reader", "target"],
            ),
        ];
        for (what, name) in What::ALL {
            let times = self
                .events
                .iter()
                .filter(|event| event.what == what)
                .count();
            let is_after = |wall| self.is_after(wall, |event| event.what == what);
            let name = format!("{:.0} s after {name}", self.after.as_secs_f64());
            lines.push(row(&name, &times.to_string(), self.worst(is_after)));
        }
        let is_quiet = |wall| !self.is_after(wall, |_| true);
        lines.push(row("all other seconds", "", self.worst(is_quiet)));
        let worst = self.read.worst_second();
        lines.push(at_most("reader, worst second", worst, TO_READER.p99, "ms"));
        let worst = self.applied.old.worst_second();
        lines.push(at_most("target, worst second", worst, TO_TARGET.p99, "ms"));
        lines.join("\n")
    }

    /// Returns true if the second that begins at `wall`, in milliseconds since 1970, overlaps the
    /// time after one of these events.
    fn is_after(&self, wall: i64, is_meant: impl Fn(&Event) -> bool) -> bool {
        let after = self.after.as_millis() as i64;
        let overlaps = |event: &Event| (event.at - 999..event.at + after).contains(&wall);
        self.events
            .iter()
            .any(|event| is_meant(event) && overlaps(event))
    }

    /// Formats the worst of some seconds, to the reader and to the target.
    fn worst(&self, is_part: impl Fn(i64) -> bool) -> [String; 2] {
        [&self.read, &self.applied.old].map(|times| times.of(&is_part).worst())
    }
}

fn row(what: &str, times: &str, [reader, target]: [impl Display; 2]) -> String {
    format!("{what:<46} {times:>6} {reader:>20} {target:>20}")
}

/// Returns the commands of the source within the span.
fn commands(recipe: &Recipe, span: &Span) -> Vec<Event> {
    let event = |number| {
        let what = match recipe.command(number)? {
            Command::Create => What::NewTopic,
            Command::CreateUniqueIndex => What::UniqueIndex,
        };
        let at = recipe.wall(number);
        span.includes(at).then_some(Event { what, at })
    };
    (0..recipe.entries).filter_map(event).collect()
}

/// A consumer that joins the group and leaves it, alternately.
struct SecondConsumer<'p> {
    place: Place<'p>,
    /// Milliseconds between two changes.
    interval: f64,
    /// The time of the next change, in milliseconds since 1970.
    next: f64,
    running: Option<Program>,
    /// The processes that were asked to leave.
    left: Vec<Program>,
    changes: Vec<Event>,
}

impl<'p> SecondConsumer<'p> {
    fn new(place: Place<'p>, span: &Span, interval: Duration) -> SecondConsumer<'p> {
        let interval = interval.as_secs_f64() * 1000.0;
        SecondConsumer {
            place,
            interval,
            next: span.begin() + interval / 2.0,
            running: None,
            left: Vec::new(),
            changes: Vec::new(),
        }
    }

    fn change_if_due(&mut self) -> Result<()> {
        let now = now_millis();
        if now < self.next {
            return Ok(());
        }
        self.next += self.interval;
        let what = if let Some(mut running) = self.running.take() {
            running.terminate()?;
            self.left.push(running);
            What::Leave
        } else {
            self.running = Some(Case::ReplayInserts.start_consumer(&self.place, &[])?);
            What::Join
        };
        self.changes.push(Event {
            what,
            at: now as i64,
        });
        Ok(())
    }

    /// Stops it, and returns the changes so far.
    fn stop(mut self) -> Result<Vec<Event>> {
        if let Some(mut running) = self.running.take() {
            running.terminate()?;
            self.left.push(running);
        }
        for program in &mut self.left {
            let code = program.wait(ARRIVED_WITHIN)?;
            ensure!(code == 143, "the second consumer ended with {code}");
        }
        Ok(self.changes)
    }
}

/// The latencies to the target.
#[derive(Default)]
struct Applied {
    /// Those of the first collection.
    old: Times,
    /// Those of the collections that were created during the measurement.
    new: Times,
    /// Number of entries that were not inserted.
    missing: usize,
}

impl Applied {
    /// Sorts the inserts of a span. An entry that was delivered again counts once, at its first
    /// insert.
    fn of(inserts: &[TimedInsert], recipe: &Recipe, span: &Span) -> Applied {
        let mut applied = Applied::default();
        let mut seen = HashSet::new();
        for insert in inserts.iter().filter(|it| span.includes(it.ordered)) {
            if !seen.insert(insert.number) {
                continue;
            }
            let times = match recipe.new_collection(insert.number.into()) {
                None => &mut applied.old,
                Some(_) => &mut applied.new,
            };
            times.add(insert.ordered, f64::from(insert.micros) / 1000.0);
        }
        let is_insert =
            |number: &u64| span.includes(recipe.wall(*number)) && recipe.command(*number).is_none();
        let expected = (0..recipe.entries).filter(is_insert).count();
        applied.missing = expected - seen.len();
        applied
    }
}
