//! Options that old servers accepted and ignored, and that later servers refuse.
//!
//! Servers up to 3.2 accepted any field of an index and any value of its key, and stored both.
//! Unknown fields had no effect, and every key value that is neither a negative number nor an index
//! type meant "ascending". Indexes of those servers have version 0, version 1 or no version. Later
//! servers validate indexes, and create them with version 2 by default. They still accept such a
//! key for an index of version 1. For other indexes, and on targets that refuse it, each value is
//! replaced by the value that it meant.

use oplog_relay_core::document::{Document, DocumentBuilder, Element, Malformed, kind};

/// The index fields that have a meaning in at least one server version.
const INDEX_FIELDS: [&[u8]; 24] = [
    b"2dsphereIndexVersion",
    b"background",
    b"bits",
    b"bucketSize",
    b"collation",
    b"columnstoreProjection",
    b"default_language",
    b"expireAfterSeconds",
    b"hidden",
    b"key",
    b"language_override",
    b"max",
    b"min",
    b"name",
    b"partialFilterExpression",
    b"prepareUnique",
    b"sparse",
    b"storageEngine",
    b"textIndexVersion",
    b"unique",
    b"v",
    b"weights",
    b"wildcardProjection",
    b"clustered",
];
/// Values of a key that name an index type.
const KINDS: [&[u8]; 6] = [
    b"2d",
    b"2dsphere",
    b"columnstore",
    b"geoHaystack",
    b"hashed",
    b"text",
];
/// Options of `create` and `collMod` that concern the files of a removed storage engine (MMAPv1), or
/// that every server ignores.
const WITHOUT_MEANING: [&[u8]; 6] = [
    b"$nExtents",
    b"flags",
    b"noPadding",
    b"paddingFactor",
    b"preallocate",
    b"usePowerOf2Sizes",
];

/// Returns true for an index that its server may not have validated.
pub(crate) fn is_unchecked(index: Document<'_>) -> Result<bool, Malformed> {
    let version = index.get("v")?;
    Ok(version.is_none_or(|version| version.integer().is_ok_and(|version| version < 2)))
}

/// Returns true for an index of version 1.
pub(crate) fn is_version_1(index: Document<'_>) -> Result<bool, Malformed> {
    let version = index.get("v")?;
    Ok(version.is_some_and(|version| version.integer() == Ok(1)))
}

/// Returns the index with every invalid value of its key replaced by the `1` that it meant.
pub(crate) fn with_plain_key(index: &[u8]) -> Result<Vec<u8>, Malformed> {
    let mut out = Vec::new();
    let mut plain = DocumentBuilder::start(&mut out);
    for field in Document::new(index)?.elements() {
        let field = field?;
        match plain_key(field)?.filter(|_| field.name == b"key") {
            Some(key) => plain.raw("key", kind::DOCUMENT, &key),
            None => plain.element(field),
        };
    }
    plain.finish();
    Ok(out)
}

/// Returns true for an index field that has no meaning in any server version.
pub(crate) fn is_unknown(field: Element<'_>) -> bool {
    !INDEX_FIELDS.contains(&field.name)
}

/// Returns true for index version 0, which servers no longer create.
pub(crate) fn is_outdated_version(field: Element<'_>) -> bool {
    field.name == b"v" && field.integer() == Ok(0)
}

/// Returns true for the default index of `_id`, which every collection has.
pub(crate) fn is_of_id(index: Document<'_>) -> Result<bool, Malformed> {
    let Some(key) = index.get("key")?.filter(|key| key.kind == kind::DOCUMENT) else {
        return Ok(false);
    };
    let key = key.document()?;
    let only = key.elements().count() == 1;
    let descends = |field: Element<'_>| match field.kind {
        kind::DOUBLE => field
            .fixed()
            .is_ok_and(|bytes| f64::from_le_bytes(bytes) < 0.0),
        _ => field.integer().is_ok_and(|number| number < 0),
    };
    let first = key.first()?.filter(|first| first.name == b"_id");
    Ok(only && first.is_some_and(|first| !is_kind(first) && !descends(first)))
}

/// Returns true for a collection option that has no meaning for supported servers.
pub(crate) fn is_without_meaning(option: Element<'_>) -> bool {
    WITHOUT_MEANING.contains(&option.name)
}

/// Returns the names of the collection options that have no meaning for supported servers.
pub(crate) fn without_meaning(o: Document<'_>) -> Result<Vec<String>, Malformed> {
    let mut names = Vec::new();
    for option in o.elements() {
        let option = option?;
        if is_without_meaning(option) {
            names.push(String::from_utf8_lossy(option.name).into_owned());
        }
    }
    Ok(names)
}

/// Returns the key with every invalid value replaced by the `1` that it meant; `None` if all values
/// are valid.
pub(crate) fn plain_key(key: Element<'_>) -> Result<Option<Vec<u8>>, Malformed> {
    if key.kind != kind::DOCUMENT {
        return Ok(None);
    }
    let key = key.document()?;
    let mut any = false;
    let mut out = Vec::new();
    let mut plain = DocumentBuilder::start(&mut out);
    for field in key.elements() {
        let field = field?;
        if is_direction(field) || is_kind(field) {
            plain.element(field);
        } else {
            any = true;
            plain.element(Element {
                name: field.name,
                kind: kind::INT32,
                value: &[1, 0, 0, 0],
            });
        }
    }
    plain.finish();
    Ok(any.then_some(out))
}

fn is_kind(field: Element<'_>) -> bool {
    let text = (field.kind == kind::STRING).then(|| field.string_bytes());
    text.is_some_and(|text| text.is_ok_and(|text| KINDS.contains(&text)))
}

/// Returns true for a number other than 0.
fn is_direction(field: Element<'_>) -> bool {
    match field.kind {
        kind::INT32 => field.fixed::<4>() != Ok([0; 4]),
        kind::INT64 => field.fixed::<8>() != Ok([0; 8]),
        kind::DOUBLE => field.fixed().is_ok_and(|bytes| {
            let number = f64::from_le_bytes(bytes);
            number != 0.0 && !number.is_nan()
        }),
        _ => false,
    }
}
