//! Any suffix of a document's log, applied again to a later state, leads to the last state.

#![allow(
    missing_docs,
    clippy::unwrap_used,
    reason = "a test: a panic is the failure report"
)]

mod histories;

use histories::{Choices, Value, build, diff, document, fields, modifiers};
use oplog_relay_core::diff::{Diff, apply_modifiers};
use oplog_relay_core::document::{Document, Element, kind};
use proptest::collection::vec;
use proptest::prelude::*;
use proptest::sample::select;

/// The states of a document, and the update from each to the next.
#[derive(Debug, Clone)]
struct History {
    states: Vec<Vec<u8>>,
    updates: Vec<Vec<u8>>,
}

type Fields = Vec<(&'static str, Value)>;

fn history(
    plain: bool,
    update: impl Fn(&Fields, &Fields, &mut Choices) -> Option<Vec<u8>>,
) -> impl Strategy<Value = History> {
    (vec(fields(plain), 2..8), any::<u64>()).prop_map(move |(states, choices)| {
        let mut choices = Choices(choices);
        let mut history = History {
            states: vec![document(&states[0])],
            updates: Vec::new(),
        };
        for pair in states.windows(2) {
            if let Some(update) = update(&pair[0], &pair[1], &mut choices) {
                history.updates.push(update);
                history.states.push(document(&pair[1]));
            }
        }
        history
    })
}

fn apply(state: &[u8], update: &[u8]) -> Vec<u8> {
    let (state, update) = (
        Document::new(state).unwrap(),
        Document::new(update).unwrap(),
    );
    if update.get("$v").unwrap().is_some() {
        return apply_modifiers(state, update).unwrap();
    }
    Diff::parse(update).unwrap().apply(state).unwrap()
}

/// Applies the updates from `first` on to the state `ahead`, which may already include some of
/// them.
fn run(history: &History, first: usize, ahead: usize) -> Vec<u8> {
    let state = history.states[ahead].clone();
    let updates = history.updates[first..].iter();
    updates.fold(state, |state, update| apply(&state, update))
}

fn by_name(document: &[u8]) -> Vec<u8> {
    let mut fields = Vec::new();
    for element in Document::new(document).unwrap().elements() {
        let element = element.unwrap();
        let value = match element.kind {
            kind::DOCUMENT | kind::ARRAY => by_name(element.value),
            _ => element.value.to_vec(),
        };
        fields.push((element.name, element.kind, value));
    }
    fields.sort();
    build(|out| {
        for (name, kind, value) in &fields {
            out.element(Element {
                name,
                kind: *kind,
                value,
            });
        }
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2000))]

    /// Every suffix of the log, applied to any state that is not older than its start, leads to the
    /// last state byte for byte.
    #[test]
    fn suffix_reapplication_is_byte_identical(history in history(false, |before, after, choices| diff(before, after, choices))) {
        for (index, update) in history.updates.iter().enumerate() {
            prop_assert_eq!(&apply(&history.states[index], update), &history.states[index + 1]);
        }
        let last = history.states.last().unwrap();
        for first in 0..history.updates.len() {
            for ahead in first..history.states.len() {
                prop_assert_eq!(&run(&history, first, ahead), last, "from {} on state {}", first, ahead);
            }
        }
    }

    /// Modifiers do not record the place of a field, so the order of fields may change.
    #[test]
    fn modifiers_applied_again_lead_to_the_same_fields(history in history(true, |before, after, choices| Some(modifiers(before, after, choices)))) {
        let last = by_name(history.states.last().unwrap());
        for first in 0..history.updates.len() {
            for ahead in first..history.states.len() {
                prop_assert_eq!(&by_name(&run(&history, first, ahead)), &last, "from {} on state {}", first, ahead);
            }
        }
    }

    /// Applying a diff twice in a row has the same effect as applying it once, so a write with an
    /// unknown outcome may be repeated.
    #[test]
    fn applying_a_diff_twice_equals_applying_it_once(before in fields(false), after in fields(false), other in fields(false), choices in any::<u64>()) {
        if let Some(diff) = diff(&before, &after, &mut Choices(choices)) {
            let once = apply(&document(&other), &diff);
            prop_assert_eq!(apply(&once, &diff), once);
        }
    }

    /// Any bytes in an update are either refused or applied, and never cause a panic.
    #[test]
    fn any_bytes_are_refused_or_applied(
        states in vec(fields(true), 3),
        choices in any::<u64>(),
        noise in vec((0_usize..120, select(b"\x00\x01\x03\x04\x08\x10\xffabdilsu019".to_vec())), 0..3),
    ) {
        let mut choices = Choices(choices);
        let (before, after) = (&states[0], &states[1]);
        let updates = [diff(before, after, &mut choices), Some(modifiers(before, after, &mut choices))];
        let state = document(&states[2]);
        let state = Document::new(&state).unwrap();
        for mut update in updates.into_iter().flatten() {
            for (at, byte) in &noise {
                if let Some(place) = update.get_mut(*at) {
                    *place = *byte;
                }
            }
            if let Ok(update) = Document::new(&update) {
                let applied = [
                    Diff::parse(update).and_then(|diff| diff.apply(state)),
                    apply_modifiers(state, update),
                ];
                for applied in applied.into_iter().flatten() {
                    prop_assert!(Document::new(&applied).is_ok());
                }
            }
        }
    }
}
