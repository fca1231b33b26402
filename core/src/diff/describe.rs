//! The changes of a diff as paths, in the shape of MongoDB's change events.

use super::parse::{Change, Fields, Items, Node};
use crate::document::Element;

/// A part of a path.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Part<'a> {
    /// A field of a document. The name may contain dots, be empty or look like a number.
    Field(&'a [u8]),
    /// An element of an array.
    Index(usize),
}

/// The change that a diff makes at a path.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Described<'a> {
    /// A new value. For a splice it is the splice itself, `{o: offset, d: data}`.
    Updated(Element<'a>),
    /// The field is removed.
    Removed,
    /// The array is truncated to this length.
    Truncated(usize),
}

pub(super) fn describe<'a>(diff: &Fields<'a>, visit: &mut impl FnMut(&[Part<'a>], Described<'a>)) {
    fields(diff, &mut Vec::new(), visit);
}

fn fields<'a>(
    diff: &Fields<'a>,
    path: &mut Vec<Part<'a>>,
    visit: &mut impl FnMut(&[Part<'a>], Described<'a>),
) {
    for named in &diff.changes {
        path.push(Part::Field(named.name));
        change(&named.change, path, visit);
        path.pop();
    }
}

fn items<'a>(
    diff: &Items<'a>,
    path: &mut Vec<Part<'a>>,
    visit: &mut impl FnMut(&[Part<'a>], Described<'a>),
) {
    if let Some(length) = diff.length {
        visit(path, Described::Truncated(length));
    }
    for item in &diff.changes {
        path.push(Part::Index(item.index));
        change(&item.change, path, visit);
        path.pop();
    }
}

fn change<'a>(
    change: &Change<'a>,
    path: &mut Vec<Part<'a>>,
    visit: &mut impl FnMut(&[Part<'a>], Described<'a>),
) {
    match change {
        Change::Remove => visit(path, Described::Removed),
        Change::Update(value) | Change::Insert(value) => visit(path, Described::Updated(*value)),
        Change::Splice(splice) => visit(path, Described::Updated(splice.element)),
        Change::Nested(Node::Fields(diff)) => fields(diff, path, visit),
        Change::Nested(Node::Items(diff)) => items(diff, path, visit),
    }
}
