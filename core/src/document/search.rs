//! A search that builds no elements. It has its own module because the compiler inlines the code
//! shared with `whole` only if a codegen unit contains one of the two.

use super::{ValueLength, value_length, zero_in};

/// Returns true if a field of the first level has this type. A damaged document also returns true,
/// so that the caller reads it and finds the damage.
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
