//! The application of a diff to a document.

use super::parse::{Change, Fields, Items, Node, Splice};
use super::{DiffError, DiffFault, MAX_PADDING};
use crate::document::{Document, DocumentBuilder, Element, kind};

pub(super) fn apply(diff: &Fields<'_>, document: Document<'_>) -> Result<Vec<u8>, DiffError> {
    let mut out = Vec::with_capacity(document.as_bytes().len() + 64);
    let mut builder = DocumentBuilder::start(&mut out);
    let mut applier = Applier {
        padding: MAX_PADDING,
    };
    applier.fields(diff, document, &mut builder)?;
    builder.finish();
    Ok(out)
}

struct Applier {
    /// The number of nulls that may still be added to fill array gaps.
    padding: usize,
}

impl Applier {
    fn fields(
        &mut self,
        diff: &Fields<'_>,
        document: Document<'_>,
        out: &mut DocumentBuilder<'_>,
    ) -> Result<(), DiffError> {
        let mut seen = vec![false; diff.changes.len()];
        for field in document.elements() {
            let field = field?;
            let Some(at) = diff.find(field.name) else {
                out.element(field);
                continue;
            };
            if let Some(seen) = seen.get_mut(at) {
                *seen = true;
            }
            match diff.changes.get(at).map(|named| &named.change) {
                Some(Change::Update(value)) => drop(out.element(*value)),
                Some(Change::Splice(splice)) => spliced(*splice, field, out),
                Some(Change::Nested(node)) => self.nested(node, field, out)?,
                Some(Change::Remove | Change::Insert(_)) | None => {}
            }
        }
        for (named, seen) in diff.changes.iter().zip(seen) {
            match named.change {
                Change::Update(value) if !seen => drop(out.element(value)),
                Change::Insert(value) => drop(out.element(value)),
                _ => {}
            }
        }
        Ok(())
    }

    fn nested(
        &mut self,
        node: &Node<'_>,
        element: Element<'_>,
        out: &mut DocumentBuilder<'_>,
    ) -> Result<(), DiffError> {
        match (node, element.kind) {
            (Node::Fields(diff), kind::DOCUMENT) => {
                let mut inner = out.open(element.name, kind::DOCUMENT);
                self.fields(diff, element.document()?, &mut inner)?;
                inner.finish();
            }
            (Node::Items(diff), kind::ARRAY) => {
                let mut inner = out.open(element.name, kind::ARRAY);
                self.items(diff, element.document()?, &mut inner)?;
                inner.finish();
            }
            _ => null(element.name, out),
        }
        Ok(())
    }

    fn items(
        &mut self,
        diff: &Items<'_>,
        array: Document<'_>,
        out: &mut DocumentBuilder<'_>,
    ) -> Result<(), DiffError> {
        let mut old = array.elements();
        let mut changes = diff.changes.iter().peekable();
        let mut digits = itoa::Buffer::new();
        for index in 0_usize.. {
            if diff.length.is_some_and(|length| index >= length) {
                break;
            }
            let element = old.next().transpose()?;
            if element.is_none() {
                if diff.length.is_none() && changes.peek().is_none() {
                    break;
                }
                let left = self.padding.checked_sub(1);
                self.padding = left.ok_or(DiffFault::TooLarge)?;
            }
            let name = digits.format(index).as_bytes();
            let element = element.map(|element| Element { name, ..element });
            let change = changes.next_if(|change| change.index == index);
            match (change.map(|item| &item.change), element) {
                (Some(Change::Update(value)), _) => drop(out.element(Element { name, ..*value })),
                (Some(Change::Nested(node)), Some(element)) => self.nested(node, element, out)?,
                (None, Some(element)) => drop(out.element(element)),
                _ => null(name, out),
            }
        }
        Ok(())
    }
}

fn null(name: &[u8], out: &mut DocumentBuilder<'_>) {
    out.element(Element {
        name,
        kind: kind::NULL,
        value: &[],
    });
}

/// Writes the binary data of a field with its bytes from the offset on replaced. The subtype stays
/// the same. Writes null if the field is not binary or is too short.
fn spliced(splice: Splice<'_>, field: Element<'_>, out: &mut DocumentBuilder<'_>) {
    let kept = field.binary().ok().and_then(|binary| {
        let kept = binary.bytes.get(..splice.offset)?;
        Some((binary.subtype, kept))
    });
    let Some((subtype, kept)) = kept else {
        return null(field.name, out);
    };
    let length = i32::try_from(kept.len() + splice.bytes.len()).unwrap_or(-1);
    let mut value = length.to_le_bytes().to_vec();
    value.push(subtype);
    value.extend_from_slice(kept);
    value.extend_from_slice(splice.bytes);
    out.element(Element {
        name: field.name,
        kind: kind::BINARY,
        value: &value,
    });
}
