//! Modifiers as a server applies them: `$set`, `$unset`, `$inc`, and `$push`, also with `$each` and
//! `$slice`.

mod increment;

use std::cmp::Ordering;

use oplog_relay_core::document::{Document, Element, kind};

use super::failure::Failure;
use super::fields::{Field, index, join, split};
use super::path::Part;
use super::version::Version;

/// The maximum number of nulls that a `$set` beyond the end of an array may add.
const MOST_PADDING: usize = 1_500_000;
/// Operators that servers support and the model does not.
const OTHERS: [&str; 11] = [
    "$mul",
    "$min",
    "$max",
    "$rename",
    "$pull",
    "$pullAll",
    "$pop",
    "$addToSet",
    "$bit",
    "$currentDate",
    "$setOnInsert",
];
/// Names with a dollar sign that every version stores.
const REFERENCE: [&[u8]; 3] = [b"$ref", b"$id", b"$db"];

/// The change at the end of a path.
#[derive(Debug, Clone, Copy)]
enum Change<'a> {
    Set(Element<'a>),
    Unset,
    Increment(Element<'a>),
    /// Appends one value.
    Append(Element<'a>),
    /// Appends several values, and then keeps `slice` elements: the first ones, or the last ones if it is
    /// negative.
    Push {
        each: Document<'a>,
        slice: Option<i64>,
    },
}

/// One path of an update.
#[derive(Debug, Clone)]
struct Step<'a> {
    path: Vec<Part<'a>>,
    text: String,
    change: Change<'a>,
}

/// Applies modifiers to a document.
///
/// As on a server, new fields are added in the order of their names, not of the update.
pub(super) fn apply(
    document: Document<'_>,
    update: Document<'_>,
    version: Version,
) -> Result<Vec<u8>, Failure> {
    let mut steps = Vec::new();
    for operator in update.elements() {
        read_operator(operator?, version, &mut steps)?;
    }
    steps.sort_by(|one, other| compare_paths(&one.path, &other.path, version));
    check_conflicts(&steps)?;
    let mut fields = split(document)?;
    for step in &steps {
        match step.change {
            Change::Unset => unset(&mut fields, false, &step.path)?,
            change => put(&mut fields, false, &step.path, change)
                .map_err(|failure| about(failure, &step.text))?,
        }
    }
    Ok(join(&fields))
}

fn about(failure: Failure, path: &str) -> Failure {
    Failure {
        message: format!("{} (path {path:?})", failure.message),
        ..failure
    }
}

fn read_operator<'a>(
    operator: Element<'a>,
    version: Version,
    steps: &mut Vec<Step<'a>>,
) -> Result<(), Failure> {
    let name = String::from_utf8_lossy(operator.name);
    if OTHERS.contains(&&*name) {
        return Err(Failure::new(238, format!("the model has no {name}")));
    }
    if !["$set", "$unset", "$inc", "$push"].contains(&&*name) {
        let message = format!("Unknown modifier: {name}. Expected a valid update modifier");
        return Err(Failure::new(9, message));
    }
    let Ok(paths) = operator.document() else {
        let message = format!("Modifiers operate on fields but we found another type: {name}");
        return Err(Failure::new(9, message));
    };
    if paths.is_empty() && version < Version::V5_0 {
        let message = format!("'{name}' is empty. You must specify a field like so");
        return Err(Failure::new(9, message));
    }
    for element in paths.elements() {
        let element = element?;
        let change = match &*name {
            "$set" => {
                check_names(element, version)?;
                Change::Set(element)
            }
            "$unset" => Change::Unset,
            "$inc" => {
                increment::check(element)?;
                Change::Increment(element)
            }
            _ => pushed(element, version)?,
        };
        steps.push(Step {
            path: checked_path(element.name)?,
            text: String::from_utf8_lossy(element.name).into_owned(),
            change,
        });
    }
    Ok(())
}

fn checked_path(path: &[u8]) -> Result<Vec<Part<'_>>, Failure> {
    let parts: Vec<Part<'_>> = path.split(|byte| *byte == b'.').collect();
    for part in &parts {
        let refused = |code, what| {
            let path = String::from_utf8_lossy(path);
            Err(Failure::new(
                code,
                format!("{what} in the update path '{path}'"),
            ))
        };
        if part.is_empty() {
            return refused(56, "an empty field name");
        }
        if part.starts_with(b"$") && !REFERENCE.contains(part) {
            return refused(52, "a dollar ($) prefixed field");
        }
    }
    Ok(parts)
}

/// Checks the names of a stored value. Servers before 5.0 refuse names that begin with a dollar sign at
/// every level.
pub(super) fn check_names(value: Element<'_>, version: Version) -> Result<(), Failure> {
    if version >= Version::V5_0 || ![kind::DOCUMENT, kind::ARRAY].contains(&value.kind) {
        return Ok(());
    }
    for element in value.document()?.elements() {
        let element = element?;
        if element.name.starts_with(b"$") && !REFERENCE.contains(&element.name) {
            let name = String::from_utf8_lossy(element.name);
            let message =
                format!("The dollar ($) prefixed field '{name}' is not valid for storage.");
            return Err(Failure::new(52, message));
        }
        check_names(element, version)?;
    }
    Ok(())
}

fn pushed(element: Element<'_>, version: Version) -> Result<Change<'_>, Failure> {
    let is_document = element.kind == kind::DOCUMENT;
    let modifiers = is_document.then(|| element.document()).transpose()?;
    let each = modifiers.and_then(|modifiers| modifiers.get("$each").ok().flatten());
    let (Some(modifiers), Some(each)) = (modifiers, each) else {
        // This is a value, even if it looks like modifiers.
        check_names(element, version)?;
        return Ok(Change::Append(element));
    };
    if each.kind != kind::ARRAY {
        let message = "The argument to $each in $push must be an array";
        return Err(Failure::new(2, message));
    }
    let mut slice = None;
    for modifier in modifiers.elements() {
        let modifier = modifier?;
        match modifier.name {
            b"$each" => {}
            b"$slice" => {
                let number = modifier.integer();
                let message = "The value for $slice must be an integer value";
                slice = Some(number.map_err(|_| Failure::new(2, message))?);
            }
            b"$position" | b"$sort" => {
                return Err(Failure::new(238, "the model has no $position and no $sort"));
            }
            name => {
                let name = String::from_utf8_lossy(name);
                return Err(Failure::new(
                    2,
                    format!("Unrecognized clause in $push: {name}"),
                ));
            }
        }
    }
    Ok(Change::Push {
        each: each.document()?,
        slice,
    })
}

/// Compares paths. Since 5.0 parts that are numbers are ordered by value.
fn compare_paths(one: &[Part<'_>], other: &[Part<'_>], version: Version) -> Ordering {
    let number = |part: Part<'_>| match std::str::from_utf8(part) {
        Ok(text) if version >= Version::V5_0 => text.parse::<u64>().ok(),
        _ => None,
    };
    let parts = one
        .iter()
        .zip(other)
        .map(|(one, other)| match (number(one), number(other)) {
            (Some(one), Some(other)) => one.cmp(&other),
            _ => one.cmp(other),
        });
    let mut unequal = parts.filter(|order| order.is_ne());
    unequal.next().unwrap_or(one.len().cmp(&other.len()))
}

/// Checks that no path equals or contains another. The steps are sorted, so such paths are next to each
/// other.
fn check_conflicts(steps: &[Step<'_>]) -> Result<(), Failure> {
    for pair in steps.windows(2) {
        if let [one, other] = pair
            && other.path.starts_with(&one.path)
        {
            let message = format!(
                "Updating the path '{}' would create a conflict at '{}'",
                other.text, one.text
            );
            return Err(Failure::new(40, message));
        }
    }
    Ok(())
}

/// Finds a part of a path: in an array it is an index, in a document a name.
fn find(fields: &[Field], in_array: bool, part: Part<'_>) -> Result<Option<usize>, Failure> {
    if in_array {
        let index = index(part).ok_or_else(|| no_field(part, kind::ARRAY))?;
        return Ok((index < fields.len()).then_some(index));
    }
    Ok(fields.iter().position(|field| field.name == part))
}

fn no_field(part: Part<'_>, kind: u8) -> Failure {
    let part = String::from_utf8_lossy(part);
    let message = format!("Cannot create field '{part}' in a value of type {kind:#x}");
    Failure::new(28, message)
}

/// Sets, increments or pushes a value, and creates the documents on the path.
fn put(
    fields: &mut Vec<Field>,
    in_array: bool,
    path: &[Part<'_>],
    change: Change<'_>,
) -> Result<(), Failure> {
    let Some((part, rest)) = path.split_first() else {
        return Ok(());
    };
    let found = find(fields, in_array, part)?;
    let (kind, value) = match rest.first() {
        None => changed(found.and_then(|found| fields.get(found)), change)?,
        Some(next) => {
            let mut kind = kind::DOCUMENT;
            let mut inner = Vec::new();
            if let Some(field) = found.and_then(|found| fields.get(found)) {
                kind = field.kind;
                let document = field.document().ok_or_else(|| no_field(next, kind))?;
                inner = split(document)?;
            }
            put(&mut inner, kind == kind::ARRAY, rest, change)?;
            (kind, join(&inner))
        }
    };
    if let Some(field) = found.and_then(|found| fields.get_mut(found)) {
        (field.kind, field.value) = (kind, value);
        return Ok(());
    }
    let mut name = part.to_vec();
    if in_array {
        let index = index(part).ok_or_else(|| no_field(part, kind::ARRAY))?;
        if index - fields.len() > MOST_PADDING {
            let message = "can't backfill more than 1500000 elements";
            return Err(Failure::new(34, message));
        }
        fields.extend((fields.len()..index).map(Field::null));
        name = index.to_string().into_bytes();
    }
    fields.push(Field { name, kind, value });
    Ok(())
}

/// Returns the type and the value that result from a change.
fn changed(found: Option<&Field>, change: Change<'_>) -> Result<(u8, Vec<u8>), Failure> {
    let mut elements;
    let slice = match change {
        Change::Set(to) => return Ok((to.kind, to.value.to_vec())),
        Change::Unset => return Ok((kind::NULL, Vec::new())),
        Change::Increment(by) => return increment::sum(found.map(Field::element), by),
        Change::Append(value) => {
            elements = array(found)?;
            elements.push(Field {
                name: Vec::new(),
                kind: value.kind,
                value: value.value.to_vec(),
            });
            None
        }
        Change::Push { each, slice } => {
            elements = array(found)?;
            elements.extend(split(each)?);
            slice
        }
    };
    let len = elements.len();
    let kept = usize::try_from(slice.unwrap_or(i64::MAX).unsigned_abs()).unwrap_or(usize::MAX);
    if slice.is_some_and(|slice| slice < 0) {
        elements.drain(..len.saturating_sub(kept));
    } else {
        elements.truncate(kept);
    }
    for (index, element) in elements.iter_mut().enumerate() {
        element.name = index.to_string().into_bytes();
    }
    Ok((kind::ARRAY, join(&elements)))
}

/// Returns the elements to which `$push` appends.
fn array(found: Option<&Field>) -> Result<Vec<Field>, Failure> {
    match found {
        None => Ok(Vec::new()),
        Some(field) if field.kind == kind::ARRAY => {
            Ok(split(field.document().unwrap_or(Document::EMPTY))?)
        }
        Some(field) => {
            let message = format!("$push needs an array but found type {:#x}", field.kind);
            Err(Failure::new(2, message))
        }
    }
}

/// Removes a field. An array keeps the position of a removed element as null; a path that does not
/// exist is ignored.
fn unset(fields: &mut Vec<Field>, in_array: bool, path: &[Part<'_>]) -> Result<(), Failure> {
    let Some((part, rest)) = path.split_first() else {
        return Ok(());
    };
    let Ok(Some(found)) = find(fields, in_array, part) else {
        return Ok(());
    };
    let Some(field) = fields.get_mut(found) else {
        return Ok(());
    };
    if !rest.is_empty() {
        if let Some(document) = field.document() {
            let mut inner = split(document)?;
            unset(&mut inner, field.kind == kind::ARRAY, rest)?;
            field.value = join(&inner);
        }
    } else if in_array {
        *field = Field::null(found);
    } else {
        fields.remove(found);
    }
    Ok(())
}

#[cfg(test)]
mod tests;
