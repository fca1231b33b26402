//! Whether the target lets its validators be bypassed.
//!
//! A refusal of `bypassDocumentValidation` looks like other refusals. It counts as one only after the same
//! command was taken without it, and only for that collection and for a while: privileges
//! change, and other collections may have others.

use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use rustc_hash::FxHashMap;

use crate::directive::UNAUTHORIZED;

/// How long commands to a collection go without it.
const REMEMBERED: Duration = Duration::from_secs(60);
/// Codes by which a server says that it does not know or allow it.
const NO_BYPASS: [i32; 5] = [UNAUTHORIZED, 9, 72, 238, 40415];

/// The collections for which it was refused, and when.
#[derive(Debug, Default)]
pub(super) struct Bypass(Mutex<FxHashMap<String, Instant>>);

impl Bypass {
    /// Whether to ask for it.
    pub(super) fn is_wanted(&self, ns: &str) -> bool {
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
    pub(super) fn refuse(&self, ns: &str) {
        self.refused().insert(ns.to_owned(), Instant::now());
    }

    /// Nothing can be left half done under this lock.
    fn refused(&self) -> MutexGuard<'_, FxHashMap<String, Instant>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Whether a code may mean that validation cannot be bypassed.
pub(super) fn is_no_bypass(code: i32) -> bool {
    NO_BYPASS.contains(&code)
}
