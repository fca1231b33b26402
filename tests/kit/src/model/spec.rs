//! The specs of `createIndexes`, checked and completed as a server does.

use bson::{Bson as Value, Document as Bson, doc};

use super::collation::Collation;
use super::expiry;
use super::failure::Failure;
use super::index::{Index, is_true};
use super::options::integer;
use super::version::Version;

/// The fields of a spec with the first version that supports them.
const FIELDS: &[(&str, Version)] = &[
    ("v", Version::V4_2),
    ("key", Version::V4_2),
    ("name", Version::V4_2),
    ("ns", Version::V4_2),
    ("unique", Version::V4_2),
    ("sparse", Version::V4_2),
    ("background", Version::V4_2),
    ("expireAfterSeconds", Version::V4_2),
    ("partialFilterExpression", Version::V4_2),
    ("collation", Version::V4_2),
    ("storageEngine", Version::V4_2),
    ("weights", Version::V4_2),
    ("default_language", Version::V4_2),
    ("language_override", Version::V4_2),
    ("textIndexVersion", Version::V4_2),
    ("2dsphereIndexVersion", Version::V4_2),
    ("bits", Version::V4_2),
    ("min", Version::V4_2),
    ("max", Version::V4_2),
    ("wildcardProjection", Version::V4_2),
    ("hidden", Version::V4_4),
    ("prepareUnique", Version::V6_0),
];
/// Fields that do not count as options: those that are compared separately, and those in which two
/// specs of one index may differ.
const NO_OPTIONS: [&str; 7] = [
    "v",
    "key",
    "name",
    "ns",
    "background",
    "collation",
    "hidden",
];
/// Fields that distinguish indexes of the same key since 5.0.
const IDENTITY: [&str; 4] = [
    "partialFilterExpression",
    "unique",
    "sparse",
    "wildcardProjection",
];
const PLUGINS: [&str; 5] = ["2d", "2dsphere", "geoHaystack", "hashed", "text"];

/// Checks a spec and completes it to the form that `listIndexes` shows.
pub(super) fn parse(
    ns: &str,
    given: &Bson,
    collection: &Collation,
    version: Version,
) -> Result<Bson, Failure> {
    for (name, value) in given {
        let mut fields = FIELDS.iter();
        if !fields.any(|(field, since)| field == name && *since <= version) {
            let message = format!("The field '{name}' is not valid for an index specification");
            return Err(Failure::new(197, message));
        }
        if name == "ns" && value.as_str() != Some(ns) {
            let message = format!("the field 'ns' is {value}, not the namespace {ns}");
            return Err(Failure::new(2, message));
        }
    }
    let missing = |name| {
        let message =
            format!("The '{name}' field is a required property of an index specification");
        Failure::new(9, message)
    };
    let key = given.get_document("key").map_err(|_| missing("key"))?;
    let name = given.get_str("name").map_err(|_| missing("name"))?;
    let is_version_1 = integer(given, "v") == Some(1);
    if is_version_1 && given.contains_key("collation") {
        let message = "cannot create an index with the 'collation' option and v=1";
        return Err(Failure::new(67, message));
    }
    check_key(key, is_version_1)?;
    let is_id = key.keys().eq(["_id"]) && integer(key, "_id") == Some(1);
    let name = if is_id { "_id_" } else { name };
    let mut spec = doc! { "v": given.get("v").cloned().unwrap_or(Value::Int32(2)) };
    spec.insert("key", key.clone());
    spec.insert("name", name);
    for (name, value) in given {
        if !["v", "key", "name", "ns", "collation"].contains(&name.as_str()) {
            spec.insert(name, value.clone());
        }
    }
    let collation = match given.get("collation") {
        Some(_) => Collation::of(given)?,
        None => collection.clone(),
    };
    if let Some(collation) = collation.spec() {
        spec.insert("collation", collation.clone());
    }
    complete_plugin(&mut spec);
    check_options(&spec)?;
    expiry::check_new_index(&spec, version)?;
    Ok(spec)
}

/// Checks the key. A key of version 1 may have values that later versions refuse.
fn check_key(key: &Bson, is_version_1: bool) -> Result<(), Failure> {
    let refused = |why: String| Err(Failure::new(67, why));
    if key.is_empty() {
        return refused("Index keys cannot be an empty object".to_owned());
    }
    for (path, value) in key {
        let known = match value {
            Value::String(plugin) => {
                PLUGINS.contains(&plugin.as_str()) || (is_version_1 && plugin.is_empty())
            }
            Value::Document(_) | Value::Array(_) => false,
            _ if is_version_1 => true,
            _ => integer(key, path).is_some_and(|direction| direction != 0),
        };
        if !known {
            return refused(format!("Unknown index plugin or direction {value}"));
        }
        if path.is_empty() || path.split('.').any(str::is_empty) {
            return refused("Index keys cannot contain an empty field".to_owned());
        }
    }
    Ok(())
}

fn check_options(spec: &Bson) -> Result<(), Failure> {
    let refused = |why: &str| Err(Failure::new(67, why));
    let key = spec.get_document("key").cloned().unwrap_or_default();
    if spec.get_str("name").is_ok_and(str::is_empty) {
        return refused("index name cannot be empty");
    }
    let sparse = spec.get("sparse").is_some_and(is_true);
    if sparse && spec.contains_key("partialFilterExpression") {
        return refused("cannot mix \"partialFilterExpression\" and \"sparse\" options");
    }
    let is_simple = !spec.contains_key("collation");
    let mut plugins = key.values().filter_map(Value::as_str);
    if !is_simple && plugins.any(|plugin| ["2d", "text", "geoHaystack"].contains(&plugin)) {
        return refused("this type of index does not support a collation");
    }
    Ok(())
}

/// Adds the fields that servers add for text and geospatial indexes.
fn complete_plugin(spec: &mut Bson) {
    let key = spec.get_document("key").cloned().unwrap_or_default();
    let of = |plugin: &str| {
        let fields = key
            .iter()
            .filter(|(_, value)| value.as_str() == Some(plugin));
        fields.map(|(name, _)| name.clone()).collect::<Vec<_>>()
    };
    let mut add = |name: &str, value: Value| {
        if !spec.contains_key(name) {
            spec.insert(name, value);
        }
    };
    if !of("2dsphere").is_empty() {
        add("2dsphereIndexVersion", Value::Int32(3));
    }
    let text = of("text");
    if text.is_empty() {
        return;
    }
    let weights = text.iter().filter(|name| *name != "_fts");
    let weights = weights.map(|name| (name.clone(), Value::Int32(1)));
    add("weights", Value::Document(weights.collect()));
    add("default_language", "english".into());
    add("language_override", "language".into());
    add("textIndexVersion", Value::Int32(3));
    let (mut complete, mut done) = (Bson::new(), false);
    for (name, value) in key {
        if value.as_str() != Some("text") {
            complete.insert(name, value);
        } else if !std::mem::replace(&mut done, true) {
            complete.extend(doc! { "_fts": "text", "_ftsx": 1 });
        }
    }
    spec.insert("key", complete);
}

/// Returns true if an index has the definition of the wanted one.
///
/// Fails with 85 or 86 if it has the name or the key of the wanted index, but another definition.
pub(super) fn is_there(there: &Index, wanted: &Index, version: Version) -> Result<bool, Failure> {
    let (one, other) = (there.spec(), wanted.spec());
    let same_key = bytes_of(&there.key()) == bytes_of(&wanted.key())
        && there.collation() == wanted.collation();
    let same_options = options(one) == options(other);
    let differs = |code, what: &str| {
        let message = format!("{what}. Requested index: {other}, existing index: {one}");
        Err(Failure::new(code, message))
    };
    if there.name() == wanted.name() {
        return match (same_key, same_options) {
            (true, true) => Ok(true),
            (true, false) if identity(one) == identity(other) || version < Version::V5_0 => {
                differs(85, "Index already exists with different options")
            }
            _ => differs(86, "An existing index has the same name"),
        };
    }
    if !same_key || (version >= Version::V5_0 && identity(one) != identity(other)) {
        return Ok(false);
    }
    if same_options {
        return differs(85, "Index already exists with a different name");
    }
    differs(85, "Index already exists with different options")
}

/// Returns the fields of a key with their values as text, in order, because their order counts. Equal
/// numbers of different types have the same text.
fn bytes_of(key: &Bson) -> Vec<(String, String)> {
    let fields = key.iter();
    let plain = |value: &Value, name: &str| {
        integer(key, name).map_or_else(|| value.to_string(), |direction| direction.to_string())
    };
    fields
        .map(|(name, value)| (name.clone(), plain(value, name)))
        .collect()
}

fn options(spec: &Bson) -> Bson {
    let fields = spec.iter().filter(|(name, value)| {
        let off = value.as_bool() == Some(false);
        !off && !NO_OPTIONS.contains(&name.as_str())
    });
    let fields = fields.map(|(name, value)| (name.clone(), value.clone()));
    fields.collect()
}

fn identity(spec: &Bson) -> Bson {
    let fields = options(spec).into_iter();
    let fields = fields.filter(|(name, _)| IDENTITY.contains(&name.as_str()));
    fields.collect()
}
