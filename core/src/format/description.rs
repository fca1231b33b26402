//! The `updateDescription` of an update, as in MongoDB's change events.

use std::collections::BTreeSet;

use crate::diff::{Described, Diff, Part};
use crate::document::{Document, Element, Malformed, kind};
use crate::json::names::Names;
use crate::json::{self, Exactness, Mode};

/// Appends `{updatedFields, removedFields, truncatedArrays}`. If a path has a number below the
/// first level or a dot in a name, it could be read in two ways; such paths are also listed in
/// `disambiguatedPaths`.
///
/// Two different places can have the same path. `updatedFields` then has the name twice, as
/// MongoDB's own events do, and the text is lossy: most readers keep only one of the two.
///
/// # Errors
/// [`Malformed`] if a value is damaged. `out` is then unchanged.
fn write_description(
    diff: &Diff<'_>,
    mode: Mode,
    out: &mut Vec<u8>,
) -> Result<Exactness, Malformed> {
    let lists = Lists::of(diff, mode, Truncated::NewSize)?;
    out.extend_from_slice(b"{\"updatedFields\":{");
    out.extend_from_slice(&lists.updated);
    out.extend_from_slice(b"},\"removedFields\":[");
    out.extend_from_slice(&lists.removed);
    out.extend_from_slice(b"],\"truncatedArrays\":[");
    out.extend_from_slice(&lists.truncated);
    out.push(b']');
    if !lists.disambiguated.is_empty() {
        out.extend_from_slice(b",\"disambiguatedPaths\":{");
        out.extend_from_slice(&lists.disambiguated);
        out.push(b'}');
    }
    out.push(b'}');
    if lists.may_repeat && repeats_a_path(diff) {
        return Ok(Exactness::Lossy);
    }
    Ok(Exactness::Exact)
}

/// Appends the description of a diff. Returns `None` for a damaged diff, which has no description.
///
/// # Errors
/// [`Malformed`] if a value is damaged. `out` is then unchanged.
pub(super) fn write_diff(
    diff: Document<'_>,
    mode: Mode,
    out: &mut Vec<u8>,
) -> Result<Option<Exactness>, Malformed> {
    match Diff::parse(diff) {
        Ok(diff) => write_description(&diff, mode, out).map(Some),
        Err(_) => Ok(None),
    }
}

/// Appends the description of `$set` and `$unset`, with the paths of the entry.
///
/// # Errors
/// [`Malformed`] if a value is damaged. `out` then holds a part of the text.
pub(super) fn write_modifiers(
    modifiers: Document<'_>,
    mode: Mode,
    out: &mut Vec<u8>,
) -> Result<(), Malformed> {
    out.extend_from_slice(b"{\"updatedFields\":{");
    write_fields(modifiers, b"$set", out, |field, out| {
        json::write_string(field.name, out);
        out.push(b':');
        json::write_value(field, mode, out).map(drop)
    })?;
    out.extend_from_slice(b"},\"removedFields\":[");
    write_fields(modifiers, b"$unset", out, |field, out| {
        json::write_string(field.name, out);
        Ok(())
    })?;
    out.extend_from_slice(b"],\"truncatedArrays\":[]}");
    Ok(())
}

/// Writes every field of every operator with this name (old oplogs may contain two `$set`).
fn write_fields(
    modifiers: Document<'_>,
    operator: &[u8],
    out: &mut Vec<u8>,
    mut write: impl FnMut(Element<'_>, &mut Vec<u8>) -> Result<(), Malformed>,
) -> Result<(), Malformed> {
    let mut first = true;
    for element in modifiers.elements() {
        let element = element?;
        if element.name != operator {
            continue;
        }
        for field in element.document()?.elements() {
            if !first {
                out.push(b',');
            }
            first = false;
            write(field?, out)?;
        }
    }
    Ok(())
}

/// Returns true if two places of the diff have the same path.
#[cold]
fn repeats_a_path(diff: &Diff<'_>) -> bool {
    let mut paths = BTreeSet::new();
    let mut repeats = false;
    diff.describe(&mut |path, _| {
        let mut text = Vec::new();
        write_path(path, &mut text);
        repeats |= !paths.insert(text);
    });
    repeats
}

fn write_path(path: &[Part<'_>], out: &mut Vec<u8>) {
    for (index, part) in path.iter().enumerate() {
        if index > 0 {
            out.push(b'.');
        }
        match part {
            Part::Field(name) => out.extend_from_slice(name),
            Part::Index(index) => {
                let mut digits = itoa::Buffer::new();
                out.extend_from_slice(digits.format(*index).as_bytes());
            }
        }
    }
}

/// The field of `truncatedArrays` with the length of the array.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Truncated {
    /// `newSize`, as in MongoDB's change events.
    NewSize,
    /// `size`, a plain number in both modes, as in Debezium's envelope.
    Size,
}

/// The lists of a description as text, each without its brackets.
#[derive(Debug)]
pub(super) struct Lists {
    mode: Mode,
    length: Truncated,
    /// The paths written so far.
    paths: Names,
    /// True if two of these paths may be equal.
    may_repeat: bool,
    /// The current path, with dots between its parts.
    path: Vec<u8>,
    pub(super) updated: Vec<u8>,
    pub(super) removed: Vec<u8>,
    pub(super) truncated: Vec<u8>,
    disambiguated: Vec<u8>,
}

impl Lists {
    /// Returns the lists of a diff.
    pub(super) fn of(diff: &Diff<'_>, mode: Mode, length: Truncated) -> Result<Self, Malformed> {
        let mut lists = Self::empty(mode, length);
        let mut outcome = Ok(());
        diff.describe(&mut |path, described| {
            if outcome.is_ok() {
                outcome = lists.add(path, described);
            }
        });
        outcome.map(|()| lists)
    }

    pub(super) fn empty(mode: Mode, length: Truncated) -> Self {
        Self {
            mode,
            length,
            paths: Names::default(),
            may_repeat: false,
            path: Vec::new(),
            updated: Vec::new(),
            removed: Vec::new(),
            truncated: Vec::new(),
            disambiguated: Vec::new(),
        }
    }

    /// Adds a field of `$set`, whose name is a path.
    pub(super) fn set(&mut self, field: Element<'_>) -> Result<(), Malformed> {
        next(&mut self.updated);
        json::write_string(field.name, &mut self.updated);
        self.updated.push(b':');
        json::write_value(field, self.mode, &mut self.updated).map(drop)
    }

    /// Adds the path of a field of `$unset`.
    pub(super) fn unset(&mut self, path: &[u8]) {
        next(&mut self.removed);
        json::write_string(path, &mut self.removed);
    }

    fn add(&mut self, path: &[Part<'_>], described: Described<'_>) -> Result<(), Malformed> {
        self.path.clear();
        write_path(path, &mut self.path);
        self.may_repeat |= self.paths.add(&self.path);
        match described {
            Described::Updated(value) => {
                next(&mut self.updated);
                json::write_string(&self.path, &mut self.updated);
                self.updated.push(b':');
                // A loss in the text is recorded where the entry's own update is written.
                json::write_value(value, self.mode, &mut self.updated).map(drop)?;
            }
            Described::Removed => {
                next(&mut self.removed);
                json::write_string(&self.path, &mut self.removed);
            }
            Described::Truncated(length) => {
                next(&mut self.truncated);
                self.truncated.extend_from_slice(b"{\"field\":");
                json::write_string(&self.path, &mut self.truncated);
                let (name, mode) = match self.length {
                    Truncated::NewSize => ("newSize", self.mode),
                    Truncated::Size => ("size", Mode::Relaxed),
                };
                let name = format!(",\"{name}\":");
                self.truncated.extend_from_slice(name.as_bytes());
                write_number(length, mode, &mut self.truncated)?;
                self.truncated.push(b'}');
            }
        }
        if is_ambiguous(path) {
            self.disambiguate(path)?;
        }
        Ok(())
    }

    fn disambiguate(&mut self, path: &[Part<'_>]) -> Result<(), Malformed> {
        let out = &mut self.disambiguated;
        next(out);
        json::write_string(&self.path, out);
        out.extend_from_slice(b":[");
        for (index, part) in path.iter().enumerate() {
            if index > 0 {
                out.push(b',');
            }
            match part {
                Part::Field(name) => {
                    json::write_string(name, out);
                }
                Part::Index(index) => write_number(*index, self.mode, out)?,
            }
        }
        out.push(b']');
        Ok(())
    }
}

fn next(list: &mut Vec<u8>) {
    if !list.is_empty() {
        list.push(b',');
    }
}

fn is_ambiguous(path: &[Part<'_>]) -> bool {
    path.iter().enumerate().any(|(index, part)| match part {
        Part::Index(_) => true,
        Part::Field(name) => {
            let is_number = !name.is_empty() && name.iter().all(u8::is_ascii_digit);
            name.contains(&b'.') || (index > 0 && is_number)
        }
    })
}

/// Writes a length or an index as an int32. A larger index, which no server logs, is clamped.
fn write_number(number: usize, mode: Mode, out: &mut Vec<u8>) -> Result<(), Malformed> {
    let value = i32::try_from(number).unwrap_or(i32::MAX).to_le_bytes();
    let element = Element {
        name: b"",
        kind: kind::INT32,
        value: &value,
    };
    json::write_value(element, mode, out).map(drop)
}
