use bson::{Bson, Decimal128, Document as Typed, Timestamp, doc, oid::ObjectId};

use super::*;

fn id(value: impl Into<Bson>) -> Id {
    let bytes = doc! { "_id": value.into() }.to_vec().unwrap();
    Id::of(Document::new(&bytes).unwrap()).unwrap()
}

/// Returns true if a server would return the `_id` for the query. As MongoDB documents for `find`,
/// a comparison matches only values of the same type bracket, and never NaN.
fn finds(query: &[u8], wanted: &Id) -> bool {
    let query = Document::new(query).unwrap();
    let condition = query.get("_id").unwrap().unwrap();
    let Some(operators) = operators(condition) else {
        return compare_values(condition, wanted.element()).is_eq();
    };
    operators.elements().all(|operator| {
        let operator = operator.unwrap();
        if operator.name == b"$type" {
            return wanted.single() == operator.str().ok();
        }
        let ids = [wanted, &Id::from_element(operator)];
        if ids.iter().any(|id| id.is_nan()) || !same_bracket(operator.kind, wanted.element().kind) {
            return false;
        }
        let order = compare_values(wanted.element(), operator);
        match operator.name {
            b"$gt" => order.is_gt(),
            b"$gte" => order.is_ge(),
            b"$lt" => order.is_lt(),
            _ => panic!("{operator:?}"),
        }
    })
}

fn operators(condition: Element<'_>) -> Option<Document<'_>> {
    let inner = condition.document().ok()?;
    let first = inner.first().ok()??;
    first.name.starts_with(b"$").then_some(inner)
}

/// Returns the smallest `_id` of each type bracket. `ids` are sorted.
fn smallest_of_each_type(ids: &[Id]) -> Vec<Id> {
    let mut smallest: Vec<Id> = Vec::new();
    for id in ids {
        if !smallest.last().is_some_and(|last| last.is_like(id)) {
            smallest.push(id.clone());
        }
    }
    smallest
}

fn every_type() -> Vec<Id> {
    let mut ids = vec![
        id(Bson::MinKey),
        id(Bson::Null),
        id(f64::NAN),
        id(f64::NEG_INFINITY),
        id(f64::INFINITY),
        id("1.5".parse::<Decimal128>().unwrap()),
        id(doc! { "a": 1 }),
        id(doc! {}),
        id(Bson::Symbol("sym".to_owned())),
        id(Bson::Binary(bson::Binary {
            subtype: bson::spec::BinarySubtype::Generic,
            bytes: vec![1, 2],
        })),
        id(false),
        id(true),
        id(bson::DateTime::from_millis(7)),
        id(Timestamp {
            time: 1,
            increment: 2,
        }),
        id(Bson::JavaScriptCode("x".to_owned())),
        id(Bson::MaxKey),
    ];
    for number in 0..40_i32 {
        ids.push(id(number - 20));
        ids.push(id(i64::from(number) << 33));
        ids.push(id(f64::from(number) + 0.25));
        ids.push(id(format!("key {number}")));
        let mut bytes = [3; 12];
        bytes[11] = u8::try_from(number).unwrap();
        ids.push(id(ObjectId::from_bytes(bytes)));
    }
    ids.sort_unstable();
    // 0 and 0 << 33 are the same `_id`.
    ids.dedup_by(|one, other| Ord::cmp(one, other).is_eq());
    ids
}

#[test]
fn ranges_cover_every_type_and_every_id_once() {
    let ids = every_type();
    for parts in [1, 2, 7, 100] {
        for step in [1, 3, 50] {
            let samples = ids.iter().step_by(step).cloned().collect();
            let ranges = split(&smallest_of_each_type(&ids), samples, parts);
            for id in &ids {
                let found = ranges.iter().filter(|range| finds(&range.query(), id));
                assert_eq!(found.count(), 1, "{:?} of {parts}/{step}", id.element());
            }
        }
    }
}

#[test]
fn a_range_continues_after_the_last_id_that_was_read_and_ends() {
    let ids = every_type();
    for mut range in split(&smallest_of_each_type(&ids), ids.clone(), 5) {
        let all: Vec<Id> = ids
            .iter()
            .filter(|id| finds(&range.query(), id))
            .cloned()
            .collect();
        let mut read = Vec::new();
        loop {
            let query = range.query();
            // The query returns two documents at a time, in order, as a server does.
            let found: Vec<Id> = ids
                .iter()
                .filter(|id| finds(&query, id))
                .take(2)
                .cloned()
                .collect();
            let Some(last) = found.last().cloned() else {
                break;
            };
            read.extend(found);
            let continues = range.advance(last);
            let saved = Range::read(&range.record()).unwrap();
            assert_eq!(saved, range);
            if !continues {
                break;
            }
        }
        assert_eq!(read, all);
    }
}

#[test]
fn an_empty_collection_has_no_ranges_and_one_id_is_enough() {
    assert!(split(&[], Vec::new(), 4).is_empty());
    let ranges = split(&[id(3)], Vec::new(), 4);
    assert_eq!(ranges.len(), 1);
    let query = Typed::from_reader(ranges[0].query().as_slice()).unwrap();
    assert_eq!(query, doc! { "_id": { "$gte": 3 } });
}
