//! Ranges of `_id` that cover every value of every type, and the filters that select them. Performs
//! no I/O.
//!
//! `$gte` and `$lt` match only values of the type of their bound. A range is therefore within one type,
//! and each type that is cut has ranges from its least value to its end. All other values (null,
//! booleans, NaN, `MinKey` …) are in one more range. So every document of either side is in exactly one
//! range. `min` and `max` would have the same effect, but not every server supports them.

use std::cmp::Ordering;

use oplog_relay_core::compare::compare_values;
use oplog_relay_core::document::{Document, DocumentBuilder, Element, kind};

/// An owned `_id`.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(super) struct OwnedId {
    kind: u8,
    value: Vec<u8>,
}

impl OwnedId {
    /// Copies an `_id`.
    pub(super) fn of(id: Element<'_>) -> Self {
        Self {
            kind: id.kind,
            value: id.value.to_vec(),
        }
    }

    /// Returns the `_id` as an element of a document.
    pub(super) fn element(&self) -> Element<'_> {
        Element {
            name: b"_id",
            kind: self.kind,
            value: &self.value,
        }
    }

    /// Returns the number of bytes that the `_id` takes.
    pub(super) fn cost(&self) -> usize {
        self.value.len() + size_of::<Self>()
    }

    pub(super) fn cmp(&self, other: Element<'_>) -> Ordering {
        compare_values(self.element(), other)
    }
}

/// The types that are cut, each with its least value, in MongoDB's order.
const LEAST: [(u8, &[u8]); 7] = [
    (kind::DOUBLE, &f64::NEG_INFINITY.to_le_bytes()),
    (kind::STRING, &[1, 0, 0, 0, 0]),
    (kind::DOCUMENT, &[5, 0, 0, 0, 0]),
    (kind::BINARY, &[0; 5]),
    (kind::OBJECT_ID, &[0; 12]),
    (kind::DATE, &i64::MIN.to_le_bytes()),
    (kind::TIMESTAMP, &[0; 8]),
];

/// A range of a collection's documents.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(super) enum Range {
    /// All documents.
    Everything,
    /// The documents from `low` up to `high`, exclusive, or to the end of `low`'s type.
    Between {
        /// The lower bound, which belongs to the range.
        low: OwnedId,
        /// The lower bound of the next range.
        high: Option<OwnedId>,
    },
    /// The documents of all types that are not cut.
    Rest,
}

impl Range {
    /// Returns the least value of each type that is cut: the lower bound of the type's first range.
    pub(super) fn types() -> impl Iterator<Item = OwnedId> {
        LEAST.iter().map(|(kind, value)| OwnedId {
            kind: *kind,
            value: value.to_vec(),
        })
    }

    /// Returns the query filter that selects the documents of the range.
    pub(super) fn filter(&self) -> Vec<u8> {
        let mut out = Vec::new();
        let mut filter = DocumentBuilder::start(&mut out);
        match self {
            Self::Everything => {}
            Self::Between { low, high } => write_between(low, high.as_ref(), &mut filter),
            Self::Rest => filter.nested("$nor", kind::ARRAY, |types| {
                for (index, low) in Self::types().enumerate() {
                    types.nested(&index.to_string(), kind::DOCUMENT, |one| {
                        write_between(&low, None, one);
                    });
                }
            }),
        }
        filter.finish();
        out
    }
}

fn write_between(low: &OwnedId, high: Option<&OwnedId>, filter: &mut DocumentBuilder<'_>) {
    filter.nested("_id", kind::DOCUMENT, |bounds| {
        bounds.raw("$gte", low.kind, &low.value);
        if let Some(high) = high {
            bounds.raw("$lt", high.kind, &high.value);
        }
    });
}

/// Returns the `_id` of a document; `None` if it is missing or damaged.
pub(super) fn id_of(document: Document<'_>) -> Option<Element<'_>> {
    document.get("_id").ok().flatten()
}

#[cfg(test)]
mod tests {
    use super::*;
    use oplog_relay_core::json::{Mode, write_document};

    fn shown(range: &Range) -> String {
        let (filter, mut text) = (range.filter(), Vec::new());
        let filter = Document::new(&filter).unwrap();
        assert!(write_document(filter, Mode::Relaxed, &mut text).is_ok());
        String::from_utf8(text).unwrap()
    }

    #[test]
    fn a_range_is_within_one_type_and_the_rest_covers_all_other_types() {
        let id = |number: i32| OwnedId {
            kind: kind::INT32,
            value: number.to_le_bytes().to_vec(),
        };
        let between = |high| Range::Between { low: id(7), high };
        assert_eq!(shown(&between(None)), r#"{"_id":{"$gte":7}}"#);
        assert_eq!(
            shown(&between(Some(id(9)))),
            r#"{"_id":{"$gte":7,"$lt":9}}"#
        );
        assert_eq!(shown(&Range::Everything), "{}");
        assert_eq!(shown(&Range::Rest).matches("$gte").count(), LEAST.len());
    }

    #[test]
    fn the_least_values_are_valid_and_in_order() {
        let types: Vec<OwnedId> = Range::types().collect();
        for pair in types.windows(2) {
            assert!(pair[0].cmp(pair[1].element()).is_lt(), "{pair:?}");
        }
        let mut bytes = Vec::new();
        let mut all = DocumentBuilder::start(&mut bytes);
        for (index, id) in types.iter().enumerate() {
            all.raw(&index.to_string(), id.kind, &id.value);
        }
        all.finish();
        Document::new(&bytes).unwrap().validate().unwrap();
    }
}
