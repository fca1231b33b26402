//! Runs the steps of a group, in a random order or in all orders.

use std::collections::HashSet;
use std::fmt::Write as _;
use std::hash::{DefaultHasher, Hash as _, Hasher as _};

use crate::group::{Group, Step, Trouble};

/// A drawn turn: a failure, or a few steps of one partition.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Turn {
    pub(crate) mishap: bool,
    pub(crate) pick: usize,
    pub(crate) steps: usize,
}

/// Runs a group through randomly drawn turns.
pub(crate) fn run_turns(group: &mut Group<'_>, turns: &[Turn]) -> Result<(), Trouble> {
    for turn in turns {
        if turn.mishap {
            let mishaps = group.mishaps();
            if let Some(step) = mishaps.get(turn.pick % mishaps.len().max(1)) {
                group.step(*step)?;
            }
            continue;
        }
        let partition = turn.pick % group.seats.len();
        for number in 0..turn.steps {
            let mut steps = group.steps();
            steps.retain(|step| partition_of(*step).is_none_or(|it| it == partition));
            if steps.is_empty() {
                break;
            }
            group.step(steps[(turn.pick / 7 + number) % steps.len()])?;
        }
    }
    Ok(())
}

/// Returns the partition that a step concerns.
const fn partition_of(step: Step) -> Option<usize> {
    match step {
        Step::Work(partition)
        | Step::Acknowledge(partition)
        | Step::Commit(partition)
        | Step::Seat(partition, _)
        | Step::Revoke(partition, _)
        | Step::Lose(partition) => Some(partition),
        Step::Crash(_) | Step::Zombie(_) => None,
    }
}

/// The number of states, and the numbers of those from which no step is possible.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Ends {
    pub(crate) states: usize,
    /// Number of ends at which everything is committed.
    pub(crate) reached: usize,
    /// Number of ends at which a member refused to continue.
    pub(crate) refused: usize,
}

/// Runs a group through all orders of all steps and failures. Every step makes progress, so each order
/// ends. If no step is left, the group must be finished, and if `converges` is set, the target must
/// equal the source.
pub(crate) fn all(start: &Group<'_>, converges: bool) -> Result<Ends, Trouble> {
    let mut ends = Ends::default();
    let mut seen = HashSet::from([fingerprint(start)]);
    let mut open = vec![start.clone()];
    while let Some(group) = open.pop() {
        let steps = group.steps();
        if steps.is_empty() {
            if !group.is_over() {
                return Err(Trouble::Stuck(format!("{:?}", group.seats)));
            }
            if converges {
                group.check()?;
            }
            let refused = group.world.refused.is_some();
            *(if refused {
                &mut ends.refused
            } else {
                &mut ends.reached
            }) += 1;
        }
        for step in steps.into_iter().chain(group.mishaps()) {
            let mut next = group.clone();
            next.step(step)?;
            if seen.insert(fingerprint(&next)) {
                open.push(next);
            }
        }
    }
    ends.states = seen.len();
    Ok(ends)
}

/// Returns a hash that identifies a state.
fn fingerprint(group: &Group<'_>) -> u64 {
    struct Into(DefaultHasher);
    impl std::fmt::Write for Into {
        fn write_str(&mut self, text: &str) -> std::fmt::Result {
            text.hash(&mut self.0);
            Ok(())
        }
    }
    let world = &group.world;
    let mut into = Into(DefaultHasher::new());
    let state = (&group.seats, &world.committed, &world.target, &world.known);
    let rest = (
        &group.zombies,
        &world.applied,
        &world.refused,
        group.crashes,
        (group.rebalances, group.losses),
    );
    write!(into, "{state:?} {rest:?}").unwrap();
    into.0.finish()
}
