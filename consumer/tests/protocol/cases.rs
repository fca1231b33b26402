//! Randomly drawn histories, and the events of the groups that replay them.

use oplog_relay_core::filter::NamespaceFilter;
use proptest::prelude::*;

use crate::group::{Fault, Group, Trouble};
use crate::history::{Command, Event, Log, NAMES, Naming, Write};
use crate::search::{Turn, drawn};

/// A history and the events of the group that replays it.
#[derive(Debug, Clone)]
pub(crate) struct Case {
    events: Vec<Event>,
    /// Number of partitions of each topic.
    spread: Vec<usize>,
    with_ui: bool,
    naming: Naming,
    /// The number of a collection that the group excludes, if it exists.
    left_out: usize,
    members: usize,
    turns: Vec<Turn>,
    turns_after: Vec<Turn>,
    /// A random number for a cut, or for the partitions of a reset.
    draw: usize,
}

fn events() -> impl Strategy<Value = Vec<Event>> {
    let ns = 0..3_usize;
    let write = prop_oneof![
        3 => Just(Write::Insert),
        3 => (0..2_usize).prop_map(Write::Update),
        1 => Just(Write::Delete),
    ];
    let command = prop_oneof![
        3 => ns.clone().prop_map(Command::Create),
        2 => ns.clone().prop_map(Command::Drop),
        2 => (ns.clone(), ns.clone()).prop_map(|(from, to)| Command::Rename(from, to)),
        1 => ns.clone().prop_map(Command::Order),
        1 => ns.clone().prop_map(Command::Build),
    ];
    let event = prop_oneof![
        6 => (ns, 0..5_u8, write).prop_map(|(ns, document, write)| Event::Write(ns, document, write)),
        2 => command.prop_map(Event::Run),
        2 => (1..4_usize).prop_map(Event::Gap),
    ];
    proptest::collection::vec(event, 4..50)
}

fn turns() -> impl Strategy<Value = Vec<Turn>> {
    let turn = (0..8_u8, any::<u16>(), 1..24_usize).prop_map(|(mishap, pick, steps)| Turn {
        mishap: mishap == 0,
        pick: usize::from(pick),
        steps,
    });
    proptest::collection::vec(turn, 0..60)
}

pub(crate) fn case() -> impl Strategy<Value = Case> {
    let spread = proptest::collection::vec(1..5_usize, 1..4);
    let rest = (any::<bool>(), 1..4_usize, turns(), turns(), any::<u16>());
    let naming = prop_oneof![Just(Naming::Named), Just(Naming::Unnamed)];
    let filter = (naming, 0..2 * NAMES.len());
    (events(), spread, filter, rest).prop_map(|(mut events, spread, filter, rest)| {
        let (with_ui, members, turns, turns_after, draw) = rest;
        let (naming, left_out) = filter;
        events.insert(0, Event::Run(Command::Create(0)));
        Case {
            events,
            spread,
            with_ui,
            naming,
            left_out,
            members,
            turns,
            turns_after,
            draw: usize::from(draw),
        }
    })
}

impl Case {
    fn log(&self) -> Log {
        Log::named(&self.events, &self.spread, self.with_ui, self.naming)
    }

    /// Returns the group's filter. It never excludes a collection that a rename brings in, because that
    /// stops a replay.
    fn filter(&self, log: &Log) -> NamespaceFilter {
        let filter = NamespaceFilter::new([], NAMES.get(self.left_out).copied()).unwrap();
        if log.enters(&filter) {
            return NamespaceFilter::default();
        }
        filter
    }

    fn group<'l>(&self, log: &'l Log, fault: Option<Fault>) -> Group<'l> {
        let mut group = Group::new(log, self.members, fault);
        group.world.filter = self.filter(log);
        (group.crashes, group.rebalances, group.losses) = (4, 6, 2);
        group
    }

    /// Replays from the start to the end.
    pub(crate) fn first_pass(&self, fault: Option<Fault>) -> Result<(), Trouble> {
        let log = self.log();
        let mut group = self.group(&log, fault);
        drawn(&mut group, &self.turns)?;
        group.finish()?;
        refuses_nothing(&group)?;
        group.check()
    }

    /// Resets the group to the start, wherever it is.
    pub(crate) fn full_reset(&self, fault: Option<Fault>) -> Result<(), Trouble> {
        let log = self.log();
        let mut group = self.group(&log, fault);
        drawn(&mut group, &self.turns)?;
        if self.draw.is_multiple_of(2) {
            group.finish()?;
        }
        group.reset(&vec![Some(0); log.partitions.len()]);
        drawn(&mut group, &self.turns_after)?;
        group.finish()?;
        refuses_nothing(&group)?;
        group.check()
    }

    /// Resets the group from the end to a second of the source.
    pub(crate) fn reset_to_a_time(&self, fault: Option<Fault>) -> Result<(), Trouble> {
        let log = self.log();
        let mut group = self.group(&log, fault);
        group.finish()?;
        self.go_on_from(self.second(&log), group)
    }

    /// Starts a new group at a second of the source, with a copy of that time as its target. Groups of
    /// topics whose older records were removed start in the same way.
    pub(crate) fn start_at_a_time(&self, fault: Option<Fault>) -> Result<(), Trouble> {
        let log = self.log();
        let mut group = self.group(&log, fault);
        let second = self.second(&log);
        group.world.target.collections = log.state_before(second, &group.world.filter);
        self.go_on_from(second, group)
    }

    fn second(&self, log: &Log) -> u32 {
        let seconds = log.entries.last().map_or(1, |last| last.id.ts.seconds);
        u32::try_from(self.draw).unwrap() % seconds + 1
    }

    fn go_on_from(&self, second: u32, mut group: Group<'_>) -> Result<(), Trouble> {
        let cut: Vec<Option<i64>> = group.world.log.cut(second).into_iter().map(Some).collect();
        group.reset(&cut);
        drawn(&mut group, &self.turns_after)?;
        group.finish()?;
        refuses_nothing(&group)?;
        group.check()
    }

    /// Resets some partitions, each to its own offset. The start is refused, or the commands keep their
    /// places. After a reset from the end, the target also converges if no command moves documents to
    /// other partitions.
    pub(crate) fn partial_reset(&self, fault: Option<Fault>) -> Result<(), Trouble> {
        let log = self.log();
        let mut group = self.group(&log, fault);
        drawn(&mut group, &self.turns)?;
        let backwards = self.draw.is_multiple_of(3);
        if backwards {
            group.finish()?;
        }
        let offsets: Vec<Option<i64>> = (1..)
            .zip(&log.records)
            .map(|(prime, records)| {
                let drawn = self.draw * (2 * prime + 1) / 4;
                let offset = drawn / 2 % (records.len() + 1);
                drawn
                    .is_multiple_of(2)
                    .then(|| i64::try_from(offset).unwrap())
            })
            .collect();
        group.reset(&offsets);
        drawn(&mut group, &self.turns_after)?;
        group.finish()?;
        if backwards && !log.moves() {
            group.check()?;
        }
        Ok(())
    }
}

/// Checks that a group that starts at one point in time is not refused.
fn refuses_nothing(group: &Group<'_>) -> Result<(), Trouble> {
    match &group.world.refused {
        None => Ok(()),
        Some(reason) => Err(Trouble::Stuck(reason.clone())),
    }
}
