//! The model's content, in the form of the recorded fixtures.

use std::collections::BTreeMap;

use anyhow::{Context, Result, bail, ensure};
use bson::{Bson as Value, Document as Bson, doc};
use oplog_relay_core::compare::compare_values;
use oplog_relay_core::document::{Document, Element, kind};
use oplog_relay_core::json::{Mode, write_value};

use super::Model;
use super::index::Index;

/// Documents by namespace, in order of `_id`.
pub type State = BTreeMap<String, Vec<Vec<u8>>>;
/// Lists of `{name, type, options, indexes}` by database, in order of name; views have no
/// `indexes`.
pub type Collections = BTreeMap<String, Vec<Bson>>;

impl Model {
    /// Returns the documents of all shards by namespace, in the server's order of `_id`.
    #[must_use]
    pub fn state(&self) -> State {
        let mut state = State::new();
        for (db, collections) in self.shards().flat_map(|shard| &shard.databases) {
            for (name, collection) in collections {
                let documents = collection.records();
                let documents = documents.map(|(_, document)| document.as_bytes().to_vec());
                let all: &mut Vec<Vec<u8>> = state.entry(format!("{db}.{name}")).or_default();
                all.extend(documents);
            }
        }
        for documents in state.values_mut() {
            documents.sort_by(|one, other| compare_values(id_of(one), id_of(other)));
        }
        state
    }

    /// Returns the collections and views with their options and indexes.
    #[must_use]
    pub fn collections(&self) -> Collections {
        let databases = self.databases.keys();
        let described = databases.map(|db| {
            let listed = self.listed(db).into_iter();
            let described = listed.map(|listed| self.described(db, &listed));
            (db.clone(), described.collect())
        });
        described.collect()
    }

    fn described(&self, db: &str, listed: &Bson) -> Bson {
        let mut described = doc! {};
        for field in ["name", "type", "options"] {
            described.insert(field, listed.get(field).cloned().unwrap_or(Value::Null));
        }
        let name = listed.get_str("name").unwrap_or_default();
        if let Some(collection) = self.collection(db, name) {
            let indexes = collection.listed_indexes().map(Index::spec);
            described.insert("indexes", indexes.cloned().collect::<Vec<_>>());
        }
        described
    }
}

fn id_of(document: &[u8]) -> Element<'_> {
    let document = Document::new(document).unwrap_or(Document::EMPTY);
    let id = document.get("_id").ok().flatten();
    id.unwrap_or(Element {
        name: b"_id",
        kind: kind::NULL,
        value: &[],
    })
}

/// Checks that the collections are the expected ones; the error names all differences. Options of
/// collections and of indexes that are named in `withheld` may be missing or differ.
pub(super) fn compare(
    found: &Collections,
    expected: &Collections,
    withheld: &[&str],
) -> Result<()> {
    let mut differences = Vec::new();
    let (one, other) = (names(found), names(expected));
    for ns in one.keys().filter(|ns| !other.contains_key(*ns)) {
        differences.push(format!("{ns} is unexpected"));
    }
    for (ns, expected) in other {
        match one.get(&ns) {
            None => differences.push(format!("{ns} is missing")),
            Some(found) => compare_collection(&ns, found, expected, withheld, &mut differences)?,
        }
    }
    if differences.is_empty() {
        return Ok(());
    }
    bail!("{}", differences.join("\n"))
}

fn names(collections: &Collections) -> BTreeMap<String, &Bson> {
    let all = collections.iter();
    let named = all.flat_map(|(db, collections)| {
        let named = collections.iter().map(move |collection| {
            let name = collection.get_str("name").unwrap_or_default();
            (format!("{db}.{name}"), collection)
        });
        named.collect::<Vec<_>>()
    });
    named.collect()
}

fn compare_collection(
    ns: &str,
    found: &Bson,
    expected: &Bson,
    withheld: &[&str],
    differences: &mut Vec<String>,
) -> Result<()> {
    let (one, other) = (found.get_str("type")?, expected.get_str("type")?);
    if one != other {
        differences.push(format!("{ns} is a {one}, expected a {other}"));
    }
    let options = |collection: &Bson| collection.get_document("options").cloned();
    let what = format!("{ns}, options");
    compare_fields(
        &what,
        &options(found)?,
        &options(expected)?,
        withheld,
        differences,
    );
    let (found, expected) = (indexes(found)?, indexes(expected)?);
    for name in found.keys().filter(|name| !expected.contains_key(*name)) {
        differences.push(format!("{ns}, index {name} is unexpected"));
    }
    for (name, expected) in expected {
        let what = format!("{ns}, index {name}");
        match found.get(&name) {
            None => differences.push(format!("{what} is missing")),
            Some(found) => compare_fields(&what, found, &expected, withheld, differences),
        }
    }
    Ok(())
}

fn indexes(collection: &Bson) -> Result<BTreeMap<String, Bson>> {
    let Ok(indexes) = collection.get_array("indexes") else {
        ensure!(collection.get_str("type")? != "collection", "no indexes");
        return Ok(BTreeMap::new());
    };
    let named = indexes.iter().map(|index| {
        let index = index.as_document().context("no index")?;
        Ok((index.get_str("name")?.to_owned(), index.clone()))
    });
    named.collect()
}

/// Compares the fields in any order; the order within a field counts.
fn compare_fields(
    what: &str,
    found: &Bson,
    expected: &Bson,
    withheld: &[&str],
    differences: &mut Vec<String>,
) {
    let names = found.keys().chain(expected.keys());
    let mut names: Vec<&String> = names
        .filter(|name| !withheld.contains(&name.as_str()))
        .collect();
    names.sort();
    names.dedup();
    for name in names {
        let (one, other) = (found.get(name), expected.get(name));
        let same = match (one, other) {
            // MongoDB 5.0 lists the fields of this option in any order.
            (Some(one), Some(other)) if name == "wildcardProjection" => one == other,
            (Some(one), Some(other)) => bytes_of(one) == bytes_of(other),
            _ => false,
        };
        if !same {
            let shown =
                |value: Option<&Value>| value.map_or_else(|| "nothing".to_owned(), canonical);
            let (one, other) = (shown(one), shown(other));
            differences.push(format!("{what}: {name} is {one}, expected {other}"));
        }
    }
}

/// Formats a value as Extended JSON that preserves its type.
fn canonical(value: &Value) -> String {
    let bytes = bytes_of(value).unwrap_or_default();
    let mut text = Vec::new();
    let value = Document::new(&bytes).ok();
    if let Some(value) = value.and_then(|document| document.first().ok().flatten()) {
        drop(write_value(value, Mode::Canonical, &mut text));
    }
    String::from_utf8_lossy(&text).into_owned()
}

fn bytes_of(value: &Value) -> Option<Vec<u8>> {
    doc! { "v": value }.to_vec().ok()
}
