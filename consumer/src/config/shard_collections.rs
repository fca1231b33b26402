//! The collections that a replay creates sharded: `--shard-collections`.

use std::collections::BTreeMap;
use std::fs;

use mongodb::bson::{Bson, Document};
use oplog_relay_core::filter::CATALOG_DB;
use oplog_relay_core::json::parse_document;
use oplog_relay_runtime::config::Faults;

const FLAG: &str = "--shard-collections";
/// Databases whose collections cannot be sharded by a client, and that of the replay's own state.
const INTERNAL: [&str; 4] = ["admin", "config", "local", CATALOG_DB];

/// Shard keys by namespace.
pub type ShardKeys = BTreeMap<String, Document>;

/// Reads the values of the flag: `db.collection={"field": 1}`, or `file:<path>` with one of them in each
/// line. Adds all faults.
pub(super) fn check(values: &[String], faults: &mut Faults) -> ShardKeys {
    let mut keys = ShardKeys::new();
    for value in values {
        let Some(path) = value.strip_prefix("file:") else {
            add(value, &mut keys, faults);
            continue;
        };
        match fs::read_to_string(path) {
            Ok(text) => {
                let lines = text.lines().map(str::trim);
                for line in lines.filter(|line| !line.is_empty() && !line.starts_with('#')) {
                    add(line, &mut keys, faults);
                }
            }
            Err(error) => faults.add(FLAG, format!("{path} cannot be read: {error}")),
        }
    }
    keys
}

fn add(value: &str, keys: &mut ShardKeys, faults: &mut Faults) {
    match read(value) {
        Ok((ns, _)) if keys.contains_key(&ns) => {
            faults.add(FLAG, format!("{ns} is given twice"));
        }
        Ok((ns, key)) => {
            keys.insert(ns, key);
        }
        Err(fault) => faults.add(FLAG, format!("{value:?} {fault}")),
    }
}

/// Reads `db.collection={"field": 1}`. A name may contain an equals sign, so the key begins at the
/// first `={`.
fn read(value: &str) -> Result<(String, Document), String> {
    let form = "must be db.collection={\"field\": 1} or db.collection={\"field\": \"hashed\"}";
    let (ns, _) = value.split_once("={").ok_or(form)?;
    let (_, key) = value.split_at(ns.len() + 1);
    let (db, collection) = ns.split_once('.').ok_or(form)?;
    if db.is_empty() || collection.is_empty() || ns.contains(['$', '\0']) {
        return Err(form.to_owned());
    }
    if INTERNAL.contains(&db) || collection.starts_with("system.") {
        return Err("names a collection that cannot be sharded".to_owned());
    }
    let mut bytes = Vec::new();
    parse_document(key.as_bytes(), &mut bytes).map_err(|error| format!("has no key: {error}"))?;
    let key = Document::from_reader(bytes.as_slice()).map_err(|error| error.to_string())?;
    check_key(&key)?;
    Ok((ns.to_owned(), key))
}

fn check_key(key: &Document) -> Result<(), String> {
    if key.is_empty() {
        return Err("has a key without fields".to_owned());
    }
    let mut hashed = 0;
    for (field, direction) in key {
        let is_path = field.split('.').all(|part| !part.is_empty()) && !field.contains('$');
        if !is_path {
            return Err(format!("has the field {field:?}, which is not a path"));
        }
        match direction {
            Bson::Int32(1) | Bson::Int64(1) => {}
            Bson::String(text) if text == "hashed" => hashed += 1,
            other => {
                return Err(format!(
                    "gives {field} the value {other}: it must be 1 or \"hashed\""
                ));
            }
        }
    }
    if hashed > 1 {
        return Err("has more than one hashed field".to_owned());
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use mongodb::bson::doc;

    fn checked(values: &[&str]) -> (ShardKeys, Vec<String>) {
        let mut faults = Faults::new();
        let values: Vec<String> = values.iter().map(|value| (*value).to_owned()).collect();
        let keys = check(&values, &mut faults);
        let found = faults.found().iter();
        (keys, found.map(|fault| fault.message.clone()).collect())
    }

    #[test]
    fn keys_are_read_by_namespace() {
        let (keys, faults) = checked(&[
            r#"shop.orders={"customerId":"hashed"}"#,
            r#"shop.a=b.c={"a.b":1, "_id":1}"#,
        ]);
        assert!(faults.is_empty(), "{faults:?}");
        assert_eq!(keys["shop.orders"], doc! { "customerId": "hashed" });
        assert_eq!(keys["shop.a=b.c"], doc! { "a.b": 1, "_id": 1 });
    }

    #[test]
    fn a_file_has_one_collection_in_each_line() {
        let file = tempfile::NamedTempFile::new().unwrap();
        fs::write(
            file.path(),
            "# orders\n\nshop.orders={\"c\":1}\nshop.items={}\n",
        )
        .unwrap();
        let (keys, faults) = checked(&[&format!("file:{}", file.path().display())]);
        assert_eq!(keys.len(), 1);
        assert_eq!(faults.len(), 1);
        assert!(faults[0].contains("without fields"), "{faults:?}");
        let (_, faults) = checked(&["file:/nowhere/keys"]);
        assert!(faults[0].contains("cannot be read"), "{faults:?}");
    }

    #[test]
    fn all_faults_are_reported() {
        let (keys, faults) = checked(&[
            "shop.orders",
            r#"shop={"a":1}"#,
            r#"config.settings={"a":1}"#,
            r#"shop.system.views={"a":1}"#,
            r#"shop.orders={"a":-1}"#,
            r#"shop.orders={"a":"hashed","b":"hashed"}"#,
            r#"shop.orders={"a..b":1}"#,
            r#"shop.orders={"a"}"#,
            r#"shop.orders={"a":1}"#,
            r#"shop.orders={"b":1}"#,
        ]);
        assert_eq!(keys.len(), 1);
        assert_eq!(faults.len(), 9, "{faults:?}");
        assert!(faults[8].contains("twice"), "{faults:?}");
    }
}
