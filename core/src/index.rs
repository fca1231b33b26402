//! Demands that an index makes on the documents of its collection.
//!
//! A server refuses a write if one of the indexes cannot accept the resulting document, and an
//! index build fails if it finds such a document. Most indexes accept every document. A unique
//! index refuses a key that another document has. Others refuse a value from which they cannot
//! compute keys, such as invalid GeoJSON.

use crate::command::is_set;
use crate::document::{Document, Element, Malformed, kind};

/// The demand that an index makes on documents.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Demand {
    /// No demand: the index accepts every document.
    Nothing,
    /// Values of a certain form, independently of other documents.
    Form,
    /// A key that no other document has, in addition to what [`Demand::Form`] requires.
    Uniqueness,
}

/// Index types, with the error codes for documents that they refuse. The list comes from the
/// server, which suppresses these errors on secondaries.
const BY_TYPE: &[(&str, &[i32])] = &[
    ("2dsphere", &[16755, 16756]),
    ("2d", &[13026, 13027, 13067, 13068, 16804]),
    ("text", &[16675, 16732, 16733, 17261, 17262]),
    ("hashed", &[16766]),
    ("geoHaystack", &[16775, 16776]),
];
/// Parallel arrays: two paths of one index lead to arrays.
const PARALLEL_ARRAYS: i32 = 171;
/// An element of an array has a field whose name is also an array position in the path.
const AMBIGUOUS_FIELD: i32 = 16746;
/// Errors of indexes of several types: a key that cannot be built, and a key that is too long for a
/// server up to 4.0.
const OF_ANY_TYPE: [i32; 2] = [201, 17280];

/// Returns true if a server reports this code for a document that one of its indexes cannot accept.
/// Duplicate keys are not included.
#[must_use]
pub fn is_refusal(code: i32) -> bool {
    code == PARALLEL_ARRAYS
        || code == AMBIGUOUS_FIELD
        || OF_ANY_TYPE.contains(&code)
        || BY_TYPE.iter().any(|(_, codes)| codes.contains(&code))
}

/// Returns the demand of an index.
///
/// # Errors
/// [`Malformed`] if the index specification is damaged.
pub fn demand(spec: Document<'_>) -> Result<Demand, Malformed> {
    if is_set(spec, "unique")? || is_set(spec, "prepareUnique")? {
        return Ok(Demand::Uniqueness);
    }
    let Some(key) = key(spec)? else {
        return Ok(Demand::Nothing);
    };
    let mut fields = 0;
    for field in key.elements() {
        let field = field?;
        fields += 1;
        if field.kind == kind::STRING || has_position(field) || is_wildcard(field) {
            return Ok(Demand::Form);
        }
    }
    // Two paths of one index must not both lead to arrays.
    Ok(if fields > 1 {
        Demand::Form
    } else {
        Demand::Nothing
    })
}

/// Returns true if an index with this specification may have refused a document with this code.
///
/// # Errors
/// [`Malformed`] if the index specification is damaged.
pub fn may_refuse(spec: Document<'_>, code: i32) -> Result<bool, Malformed> {
    if demand(spec)? == Demand::Nothing {
        return Ok(false);
    }
    let Some(key) = key(spec)? else {
        return Ok(false);
    };
    let types = BY_TYPE.iter();
    let of_code = types.filter(|(_, codes)| codes.contains(&code));
    let of_code: Vec<&str> = of_code.map(|(name, _)| *name).collect();
    let (mut fields, mut of_type, mut positional) = (0, false, false);
    for field in key.elements() {
        let field = field?;
        fields += 1;
        of_type |= field.str().is_ok_and(|name| of_code.contains(&name));
        positional |= has_position(field);
    }
    Ok(match code {
        PARALLEL_ARRAYS => fields > 1,
        AMBIGUOUS_FIELD => positional,
        _ => of_type || OF_ANY_TYPE.contains(&code),
    })
}

fn key(spec: Document<'_>) -> Result<Option<Document<'_>>, Malformed> {
    let key = spec.get("key")?;
    Ok(key.and_then(|key| key.document().ok()))
}

/// Returns true if a part of the path may be a position in an array.
fn has_position(field: Element<'_>) -> bool {
    let mut parts = field.name.split(|byte| *byte == b'.');
    parts.any(|part| !part.is_empty() && part.iter().all(u8::is_ascii_digit))
}

fn is_wildcard(field: Element<'_>) -> bool {
    field.name.ends_with(b"$**")
}

#[cfg(test)]
mod tests {
    use super::*;
    use bson::{Document as Bson, doc};

    fn with<T>(spec: &Bson, check: impl FnOnce(Document<'_>) -> T) -> T {
        let bytes = spec.to_vec().unwrap();
        check(Document::new(&bytes).unwrap())
    }

    #[test]
    fn an_index_demands_uniqueness_a_form_or_nothing() {
        for (spec, expected) in [
            (doc! { "key": { "a": 1 } }, Demand::Nothing),
            (
                doc! { "key": { "a.b": -1.0 }, "sparse": true },
                Demand::Nothing,
            ),
            (doc! { "key": { "a": 1 }, "unique": 1 }, Demand::Uniqueness),
            (doc! { "key": { "a": 1 }, "unique": false }, Demand::Nothing),
            (doc! { "key": { "a": 1, "b": 1 } }, Demand::Form),
            (doc! { "key": { "a.0": 1 } }, Demand::Form),
            (doc! { "key": { "a": "2dsphere" } }, Demand::Form),
            (doc! { "key": { "a": "hashed" } }, Demand::Form),
            (doc! { "key": { "_fts": "text", "_ftsx": 1 } }, Demand::Form),
            (doc! { "key": { "a.$**": 1 } }, Demand::Form),
            (doc! { "name": "a" }, Demand::Nothing),
        ] {
            assert_eq!(with(&spec, demand), Ok(expected), "{spec}");
        }
    }

    #[test]
    fn a_refusal_identifies_the_indexes_that_can_cause_it() {
        let sphere = doc! { "key": { "a": "2dsphere" } };
        let hashed = doc! { "key": { "a": "hashed" } };
        let two = doc! { "key": { "a": 1, "b": 1 } };
        let plain = doc! { "key": { "a": 1 } };
        for (code, expected) in [
            (16755, [true, false, false]),
            (16766, [false, true, false]),
            (PARALLEL_ARRAYS, [false, false, true]),
            (201, [true, true, true]),
            (AMBIGUOUS_FIELD, [false, false, false]),
        ] {
            assert!(is_refusal(code));
            let found = [&sphere, &hashed, &two].map(|spec| with(spec, |it| may_refuse(it, code)));
            assert_eq!(found, expected.map(Ok), "{code}");
            assert_eq!(with(&plain, |it| may_refuse(it, code)), Ok(false));
        }
        assert!(!is_refusal(11000) && !is_refusal(121));
    }
}
