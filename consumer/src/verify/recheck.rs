//! Checks differences again, while both sides may receive writes.
//!
//! Each check reads a document from the source, waits until the replay has passed the time of this
//! read, and reads the document from the target and then again from the source. A difference is
//! reported if in two checks in a row the source does not change during the check and the target
//! still differs. There is no difference if the target has any state that the source has had since
//! the first read.
//!
//! Without access to the replay, each check pauses instead of waiting for the replay. A difference
//! is reported if in several checks in a row the source does not change during the check, and the
//! target has not changed since the previous one.

use std::sync::atomic::Ordering;
use std::time::Duration;

use oplog_relay_runtime::retry::Backoff;
use rustc_hash::FxHashMap;

use super::comparison::{Comparison, Stop};
use super::digest::{Digester, DocumentDigest};
use super::range::OwnedId;
use super::report::Kind;
use super::side::{Identity, identity};

/// A number of checks.
#[derive(Debug, Clone, Copy)]
pub(super) struct Checks {
    /// The number if the progress of the replay is known.
    pub(super) with_replay: u32,
    /// The number otherwise.
    pub(super) without_replay: u32,
}

/// Number of checks in a row that must agree.
pub(super) const AGREEING: Checks = Checks {
    with_replay: 2,
    without_replay: 3,
};
/// Maximum number of checks.
pub(super) const MAX_CHECKS: Checks = Checks {
    with_replay: 40,
    without_replay: 8,
};
/// First pause between two checks.
pub(super) const FIRST_PAUSE: Duration = Duration::from_millis(250);
/// Longest pause between two checks.
pub(super) const LONGEST_PAUSE: Duration = Duration::from_secs(2);

/// The result for documents that seemed to differ.
#[derive(Debug, Default)]
pub(super) struct Settled {
    /// Number of documents that turned out to be equal.
    pub(super) equal: u64,
    /// The documents that differ or are unsettled.
    pub(super) found: Vec<Differing>,
}

/// A document that differs or is unsettled.
#[derive(Debug)]
pub(super) struct Differing {
    pub(super) id: OwnedId,
    pub(super) kind: Kind,
}

/// A document that is being checked.
struct Open {
    id: OwnedId,
    identity: Identity,
    /// All states of the source that the checks have seen.
    history: Vec<Option<DocumentDigest>>,
    /// The state of the target at the previous check.
    target: Option<Option<DocumentDigest>>,
    /// Number of checks in a row that confirm the difference.
    agreeing: u32,
}

type Digests = FxHashMap<Identity, DocumentDigest>;

impl Open {
    /// Evaluates a check. Returns `None` until the result is certain, and then the kind of
    /// difference; the inner `None` means that the document is equal.
    fn evaluate(
        &mut self,
        [before, target, after]: [&Digests; 3],
        replay_known: bool,
    ) -> Option<Option<Kind>> {
        let of = |digests: &Digests| digests.get(&self.identity).copied();
        let (before, now, after) = (of(before), of(target), of(after));
        for state in [before, after] {
            if !self.history.contains(&state) {
                self.history.push(state);
            }
        }
        if self.history.contains(&now) {
            return Some(None);
        }
        let steady = self
            .target
            .replace(now)
            .is_none_or(|earlier| earlier == now);
        if before == after && (replay_known || steady) {
            self.agreeing += 1;
        } else {
            self.agreeing = 0;
        }
        let needed = if replay_known {
            AGREEING.with_replay
        } else {
            AGREEING.without_replay
        };
        (self.agreeing >= needed).then_some(Some(match (after, now) {
            (None, _) => Kind::Extra,
            (_, None) => Kind::Missing,
            (Some(_), Some(_)) => Kind::Different,
        }))
    }
}

impl Comparison<'_> {
    /// Checks documents until it is certain for each of them whether it differs. Those for which
    /// this is not certain after the maximum number of checks, or when a wait fails, are unsettled.
    pub(super) async fn settle(&self, ns: &str, ids: Vec<OwnedId>) -> Result<Settled, Stop> {
        let mut settled = Settled::default();
        let mut open: Vec<Open> = ids
            .into_iter()
            .map(|id| Open {
                identity: identity(&id),
                id,
                history: Vec::new(),
                target: None,
                agreeing: 0,
            })
            .collect();
        let mut digester = Digester::new(self.config.ignore_field_order);
        let replay_known = self.replay.is_some();
        let most = if replay_known {
            MAX_CHECKS.with_replay
        } else {
            MAX_CHECKS.without_replay
        };
        let mut backoff = Backoff::new(FIRST_PAUSE, LONGEST_PAUSE);
        for _ in 0..most {
            if open.is_empty() {
                return Ok(settled);
            }
            let ids: Vec<&OwnedId> = open.iter().map(|open| &open.id).collect();
            let before = self.source.digests(ns, &ids, &mut digester).await?;
            if !self.wait(&mut backoff).await? {
                break;
            }
            let target = self.target.digests(ns, &ids, &mut digester).await?;
            let after = self.source.digests(ns, &ids, &mut digester).await?;
            open.retain_mut(|open| {
                match open.evaluate([&before, &target, &after], replay_known) {
                    None => return true,
                    Some(None) => settled.equal += 1,
                    Some(Some(kind)) => settled.found.push(Differing {
                        id: open.id.clone(),
                        kind,
                    }),
                }
                false
            });
        }
        let unsettled = open.into_iter().map(|open| Differing {
            id: open.id,
            kind: Kind::Unsettled,
        });
        settled.found.extend(unsettled);
        Ok(settled)
    }

    /// Waits until the replay has passed the current time of the source. Without access to the replay,
    /// pauses instead. Returns false if the replay does not pass it in time, or at shutdown.
    pub(super) async fn wait(&self, backoff: &mut Backoff) -> Result<bool, Stop> {
        let Some(replay) = &self.replay else {
            return Ok(backoff.sleep(&self.shutdown).await);
        };
        if self.stuck.load(Ordering::Relaxed) {
            return Ok(false);
        }
        let passed = replay.passes_now(&self.source.client).await?;
        if !passed {
            tracing::warn!(
                patience = ?self.config.patience,
                "the replay has not caught up with the source within --patience: the result for \
                 this collection is inconclusive"
            );
            self.stuck.store(true, Ordering::Relaxed);
        }
        Ok(passed)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use oplog_relay_core::document::{Element, kind};

    /// Checks one document. Each check has the states of the source, the target, and the source again.
    fn results(replay_known: bool, checks: &[[u8; 3]]) -> Vec<Option<Option<Kind>>> {
        let id = OwnedId::of(Element {
            name: b"_id",
            kind: kind::NULL,
            value: &[],
        });
        let mut open = Open {
            identity: identity(&id),
            id,
            history: Vec::new(),
            target: None,
            agreeing: 0,
        };
        let digests = |state: u8| -> Digests {
            let digest = (state > 0).then(|| (open.identity.clone(), [state; 32]));
            digest.into_iter().collect()
        };
        let checks: Vec<_> = checks.iter().map(|check| check.map(digests)).collect();
        let mut results = Vec::new();
        for [before, target, after] in &checks {
            results.push(open.evaluate([before, target, after], replay_known));
        }
        results
    }

    #[test]
    fn a_difference_needs_an_unchanged_source_and_a_target_that_still_differs() {
        let last = |known, all: &[[u8; 3]]| results(known, all).pop().unwrap();
        let differs = |kind| Some(Some(kind));
        assert_eq!(last(true, &[[1, 2, 1]]), None);
        assert_eq!(
            last(true, &[[1, 2, 1], [1, 2, 1]]),
            differs(Kind::Different)
        );
        assert_eq!(last(true, &[[1, 0, 1], [1, 0, 1]]), differs(Kind::Missing));
        assert_eq!(last(true, &[[0, 1, 0], [0, 1, 0]]), differs(Kind::Extra));
        // The source changed during the check.
        assert_eq!(last(true, &[[1, 9, 2], [2, 9, 3]]), None);
        assert_eq!(last(true, &[[1, 9, 1], [1, 9, 2], [2, 9, 2]]), None);
        // The target has an earlier state of the source.
        assert_eq!(last(true, &[[1, 9, 2], [3, 2, 3]]), Some(None));
        assert_eq!(last(true, &[[1, 1, 2]]), Some(None));
    }

    #[test]
    fn a_difference_without_a_replay_needs_two_unchanged_sides() {
        let same = [1, 2, 1];
        let all = results(false, &[same, same, same]);
        assert_eq!(all, [None, None, Some(Some(Kind::Different))]);
        let all = results(false, &[same, [1, 3, 1], [1, 4, 1], [1, 5, 1]]);
        assert_eq!(all, [None; 4]);
    }
}
