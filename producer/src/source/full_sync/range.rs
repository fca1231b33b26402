//! Ranges of `_id`. Each is an interval within one type, because a query cannot span several types.
//!
//! `$gt` and similar operators match only values of the operand's type (all numbers are one type, as are
//! strings and symbols). So a collection with `_id`s of several types has ranges of each type: the
//! first range of a type starts at its smallest `_id`, and the last one has no end. Documents that
//! are added later below a type's smallest `_id`, or with a new type, are sent by the tail.
//!
//! Some types have a single value (MinKey, undefined, null, MaxKey), and NaN is a number that no
//! `$gt` or `$lt` finds: each is a range of one `_id`.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use oplog_relay_core::compare::{compare_values, same_bracket};
use oplog_relay_core::document::{Document, DocumentBuilder, Element, Malformed, kind};
use oplog_relay_core::state::{RangeRecord, STATE_VERSION};

/// An `_id`, as the document `{_id: …}`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Id(Vec<u8>);

impl Id {
    /// Returns the `_id` of a document.
    ///
    /// # Errors
    /// [`Malformed`] if the document is damaged or has no `_id`.
    pub fn of(document: Document<'_>) -> Result<Self, Malformed> {
        let id = document.get("_id")?.ok_or(Malformed::Missing("_id"))?;
        Ok(Self::from_element(id))
    }

    fn from_element(id: Element<'_>) -> Self {
        let mut bytes = Vec::new();
        let mut document = DocumentBuilder::start(&mut bytes);
        document.raw("_id", id.kind, id.value);
        document.finish();
        Self(bytes)
    }

    fn double(value: f64) -> Self {
        Self::from_element(Element {
            name: b"_id",
            kind: kind::DOUBLE,
            value: &value.to_le_bytes(),
        })
    }

    fn element(&self) -> Element<'_> {
        let document = Document::new(&self.0).ok();
        let id = document.and_then(|document| document.get("_id").ok().flatten());
        id.unwrap_or(Element {
            name: b"_id",
            kind: kind::NULL,
            value: &[],
        })
    }

    /// Returns true if comparisons with one value find the other: both are in one type bracket.
    #[must_use]
    pub fn is_like(&self, other: &Self) -> bool {
        same_bracket(self.element().kind, other.element().kind)
    }

    fn is_nan(&self) -> bool {
        compare_values(self.element(), Self::double(f64::NAN).element()).is_eq()
    }

    /// Returns the name of the type if it has only one value.
    fn single(&self) -> Option<&'static str> {
        match self.element().kind {
            kind::MIN_KEY => Some("minKey"),
            kind::UNDEFINED => Some("undefined"),
            kind::NULL => Some("null"),
            kind::MAX_KEY => Some("maxKey"),
            _ => None,
        }
    }

    fn text(&self) -> String {
        STANDARD.encode(&self.0)
    }

    fn parse(text: &str) -> Result<Self, String> {
        let bytes = STANDARD.decode(text).map_err(|error| error.to_string())?;
        let document = Document::new(&bytes).map_err(|error| error.to_string())?;
        Self::of(document).map_err(|error| error.to_string())
    }
}

impl PartialOrd for Id {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Id {
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        compare_values(self.element(), other.element())
    }
}

/// A part of a collection that has not been read completely.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Range {
    /// The first `_id`.
    from: Id,
    /// The first `_id` after the range; equal to `from` for a range of only that `_id`, and `None` for
    /// the last range of a type.
    until: Option<Id>,
    /// The last `_id` that was read.
    after: Option<Id>,
}

impl Range {
    const fn new(from: Id, until: Option<Id>) -> Self {
        Self {
            from,
            until,
            after: None,
        }
    }

    /// Notes that everything up to this `_id` is read. Returns false if nothing can follow in the
    /// range.
    pub fn advance(&mut self, last: Id) -> bool {
        self.after = Some(last);
        self.until.as_ref() != Some(&self.from)
    }

    /// Returns the query for the rest of the range, `{_id: …}`.
    #[must_use]
    pub fn query(&self) -> Vec<u8> {
        let mut bytes = Vec::new();
        let mut query = DocumentBuilder::start(&mut bytes);
        let from = self.from.element();
        if self.until.as_ref() == Some(&self.from) {
            match self.from.single() {
                Some(name) => query.nested("_id", kind::DOCUMENT, |id| {
                    id.str("$type", name);
                }),
                None => drop(query.element(from)),
            }
        } else {
            query.nested("_id", kind::DOCUMENT, |id| {
                let (operator, bound) = match &self.after {
                    Some(after) => ("$gt", after.element()),
                    None => ("$gte", from),
                };
                id.raw(operator, bound.kind, bound.value);
                if let Some(until) = self.until.as_ref().map(Id::element) {
                    id.raw("$lt", until.kind, until.value);
                }
            });
        }
        query.finish();
        bytes
    }

    /// Returns the record of the range.
    #[must_use]
    pub fn record(&self) -> RangeRecord {
        RangeRecord {
            v: STATE_VERSION,
            from: self.from.text(),
            until: self.until.as_ref().map(Id::text),
            after: self.after.as_ref().map(Id::text),
        }
    }

    /// Reads the record of a range.
    ///
    /// # Errors
    /// The fault of the record.
    pub fn read(record: &RangeRecord) -> Result<Self, String> {
        let parse = |text: &Option<String>| text.as_deref().map(Id::parse).transpose();
        Ok(Self {
            from: Id::parse(&record.from)?,
            until: parse(&record.until)?,
            after: parse(&record.after)?,
        })
    }
}

/// Splits a collection into ranges. `smallest` contains the smallest `_id` of each type in the
/// collection, and `samples` some of its `_id`s. Each type is split into at most `parts` ranges, not
/// counting the one for NaN.
#[must_use]
pub(super) fn split(smallest: &[Id], mut samples: Vec<Id>, parts: usize) -> Vec<Range> {
    samples.sort_unstable();
    let mut ranges = Vec::new();
    for first in smallest {
        if first.single().is_some() {
            ranges.push(Range::new(first.clone(), Some(first.clone())));
            continue;
        }
        let mut from = first.clone();
        if first.is_nan() {
            ranges.push(Range::new(first.clone(), Some(first.clone())));
            // NaN is sorted before all other numbers, so the smallest of those is not known.
            from = Id::double(f64::NEG_INFINITY);
        }
        let alike: Vec<&Id> = samples
            .iter()
            .filter(|id| id.is_like(first) && **id > from)
            .collect();
        for part in 1..parts {
            let Some(bound) = alike.get(part * alike.len() / parts) else {
                break;
            };
            if **bound > from {
                ranges.push(Range::new(from, Some((*bound).clone())));
                from = (*bound).clone();
            }
        }
        ranges.push(Range::new(from, None));
    }
    ranges
}

#[cfg(test)]
mod tests;
