//! `$v: 1` modifiers, applied as a server applies its own oplog.

use super::fault::lossy;
use super::{DiffError, DiffFault, MAX_PADDING};
use crate::document::{Document, DocumentBuilder, Element, MAX_DEPTH, Malformed, kind};

/// Returns the document after `$set` and `$unset`.
///
/// A path that leads through a value that is not a container, or that names a field of an array, is
/// skipped, and the other paths are applied. Such a document is ahead of the update, and a later
/// update sets the correct value. The same update from a client would fail as a whole (error 28,
/// `PathNotViable`).
///
/// Fields that do not exist are appended in the order of the modifiers, which is the order in which
/// the source appended them.
///
/// # Errors
/// [`DiffError`] for other operators, damaged bytes, paths of more than [`MAX_DEPTH`] parts, or
/// array gaps with more nulls than a document can hold.
pub fn apply_modifiers(
    document: Document<'_>,
    modifiers: Document<'_>,
) -> Result<Vec<u8>, DiffError> {
    let mut root = Value::Raw(Element {
        name: b"",
        kind: kind::DOCUMENT,
        value: document.as_bytes(),
    });
    let mut padding = MAX_PADDING;
    for operator in modifiers.elements() {
        let operator = operator?;
        let is_set = match operator.name {
            b"$v" => continue,
            b"$set" => true,
            b"$unset" => false,
            name => return Err(DiffFault::Operator(lossy(name)).into()),
        };
        for change in operator.document()?.elements() {
            let change = change?;
            let applied = if is_set {
                set(&mut root, change, &mut padding)
            } else {
                unset(&mut root, change.name)
            };
            applied.map_err(|error| error.below(change.name))?;
        }
    }
    let mut out = Vec::with_capacity(document.as_bytes().len() + 64);
    let mut builder = DocumentBuilder::start(&mut out);
    write_content(&root, &mut builder)?;
    builder.finish();
    Ok(out)
}

/// A value, decoded only as far as the paths lead into it.
#[derive(Debug)]
enum Value<'a> {
    Raw(Element<'a>),
    Fields(Vec<(&'a [u8], Value<'a>)>),
    Items(Vec<Value<'a>>),
}

impl<'a> Value<'a> {
    const NULL: Self = Value::Raw(Element {
        name: b"",
        kind: kind::NULL,
        value: &[],
    });

    /// Decodes a document or array into its fields.
    fn open(&mut self) -> Result<(), Malformed> {
        if let Self::Raw(element) = self {
            let pairs = |element: Element<'a>| -> Result<Vec<_>, Malformed> {
                let elements = element.document()?.elements();
                elements
                    .map(|element| element.map(|element| (element.name, Value::Raw(element))))
                    .collect()
            };
            match element.kind {
                kind::DOCUMENT => *self = Self::Fields(pairs(*element)?),
                kind::ARRAY => {
                    let values = pairs(*element)?.into_iter().map(|(_, value)| value);
                    *self = Self::Items(values.collect());
                }
                _ => {}
            }
        }
        Ok(())
    }
}

fn set<'a>(
    root: &mut Value<'a>,
    change: Element<'a>,
    padding: &mut usize,
) -> Result<(), DiffError> {
    let parts = parts(change.name)?;
    let mut at = root;
    for (index, part) in parts.iter().enumerate() {
        at.open()?;
        let place = match at {
            Value::Raw(_) => return Ok(()),
            Value::Fields(fields) => fields.iter().position(|(name, _)| name == part),
            Value::Items(items) => {
                let Some(index) = item_index(part) else {
                    return Ok(());
                };
                Some(index).filter(|index| *index < items.len())
            }
        };
        let rest = parts.get(index + 1..).unwrap_or_default();
        let Some(place) = place else {
            return append(at, part, wrapped(rest, change), padding);
        };
        let next = match at {
            Value::Raw(_) => None,
            Value::Fields(fields) => fields.get_mut(place).map(|(_, value)| value),
            Value::Items(items) => items.get_mut(place),
        };
        let Some(next) = next else { return Ok(()) };
        at = next;
    }
    *at = Value::Raw(change);
    Ok(())
}

/// Appends a missing field to a container. An array is first padded with nulls.
fn append<'a>(
    container: &mut Value<'a>,
    part: &'a [u8],
    value: Value<'a>,
    padding: &mut usize,
) -> Result<(), DiffError> {
    match container {
        Value::Raw(_) => {}
        Value::Fields(fields) => fields.push((part, value)),
        Value::Items(items) => {
            let index = item_index(part).unwrap_or_default();
            let gap = index.saturating_sub(items.len());
            *padding = padding.checked_sub(gap).ok_or(DiffFault::TooLarge)?;
            items.resize_with(index, || Value::NULL);
            items.push(value);
        }
    }
    Ok(())
}

/// Wraps a value in one document for each part of a path.
fn wrapped<'a>(path: &[&'a [u8]], change: Element<'a>) -> Value<'a> {
    let innermost = Value::Raw(change);
    path.iter()
        .rev()
        .fold(innermost, |value, part| Value::Fields(vec![(*part, value)]))
}

fn unset<'a>(root: &mut Value<'a>, path: &'a [u8]) -> Result<(), DiffError> {
    let parts = parts(path)?;
    let Some((last, before)) = parts.split_last() else {
        return Ok(());
    };
    let mut at = root;
    for part in before {
        at.open()?;
        let next = match at {
            Value::Raw(_) => None,
            Value::Fields(fields) => {
                let mut fields = fields.iter_mut();
                fields
                    .find(|(name, _)| name == part)
                    .map(|(_, value)| value)
            }
            Value::Items(items) => item_index(part).and_then(|index| items.get_mut(index)),
        };
        let Some(next) = next else { return Ok(()) };
        at = next;
    }
    at.open()?;
    match at {
        Value::Raw(_) => {}
        Value::Fields(fields) => {
            if let Some(place) = fields.iter().position(|(name, _)| name == last) {
                drop(fields.remove(place));
            }
        }
        Value::Items(items) => {
            if let Some(item) = item_index(last).and_then(|index| items.get_mut(index)) {
                *item = Value::NULL;
            }
        }
    }
    Ok(())
}

fn parts(path: &[u8]) -> Result<Vec<&[u8]>, Malformed> {
    let parts: Vec<_> = path
        .split(|byte| *byte == b'.')
        .take(MAX_DEPTH + 1)
        .collect();
    if parts.len() > MAX_DEPTH {
        return Err(Malformed::TooDeep);
    }
    Ok(parts)
}

fn item_index(part: &[u8]) -> Option<usize> {
    let digits = part.iter().all(u8::is_ascii_digit).then_some(part)?;
    std::str::from_utf8(digits).ok()?.parse().ok()
}

fn write_value(
    name: &[u8],
    value: &Value<'_>,
    out: &mut DocumentBuilder<'_>,
) -> Result<(), Malformed> {
    let kind = match value {
        Value::Raw(element) => {
            out.element(Element { name, ..*element });
            return Ok(());
        }
        Value::Fields(_) => kind::DOCUMENT,
        Value::Items(_) => kind::ARRAY,
    };
    let mut inner = out.open(name, kind);
    write_content(value, &mut inner)?;
    inner.finish();
    Ok(())
}

fn write_content(value: &Value<'_>, out: &mut DocumentBuilder<'_>) -> Result<(), Malformed> {
    match value {
        Value::Raw(element) => {
            for field in element.document()?.elements() {
                out.element(field?);
            }
        }
        Value::Fields(fields) => {
            for (name, value) in fields {
                write_value(name, value, out)?;
            }
        }
        Value::Items(items) => {
            let mut digits = itoa::Buffer::new();
            for (index, value) in items.iter().enumerate() {
                write_value(digits.format(index).as_bytes(), value, out)?;
            }
        }
    }
    Ok(())
}
