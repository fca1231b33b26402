//! Translates index builds, drops and changes of an oplog into commands for a target.

use oplog_relay_core::command::index_specs;
use oplog_relay_core::compare::is_truthy;
use oplog_relay_core::document::{Document, DocumentBuilder, Element, Malformed, kind};
use oplog_relay_core::entry::Entry;
use oplog_relay_core::index::{Demand, demand};

use super::{
    Action, Circumstances, Translated, Withheld, done, old_options, plain, run, seconds, with_name,
    without_version,
};
use crate::replay::plan::PlanFault;

/// Translates `createIndexes` and `commitIndexBuild`.
pub(crate) fn create_indexes(
    entry: &Entry<'_>,
    at: Circumstances<'_>,
) -> Result<Translated, PlanFault> {
    let specs = index_specs(entry.o)?;
    let mut translated = plain(Action::Nothing);
    let mut written = Vec::new();
    for spec in &specs {
        if let Some(bytes) = index_spec(*spec, at.ordered, &mut translated)? {
            written.push(bytes);
        }
    }
    if written.is_empty() {
        return Ok(translated);
    }
    // Without the option `collation`, an index inherits the collation of its collection. An index
    // that has a collation on the source always has the option in its entry, so any other index is
    // created with the simple collation.
    let explicit = written
        .iter()
        .map(|spec| with_collation(spec))
        .collect::<Result<Vec<_>, _>>()?;
    // For a target that refuses the option `collation`, or the values of a key.
    let plain = written
        .iter()
        .map(|spec| old_options::with_plain_key(spec))
        .collect::<Result<Vec<_>, _>>()?;
    translated.action = Action::Run {
        command: with_indexes(at.collection, &explicit),
        accept: &done::INDEX_TAKEN,
        otherwise: Some(with_indexes(at.collection, &plain)),
    };
    Ok(translated)
}

fn with_indexes(collection: &str, specs: &[Vec<u8>]) -> Vec<u8> {
    let mut out = Vec::new();
    let mut command = DocumentBuilder::start(&mut out);
    command.str("createIndexes", collection);
    command.nested("indexes", kind::ARRAY, |list| {
        for (index, spec) in specs.iter().enumerate() {
            list.raw(&index.to_string(), kind::DOCUMENT, spec);
        }
    });
    command.finish();
    out
}

/// Returns the index with the collation that it has on the source: the simple one if it has none.
fn with_collation(spec: &[u8]) -> Result<Vec<u8>, Malformed> {
    let spec = Document::new(spec)?;
    let mut out = Vec::new();
    let mut explicit = DocumentBuilder::start(&mut out);
    for field in spec.elements() {
        explicit.element(field?);
    }
    // An index of version 1 has no collation, and servers refuse the option.
    if spec.get("collation")?.is_none() && !old_options::is_version_1(spec)? {
        explicit.nested("collation", kind::DOCUMENT, |collation| {
            collation.str("locale", "simple");
        });
    }
    explicit.finish();
    Ok(out)
}

/// Returns the specification of an index for a target; `None` for an index that is created with its
/// collection.
fn index_spec(
    spec: Document<'_>,
    ordered: bool,
    translated: &mut Translated,
) -> Result<Option<Vec<u8>>, Malformed> {
    if old_options::is_of_id(spec)? {
        return Ok(None);
    }
    let name = index_name(spec.get("name")?, spec.get("key")?)?;
    let demand = demand(spec)?;
    if demand == Demand::Form || (ordered && demand == Demand::Uniqueness) {
        translated.limiting.extend(name.clone());
    }
    let is_unchecked = old_options::is_unchecked(spec)?;
    let mut out = Vec::new();
    let mut kept = DocumentBuilder::start(&mut out);
    for field in spec.elements() {
        let field = field?;
        match field.name {
            b"createIndexes" | b"ns" | b"dropDups" | b"buildUUID" => {}
            b"clustered" => return Ok(None),
            b"collation" if field.kind == kind::DOCUMENT => {
                kept.document("collation", Document::new(&without_version(field)?)?);
            }
            b"expireAfterSeconds" => {
                translated.withheld.push(Withheld {
                    index: name.clone(),
                    seconds: seconds(field),
                });
            }
            b"key" if is_unchecked && !old_options::is_version_1(spec)? => {
                match old_options::plain_key(field)? {
                    Some(key) => {
                        translated.left_out.push("key".to_owned());
                        kept.raw("key", kind::DOCUMENT, &key);
                    }
                    None => drop(kept.element(field)),
                }
            }
            _ if is_unchecked
                && (old_options::is_unknown(field) || old_options::is_outdated_version(field)) =>
            {
                let name = String::from_utf8_lossy(field.name).into_owned();
                translated.left_out.push(name);
            }
            b"unique" if !ordered && is_truthy(field) => translated.made_non_unique = true,
            b"unique" | b"sparse" | b"hidden" | b"prepareUnique" => {
                // MongoDB 5.0 and later may refuse a flag that is not a boolean.
                kept.element(Element {
                    kind: kind::BOOLEAN,
                    value: &[is_truthy(field).into()],
                    ..field
                });
            }
            _ => {
                kept.element(field);
            }
        }
    }
    kept.finish();
    Ok(Some(out))
}

/// Translates `dropIndexes`. The end of the index also ends its expiry.
pub(crate) fn drop_index(entry: &Entry<'_>, collection: &str) -> Result<Translated, PlanFault> {
    let index = entry.o.get("index")?.ok_or(Malformed::Missing("index"))?;
    let command = with_name("dropIndexes", collection, |drop| {
        drop.element(index);
        Ok(())
    })?;
    let ended = index_name(Some(index), Some(index))?.map(|name| Withheld {
        index: Some(name),
        seconds: None,
    });
    Ok(Translated {
        action: run(
            command,
            &[done::NO_COLLECTION, done::NO_INDEX, done::SHARD_KEY_INDEX],
        ),
        withheld: ended.into_iter().collect(),
        ..plain(Action::Nothing)
    })
}

/// Returns the change of an index without its withheld parts; `None` if nothing is left.
pub(crate) fn index_change(
    index: Document<'_>,
    ordered: bool,
    translated: &mut Translated,
) -> Result<Option<Vec<u8>>, Malformed> {
    let name = index_name(index.get("name")?, index.get("keyPattern")?)?;
    if ordered && demand(index)? == Demand::Uniqueness {
        translated.limiting.extend(name.clone());
    }
    let mut changes = false;
    let mut out = Vec::new();
    let mut kept = DocumentBuilder::start(&mut out);
    for field in index.elements() {
        let field = field?;
        match field.name {
            b"expireAfterSeconds" => translated.withheld.push(Withheld {
                index: name.clone(),
                seconds: seconds(field),
            }),
            // The index is not unique on the target, so a change that makes it non-unique is left out.
            b"unique" | b"prepareUnique" if !ordered => {
                translated.made_non_unique |= is_truthy(field);
            }
            b"name" | b"keyPattern" => {
                kept.element(field);
            }
            _ => {
                changes = true;
                kept.element(field);
            }
        }
    }
    kept.finish();
    Ok(changes.then_some(out))
}

/// Returns the name of an index. If only the key is given, this is the name that a server generates
/// (`a_1_b_-1`).
fn index_name(
    name: Option<Element<'_>>,
    key: Option<Element<'_>>,
) -> Result<Option<String>, Malformed> {
    if let Some(name) = name.and_then(|name| name.str().ok()) {
        return Ok(Some(name.to_owned()));
    }
    let Some(key) = key.filter(|key| key.kind == kind::DOCUMENT) else {
        return Ok(None);
    };
    let mut parts = Vec::new();
    for field in key.document()?.elements() {
        let field = field?;
        // `seconds` reads a number of any type.
        let direction = seconds(field).map(|direction| direction.to_string());
        let direction = direction.or_else(|| field.str().ok().map(str::to_owned));
        parts.push(String::from_utf8_lossy(field.name).into_owned());
        parts.extend(direction);
    }
    Ok(Some(parts.join("_")))
}
