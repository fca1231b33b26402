//! Whether a document is whole, at every level. Each entry that a consumer uses is walked so; a walk
//! that says only yes or no takes half as long as one that could say where the fault is.

use super::{Element, MAX_DEPTH, ValueLength, kind, value_length, zero_in};

/// Whether later walks over the document cannot fail. Its length prefix and its final zero have been
/// looked at; `depth` is its own.
pub(super) fn is_whole(document: &[u8], depth: usize) -> bool {
    if depth > MAX_DEPTH {
        return false;
    }
    let [_, _, _, _, elements @ .., 0] = document else {
        return false;
    };
    let mut rest = elements;
    while let Some((&kind, after)) = rest.split_first() {
        let Some((name, [_zero, after @ ..])) = zero_in(after).map(|end| after.split_at(end))
        else {
            return false;
        };
        let ValueLength::Known(length) = value_length(kind, after) else {
            return false;
        };
        let Some((value, next)) = after.split_at_checked(length) else {
            return false;
        };
        if !is_whole_element(Element { name, kind, value }, depth) {
            return false;
        }
        rest = next;
    }
    true
}

/// Whether an element is whole, whose length has been looked at; `depth` is that of its document.
#[inline]
pub(super) fn is_whole_element(element: Element<'_>, depth: usize) -> bool {
    match element.kind {
        kind::DOCUMENT | kind::ARRAY => is_whole(element.value, depth + 1),
        kind::STRING | kind::CODE | kind::SYMBOL => element.value.last() == Some(&0),
        kind::CODE_WITH_SCOPE | kind::DB_POINTER => element.find_fault(depth).is_ok(),
        _ => true,
    }
}
