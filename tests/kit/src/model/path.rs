//! Dotted paths in documents: for an index, and for a query.

use oplog_relay_core::document::{Document, Element, kind};

use super::failure::Failure;

/// A name in a path, or an index in an array.
pub(super) type Part<'p> = &'p [u8];

/// Splits a path into its parts.
pub(super) fn parts(path: &str) -> Vec<Part<'_>> {
    path.as_bytes().split(|byte| *byte == b'.').collect()
}

/// Returns a field, or an array's element by its index.
pub(super) fn field<'a>(document: Document<'a>, part: Part<'_>) -> Option<Element<'a>> {
    let mut elements = document.elements().map_while(Result::ok);
    elements.find(|element| element.name == part)
}

/// Returns an element of an array by its position, whatever the names in it are.
fn nth<'a>(array: Document<'a>, part: Part<'_>) -> Option<Element<'a>> {
    let index: usize = std::str::from_utf8(part).ok()?.parse().ok()?;
    array.elements().map_while(Result::ok).nth(index)
}

/// The progress of the walk along one path of an index.
#[derive(Debug, Clone, Copy)]
pub(super) enum Place<'a, 'p> {
    /// Inside a document, with the remaining path.
    Inside(Document<'a>, &'p [Part<'p>]),
    /// At an array to expand, with the remaining path.
    Array(Document<'a>, &'p [Part<'p>]),
    /// At the end: a value, or `None`.
    Value(Option<Element<'a>>),
}

/// The key of an empty array, which is undefined.
const UNDEFINED: Element<'static> = Element {
    name: b"",
    kind: kind::UNDEFINED,
    value: &[],
};

/// Appends the keys that an index over several paths has for a document. A key has one value for
/// each path, and there are as many keys as the one array on the paths has elements.
///
/// Fails with 171 if two different arrays are on the paths.
pub(super) fn keys<'a>(
    mut places: Vec<Place<'a, '_>>,
    out: &mut Vec<Vec<Option<Element<'a>>>>,
) -> Result<(), Failure> {
    let mut spread: Option<Document<'a>> = None;
    for place in &mut places {
        walk(place);
        if let Place::Array(array, _) = place {
            let same = |other: Document<'_>| std::ptr::eq(other.as_bytes(), array.as_bytes());
            if spread.is_some_and(|other| !same(other)) {
                return Err(Failure::new(171, "cannot index parallel arrays"));
            }
            spread = Some(*array);
        }
    }
    let Some(array) = spread else {
        out.push(places.into_iter().map(value).collect());
        return Ok(());
    };
    let into = |element: Option<Element<'a>>| {
        let places = places.iter().map(|place| enter(*place, element));
        places.collect::<Vec<_>>()
    };
    if array.is_empty() {
        return keys(into(None), out);
    }
    for element in array.elements() {
        keys(into(Some(element?)), out)?;
    }
    Ok(())
}

const fn value<'a>(place: Place<'a, '_>) -> Option<Element<'a>> {
    match place {
        Place::Value(value) => value,
        Place::Inside(..) | Place::Array(..) => None,
    }
}

/// Walks to the next array or to the end.
fn walk(place: &mut Place<'_, '_>) {
    while let Place::Inside(document, path) = *place {
        let Some((part, rest)) = path.split_first() else {
            return;
        };
        *place = match field(document, part).map(|found| (found, found.document())) {
            None => Place::Value(None),
            Some((found, Ok(array))) if found.kind == kind::ARRAY => {
                match rest.first().and_then(|part| nth(array, part)) {
                    Some(_) => positional(array, rest),
                    None => Place::Array(array, rest),
                }
            }
            Some((found, _)) if rest.is_empty() => Place::Value(Some(found)),
            Some((_, Ok(document))) => Place::Inside(document, rest),
            Some(_) => Place::Value(None),
        };
    }
}

/// Handles `a.0`, which means the first element of an array.
fn positional<'a, 'p>(array: Document<'a>, path: &'p [Part<'p>]) -> Place<'a, 'p> {
    let found = path.first().and_then(|part| nth(array, part));
    let rest = path.get(1..).unwrap_or_default();
    match found.map(|found| (found, found.document())) {
        Some((found, _)) if rest.is_empty() => Place::Value(Some(found)),
        Some((_, Ok(document))) => Place::Inside(document, rest),
        _ => Place::Value(None),
    }
}

/// Steps from the array that is expanded into one of its elements.
fn enter<'a, 'p>(place: Place<'a, 'p>, element: Option<Element<'a>>) -> Place<'a, 'p> {
    let Place::Array(_, rest) = place else {
        return place;
    };
    match element {
        None if rest.is_empty() => Place::Value(Some(UNDEFINED)),
        None => Place::Value(None),
        Some(element) if rest.is_empty() => Place::Value(Some(element)),
        Some(element) => match element.document() {
            Ok(document) if element.kind == kind::DOCUMENT => Place::Inside(document, rest),
            _ => Place::Value(None),
        },
    }
}

/// Appends the values that a query finds at a path: the value, and for an array also its elements;
/// `None` for a missing field.
pub(super) fn found<'a>(
    document: Document<'a>,
    path: &[Part<'_>],
    out: &mut Vec<Option<Element<'a>>>,
) {
    let Some((part, rest)) = path.split_first() else {
        return;
    };
    step(field(document, part), rest, out);
}

fn step<'a>(at: Option<Element<'a>>, rest: &[Part<'_>], out: &mut Vec<Option<Element<'a>>>) {
    let inner = at.and_then(|at| at.document().ok());
    let is_array = at.is_some_and(|at| at.kind == kind::ARRAY);
    match inner {
        Some(array) if is_array => {
            let elements = array.elements().map_while(Result::ok);
            match rest.split_first() {
                None => {
                    out.push(at);
                    out.extend(elements.map(Some));
                }
                Some((part, after)) => {
                    if let Some(element) = nth(array, part) {
                        step(Some(element), after, out);
                    }
                    let documents = elements.filter(|element| element.kind == kind::DOCUMENT);
                    for document in documents.filter_map(|element| element.document().ok()) {
                        found(document, rest, out);
                    }
                }
            }
        }
        Some(document) if !rest.is_empty() => found(document, rest, out),
        _ if rest.is_empty() => out.push(at),
        _ => out.push(None),
    }
}
