//! Whether the target lets its validators be bypassed.
//!
//! A refusal of `bypassDocumentValidation` looks like other refusals. It counts as one only after the same
//! command was taken without it, and only for that collection and for a while: privileges
//! change, and other collections may have others.

use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use rustc_hash::FxHashMap;

use crate::replay::directive::UNAUTHORIZED;

/// How long commands to a collection go without it.
const REMEMBERED: Duration = Duration::from_secs(60);
/// Codes by which a server says that it does not know or allow it.
const NO_BYPASS: [i32; 5] = [UNAUTHORIZED, 9, 72, 238, 40415];

/// The collections for which it was refused, and when.
#[derive(Debug, Default)]
pub(crate) struct Bypass(Mutex<FxHashMap<String, Instant>>);

impl Bypass {
    /// Whether to ask for it.
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

    /// Notes that a command passed without it that had been refused with it.
    pub(crate) fn refuse(&self, ns: &str) {
        self.refuse_at(ns, Instant::now());
    }

    fn refuse_at(&self, ns: &str, now: Instant) {
        let mut refused = self.refused();
        // Nobody may ever ask again about a collection that is gone.
        refused.retain(|_, since| now.saturating_duration_since(*since) < REMEMBERED);
        refused.insert(ns.to_owned(), now);
    }

    /// Nothing can be left half done under this lock.
    fn refused(&self) -> MutexGuard<'_, FxHashMap<String, Instant>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Whether a code may mean that validation cannot be bypassed.
pub(crate) fn is_no_bypass(code: i32) -> bool {
    NO_BYPASS.contains(&code)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn collections_that_are_gone_are_not_remembered() {
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
