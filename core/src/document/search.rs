//! A search that builds no elements. It has a module of its own because the compiler inlines what this walk and
//! that of `whole` have in common only where a unit of code has one of them.

use super::{ValueLength, value_length, zero_in};

/// Whether a field of the first level is of a type. Where the document is damaged the answer is yes, so that
/// whoever asks walks over it and meets the damage.
pub(super) fn may_have(document: &[u8], wanted: u8) -> bool {
    let [_, _, _, _, elements @ .., 0] = document else {
        return true;
    };
    let mut rest = elements;
    while let Some((&kind, after)) = rest.split_first() {
        if kind == wanted {
            return true;
        }
        let Some((_name, [_zero, after @ ..])) = zero_in(after).map(|end| after.split_at(end))
        else {
            return true;
        };
        let ValueLength::Known(length) = value_length(kind, after) else {
            return true;
        };
        let Some(next) = after.get(length..) else {
            return true;
        };
        rest = next;
    }
    false
}
