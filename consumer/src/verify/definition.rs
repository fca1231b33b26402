//! The definition of a collection or view, and its differences between both sides. Performs no
//! I/O.
//!
//! A replay changes some parts on purpose. These changes are not differences:
//!
//! | part | on the target |
//! | --- | --- |
//! | `expireAfterSeconds` | absent, or the greatest value for an index that already existed, while the catalog has the original value; the original value after a cutover |
//! | the index that a cluster creates for a shard key | may exist on one side only: reported as a note |
//! | `unique`, `prepareUnique` | absent if the collection is spread over partitions (`--order id`), or if its order is not known: reported as a note |
//! | `v`, `ns`, `background`, `dropDups`, `buildUUID`, versions of index types and collations | as the target's server sets them |
//! | `temp`, `autoIndexId`, `recordIdsReplicated`, `recordPreImages`, `idIndex`, `uuid` | not replayed |
//! | `storageEngine` | replayed, unless the target refuses it |
//!
//! Numbers are compared by value, and a flag that is false equals an absent one.

use std::collections::{BTreeMap, BTreeSet};

use mongodb::bson::{Bson as Value, Document as Bson, doc};
use oplog_relay_core::compare::compare_values;
use oplog_relay_core::document::Document;
use oplog_relay_core::json::{Mode, write_value};
use oplog_relay_core::state::Order;
use oplog_relay_runtime::mongo::is_set;

use crate::replay::plan::translation::POSTPONED_EXPIRY;

const EXPIRES: &str = "expireAfterSeconds";
const UNIQUE: [&str; 2] = ["unique", "prepareUnique"];
/// Options that are flags. A number may stand for a boolean.
const FLAGS: [&str; 6] = [
    "unique",
    "prepareUnique",
    "sparse",
    "hidden",
    "capped",
    "clustered",
];
/// Options that are not compared: a replay does not apply them, or omits them if the target refuses
/// them.
const NOT_COMPARED: [&str; 7] = [
    "uuid",
    "temp",
    "autoIndexId",
    "recordIdsReplicated",
    "recordPreImages",
    "idIndex",
    "storageEngine",
];
/// Fields of an index that its server sets.
const OF_SERVER: [&str; 7] = [
    "v",
    "ns",
    "background",
    "dropDups",
    "buildUUID",
    "textIndexVersion",
    "2dsphereIndexVersion",
];

/// A collection, a view or a time series.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Definition {
    /// `collection`, `view` or `timeseries`.
    pub(super) form: String,
    pub(super) options: Bson,
    /// The indexes by name.
    pub(super) indexes: BTreeMap<String, Bson>,
}

impl Definition {
    /// Returns true if the collection has a collation other than the simple one.
    pub(super) fn is_collated(&self) -> bool {
        let collation = self.options.get_document("collation");
        collation.is_ok_and(|collation| collation.get_str("locale").is_ok_and(|is| is != "simple"))
    }
}

/// The changes that a replay is known to have made to the definition of a collection.
#[derive(Debug, Clone, Default)]
pub(super) struct Expected {
    /// The withheld expiries by index name. The key `None` stands for the collection.
    pub(super) withheld: BTreeMap<Option<String>, i64>,
    /// The order of the collection's entries, if it is known: by `_id`, or of the whole collection.
    pub(super) order: Option<Order>,
    /// The shard key on each side on which the collection is sharded.
    pub(super) shard_keys: [Option<Bson>; 2],
}

/// A part of a definition.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Part {
    /// The collection or view as a whole.
    Whole,
    /// The type: collection, view or time series.
    Form,
    /// One option.
    Option(String),
    /// An index as a whole.
    Index(String),
    /// One field of an index.
    Field {
        /// The index.
        index: String,
        /// The field.
        field: String,
    },
}

/// A part that differs, with its value on each side as canonical JSON; `None` if the side does not
/// have it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Discrepancy {
    pub(super) part: Part,
    pub(super) source: Option<String>,
    pub(super) target: Option<String>,
}

impl Discrepancy {
    /// Returns the name of the part, for messages.
    pub(super) fn what(&self) -> String {
        match &self.part {
            Part::Whole => "the collection".to_owned(),
            Part::Form => "type".to_owned(),
            Part::Option(name) => format!("option {name}"),
            Part::Index(name) => format!("index {name}"),
            Part::Field { index, field } => format!("index {index}, {field}"),
        }
    }
}

/// The result of a comparison of definitions.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Compared {
    /// The differences.
    pub(super) found: Vec<Discrepancy>,
    /// Facts about parts that differ as expected.
    pub(super) notes: Vec<String>,
}

/// Compares the definitions of both sides.
pub(super) fn compare(
    source: Option<&Definition>,
    target: Option<&Definition>,
    expected: &Expected,
) -> Compared {
    let (mut found, mut notes) = (Vec::new(), Vec::new());
    let (source, target) = match (source, target) {
        (Some(source), Some(target)) => (source, target),
        (None, None) => return Compared { found, notes },
        (source, target) => {
            let shown = |side: Option<&Definition>| {
                side.map(|side| canonical(&Value::Document(side.options.clone())))
            };
            let (source, target) = (shown(source), shown(target));
            let part = Part::Whole;
            let whole = Discrepancy {
                part,
                source,
                target,
            };
            found.push(whole);
            return Compared { found, notes };
        }
    };
    if source.form != target.form {
        let shown = |form: &str| Some(canonical(&Value::from(form)));
        found.push(Discrepancy {
            part: Part::Form,
            source: shown(&source.form),
            target: shown(&target.form),
        });
        return Compared { found, notes };
    }
    compare_options(source, target, expected, &mut found);
    let (one, other) = (indexes(source), indexes(target));
    for name in one.keys().chain(other.keys()).collect::<BTreeSet<_>>() {
        match (one.get(name), other.get(name)) {
            (Some(one), Some(other)) => {
                compare_index(name, one, other, expected, &mut found, &mut notes);
            }
            (one, other) if is_of_shard_key(one, other, &expected.shard_keys) => {
                let side = if one.is_some() { "source" } else { "target" };
                notes.push(format!(
                    "index {name} exists only at the {side}, where it serves the shard key"
                ));
            }
            (one, other) => found.push(Discrepancy {
                part: Part::Index((*name).clone()),
                source: one.map(|index| canonical(&Value::Document((*index).clone()))),
                target: other.map(|index| canonical(&Value::Document((*index).clone()))),
            }),
        }
    }
    Compared { found, notes }
}

/// Returns true if an index that exists on one side only is the one that a cluster created for the shard
/// key there.
fn is_of_shard_key(
    one: Option<&&Bson>,
    other: Option<&&Bson>,
    shard_keys: &[Option<Bson>; 2],
) -> bool {
    let [source, target] = shard_keys;
    let is_it = |index: Option<&&Bson>, key: &Option<Bson>| {
        let fields = index.and_then(|index| index.get_document("key").ok());
        let Some((fields, key)) = fields.zip(key.as_ref()) else {
            return false;
        };
        let of = |key: &Bson| doc! { "key": key.clone() };
        is_same("key", &of(fields), &of(key))
    };
    match (one, other) {
        (Some(_), None) => is_it(one, source),
        (None, Some(_)) => is_it(other, target),
        _ => false,
    }
}

/// Returns the indexes that users created: all but the `_id` index and the index of a clustered
/// collection.
fn indexes(definition: &Definition) -> BTreeMap<String, &Bson> {
    let all = definition.indexes.iter();
    let created = all.filter(|(name, index)| *name != "_id_" && !index.contains_key("clustered"));
    created.map(|(name, index)| (name.clone(), index)).collect()
}

fn compare_options(
    source: &Definition,
    target: &Definition,
    expected: &Expected,
    found: &mut Vec<Discrepancy>,
) {
    for name in names(&source.options, &target.options, &NOT_COMPARED) {
        let one = source.options.get(&name);
        let other = target.options.get(&name);
        let withheld = expected.withheld.get(&None).copied();
        let is_withheld = name == EXPIRES && other.is_none() && withheld == one.and_then(seconds);
        if !is_withheld && !is_same(&name, &source.options, &target.options) {
            found.push(Discrepancy {
                part: Part::Option(name),
                source: one.map(canonical),
                target: other.map(canonical),
            });
        }
    }
}

fn compare_index(
    index: &str,
    one: &Bson,
    other: &Bson,
    expected: &Expected,
    found: &mut Vec<Discrepancy>,
    notes: &mut Vec<String>,
) {
    for name in names(one, other, &OF_SERVER) {
        let (left, right) = (one.get(&name), other.get(&name));
        if is_same(&name, one, other) {
            continue;
        }
        let withheld = expected.withheld.get(&Some(index.to_owned())).copied();
        let is_off =
            right.is_none() || right.and_then(seconds) == Some(i64::from(POSTPONED_EXPIRY));
        if name == EXPIRES && is_off && withheld.is_some() && withheld == left.and_then(seconds) {
            continue;
        }
        let plain = !is_set(other, &name) && expected.order != Some(Order::Collection);
        if UNIQUE.contains(&name.as_str()) && plain {
            notes.push(format!(
                "index {index} is {name} only at the source, as expected with --order id"
            ));
            continue;
        }
        found.push(Discrepancy {
            part: Part::Field {
                index: index.to_owned(),
                field: name,
            },
            source: left.map(canonical),
            target: right.map(canonical),
        });
    }
}

fn names(one: &Bson, other: &Bson, without: &[&str]) -> BTreeSet<String> {
    let all = one.keys().chain(other.keys());
    let wanted = all.filter(|name| !without.contains(&name.as_str()));
    wanted.cloned().collect()
}

fn is_absent(value: Option<&Value>) -> bool {
    matches!(value, None | Some(Value::Boolean(false)))
}

/// Returns true if both sides have the same value for a name.
fn is_same(name: &str, one: &Bson, other: &Bson) -> bool {
    if FLAGS.contains(&name) {
        return is_set(one, name) == is_set(other, name);
    }
    match (one.get(name), other.get(name)) {
        (one, other) if is_absent(one) && is_absent(other) => true,
        (Some(one), Some(other)) => {
            let (one, other) = (bytes(&without_version(one)), bytes(&without_version(other)));
            let first = |bytes| Document::new(bytes).ok()?.first().ok().flatten();
            match (first(&one), first(&other)) {
                (Some(one), Some(other)) => compare_values(one, other).is_eq(),
                _ => one == other,
            }
        }
        _ => false,
    }
}

/// Returns a value without versions, which servers set in collations and clustered indexes.
fn without_version(value: &Value) -> Value {
    let mut value = value.clone();
    if let Value::Document(document) = &mut value
        && (document.contains_key("locale") || document.contains_key("key"))
    {
        document.remove("version");
        document.remove("v");
    }
    value
}

fn seconds(value: &Value) -> Option<i64> {
    match value {
        Value::Int32(seconds) => Some(i64::from(*seconds)),
        Value::Int64(seconds) => Some(*seconds),
        #[expect(clippy::cast_possible_truncation, reason = "whole seconds")]
        Value::Double(seconds) => Some(*seconds as i64),
        _ => None,
    }
}

fn bytes(value: &Value) -> Vec<u8> {
    doc! { "": value }.to_vec().unwrap_or_default()
}

fn canonical(value: &Value) -> String {
    let (bytes, mut text) = (bytes(value), Vec::new());
    if let Ok(Some(value)) = Document::new(&bytes).and_then(Document::first)
        && write_value(value, Mode::Canonical, &mut text).is_ok()
    {
        return String::from_utf8_lossy(&text).into_owned();
    }
    "null".to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn definition(options: Bson, indexes: &[Bson]) -> Definition {
        let named = indexes.iter().map(|index| {
            let name = index.get_str("name").unwrap().to_owned();
            (name, index.clone())
        });
        Definition {
            form: "collection".to_owned(),
            options,
            indexes: named.collect(),
        }
    }

    fn field(index: &str, field: &str) -> Part {
        Part::Field {
            index: index.to_owned(),
            field: field.to_owned(),
        }
    }

    fn parts(one: &Definition, other: &Definition, expected: &Expected) -> (Vec<Part>, usize) {
        let Compared { found, notes } = compare(Some(one), Some(other), expected);
        let parts = found.into_iter().map(|found| found.part);
        (parts.collect(), notes.len())
    }

    fn withheld(index: Option<&str>, seconds: i64) -> Expected {
        Expected {
            withheld: [(index.map(str::to_owned), seconds)].into(),
            ..Expected::default()
        }
    }

    #[test]
    fn a_withheld_expiry_is_not_a_difference_while_the_catalog_has_it() {
        let index = |seconds: i32| {
            let index = doc! { "v": 2, "key": { "t": 1 }, "name": "t_1", EXPIRES: seconds };
            definition(doc! {}, &[index])
        };
        let differing = field("t_1", EXPIRES);
        let none = Expected::default();
        let known = withheld(Some("t_1"), 60);
        let plain = definition(
            doc! {},
            &[doc! { "v": 2, "key": { "t": 1 }, "name": "t_1" }],
        );
        assert_eq!(
            parts(&index(60), &index(POSTPONED_EXPIRY), &known),
            (vec![], 0)
        );
        assert_eq!(parts(&index(60), &plain, &known), (vec![], 0));
        assert_eq!(parts(&index(60), &index(60), &none), (vec![], 0));
        for expected in [none, withheld(Some("t_1"), 61), withheld(Some("u_1"), 60)] {
            for target in [&index(POSTPONED_EXPIRY), &plain] {
                let found = parts(&index(60), target, &expected);
                assert_eq!(found, (vec![differing.clone()], 0));
            }
        }
        let series = |options: Bson| definition(options, &[]);
        let (one, other) = (series(doc! { EXPIRES: 60_i64 }), series(doc! {}));
        assert_eq!(parts(&one, &other, &withheld(None, 60)), (vec![], 0));
        let option = Part::Option(EXPIRES.to_owned());
        assert_eq!(parts(&one, &other, &withheld(None, 7)), (vec![option], 0));
    }

    #[test]
    fn a_unique_index_may_be_non_unique_unless_the_order_is_by_collection() {
        let index = doc! { "key": { "a": 1 }, "name": "a_1" };
        let mut unique = index.clone();
        unique.insert("unique", true);
        let (one, other) = (
            definition(doc! {}, &[unique]),
            definition(doc! {}, &[index]),
        );
        let expected = |order| Expected {
            order,
            ..Expected::default()
        };
        assert_eq!(parts(&one, &other, &expected(None)), (vec![], 1));
        assert_eq!(parts(&one, &other, &expected(Some(Order::Id))), (vec![], 1));
        let differing = field("a_1", "unique");
        let ordered = expected(Some(Order::Collection));
        assert_eq!(parts(&one, &other, &ordered), (vec![differing.clone()], 0));
        // A replay never does the opposite.
        assert_eq!(parts(&other, &one, &expected(None)), (vec![differing], 0));
    }

    #[test]
    fn the_index_of_a_shard_key_may_exist_on_the_side_that_is_sharded_by_it() {
        let plain = definition(doc! {}, &[]);
        let sharded = definition(
            doc! {},
            &[doc! { "key": { "a": 1, "b": "hashed" }, "name": "a_1_b_hashed" }],
        );
        let expected = |key: Bson| Expected {
            shard_keys: [None, Some(key)],
            ..Expected::default()
        };
        let key = doc! { "a": 1.0, "b": "hashed" };
        assert_eq!(parts(&plain, &sharded, &expected(key.clone())), (vec![], 1));
        let differing = Part::Index("a_1_b_hashed".to_owned());
        let other = expected(doc! { "a": 1 });
        assert_eq!(
            parts(&plain, &sharded, &other),
            (vec![differing.clone()], 0)
        );
        assert_eq!(
            parts(&sharded, &plain, &expected(key)),
            (vec![differing], 0)
        );
    }

    #[test]
    fn versions_and_number_types_are_ignored_and_other_differences_are_found() {
        let german = |version: &str| doc! { "locale": "de", "version": version };
        let one = definition(
            doc! { "capped": true, "size": 4096, "collation": german("57.1"), "temp": true },
            &[doc! { "v": 1, "key": { "a": 1.0 }, "name": "a_1", "background": true, "sparse": 1 }],
        );
        let other = definition(
            doc! { "capped": true, "size": 4096_i64, "collation": german("70.1") },
            &[doc! { "v": 2, "key": { "a": 1 }, "name": "a_1", "hidden": false, "sparse": true }],
        );
        assert_eq!(parts(&one, &other, &Expected::default()), (vec![], 0));
        let less = definition(
            doc! { "capped": true, "size": 8192, "validator": { "a": 1 } },
            &[
                doc! { "key": { "a": -1 }, "name": "a_1", "sparse": true },
                doc! { "key": { "b": 1 }, "name": "b_1" },
            ],
        );
        let option = |name: &str| Part::Option(name.to_owned());
        let expected = vec![
            option("collation"),
            option("size"),
            option("validator"),
            field("a_1", "key"),
            Part::Index("b_1".to_owned()),
        ];
        assert_eq!(parts(&other, &less, &Expected::default()), (expected, 0));
    }

    #[test]
    fn a_missing_side_or_a_different_type_is_the_only_difference() {
        let one = definition(doc! { "viewOn": "c", "pipeline": [] }, &[]);
        let view = Definition {
            form: "view".to_owned(),
            ..one.clone()
        };
        assert_eq!(
            parts(&one, &view, &Expected::default()),
            (vec![Part::Form], 0)
        );
        let found = compare(None, Some(&view), &Expected::default()).found;
        assert_eq!((found.len(), found[0].source.is_none()), (1, true));
        let changed = Definition {
            options: doc! { "viewOn": "c", "pipeline": [{ "$match": { "a": 1 } }] },
            ..view.clone()
        };
        let pipeline = Part::Option("pipeline".to_owned());
        let found = parts(&view, &changed, &Expected::default());
        assert_eq!(found, (vec![pipeline], 0));
    }
}
