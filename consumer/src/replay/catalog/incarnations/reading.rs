//! Builds incarnations from the target's notes, which are not read in chronological order. Pure
//! code, without I/O.

use oplog_relay_core::collection_uuid::CollectionUuid;
use oplog_relay_core::position::{EntryId, Timestamp};
use rustc_hash::FxHashMap;

use super::{Change, End, Fate, Incarnations, Ran, keeps_last_end};

/// Incarnations under construction, from commands in any order.
#[derive(Debug)]
pub(crate) struct Reading {
    incarnations: Incarnations,
    /// The latest command.
    last: Option<EntryId>,
    /// The last end of each name, among the commands that are too old to be held.
    ended: FxHashMap<String, EntryId>,
}

impl Reading {
    /// Starts a reading that holds the commands since `from`.
    #[must_use]
    pub(crate) fn new(from: EntryId) -> Self {
        let from = Some(from);
        Self {
            incarnations: Incarnations {
                from,
                ..Incarnations::default()
            },
            last: None,
            ended: FxHashMap::default(),
        }
    }

    /// Records a command that ran.
    pub(crate) fn take(&mut self, ran: Ran) {
        let id = ran.id;
        self.last = self.last.max(Some(id));
        if self.incarnations.reaches(id) {
            self.incarnations.take(ran);
            return;
        }
        self.incarnations.has_commands = true;
        let Ran { ns, ui, change, .. } = ran;
        match change {
            Change::Created => self.own(ns, id, ui),
            Change::Dropped => self.end(ns, id),
            Change::Emptied => {
                self.end(ns.clone(), id);
                self.own(ns, id, ui);
            }
            Change::Renamed { to } => {
                self.end(to.clone(), id);
                self.end(ns, id);
                self.own(to, id, ui);
            }
            Change::Other => {}
        }
    }

    fn own(&mut self, ns: String, id: EntryId, ui: Option<CollectionUuid>) {
        if self.ended.get(&ns).is_none_or(|end| *end <= id) {
            self.incarnations.own(ns, id, ui);
        }
    }

    fn end(&mut self, ns: String, id: EntryId) {
        let owners = &mut self.incarnations.owners;
        if owners.get(&ns).is_some_and(|(since, _)| *since <= id) {
            owners.remove(&ns);
        }
        let end = self.ended.entry(ns).or_insert(id);
        *end = id.max(*end);
    }

    /// Returns the incarnations that were read.
    #[must_use]
    pub(crate) fn finish(self) -> Incarnations {
        let mut incarnations = self.incarnations;
        if incarnations.from == Some(AFTER_ALL) {
            // No command follows the last one, so entries after it can be resolved.
            incarnations.from = self.last.map(next);
        }
        for (ns, id) in self.ended {
            if keeps_last_end(&ns) {
                let end = End {
                    id,
                    offset: None,
                    fate: Fate::Dropped,
                };
                let ends = incarnations.ends.entry(ns).or_default();
                ends.insert(0, end);
            }
        }
        incarnations
    }
}

/// An identity later than every entry. A reading that starts here holds no commands, only the names
/// that result from them.
pub(crate) const AFTER_ALL: EntryId = EntryId {
    ts: Timestamp::new(u32::MAX, u32::MAX),
    ord: u32::MAX,
};

/// Returns the smallest identity that is greater than another one.
const fn next(id: EntryId) -> EntryId {
    let EntryId { ts, ord } = id;
    EntryId {
        ts,
        ord: ord.saturating_add(1),
    }
}

#[cfg(test)]
mod tests {
    use super::super::{Moment, Resolved};
    use super::*;
    use crate::replay::catalog::at;

    fn ran(seconds: u32, ns: &str, ui: u32, change: Change) -> Ran {
        let mut bytes = [0; 16];
        bytes[..4].copy_from_slice(&ui.to_le_bytes());
        Ran {
            id: at(seconds),
            ns: ns.to_owned(),
            ui: Some(CollectionUuid(bytes)),
            change,
            offset: None,
        }
    }

    fn read(from: EntryId, history: &[Ran]) -> Incarnations {
        let mut reading = Reading::new(from);
        // The commands are read neither in chronological nor in reverse order.
        for step in [2, 0, 1] {
            history
                .iter()
                .skip(step)
                .step_by(3)
                .for_each(|ran| reading.take(ran.clone()));
        }
        reading.finish()
    }

    /// A deterministic history of a few names that are created, dropped and renamed.
    fn history() -> Vec<Ran> {
        const NAMES: [&str; 5] = ["s.a", "s.b", "s.c", "s.tmp.agg_out.1", "s.system.views"];
        let mut there: FxHashMap<&str, u32> = FxHashMap::default();
        let mut all = Vec::new();
        let mut random: u32 = 7;
        for seconds in 1..400 {
            random = random.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            let (one, other) = ((random >> 8) as usize % 5, (random >> 16) as usize % 4);
            let (ns, to) = (NAMES[one], NAMES[other]);
            let change = match (there.contains_key(ns), random >> 24) {
                (false, _) => Change::Created,
                (true, 0..100) => Change::Dropped,
                (true, 100..130) => Change::Emptied,
                (true, 130..230) if ns != to && one < 4 => Change::Renamed { to: to.to_owned() },
                (true, _) => Change::Other,
            };
            let ui = *there.entry(ns).or_insert(seconds);
            if matches!(change, Change::Dropped | Change::Renamed { .. }) {
                there.remove(ns);
            }
            if let Change::Renamed { .. } = change {
                there.insert(to, ui);
            }
            all.push(ran(seconds, ns, ui, change));
        }
        all
    }

    /// Asserts that both resolve every entry since `from` to the same collection.
    fn expect_same(part: &Incarnations, whole: &Incarnations, from: EntryId, history: &[Ran]) {
        assert!(part.reaches(from));
        for entry in history {
            let (ns, ui) = (entry.ns.as_str(), entry.ui.unwrap());
            assert_eq!(part.is_owned(ns, ui), whole.is_owned(ns, ui));
            if keeps_last_end(ns) {
                assert_eq!(part.has_ended(ns), whole.has_ended(ns));
            }
            for other in history.iter().filter(|other| other.id >= from).step_by(7) {
                for ui in [None, entry.ui] {
                    let found = part.resolve(ns, Moment::Time(other.id), ui);
                    assert_eq!(
                        found,
                        whole.resolve(ns, Moment::Time(other.id), ui),
                        "{ns} {:?}",
                        other.id
                    );
                }
            }
        }
    }

    #[test]
    fn pruned_incarnations_resolve_entries_like_complete_ones() {
        let history = history();
        let whole = read(at(0), &history);
        assert!(history.iter().all(|ran| whole.is_done(ran.id)));
        for from in (0..400).step_by(13).map(at) {
            let part = read(from, &history);
            expect_same(&part, &whole, from, &history);
            expect_same(&whole.pruned(from), &whole, from, &history);
            assert_eq!(part.is_done(at(100)), from <= at(100));
            assert!(part.held() <= whole.held());
        }
        let last = read(AFTER_ALL, &history);
        expect_same(&last, &whole, at(400), &history);
        assert!(!last.reaches(at(399)));
        // A command older than those that are held can only be read from the target.
        let mut older = last.clone();
        assert!(!older.take(ran(200, "s.a", 1, Change::Dropped)));
        expect_same(&older, &whole, at(400), &history);
    }

    /// `$out` creates a temporary collection and renames it over the result of the previous round.
    #[test]
    fn repeated_out_stages_do_not_accumulate_incarnations() {
        const ROUNDS: u32 = 10_000;
        let mut incarnations = Incarnations::default();
        let mut history = vec![ran(1, "s.other", 1, Change::Created)];
        for round in 1..=ROUNDS {
            let staged = format!("s.tmp.agg_out.{round}");
            let to = "s.report".to_owned();
            let (made, renamed) = (2 * round, 2 * round + 1);
            history.push(ran(made, &staged, made, Change::Created));
            history.push(ran(renamed, &staged, made, Change::Renamed { to }));
        }
        for (count, ran) in history.iter().enumerate() {
            assert!(incarnations.take(ran.clone()));
            if count % 100 == 0 {
                incarnations = incarnations.pruned(ran.id);
                assert!(incarnations.held() <= 6, "{} are held", incarnations.held());
            }
        }
        let end = at(2 * ROUNDS + 2);
        let incarnations = incarnations.pruned(end);
        let restarted = read(AFTER_ALL, &history);
        for incarnations in [incarnations, restarted] {
            assert_eq!(incarnations.held(), 2);
            let made = history.last().and_then(|ran| ran.ui);
            assert!(incarnations.is_owned("s.report", made.unwrap()));
            assert_eq!(
                incarnations.resolve("s.report", Moment::Time(end), made),
                Resolved::Live("s.report")
            );
        }
    }
}
