//! Tracks the collections for which the target refuses `bypassDocumentValidation`.
//!
//! A refusal of `bypassDocumentValidation` looks like other refusals. It is recorded only after the
//! same command succeeded without the option, for that collection only, and for a limited time:
//! privileges change, and may differ between collections.

use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use rustc_hash::FxHashMap;

use crate::replay::directive::UNAUTHORIZED;

/// Time for which commands to a collection are sent without the option.
const REMEMBERED: Duration = Duration::from_secs(60);
/// Codes of a server that refuses the option or does not know it. Other refusals have them too.
const NO_BYPASS: [i32; 5] = [UNAUTHORIZED, 9, 72, 238, 40415];

/// The collections for which the option was refused, with the time of the refusal.
#[derive(Debug, Default)]
pub(crate) struct Bypass(Mutex<FxHashMap<String, Instant>>);

impl Bypass {
    /// Returns true if commands to the collection should have the option.
    pub(crate) fn is_wanted(&self, ns: &str) -> bool {
        let mut refused = self.refused();
        match refused.get(ns) {
            Some(since) if since.elapsed() < REMEMBERED => false,
            Some(_) => {
                refused.remove(ns);
                true
            }
            None => true,
        }
    }

    /// Records that a command succeeded without the option after it was refused with it.
    pub(crate) fn refuse(&self, ns: &str) {
        self.refuse_at(ns, Instant::now());
    }

    fn refuse_at(&self, ns: &str, now: Instant) {
        let mut refused = self.refused();
        // A collection that was dropped is never looked up again, so old refusals are removed here.
        refused.retain(|_, since| now.saturating_duration_since(*since) < REMEMBERED);
        refused.insert(ns.to_owned(), now);
    }

    /// Returns the refusals. A panic cannot leave them inconsistent, so poisoning is ignored.
    fn refused(&self) -> MutexGuard<'_, FxHashMap<String, Instant>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Returns true if a code may mean that validation cannot be bypassed.
pub(crate) fn is_no_bypass(code: i32) -> bool {
    NO_BYPASS.contains(&code)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn refusals_of_dropped_collections_are_removed() {
        let bypass = Bypass::default();
        let begun = Instant::now();
        for round in 0..1_000 {
            let name = format!("s.tmp.agg_out.{round}");
            bypass.refuse_at(&name, begun + Duration::from_secs(30) * round);
            assert!(bypass.refused().len() <= 2);
        }
        assert!(bypass.is_wanted("s.tmp.agg_out.1"));
    }
}
