//! The values that indexes refuse, such as an invalid geometry, or an array where an index permits
//! none. Such a value makes a write fail, and also the build of an index over the document.

use bson::Bson as Value;
use oplog_relay_core::document::{Document, Element, kind};

use super::failure::Failure;
use super::index::Index;
use super::path::{field, parts};

/// Languages that a text index supports, a subset of the server's list.
const LANGUAGES: [&str; 8] = [
    "none", "english", "en", "french", "fr", "german", "de", "spanish",
];
const CANNOT_BUILD_KEYS: i32 = 201;

/// Fails with the server's code if the index cannot contain the document.
pub(super) fn check(index: &Index, document: Document<'_>) -> Result<(), Failure> {
    if index.is_id() || !index.holds(document)? {
        return Ok(());
    }
    let key = index.key();
    let mut kinds = key.values().filter_map(Value::as_str);
    let is_text = kinds.any(|kind| kind == "text");
    if is_text {
        check_language(index, document)?;
    }
    let mut is_plain = true;
    for (path, value) in &key {
        is_plain &= value.as_str().is_none();
        match value.as_str() {
            Some("2dsphere") => check_sphere(document, path)?,
            Some("2d") => check_flat(index, document, path)?,
            Some("hashed") => check_hashed(document, path)?,
            _ if is_text && !path.starts_with("_fts") => check_prefix(document, path)?,
            _ => {}
        }
    }
    if is_plain {
        // This fails with 171 for two arrays.
        index.values(document)?;
        key.keys()
            .try_for_each(|path| check_positions(document, path))?;
    }
    Ok(())
}

/// Returns the values along a path; the last array is not expanded.
fn along<'a>(document: Document<'a>, path: &str) -> Vec<Element<'a>> {
    let mut found = Vec::new();
    walk(document, &parts(path), &mut found);
    found
}

fn walk<'a>(document: Document<'a>, path: &[&[u8]], found: &mut Vec<Element<'a>>) {
    let Some((part, rest)) = path.split_first() else {
        return;
    };
    let Some(value) = field(document, part) else {
        return;
    };
    match value.document() {
        _ if rest.is_empty() => found.push(value),
        Ok(inner) if value.kind == kind::ARRAY => {
            for element in inner.elements().map_while(Result::ok) {
                if let Ok(inner) = element.document() {
                    walk(inner, rest, found);
                }
            }
        }
        Ok(inner) => walk(inner, rest, found),
        Err(_) => {}
    }
}

fn check_sphere(document: Document<'_>, path: &str) -> Result<(), Failure> {
    for value in along(document, path) {
        let is_nothing = match value.document() {
            Ok(inner) => inner.is_empty(),
            Err(_) => matches!(value.kind, kind::NULL | kind::UNDEFINED),
        };
        if !is_nothing && !is_geometry(value) {
            let message = format!("Can't extract geo keys: the value at {path} is not a geometry");
            return Err(Failure::new(16755, message));
        }
    }
    Ok(())
}

fn number(element: Element<'_>) -> Option<f64> {
    match element.kind {
        kind::DOUBLE => Some(f64::from_le_bytes(element.fixed().ok()?)),
        kind::INT32 => Some(i32::from_le_bytes(element.fixed().ok()?).into()),
        _ => None,
    }
}

fn numbers(list: Document<'_>) -> Vec<f64> {
    let elements = list.elements().map_while(Result::ok);
    elements.map_while(number).collect()
}

fn is_position(list: Document<'_>) -> bool {
    match numbers(list)[..] {
        [longitude, latitude, ..] => longitude.abs() <= 180.0 && latitude.abs() <= 90.0,
        _ => false,
    }
}

/// Returns the number of elements of a list; `None` unless each of them is a document or an array for
/// which `is_one` returns true.
fn each(list: Element<'_>, is_one: impl Fn(Document<'_>) -> bool) -> Option<usize> {
    let mut count = 0;
    for element in list.document().ok()?.elements() {
        if !is_one(element.ok()?.document().ok()?) {
            return None;
        }
        count += 1;
    }
    Some(count)
}

fn is_ring(list: Document<'_>) -> bool {
    let points: Vec<Vec<f64>> = list
        .elements()
        .map_while(Result::ok)
        .filter_map(|point| point.document().ok())
        .filter(|point| is_position(*point))
        .map(numbers)
        .collect();
    points.len() >= 4 && points.first() == points.last()
}

/// Returns true for a point, line or polygon as GeoJSON, or a legacy coordinate pair.
fn is_geometry(value: Element<'_>) -> bool {
    let Ok(inner) = value.document() else {
        return false;
    };
    let name = inner.get("type").ok().flatten();
    let Some(name) = name.and_then(|name| name.str().ok()) else {
        return is_position(inner);
    };
    let Some(coordinates) = inner.get("coordinates").ok().flatten() else {
        return false;
    };
    match name {
        "Point" => coordinates.document().is_ok_and(is_position),
        "LineString" => each(coordinates, is_position).is_some_and(|count| count > 1),
        "Polygon" => each(coordinates, is_ring).is_some_and(|count| count > 0),
        _ => false,
    }
}

fn check_flat(index: &Index, document: Document<'_>, path: &str) -> Result<(), Failure> {
    for value in along(document, path) {
        let Ok(inner) = value.document() else {
            continue;
        };
        let Some(first) = inner.first()? else {
            continue;
        };
        if number(first).is_some() {
            check_pair(index, inner)?;
            continue;
        }
        for element in inner.elements() {
            match element?.document() {
                Err(_) => {
                    let message = "location object expected, location array not in correct format";
                    return Err(Failure::new(16804, message));
                }
                Ok(pair) if pair.is_empty() => {}
                Ok(pair) => check_pair(index, pair)?,
            }
        }
    }
    Ok(())
}

fn check_pair(index: &Index, pair: Document<'_>) -> Result<(), Failure> {
    let mut elements = pair.elements();
    let (first, second) = (elements.next().transpose()?, elements.next().transpose()?);
    let (Some(first), Some(second)) = (first, second) else {
        return Err(Failure::new(13068, "geo field only has 1 element"));
    };
    let (Some(x), Some(y)) = (number(first), number(second)) else {
        let message = "geo values must be 'legacy coordinate pairs' for 2d indexes";
        return Err(Failure::new(13026, message));
    };
    let bound = |name, usual: f64| {
        let given = index.spec().get(name);
        given.map_or(usual, |given| match given {
            Value::Double(given) => *given,
            Value::Int32(given) => (*given).into(),
            _ => usual,
        })
    };
    let (min, max) = (bound("min", -180.0), bound("max", 180.0));
    if [x, y].iter().any(|value| !(min..=max).contains(value)) {
        let message = format!("point not in interval of [ {min}, {max} ]");
        return Err(Failure::new(13027, message));
    }
    Ok(())
}

/// Returns true if the path contains an array, or ends at one.
fn meets_array(document: Document<'_>, path: &str) -> bool {
    let mut at = document;
    for part in parts(path) {
        let Some(value) = field(at, part) else {
            return false;
        };
        if value.kind == kind::ARRAY {
            return true;
        }
        let Ok(inner) = value.document() else {
            return false;
        };
        at = inner;
    }
    false
}

fn check_hashed(document: Document<'_>, path: &str) -> Result<(), Failure> {
    if !meets_array(document, path) {
        return Ok(());
    }
    let message = format!(
        "Error: hashed indexes do not currently support array values. Found array at path: {path}"
    );
    Err(Failure::new(16766, message))
}

fn check_prefix(document: Document<'_>, path: &str) -> Result<(), Failure> {
    if !meets_array(document, path) {
        return Ok(());
    }
    let message = format!("Field '{path}' of text index contains an array in document");
    Err(Failure::new(CANNOT_BUILD_KEYS, message))
}

/// Checks the language that a document may name.
fn check_language(index: &Index, document: Document<'_>) -> Result<(), Failure> {
    let name = index.spec().get_str("language_override");
    let Some(language) = document.get(name.unwrap_or("language"))? else {
        return Ok(());
    };
    let Ok(language) = language.str() else {
        let message = "found language override field in document with non-string type";
        return Err(Failure::new(17261, message));
    };
    if LANGUAGES.contains(&language) {
        return Ok(());
    }
    let message = format!("language override unsupported: {language}");
    Err(Failure::new(17262, message))
}

/// Checks that `a.0` is not ambiguous: it may mean the first element of an array, or the field `0`
/// of its elements, but not both.
fn check_positions(document: Document<'_>, path: &str) -> Result<(), Failure> {
    let Some((before, after)) = path.split_once('.') else {
        return Ok(());
    };
    let position = after.split('.').next().unwrap_or_default();
    let Ok(number) = position.parse::<usize>() else {
        return Ok(());
    };
    let array = field(document, before.as_bytes());
    let Some(array) = array.filter(|array| array.kind == kind::ARRAY) else {
        return Ok(());
    };
    let elements: Vec<Element<'_>> = array.document()?.elements().collect::<Result<_, _>>()?;
    let mut inner = elements
        .iter()
        .filter_map(|element| element.document().ok());
    let has_field = inner.any(|inner| field(inner, position.as_bytes()).is_some());
    if elements.len() <= number || !has_field {
        return Ok(());
    }
    let message = "Ambiguous field name found in array (do not use numeric field names in embedded \
                   elements in an array)";
    Err(Failure::new(16746, message))
}
