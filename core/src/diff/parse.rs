//! The structure of a diff.

use super::fault::lossy;
use super::{DiffError, DiffFault, MAX_PADDING};
use crate::document::{Document, Element, MAX_DEPTH, Malformed, kind};
use crate::key::write_id_identity;

/// The diff of a document.
#[derive(Debug, Clone)]
pub(super) struct Fields<'a> {
    /// The changes in the order of the diff, which is the order in which absent fields are
    /// appended.
    pub(super) changes: Vec<Named<'a>>,
    /// The indexes of `changes`, sorted by name.
    by_name: Vec<usize>,
}

/// A field and its change.
#[derive(Debug, Clone)]
pub(super) struct Named<'a> {
    pub(super) name: &'a [u8],
    pub(super) change: Change<'a>,
}

/// The change of a field or of an array element.
#[derive(Debug, Clone)]
pub(super) enum Change<'a> {
    Remove,
    Update(Element<'a>),
    Insert(Element<'a>),
    Splice(Splice<'a>),
    Nested(Node<'a>),
}

/// New bytes for the end of binary data.
#[derive(Debug, Clone, Copy)]
pub(super) struct Splice<'a> {
    pub(super) offset: usize,
    pub(super) bytes: &'a [u8],
    /// The splice as an element of the diff.
    pub(super) element: Element<'a>,
}

/// The diff of an embedded value.
#[derive(Debug, Clone)]
pub(super) enum Node<'a> {
    Fields(Fields<'a>),
    Items(Items<'a>),
}

/// The diff of an array.
#[derive(Debug, Clone)]
pub(super) struct Items<'a> {
    /// The array's new length, if it is given.
    pub(super) length: Option<usize>,
    /// The changes in order of their indexes.
    pub(super) changes: Vec<Item<'a>>,
}

/// An array element and its change.
#[derive(Debug, Clone)]
pub(super) struct Item<'a> {
    pub(super) index: usize,
    pub(super) change: Change<'a>,
}

impl<'a> Fields<'a> {
    /// Returns the index of the change of the field with this name.
    pub(super) fn find(&self, name: &[u8]) -> Option<usize> {
        let name_at = |at: &usize| self.changes.get(*at).map_or(&b""[..], |named| named.name);
        let found = self.by_name.binary_search_by(|at| name_at(at).cmp(name));
        found.ok().and_then(|at| self.by_name.get(at).copied())
    }

    fn id_change(&self) -> Option<&Change<'a>> {
        let at = self.find(b"_id")?;
        self.changes.get(at).map(|named| &named.change)
    }

    pub(super) fn writes_id(&self) -> bool {
        self.id_change().is_some()
    }

    /// Returns an error if the diff gives a document an `_id` other than `id`. Servers compare the
    /// two by value, so the same number may have another type.
    pub(super) fn keeps_id(&self, id: Element<'_>) -> Result<(), DiffError> {
        let Some(Change::Update(written) | Change::Insert(written)) = self.id_change() else {
            return Ok(());
        };
        let (mut before, mut after) = (Vec::new(), Vec::new());
        write_id_identity(id, &mut before)?;
        write_id_identity(*written, &mut after)?;
        if before == after {
            Ok(())
        } else {
            Err(DiffFault::Id.into())
        }
    }
}

/// Reads the diff of a whole document.
pub(super) fn root(diff: Document<'_>) -> Result<Fields<'_>, DiffError> {
    if diff.first()?.is_some_and(|first| first.name == b"a") {
        return Err(DiffFault::ArrayAtRoot.into());
    }
    let fields = fields(diff, 0)?;
    match fields.id_change() {
        // `_id` may be written with its own value: `Fields::keeps_id` compares them.
        None | Some(Change::Update(_) | Change::Insert(_)) => Ok(fields),
        Some(Change::Remove | Change::Splice(_) | Change::Nested(_)) => Err(DiffFault::Id.into()),
    }
}

fn fields(diff: Document<'_>, depth: usize) -> Result<Fields<'_>, DiffError> {
    let mut changes = Vec::new();
    let mut last = None;
    for section in diff.elements() {
        let section = section?;
        let place =
            place(section.name).ok_or_else(|| DiffFault::UnknownSection(lossy(section.name)))?;
        // Only nested diffs may occur more than once.
        if last >= Some(place) && place != Section::Nested {
            return Err(DiffFault::SectionOrder(lossy(section.name)).into());
        }
        last = Some(place);
        let content = embedded(section)?;
        match place {
            Section::Remove => {
                collect(content, &mut changes, |_| Ok(Change::Remove))?;
            }
            Section::Update => {
                collect(content, &mut changes, |field| Ok(Change::Update(field)))?;
            }
            Section::Insert => {
                collect(content, &mut changes, |field| Ok(Change::Insert(field)))?;
            }
            Section::Splice => {
                collect(content, &mut changes, |field| {
                    splice(field).map(Change::Splice)
                })?;
            }
            Section::Nested => {
                let name = section.name.get(1..).unwrap_or_default();
                let node = node(content, depth + 1).map_err(|error| error.below(name))?;
                let change = Change::Nested(node);
                changes.push(Named { name, change });
            }
        }
    }
    if last.is_none() {
        return Err(DiffFault::Empty.into());
    }
    let by_name = by_name(&changes)?;
    Ok(Fields { changes, by_name })
}

/// The sections of a document's diff, in their order.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Section {
    Remove,
    Update,
    Insert,
    Splice,
    Nested,
}

fn place(key: &[u8]) -> Option<Section> {
    Some(match key {
        b"d" => Section::Remove,
        b"u" => Section::Update,
        b"i" => Section::Insert,
        b"b" => Section::Splice,
        [b's', ..] => Section::Nested,
        _ => return None,
    })
}

fn embedded(element: Element<'_>) -> Result<Document<'_>, Malformed> {
    if element.kind == kind::DOCUMENT {
        element.document()
    } else {
        Err(element.wrong_type())
    }
}

fn collect<'a>(
    section: Document<'a>,
    changes: &mut Vec<Named<'a>>,
    change: impl Fn(Element<'a>) -> Result<Change<'a>, DiffError>,
) -> Result<(), DiffError> {
    for field in section.elements() {
        let field = field?;
        changes.push(Named {
            name: field.name,
            change: change(field)?,
        });
    }
    Ok(())
}

fn splice(field: Element<'_>) -> Result<Splice<'_>, DiffError> {
    let wrong = || DiffFault::Splice(lossy(field.name));
    let splice = embedded(field)?;
    let offset = splice.get("o")?.ok_or_else(wrong)?.integer()?;
    let bytes = splice.get("d")?.ok_or_else(wrong)?.binary()?.bytes;
    Ok(Splice {
        offset: usize::try_from(offset).map_err(|_| wrong())?,
        bytes,
        element: field,
    })
}

fn by_name(changes: &[Named<'_>]) -> Result<Vec<usize>, DiffError> {
    let name = |at: usize| changes.get(at).map_or(&b""[..], |named| named.name);
    let mut by_name: Vec<usize> = (0..changes.len()).collect();
    by_name.sort_unstable_by(|one, other| name(*one).cmp(name(*other)));
    for pair in by_name.windows(2) {
        if let [one, other] = *pair
            && name(one) == name(other)
        {
            return Err(DiffFault::DuplicateName(lossy(name(one))).into());
        }
    }
    Ok(by_name)
}

fn node(diff: Document<'_>, depth: usize) -> Result<Node<'_>, DiffError> {
    if depth > MAX_DEPTH {
        return Err(Malformed::TooDeep.into());
    }
    match diff.first()? {
        Some(first) if first.name == b"a" => Ok(Node::Items(items(first, diff, depth)?)),
        _ => Ok(Node::Fields(fields(diff, depth)?)),
    }
}

fn items<'a>(
    header: Element<'a>,
    diff: Document<'a>,
    depth: usize,
) -> Result<Items<'a>, DiffError> {
    if header.boolean() != Ok(true) {
        return Err(DiffFault::ArrayHeader("a").into());
    }
    let mut length = None;
    let mut changes: Vec<Item<'a>> = Vec::new();
    for element in diff.elements().skip(1) {
        let element = element?;
        if element.name == b"l" && length.is_none() && changes.is_empty() {
            length = Some(array_length(element)?);
            continue;
        }
        let (index, change) = item(element, depth)?;
        if changes.last().is_some_and(|last| last.index >= index) {
            return Err(DiffFault::IndexOrder(index).into());
        }
        if let Some(length) = length
            && index >= length
        {
            return Err(DiffFault::IndexBeyondLength { index, length }.into());
        }
        changes.push(Item { index, change });
    }
    Ok(Items { length, changes })
}

fn array_length(element: Element<'_>) -> Result<usize, DiffError> {
    let length = element
        .integer()
        .ok()
        .and_then(|length| length.try_into().ok());
    let length = length.ok_or(DiffFault::ArrayHeader("l"))?;
    if length > MAX_PADDING {
        return Err(DiffFault::TooLarge.into());
    }
    Ok(length)
}

fn item(element: Element<'_>, depth: usize) -> Result<(usize, Change<'_>), DiffError> {
    let unknown = || match element.name {
        b"l" | b"a" => DiffFault::SectionOrder(lossy(element.name)),
        name => DiffFault::UnknownSection(lossy(name)),
    };
    let (letter, digits) = element.name.split_first().ok_or_else(unknown)?;
    let index = index(digits).ok_or_else(unknown)?;
    let change = match letter {
        b'u' => Change::Update(element),
        b's' => {
            let node = node(embedded(element)?, depth + 1);
            Change::Nested(node.map_err(|error| error.below(digits))?)
        }
        _ => return Err(unknown().into()),
    };
    Ok((index, change))
}

/// Parses an index as servers write it: digits without leading zeros.
fn index(digits: &[u8]) -> Option<usize> {
    let canonical = digits == b"0" || !digits.starts_with(b"0");
    let digits = digits.iter().all(u8::is_ascii_digit).then_some(digits)?;
    let text = std::str::from_utf8(digits).ok().filter(|_| canonical)?;
    text.parse().ok()
}
