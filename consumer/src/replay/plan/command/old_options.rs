//! Options that old servers kept without giving them a meaning, and that later ones refuse.
//!
//! Servers up to 3.2 took any field of an index and any value of its key, and kept both. What they
//! did not know had no effect, and every value of a key that is no negative number and no kind of
//! index meant "ascending". Indexes of that time have the version 0 or 1, or none; later ones were
//! checked by their server. Servers still take such a key for an index of version 1; other targets
//! get the key that it meant.

use oplog_relay_core::document::{Document, DocumentBuilder, Element, Malformed, kind};

/// The fields of an index that some server gives a meaning.
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
/// Values of a key that name the kind of an index.
const KINDS: [&[u8]; 6] = [
    b"2d",
    b"2dsphere",
    b"columnstore",
    b"geoHaystack",
    b"hashed",
    b"text",
];
/// Options of a collection, for `create` and `collMod`, that concern the files of a storage engine
/// that is gone (MMAPv1), or that no server ever read.
const WITHOUT_MEANING: [&[u8]; 6] = [
    b"$nExtents",
    b"flags",
    b"noPadding",
    b"paddingFactor",
    b"preallocate",
    b"usePowerOf2Sizes",
];

/// Returns true for an index of a server that did not check it.
pub(crate) fn is_unchecked(index: Document<'_>) -> Result<bool, Malformed> {
    let version = index.get("v")?;
    Ok(version.is_none_or(|version| version.integer().is_ok_and(|version| version < 2)))
}

/// Returns true for an index of version 1.
pub(crate) fn is_version_1(index: Document<'_>) -> Result<bool, Malformed> {
    let version = index.get("v")?;
    Ok(version.is_some_and(|version| version.integer() == Ok(1)))
}

/// The index with a plain key.
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

/// Returns true for a field of an index that no server gives a meaning.
pub(crate) fn is_unknown(field: Element<'_>) -> bool {
    !INDEX_FIELDS.contains(&field.name)
}

/// Returns true for the version 0 of indexes, which no server makes any more.
pub(crate) fn is_outdated_version(field: Element<'_>) -> bool {
    field.name == b"v" && field.integer() == Ok(0)
}

/// Returns true for the index of `_id` alone, which every collection has.
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

/// Returns true for an option of a collection that has no meaning for any server that is in use.
pub(crate) fn is_without_meaning(option: Element<'_>) -> bool {
    WITHOUT_MEANING.contains(&option.name)
}

/// The names of the options of a collection that have no meaning for any server that is in use.
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

/// The key with every odd value as the `1` that it meant; `None` where there is none.
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
