//! Randomly drawn histories, and the events of the groups that replay them.

use oplog_relay_core::filter::NamespaceFilter;
use proptest::prelude::*;

use crate::group::{Fault, Group, Trouble};
use crate::history::{Command, Event, Log, NAMES, Naming, Write};
use crate::search::{Turn, run_turns};

/// A history and the events of the group that replays it.
#[derive(Debug, Clone)]
pub(crate) struct Case {
    events: Vec<Event>,
    /// Number of partitions of each topic.
    spread: Vec<usize>,
    with_ui: bool,
    naming: Naming,
    /// The number of a collection that the group excludes, if it exists.
    excluded: usize,
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
        let (naming, excluded) = filter;
        events.insert(0, Event::Run(Command::Create(0)));
        Case {
            events,
            spread,
            with_ui,
            naming,
            excluded,
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

    /// Returns the group's filter. It excludes nothing if a rename would move an excluded collection to
    /// an included name, because that stops a replay.
    fn filter(&self, log: &Log) -> NamespaceFilter {
        let filter = NamespaceFilter::new([], NAMES.get(self.excluded).copied()).unwrap();
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
        run_turns(&mut group, &self.turns)?;
        group.finish()?;
        check_not_refused(&group)?;
        group.check()
    }

    /// Resets the group to the start, from any state.
    pub(crate) fn full_reset(&self, fault: Option<Fault>) -> Result<(), Trouble> {
        let log = self.log();
        let mut group = self.group(&log, fault);
        run_turns(&mut group, &self.turns)?;
        if self.draw.is_multiple_of(2) {
            group.finish()?;
        }
        group.reset(&vec![Some(0); log.partitions.len()]);
        run_turns(&mut group, &self.turns_after)?;
        group.finish()?;
        check_not_refused(&group)?;
        group.check()
    }

    /// Resets the group from the end to a second of the source.
    pub(crate) fn reset_to_a_time(&self, fault: Option<Fault>) -> Result<(), Trouble> {
        let log = self.log();
        let mut group = self.group(&log, fault);
        group.finish()?;
        self.continue_from(self.second(&log), group)
    }

    /// Starts a new group at a second of the source. Its target is a copy of the source at that time.
    /// Groups of topics whose older records were removed start in the same way.
    pub(crate) fn start_at_a_time(&self, fault: Option<Fault>) -> Result<(), Trouble> {
        let log = self.log();
        let mut group = self.group(&log, fault);
        let second = self.second(&log);
        group.world.target.collections = log.state_before(second, &group.world.filter);
        self.continue_from(second, group)
    }

    fn second(&self, log: &Log) -> u32 {
        let seconds = log.entries.last().map_or(1, |last| last.id.ts.seconds);
        u32::try_from(self.draw).unwrap() % seconds + 1
    }

    fn continue_from(&self, second: u32, mut group: Group<'_>) -> Result<(), Trouble> {
        let cut: Vec<Option<i64>> = group.world.log.cut(second).into_iter().map(Some).collect();
        group.reset(&cut);
        run_turns(&mut group, &self.turns_after)?;
        group.finish()?;
        check_not_refused(&group)?;
        group.check()
    }

    /// Resets some partitions, each to its own offset. The start is refused, or the commands still run
    /// in the right order. After a reset from the end, the target also converges if no command moves
    /// documents to other partitions.
    pub(crate) fn partial_reset(&self, fault: Option<Fault>) -> Result<(), Trouble> {
        let log = self.log();
        let mut group = self.group(&log, fault);
        run_turns(&mut group, &self.turns)?;
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
        run_turns(&mut group, &self.turns_after)?;
        group.finish()?;
        if backwards && !log.moves() {
            group.check()?;
        }
        Ok(())
    }
}

/// Checks that a group that starts at one point in time is not refused.
fn check_not_refused(group: &Group<'_>) -> Result<(), Trouble> {
    match &group.world.refused {
        None => Ok(()),
        Some(reason) => Err(Trouble::Stuck(reason.clone())),
    }
}
