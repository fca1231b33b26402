//! The updates of a replay have the same effect as those of a server: random histories are planned
//! and applied to the model target.

mod forms;
#[path = "../../../core/tests/histories/mod.rs"]
mod histories;

use anyhow::Result;
use histories::{Choices, Value, build, diff, document, fields, flat, modifiers};
use oplog_consumer::replay::plan::Planner;
use oplog_relay_core::diff::{Diff, apply_modifiers};
use oplog_relay_core::document::{Document, DocumentBuilder, Element, kind};
use oplog_relay_core::position::{EntryId, Timestamp};
use oplog_relay_kit::model::Model;
use proptest::collection::vec;
use proptest::prelude::*;
use proptest::sample::select;

const NS: &str = "db.c";

type Entries = Vec<(EntryId, Vec<u8>)>;

/// Returns an entry of the document with that `_id`.
fn entry(increment: u32, id: i32, op: &str, o: &[u8]) -> Result<(EntryId, Vec<u8>)> {
    let ts = Timestamp::new(9, increment);
    let o = Document::new(o)?;
    let bytes = build(|entry| {
        entry.raw("ts", kind::TIMESTAMP, &ts.to_le_bytes());
        entry.str("op", op).str("ns", NS).document("o", o);
        entry.nested("o2", kind::DOCUMENT, |key| {
            key.int32("_id", id);
        });
    });
    Ok((EntryId { ts, ord: 0 }, bytes))
}

fn diff_update(diff: &[u8]) -> Result<Vec<u8>> {
    let diff = Document::new(diff)?;
    Ok(build(|o| {
        o.int32("$v", 2).document("diff", diff);
    }))
}

/// Returns the document under another `_id`.
fn with_id(id: i32, document: &[u8]) -> Result<Vec<u8>> {
    let elements = Document::new(document)?.elements();
    let elements: Vec<Element<'_>> = elements.collect::<Result<_, _>>()?;
    Ok(build(|out: &mut DocumentBuilder<'_>| {
        out.int32("_id", id);
        for element in elements.into_iter().skip(1) {
            out.element(element);
        }
    }))
}

fn replay(model: &mut Model, entries: &Entries, batch: usize) -> Result<()> {
    let planner = Planner::new(3);
    for entries in entries.chunks(batch) {
        model.replay(&planner, entries)?;
    }
    Ok(())
}

type Fields = Vec<(&'static str, Value)>;

/// The next step of a history on a document.
#[derive(Debug, Clone)]
enum Step {
    /// A diff that results in this state.
    Diff(Fields),
    /// Modifiers that result in this state.
    Modify(Fields),
    Replace(Fields),
    Delete,
}

/// Returns a step. Modifiers occur only if all names are `plain`, because they address fields by
/// path.
fn step(plain: bool) -> impl Strategy<Value = Step> {
    prop_oneof![
        6 => fields(plain).prop_map(Step::Diff),
        i32::from(plain).unsigned_abs() * 3 => fields(plain).prop_map(Step::Modify),
        1 => fields(plain).prop_map(Step::Replace),
        1 => Just(Step::Delete),
    ]
}

/// Returns a diff between two states, or a flat diff, which may be sent as an update statement.
fn any_diff() -> impl Strategy<Value = Option<Vec<u8>>> {
    let between = (fields(false), fields(false), any::<u64>())
        .prop_map(|(before, after, choices)| diff(&before, &after, &mut Choices(choices)));
    let flat = (fields(true), 0_usize..5).prop_map(|(fields, updates)| flat(&fields, updates));
    prop_oneof![between, flat]
}

/// Returns the oplog of a few documents, and the documents that exist at its end.
fn log(steps: &[(i32, Step)], choices: u64) -> Result<(Entries, Vec<Vec<u8>>)> {
    let mut choices = Choices(choices);
    let mut states: [Option<Fields>; 3] = [None, None, None];
    let mut entries = Entries::new();
    for ((id, step), increment) in steps.iter().zip(1..) {
        let state = &mut states[usize::try_from(*id)?];
        let after = match step {
            Step::Delete => None,
            Step::Diff(after) | Step::Modify(after) | Step::Replace(after) => Some(after.clone()),
        };
        let whole = |fields: &Fields| with_id(*id, &document(fields));
        let change = match (&*state, &after, step) {
            (None, None, _) => None,
            (None, Some(after), _) => Some(("i", whole(after)?)),
            (Some(_), None, _) => Some(("d", with_id(*id, &document(&[]))?)),
            (Some(_), Some(after), Step::Replace(_)) => Some(("u", whole(after)?)),
            (Some(before), Some(after), Step::Modify(_)) => {
                Some(("u", modifiers(before, after, &mut choices)))
            }
            (Some(before), Some(after), _) => match diff(before, after, &mut choices) {
                Some(diff) => Some(("u", diff_update(&diff)?)),
                None => None,
            },
        };
        if let Some((op, o)) = change {
            entries.push(entry(increment, *id, op, &o)?);
        }
        *state = after;
    }
    let states = (0..).zip(states);
    let left = states.filter_map(|(id, state)| Some(with_id(id, &document(&state?))));
    Ok((entries, left.collect::<Result<_>>()?))
}

fn by_name(document: &[u8]) -> Result<Vec<u8>> {
    let mut fields = Vec::new();
    for element in Document::new(document)?.elements() {
        let element = element?;
        let value = match element.kind {
            kind::DOCUMENT | kind::ARRAY => by_name(element.value)?,
            _ => element.value.to_vec(),
        };
        fields.push((element.name, element.kind, value));
    }
    fields.sort();
    Ok(build(|out| {
        for (name, kind, value) in &fields {
            let (name, kind) = (*name, *kind);
            out.element(Element { name, kind, value });
        }
    }))
}

/// Returns the documents of the model.
fn documents(model: &Model) -> Vec<Vec<u8>> {
    model.state().remove(NS).unwrap_or_default()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(1000))]

    /// For any document and diffs, statements and rewrites have the same effect as `apply`.
    #[test]
    fn a_plan_of_diffs_does_what_the_diffs_say(
        stored in fields(false),
        diffs in vec(any_diff(), 1..5),
        batch in 1_usize..6,
    ) {
        let mut expected = document(&stored);
        let mut entries = vec![entry(1, 1, "i", &expected).unwrap()];
        for (diff, increment) in diffs.iter().flatten().zip(2..) {
            let parsed = Diff::parse(Document::new(diff).unwrap()).unwrap();
            expected = parsed.apply(Document::new(&expected).unwrap()).unwrap();
            entries.push(entry(increment, 1, "u", &diff_update(diff).unwrap()).unwrap());
        }
        let mut model = Model::default();
        replay(&mut model, &entries, batch).unwrap();
        prop_assert_eq!(documents(&model), vec![expected]);
    }

    /// A log of inserts, diffs, replacements and deletes is applied. Then a part of it, from any
    /// entry on, is applied again in other batches, and then everything from the same entry on.
    #[test]
    fn a_log_of_diffs_applied_again_leads_to_the_same_bytes(
        steps in vec((0..3_i32, step(false)), 1..20),
        choices in any::<u64>(),
        batches in [1_usize..8, 1..8],
        cuts in [0.0..1.0_f64, 0.0..1.0],
    ) {
        let (entries, expected) = log(&steps, choices).unwrap();
        let mut model = Model::default();
        replay(&mut model, &entries, batches[0]).unwrap();
        prop_assert_eq!(&documents(&model), &expected);
        prop_assert_eq!(model.unmatched, 0);
        let at = |cut: f64, list: &Entries| -> usize {
            let share = f64::from(u32::try_from(list.len()).unwrap()) * cut;
            (0..).take_while(|index| f64::from(*index) < share).count()
        };
        let first = at(cuts[0], &entries);
        let again = entries[first..].to_vec();
        let stop = at(cuts[1], &again);
        replay(&mut model, &again[..stop].to_vec(), batches[1]).unwrap();
        replay(&mut model, &again, batches[1]).unwrap();
        prop_assert_eq!(&documents(&model), &expected);
    }

    /// A log that also contains modifiers is applied, and then again from any entry on. Fields
    /// are compared without their order, which a replay of modifiers may change.
    #[test]
    fn a_mixed_log_applied_again_leads_to_the_same_fields(
        steps in vec((0..3_i32, step(true)), 1..20),
        choices in any::<u64>(),
        batches in [1_usize..8, 1..8],
        cut in 0_usize..20,
    ) {
        let (entries, expected) = log(&steps, choices).unwrap();
        let mut model = Model::default();
        replay(&mut model, &entries, batches[0]).unwrap();
        let sorted = |documents: &[Vec<u8>]| -> Vec<Vec<u8>> {
            documents.iter().map(|document| by_name(document).unwrap()).collect()
        };
        prop_assert_eq!(sorted(&documents(&model)), sorted(&expected));
        let again = entries[cut.min(entries.len())..].to_vec();
        replay(&mut model, &again, batches[1]).unwrap();
        prop_assert_eq!(sorted(&documents(&model)), sorted(&expected));
    }

    /// Modifiers on any document have the effect that they have when a server applies its own
    /// oplog.
    #[test]
    fn modifiers_that_do_not_fit_are_applied_as_far_as_they_go(
        stored in fields(true),
        before in fields(true),
        after in fields(true),
        choices in any::<u64>(),
        batch in select(vec![1_usize, 2]),
    ) {
        let update = modifiers(&before, &after, &mut Choices(choices));
        let stored = document(&stored);
        let update_document = Document::new(&update).unwrap();
        let expected = apply_modifiers(Document::new(&stored).unwrap(), update_document).unwrap();
        let entries = vec![entry(1, 1, "i", &stored).unwrap(), entry(2, 1, "u", &update).unwrap()];
        let mut model = Model::default();
        replay(&mut model, &entries, batch).unwrap();
        let found = documents(&model);
        prop_assert_eq!(by_name(&found[0]).unwrap(), by_name(&expected).unwrap());
    }
}

/// `{$set: {"a.b": 0, c: 1}}` on a document whose `a` is no longer a document still sets `c`.
#[test]
fn an_update_with_one_failing_path_still_sets_the_other_fields() -> Result<()> {
    let stored = build(|out| {
        out.int32("_id", 1).int32("a", 0).int32("c", 0);
    });
    let update = build(|out| {
        out.nested("$set", kind::DOCUMENT, |set| {
            set.int32("a.b", 0).int32("c", 1);
        });
    });
    let entries = vec![entry(1, 1, "i", &stored)?, entry(2, 1, "u", &update)?];
    let mut model = Model::default();
    replay(&mut model, &entries, 1)?;
    let expected = build(|out| {
        out.int32("_id", 1).int32("a", 0).int32("c", 1);
    });
    assert_eq!((documents(&model), model.rewritten), (vec![expected], 1));
    Ok(())
}

#[test]
fn update_on_missing_document_skipped_and_counted() -> Result<()> {
    let inserts = build(|diff| {
        diff.nested("i", kind::DOCUMENT, |fields| {
            fields.int32("a", 1);
        });
    });
    let sets = build(|diff| {
        diff.nested("u", kind::DOCUMENT, |fields| {
            fields.int32("a", 1);
        });
    });
    let mut model = Model::default();
    let entries = vec![
        entry(1, 1, "u", &diff_update(&inserts)?)?,
        entry(2, 2, "u", &diff_update(&sets)?)?,
    ];
    replay(&mut model, &entries, 2)?;
    assert_eq!((documents(&model).len(), model.unmatched), (0, 2));
    Ok(())
}
