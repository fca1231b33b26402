//! Histories of a document: its states, and the updates between them as a server logs them.

#![allow(dead_code, reason = "each test binary uses a part")]

use oplog_relay_core::document::{DocumentBuilder, kind};
use proptest::collection::vec;
use proptest::prelude::{BoxedStrategy, Just, Strategy, prop_oneof};
use proptest::sample::{select, subsequence};

/// A value of few kinds, because the tests are about changes of containers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Value {
    Null,
    Int(i32),
    Fields(Vec<(&'static str, Value)>),
    Items(Vec<Value>),
}

/// Names, including those that are difficult in paths.
const NAMES: [&str; 8] = ["a", "b", "c", "0", "1", "a.b", "$d", ""];
/// Names that a path can contain.
const PLAIN_NAMES: [&str; 5] = ["a", "b", "c", "0", "1"];

/// Returns fields with different names in any order.
pub(crate) fn fields(plain: bool) -> BoxedStrategy<Vec<(&'static str, Value)>> {
    fields_of(value(plain, 3), plain)
}

fn fields_of(
    value: BoxedStrategy<Value>,
    plain: bool,
) -> BoxedStrategy<Vec<(&'static str, Value)>> {
    let names = if plain { &PLAIN_NAMES[..] } else { &NAMES[..] };
    subsequence(names, 0..=4)
        .prop_shuffle()
        .prop_flat_map(move |names| {
            vec(value.clone(), names.len())
                .prop_map(move |values| names.iter().copied().zip(values).collect())
        })
        .boxed()
}

fn value(plain: bool, levels: u32) -> BoxedStrategy<Value> {
    let leaf = prop_oneof![
        1 => Just(Value::Null),
        4 => select(vec![1, 2, 3]).prop_map(Value::Int),
    ];
    if levels == 0 {
        return leaf.boxed();
    }
    let inner = value(plain, levels - 1);
    prop_oneof![
        2 => leaf,
        3 => fields_of(inner.clone(), plain).prop_map(Value::Fields),
        3 => vec(inner, 0..5).prop_map(Value::Items),
    ]
    .boxed()
}

/// Returns the document `{_id: 1, …fields}`.
pub(crate) fn document(fields: &[(&'static str, Value)]) -> Vec<u8> {
    build(|out| {
        out.int32("_id", 1);
        for (name, value) in fields {
            append(out, name, value);
        }
    })
}

pub(crate) fn build(fill: impl FnOnce(&mut DocumentBuilder<'_>)) -> Vec<u8> {
    let mut out = Vec::new();
    let mut builder = DocumentBuilder::start(&mut out);
    fill(&mut builder);
    builder.finish();
    out
}

fn append(out: &mut DocumentBuilder<'_>, name: &str, value: &Value) {
    match value {
        Value::Null => drop(out.raw(name, kind::NULL, &[])),
        Value::Int(number) => drop(out.int32(name, *number)),
        Value::Fields(fields) => out.nested(name, kind::DOCUMENT, |inner| {
            for (name, value) in fields {
                append(inner, name, value);
            }
        }),
        Value::Items(items) => out.nested(name, kind::ARRAY, |inner| {
            for (index, value) in items.iter().enumerate() {
                append(inner, &index.to_string(), value);
            }
        }),
    }
}

/// Random choices between a diff of a container and its whole new value. A server logs the shorter
/// of the two.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Choices(pub(crate) u64);

impl Choices {
    fn next(&mut self) -> bool {
        self.0 = self.0.rotate_left(1);
        self.0 & 1 == 1
    }
}

/// Returns the diff between two states, as the server's `computeDiff` makes it, or `None` if
/// nothing changed.
pub(crate) fn diff(
    before: &[(&'static str, Value)],
    after: &[(&'static str, Value)],
    choices: &mut Choices,
) -> Option<Vec<u8>> {
    let (mut removed, mut updated, mut nested) = (Vec::new(), Vec::new(), Vec::new());
    let mut rest = after.iter().peekable();
    for (name, old) in before {
        let Some((_, new)) = rest.next_if(|(other, _)| other == name) else {
            removed.push(*name);
            continue;
        };
        if old != new {
            match embedded(old, new, choices) {
                Some(diff) => nested.push((*name, diff)),
                None => updated.push((*name, new)),
            }
        }
    }
    let inserted: Vec<_> = rest.collect();
    removed.retain(|name| inserted.iter().all(|(other, _)| other != name));
    let any = removed.len() + updated.len() + inserted.len() + nested.len() > 0;
    any.then(|| {
        build(|out| {
            if !removed.is_empty() {
                out.nested("d", kind::DOCUMENT, |out| {
                    for name in &removed {
                        out.boolean(name, false);
                    }
                });
            }
            if !updated.is_empty() {
                out.nested("u", kind::DOCUMENT, |out| {
                    for (name, value) in &updated {
                        append(out, name, value);
                    }
                });
            }
            if !inserted.is_empty() {
                out.nested("i", kind::DOCUMENT, |out| {
                    for (name, value) in &inserted {
                        append(out, name, value);
                    }
                });
            }
            for (name, diff) in &nested {
                out.raw(&format!("s{name}"), kind::DOCUMENT, diff);
            }
        })
    })
}

/// Returns a diff that sets the first `updates` of these fields and removes the others.
pub(crate) fn flat(fields: &[(&'static str, Value)], updates: usize) -> Option<Vec<u8>> {
    let (updated, removed) = fields.split_at(updates.min(fields.len()));
    (!fields.is_empty()).then(|| {
        build(|out| {
            out.nested("d", kind::DOCUMENT, |out| {
                for (name, _) in removed {
                    out.boolean(name, false);
                }
            });
            out.nested("u", kind::DOCUMENT, |out| {
                for (name, value) in updated {
                    append(out, name, value);
                }
            });
        })
    })
}

/// Returns the diff of two containers of the same kind, or `None` if the new one is logged whole.
fn embedded(old: &Value, new: &Value, choices: &mut Choices) -> Option<Vec<u8>> {
    if choices.next() {
        return None;
    }
    match (old, new) {
        (Value::Fields(old), Value::Fields(new)) => diff(old, new, choices),
        (Value::Items(old), Value::Items(new)) => Some(items_diff(old, new, choices)),
        _ => None,
    }
}

fn items_diff(old: &[Value], new: &[Value], choices: &mut Choices) -> Vec<u8> {
    build(|out| {
        out.boolean("a", true);
        if new.len() < old.len() {
            out.int32("l", i32::try_from(new.len()).unwrap_or(i32::MAX));
        }
        for (index, value) in new.iter().enumerate() {
            let before = old.get(index);
            if before == Some(value) {
                continue;
            }
            match before.and_then(|before| embedded(before, value, choices)) {
                Some(diff) => drop(out.raw(&format!("s{index}"), kind::DOCUMENT, &diff)),
                None => append(out, &format!("u{index}"), value),
            }
        }
    })
}

/// Returns the `$v: 1` modifiers between two states with plain names. Shorter arrays are logged
/// whole.
pub(crate) fn modifiers(
    before: &[(&'static str, Value)],
    after: &[(&'static str, Value)],
    choices: &mut Choices,
) -> Vec<u8> {
    let (mut set, mut unset) = (Vec::new(), Vec::new());
    paths("", before, after, choices, &mut set, &mut unset);
    build(|out| {
        out.int32("$v", 1);
        out.nested("$set", kind::DOCUMENT, |out| {
            for (path, value) in &set {
                append(out, path, value);
            }
        });
        out.nested("$unset", kind::DOCUMENT, |out| {
            for path in &unset {
                out.boolean(path, true);
            }
        });
    })
}

fn paths<'v>(
    prefix: &str,
    before: &[(&'static str, Value)],
    after: &'v [(&'static str, Value)],
    choices: &mut Choices,
    set: &mut Vec<(String, &'v Value)>,
    unset: &mut Vec<String>,
) {
    for (name, _) in before {
        if after.iter().all(|(other, _)| other != name) {
            unset.push(format!("{prefix}{name}"));
        }
    }
    for (name, new) in after {
        let old = before.iter().find(|(other, _)| other == name);
        let path = format!("{prefix}{name}");
        let old = old.map(|(_, old)| old);
        if old != Some(new) {
            path_to(path, old, new, choices, set, unset);
        }
    }
}

fn path_to<'v>(
    path: String,
    old: Option<&Value>,
    new: &'v Value,
    choices: &mut Choices,
    set: &mut Vec<(String, &'v Value)>,
    unset: &mut Vec<String>,
) {
    match (old, new) {
        (Some(Value::Fields(old)), Value::Fields(new)) if choices.next() => {
            paths(&format!("{path}."), old, new, choices, set, unset);
        }
        (Some(Value::Items(old)), Value::Items(new))
            if new.len() >= old.len() && choices.next() =>
        {
            for (index, new) in new.iter().enumerate() {
                let old = old.get(index);
                if old != Some(new) {
                    path_to(format!("{path}.{index}"), old, new, choices, set, unset);
                }
            }
        }
        _ => set.push((path, new)),
    }
}
