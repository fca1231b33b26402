//! The options of `create`, checked and completed as a server does.

use bson::{Bson as Value, Document as Bson};

use super::collation::Collation;
use super::expiry::{self, EXPIRES};
use super::failure::Failure;
use super::index::is_true;
use super::version::Version;

/// The options of collections with the first version that supports them.
pub(super) const OPTIONS: &[(&str, Version)] = &[
    ("capped", Version::V4_2),
    ("size", Version::V4_2),
    ("max", Version::V4_2),
    ("collation", Version::V4_2),
    ("validator", Version::V4_2),
    ("validationLevel", Version::V4_2),
    ("validationAction", Version::V4_2),
    ("storageEngine", Version::V4_2),
    ("indexOptionDefaults", Version::V4_2),
    ("viewOn", Version::V4_2),
    ("pipeline", Version::V4_2),
    ("idIndex", Version::V4_2),
    ("timeseries", Version::V5_0),
    ("expireAfterSeconds", Version::V5_0),
    ("clusteredIndex", Version::V6_0),
    ("changeStreamPreAndPostImages", Version::V6_0),
    ("encryptedFields", Version::V6_0),
];
/// The options of a view.
const VIEW_OPTIONS: [&str; 3] = ["viewOn", "pipeline", "collation"];
/// Sizes of capped collections are multiples of this.
const SIZE_UNIT: i64 = 256;

/// Returns the options as `listCollections` shows them.
pub(super) fn parse(ns: &str, given: &Bson, version: Version) -> Result<Bson, Failure> {
    let mut options = Bson::new();
    let capped = given.get("capped").is_some_and(is_true);
    for (name, value) in given {
        match name.as_str() {
            // This option is an internal mark of temporary collections.
            "temp" => {
                let message = "The field 'temp' is not a valid collection option";
                return Err(Failure::new(72, message));
            }
            "autoIndexId" => {
                let message = "autoIndexId is not allowed outside the local database";
                return Err(Failure::new(50001, message));
            }
            "idIndex" => check_id_index(ns, value, given)?,
            "capped" if capped => drop(options.insert("capped", true)),
            "capped" => {}
            "size" | "max" if !capped => {
                let message = format!("the 'capped' field needs to be true with '{name}'");
                return Err(Failure::new(72, message));
            }
            "size" => {
                let size = integer(given, "size").unwrap_or_default();
                let size = (size + SIZE_UNIT - 1) / SIZE_UNIT * SIZE_UNIT;
                options.insert("size", number(size));
            }
            "max" => drop(options.insert("max", number(integer(given, "max").unwrap_or(0)))),
            "collation" => {
                if let Some(spec) = Collation::of(given)?.spec() {
                    options.insert("collation", spec.clone());
                }
            }
            name if known(name, version) => {
                check_validation(name, value)?;
                if name == EXPIRES {
                    expiry::check_collection(given, value, false)?;
                }
                if name != "validator" || !is_empty(value) {
                    options.insert(name, value.clone());
                }
            }
            name if version >= Version::V4_4 => return Err(Failure::unknown_field("create", name)),
            name => {
                let message = format!("The field '{name}' is not a valid collection option");
                return Err(Failure::new(72, message));
            }
        }
    }
    if capped && !given.contains_key("size") {
        let message = "the 'size' field is required when 'capped' is true";
        return Err(Failure::new(72, message));
    }
    check_view(&options)?;
    Ok(options)
}

fn known(name: &str, version: Version) -> bool {
    let mut options = OPTIONS.iter();
    options.any(|(option, since)| *option == name && *since <= version)
}

pub(super) fn is_empty(value: &Value) -> bool {
    value.as_document().is_some_and(Bson::is_empty)
}

/// Checks the type of an option, and the value of `validationLevel` and `validationAction`.
pub(super) fn check_validation(name: &str, value: &Value) -> Result<(), Failure> {
    let allowed: &[&str] = match name {
        "validationLevel" => &["off", "strict", "moderate"],
        "validationAction" => &["error", "warn"],
        "validator" | "storageEngine" | "indexOptionDefaults" | "timeseries" => {
            return match value {
                Value::Document(_) => Ok(()),
                _ => Err(Failure::new(14, format!("'{name}' has to be a document"))),
            };
        }
        _ => return Ok(()),
    };
    if value.as_str().is_some_and(|value| allowed.contains(&value)) {
        return Ok(());
    }
    Err(Failure::new(2, format!("invalid {name}: {value}")))
}

fn check_view(options: &Bson) -> Result<(), Failure> {
    let is_view = options.contains_key("viewOn");
    if options.contains_key("pipeline") && !is_view {
        let message = "'pipeline' requires 'viewOn' to also be specified";
        return Err(Failure::new(72, message));
    }
    let mut names = options.keys();
    match names.find(|name| is_view && !VIEW_OPTIONS.contains(&name.as_str())) {
        Some(name) => Err(Failure::new(72, format!("a view has no option '{name}'"))),
        None => Ok(()),
    }
}

/// Checks `idIndex`, which must be the index of `_id` that a server creates by default.
fn check_id_index(ns: &str, index: &Value, options: &Bson) -> Result<(), Failure> {
    let index = index.as_document();
    let index = index.ok_or_else(|| Failure::new(14, "'idIndex' has to be a document"))?;
    for (name, value) in index {
        let holds = match name.as_str() {
            "v" => integer(index, "v") == Some(2),
            "key" => value
                .as_document()
                .is_some_and(|key| key.keys().eq(["_id"]) && integer(key, "_id") == Some(1)),
            "name" => value.as_str() == Some("_id_"),
            "ns" => value.as_str() == Some(ns),
            "collation" => Collation::of(index)? == Collation::of(options)?,
            name => {
                let message = format!("The field '{name}' is not valid for an _id index");
                return Err(Failure::new(197, message));
            }
        };
        if !holds {
            let message = format!("'{name}' of 'idIndex' does not fit the collection: {value}");
            return Err(Failure::new(2, message));
        }
    }
    Ok(())
}

/// Returns a whole number of any numeric type.
pub(super) fn integer(fields: &Bson, name: &str) -> Option<i64> {
    match fields.get(name)? {
        Value::Int32(number) => Some((*number).into()),
        Value::Int64(number) => Some(*number),
        Value::Double(number) => Some(*number as i64),
        _ => None,
    }
}

/// Returns the smallest type that holds the number, as servers write numbers of options.
pub(super) fn number(number: i64) -> Value {
    i32::try_from(number).map_or(Value::Int64(number), Value::Int32)
}
