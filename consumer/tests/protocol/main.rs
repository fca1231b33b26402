//! The model test of barriers: the members of a group replay the log of one source step by step, in any
//! order, with crashes, rebalances and resets. The consumer's own code makes the decisions; the
//! members, the log and the target are models. A command must run after all earlier and before all later
//! writes of its collections, the target must finally equal its source, and no member may wait
//! indefinitely.

#![allow(
    clippy::unwrap_used,
    clippy::panic,
    reason = "a test: a panic is the failure report"
)]

mod cases;
mod group;
mod history;
mod search;
mod target;
mod worker;

use oplog_relay_core::filter::NamespaceFilter;
use proptest::prelude::*;
use proptest::strategy::ValueTree as _;
use proptest::test_runner::TestRunner;

use cases::{Case, case};
use group::{Fault, Group, Trouble};
use history::{Command, Event, Log, NAMES, Naming, Write};
use search::{Ends, all};

/// A create and a drop in two partitions, with control records before the drop's barriers.
const DROP: [Event; 5] = [
    Event::Run(Command::Create(0)),
    insert(0, 0),
    insert(0, 1),
    Event::Gap(1),
    Event::Run(Command::Drop(0)),
];

/// The events of [`DROP`], followed by another incarnation of the name.
const DROP_AND_CREATE: [Event; 7] = [
    DROP[0],
    DROP[1],
    DROP[2],
    DROP[3],
    DROP[4],
    Event::Run(Command::Create(0)),
    insert(0, 1),
];

/// A rename to a name with another topic.
const RENAME: [Event; 5] = [
    Event::Run(Command::Create(0)),
    insert(0, 0),
    Event::Gap(1),
    Event::Run(Command::Rename(0, 1)),
    update(1, 0),
];

/// A document moves from the second partition to the first, as with a new unique index.
const ORDER: [Event; 4] = [
    Event::Run(Command::Create(0)),
    insert(0, 1),
    Event::Run(Command::Order(0)),
    update(0, 1),
];

/// Three incarnations of one name, of which the first two are dropped. Each starts with a new second of
/// the source.
const INCARNATIONS: [Event; 11] = [
    Event::Run(Command::Create(0)),
    insert(0, 0),
    insert(0, 1),
    Event::Run(Command::Drop(0)),
    Event::Run(Command::Create(0)),
    insert(0, 0),
    insert(0, 1),
    Event::Run(Command::Drop(0)),
    Event::Run(Command::Create(0)),
    insert(0, 0),
    update(0, 0),
];

const fn insert(ns: usize, document: u8) -> Event {
    Event::Write(ns, document, Write::Insert)
}

const fn update(ns: usize, document: u8) -> Event {
    Event::Write(ns, document, Write::Update(0))
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 2000, ..ProptestConfig::default() })]

    #[test]
    fn any_order_of_steps_leads_to_the_source(case in case()) {
        prop_assert_eq!(case.first_pass(None), Ok(()));
    }

    #[test]
    fn a_reset_to_the_beginning_converges(case in case()) {
        prop_assert_eq!(case.full_reset(None), Ok(()));
    }

    #[test]
    fn a_target_copied_at_some_time_converges(case in case()) {
        prop_assert_eq!(case.start_at_a_time(None), Ok(()));
    }

    #[test]
    fn a_reset_to_a_time_converges(case in case()) {
        prop_assert_eq!(case.reset_to_a_time(None), Ok(()));
    }

    #[test]
    fn a_reset_of_some_partitions_is_refused_or_harmless(case in case()) {
        prop_assert_eq!(case.partial_reset(None), Ok(()));
    }
}

/// Runs every order of all steps of two members, with a crash and a rebalance at any time.
fn every_order(events: &[Event], spread: &[usize], fault: Option<Fault>) -> Result<Ends, Trouble> {
    let log = Log::of(events, spread, true);
    let mut group = Group::new(&log, 2, fault);
    (group.crashes, group.rebalances) = (1, 1);
    all(&group, true)
}

/// Runs every order of a create during which a waiting worker loses its partition without noticing.
fn every_order_with_a_loss(fault: Option<Fault>) -> Result<Ends, Trouble> {
    let log = Log::of(&DROP[..3], &[2], true);
    let mut group = Group::new(&log, 2, fault);
    group.losses = 1;
    all(&group, true)
}

/// Runs every order after a reset of a group that has replayed the whole log.
fn every_order_again(
    events: &[Event],
    spread: &[usize],
    second: u32,
    fault: Option<Fault>,
) -> Result<Ends, Trouble> {
    let log = Log::of(events, spread, false);
    let mut group = Group::new(&log, 2, fault);
    group.finish()?;
    let cut: Vec<Option<i64>> = log.cut(second).into_iter().map(Some).collect();
    group.reset(&cut);
    all(&group, true)
}

/// The filter of a group, by its effect on the first collection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Filter {
    None,
    Includes,
    Excludes,
}

impl Filter {
    fn patterns(self) -> NamespaceFilter {
        let include = match self {
            Self::None => None,
            Self::Includes => Some(NAMES[0]),
            Self::Excludes => Some(NAMES[1]),
        };
        NamespaceFilter::new(include, []).unwrap()
    }
}

/// Runs every order of a new group whose partitions start at the given offsets.
fn every_order_from(
    starts: &[i64],
    allow_partial_reset: bool,
    filter: Filter,
    fault: Option<Fault>,
) -> Result<Ends, Trouble> {
    let log = Log::of(&DROP_AND_CREATE, &[2], false);
    let mut group = Group::new(&log, 1, fault);
    group.world.allow_partial_reset = allow_partial_reset;
    group.world.filter = filter.patterns();
    group.reset(&starts.iter().copied().map(Some).collect::<Vec<_>>());
    all(&group, false)
}

/// Runs every order of an excluded drop, with a crash at any time.
fn every_order_excluded(naming: Naming, fault: Option<Fault>) -> Result<Ends, Trouble> {
    let log = Log::named(&DROP, &[2], true, naming);
    let mut group = Group::new(&log, 1, fault);
    group.world.filter = Filter::Excludes.patterns();
    group.crashes = 1;
    all(&group, true)
}

#[test]
fn every_order_of_an_excluded_drop() {
    for naming in [Naming::Named, Naming::Unnamed] {
        let ends = every_order_excluded(naming, None).unwrap();
        assert!(ends.reached > 0 && ends.refused == 0, "{naming:?} {ends:?}");
    }
}

#[test]
fn every_order_of_a_drop_or_a_rename_with_a_crash_and_a_rebalance() {
    for (events, spread) in [(&DROP[..], &[2][..]), (&RENAME, &[1, 1])] {
        let ends = every_order(events, spread, None).unwrap();
        assert!(
            ends.states > 10_000 && ends.reached > 0 && ends.refused == 0,
            "{ends:?}"
        );
    }
}

#[test]
fn every_order_of_a_create_with_a_worker_that_lost_its_partition() {
    let ends = every_order_with_a_loss(None).unwrap();
    assert!(ends.reached > 0 && ends.refused == 0, "{ends:?}");
}

#[test]
fn every_order_after_a_reset_also_between_two_drops() {
    for second in 1..=4 {
        let ends = every_order_again(&INCARNATIONS, &[2], second, None).unwrap();
        assert!(ends.reached > 0 && ends.refused == 0, "{second} {ends:?}");
    }
    let ends = every_order_again(&ORDER, &[2], 1, None).unwrap();
    assert!(ends.reached > 0 && ends.refused == 0, "{ends:?}");
}

/// Only a start between the barriers of one command is refused, and it always is. A command before all
/// starts is not replayed, as requested.
#[test]
fn every_pair_of_starts_is_a_cut_or_refused() {
    let log = Log::of(&DROP_AND_CREATE, &[2], false);
    let ends = |partition: usize| i64::try_from(log.records[partition].len()).unwrap();
    for first in 0..=ends(0) {
        for second in 0..=ends(1) {
            // The leader's barrier has no effect without the command after it.
            let led = log.commands(0, (0, first - 1));
            let is_cut = led.eq(log.commands(1, (0, second)));
            for filter in [Filter::None, Filter::Includes] {
                let starts = [first, second];
                let found = every_order_from(&starts, false, filter, None).unwrap();
                let outcome = (found.reached > 0, found.refused > 0);
                let place = format!("{first} {second} {filter:?}");
                assert_eq!(outcome, (is_cut, !is_cut), "{place} {found:?}");
                let allowed = every_order_from(&starts, true, filter, None).unwrap();
                assert_eq!(allowed.refused, 0, "{place} {allowed:?}");
            }
        }
    }
}

/// Excluded commands do not require a cut.
#[test]
fn every_pair_of_starts_is_accepted_if_the_commands_are_excluded() {
    let log = Log::of(&DROP_AND_CREATE, &[2], false);
    let ends = |partition: usize| i64::try_from(log.records[partition].len()).unwrap();
    for first in 0..=ends(0) {
        for second in 0..=ends(1) {
            let found = every_order_from(&[first, second], false, Filter::Excludes, None);
            let found = found.unwrap();
            assert!(found.refused == 0, "{first} {second} {found:?}");
        }
    }
}

/// Returns the first violation in randomly drawn cases.
fn violation(scene: fn(&Case, Option<Fault>) -> Result<(), Trouble>, fault: Fault) -> Trouble {
    let mut runner = TestRunner::deterministic();
    let mut drawn = (0..2_000).map(|_| case().new_tree(&mut runner).unwrap().current());
    let trouble = drawn.find_map(|case| scene(&case, Some(fault)).err());
    trouble.unwrap_or_else(|| panic!("{fault:?} is not detected"))
}

/// Each rule of the protocol is necessary: without it, a test case fails.
#[test]
fn every_omitted_rule_is_detected() {
    use Trouble::{Diverged, OutOfOrder, Stuck};
    let drop = |fault| every_order(&DROP, &[2], Some(fault)).unwrap_err();
    let rename = |fault| every_order(&RENAME, &[1, 1], Some(fault)).unwrap_err();
    assert!(matches!(drop(Fault::CommitsAfterLast), Stuck(_)));
    assert!(matches!(drop(Fault::PassesEarly), OutOfOrder(_)));
    assert!(matches!(drop(Fault::LeadsWithoutWaiting), OutOfOrder(_)));
    assert!(matches!(drop(Fault::LeadsUncommitted), Diverged(_)));
    assert!(matches!(rename(Fault::LeadsUncommitted), Diverged(_)));
    assert!(matches!(rename(Fault::RecordsRenameLate), Diverged(_)));
    let misled = every_order_with_a_loss(Some(Fault::ChecksBeforeWaiting)).unwrap();
    assert!(misled.refused > 0, "{misled:?}");
    let again = every_order_again(&ORDER, &[2], 1, Some(Fault::WaitsOnlyToRun));
    assert!(matches!(again, Err(Diverged(_))));
    let again = every_order_again(&INCARNATIONS, &[2], 2, Some(Fault::IgnoresIncarnations));
    assert!(matches!(again, Err(Diverged(_))));
    let again = every_order_again(&INCARNATIONS, &[2], 1, Some(Fault::TrustsOffsets));
    assert!(matches!(again, Err(OutOfOrder(_))));
    for (filter, fault) in [
        (Filter::None, Fault::PassesSkipped),
        (Filter::Includes, Fault::PassesFiltered),
    ] {
        let unequal = every_order_from(&[9, 0], false, filter, Some(fault));
        assert!(matches!(unequal, Err(OutOfOrder(_))), "{unequal:?}");
    }
    for (naming, fault) in [
        (Naming::Named, Fault::ChecksExcluded),
        (Naming::Unnamed, Fault::ExcludesUnrecorded),
    ] {
        let stopped = every_order_excluded(naming, Some(fault)).unwrap();
        assert!(stopped.refused > 0, "{fault:?} {stopped:?}");
    }
    for scene in [Case::first_pass, Case::full_reset] {
        assert!(matches!(
            violation(scene, Fault::WritesAfterRevoke),
            Diverged(_)
        ));
    }
}
