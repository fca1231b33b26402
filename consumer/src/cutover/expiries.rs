//! Computes the `expireAfterSeconds` values of the source's collections and indexes from the commands
//! that ran. Performs no I/O.

use std::collections::BTreeMap;

use oplog_relay_core::namespace::Namespace;
use oplog_relay_core::time_series;

use crate::replay::catalog::{Change, History, Ran};
use crate::replay::plan::translation::Withheld;

/// The index name with which `dropIndexes` drops all indexes.
const ALL: &str = "*";

/// The expiries that apply on the source and are withheld from the target, by namespace and then by
/// index name. The key `None` stands for the collection itself.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Expiries(pub BTreeMap<String, BTreeMap<Option<String>, i64>>);

impl Expiries {
    /// Returns the expiries that apply after all commands of a source's history.
    #[must_use]
    pub fn of(history: &History) -> Self {
        let mut expiries = Self::default();
        for command in history.values() {
            expiries.take(&command.ran, &command.withheld);
        }
        expiries
    }

    fn take(&mut self, ran: &Ran, withheld: &[Withheld]) {
        let ns = time_series_namespace(&ran.ns);
        match &ran.change {
            Change::Created | Change::Dropped => drop(self.0.remove(&ns)),
            Change::Renamed { to } => {
                let to = time_series_namespace(to);
                let moved = self.0.remove(&ns);
                self.0.remove(&to);
                self.0.extend(moved.map(|moved| (to, moved)));
            }
            Change::Emptied | Change::Other => {}
        }
        if withheld.is_empty() {
            return;
        }
        let of_collection = self.0.entry(ns).or_default();
        for Withheld { index, seconds } in withheld {
            match seconds {
                Some(seconds) => drop(of_collection.insert(index.clone(), *seconds)),
                None if index.as_deref() == Some(ALL) => of_collection.retain(|i, _| i.is_none()),
                None => drop(of_collection.remove(index)),
            }
        }
    }
}

/// Returns the namespace of the time series if `ns` is its buckets collection, by which the oplog
/// names it. Returns other namespaces unchanged.
fn time_series_namespace(ns: &str) -> String {
    let Namespace { db, collection } = Namespace::split(ns);
    format!(
        "{db}.{}",
        time_series::of_buckets(collection).unwrap_or(collection)
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::replay::catalog::PastCommand;
    use oplog_relay_core::position::{EntryId, Timestamp};

    type Step = (
        &'static str,
        Change,
        Vec<(Option<&'static str>, Option<i64>)>,
    );

    fn fold(steps: &[Step]) -> Vec<(String, Option<String>, i64)> {
        let mut history = History::new();
        for (seconds, (ns, change, withheld)) in (1..).zip(steps) {
            let id = EntryId {
                ts: Timestamp::new(seconds, 1),
                ord: 0,
            };
            let ran = Ran {
                id,
                ns: (*ns).to_owned(),
                ui: None,
                change: change.clone(),
                offset: None,
            };
            let withheld = withheld.iter().map(|(index, seconds)| Withheld {
                index: index.map(str::to_owned),
                seconds: *seconds,
            });
            let withheld = withheld.collect();
            history.insert(id, PastCommand { ran, withheld });
        }
        let expiries = Expiries::of(&history).0.into_iter();
        let flat = expiries.flat_map(|(ns, all)| {
            let all = all.into_iter();
            all.map(move |(index, seconds)| (ns.clone(), index, seconds))
        });
        flat.collect()
    }

    fn set(ns: &'static str, index: &'static str, seconds: i64) -> Step {
        (ns, Change::Other, vec![(Some(index), Some(seconds))])
    }

    fn ended(ns: &'static str, index: &'static str) -> Step {
        (ns, Change::Other, vec![(Some(index), None)])
    }

    fn expiry(ns: &str, index: Option<&str>, seconds: i64) -> (String, Option<String>, i64) {
        (ns.to_owned(), index.map(str::to_owned), seconds)
    }

    #[test]
    fn the_last_value_of_an_index_applies_until_the_index_is_dropped() {
        let steps = [
            set("s.a", "t_1", 60),
            set("s.a", "u_1", 61),
            set("s.a", "v_1", 62),
            set("s.a", "t_1", 90),
            ended("s.a", "u_1"),
        ];
        let expected = [
            expiry("s.a", Some("t_1"), 90),
            expiry("s.a", Some("v_1"), 62),
        ];
        assert_eq!(fold(&steps), expected);
        let all = [&steps[..], &[ended("s.a", "*")]].concat();
        assert_eq!(fold(&all), []);
        let again = [&all[..], &[set("s.a", "t_1", 7)]].concat();
        assert_eq!(fold(&again), [expiry("s.a", Some("t_1"), 7)]);
    }

    #[test]
    fn expiries_are_renamed_and_dropped_with_their_collection() {
        let renamed = |ns, to: &str| (ns, Change::Renamed { to: to.to_owned() }, vec![]);
        let moved = [
            set("s.a", "t_1", 1),
            set("s.b", "t_1", 2),
            set("s.c", "t_1", 3),
            renamed("s.a", "s.b"),
            ("s.c", Change::Dropped, vec![]),
        ];
        assert_eq!(fold(&moved), [expiry("s.b", Some("t_1"), 1)]);
        // A collection that is renamed to the name of an old one does not inherit its expiries.
        let taken = [&moved[..], &[renamed("s.x", "s.b")]].concat();
        assert_eq!(fold(&taken), []);
        let recreated = [&moved[..], &[("s.b", Change::Created, vec![])]].concat();
        assert_eq!(fold(&recreated), []);
    }

    #[test]
    fn a_time_series_is_found_by_its_own_name_and_its_expiry_can_be_switched_off() {
        let buckets = "s.system.buckets.w";
        let created = (buckets, Change::Created, vec![(None, Some(60))]);
        let changed = (buckets, Change::Other, vec![(None, Some(90))]);
        let off = (buckets, Change::Other, vec![(None, None)]);
        let view_dropped = ("s.w", Change::Dropped, vec![]);
        let steps = [created, changed];
        assert_eq!(fold(&steps), [expiry("s.w", None, 90)]);
        assert_eq!(fold(&[&steps[..], &[off]].concat()), []);
        assert_eq!(fold(&[&steps[..], &[view_dropped]].concat()), []);
    }
}
