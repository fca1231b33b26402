//! The search for a type, which builds no elements. It has its own module because the compiler
//! inlines the code that it shares with `whole` only if the two are in different codegen units.

use super::{ValueLength, value_length, zero_in};

/// Returns true if a field at the top level has this type. Also returns true if damage ends the
/// search, so that the caller reads the document and finds the damage.
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
