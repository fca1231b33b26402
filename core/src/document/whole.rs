//! Validation of a document at every level. A consumer validates each entry that it uses. A check
//! that returns only true or false is faster than one that reports the place of the fault.

use super::{Element, MAX_DEPTH, ValueLength, kind, value_length, zero_in};

/// Returns true if later reads of the document cannot fail. The caller has checked its length
/// prefix and its final zero; `depth` is the nesting level of the document.
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

/// Returns true if an element is valid. The caller has checked its length; `depth` is that of its
/// document.
#[inline]
pub(super) fn is_whole_element(element: Element<'_>, depth: usize) -> bool {
    match element.kind {
        kind::DOCUMENT | kind::ARRAY => is_whole(element.value, depth + 1),
        kind::STRING | kind::CODE | kind::SYMBOL => element.value.last() == Some(&0),
        kind::CODE_WITH_SCOPE | kind::DB_POINTER => element.find_fault(depth).is_ok(),
        _ => true,
    }
}
