//! Detection of names that occur twice in one object.
//!
//! BSON allows duplicate names and this project keeps both fields, but most JSON readers keep only
//! one of them. The writer checks every name of every object, so the check must cost very little
//! for an ordinary document. Each name sets one bit of a small set, and only a name whose bit is
//! already set is examined further.

use crate::document::{Document, Element};

/// The number of bits in the set.
const BITS: u32 = 512;
/// The number of fields up to which each name is compared with the names before it. Larger objects
/// are examined once, at their end, because those comparisons take quadratic time.
const COMPARED: usize = 64;

/// The names of one object seen so far.
#[derive(Debug, Default)]
pub(crate) struct Names {
    seen: [u64; (BITS / u64::BITS) as usize],
    count: usize,
}

impl Names {
    /// Adds the next name. Returns true if it has occurred before, and in rare cases also if it has
    /// not.
    #[inline]
    pub(crate) fn add(&mut self, name: &[u8]) -> bool {
        self.count += 1;
        let bit = hash(name) >> (u64::BITS - BITS.trailing_zeros());
        let Some(word) = usize::try_from(bit / 64)
            .ok()
            .and_then(|word| self.seen.get_mut(word))
        else {
            return true;
        };
        let mask = 1 << (bit % 64);
        let seen = *word & mask != 0;
        *word |= mask;
        seen
    }

    /// Adds the next name of a document. Returns true if a field before it has the same name.
    /// Beyond [`COMPARED`] fields, [`Names::any_repeated`] makes this check.
    #[inline]
    pub(super) fn repeats(&mut self, element: Element<'_>, document: Document<'_>) -> bool {
        let before = self.count;
        self.add(element.name) && before < COMPARED && occurs(element.name, document, before)
    }

    /// Returns true if the document has too many fields for [`Names::repeats`] and one of its names
    /// occurs twice. It must be called after the last field.
    #[inline]
    pub(super) fn any_repeated(&self, document: Document<'_>) -> bool {
        self.count > COMPARED && has_repeated_name(document)
    }
}

#[cold]
fn occurs(name: &[u8], document: Document<'_>, fields: usize) -> bool {
    document
        .elements()
        .take(fields)
        .any(|element| element.is_ok_and(|element| element.name == name))
}

#[cold]
fn has_repeated_name(document: Document<'_>) -> bool {
    let names = document.elements().map_while(Result::ok);
    let mut names: Vec<&[u8]> = names.map(|element| element.name).collect();
    names.sort_unstable();
    names.windows(2).any(|pair| pair.first() == pair.last())
}

/// Hashes the length, the start and the end of a name. The high bits are mixed best.
#[inline]
fn hash(name: &[u8]) -> u64 {
    const ODD: u64 = 0x9e37_79b9_7f4a_7c15;
    let length = name.len() as u64;
    let (head, tail) = match (name.first_chunk::<8>(), name.last_chunk::<8>()) {
        (Some(head), Some(tail)) => (u64::from_le_bytes(*head), u64::from_le_bytes(*tail)),
        _ => match (name.first_chunk::<4>(), name.last_chunk::<4>()) {
            (Some(head), Some(tail)) => (
                u32::from_le_bytes(*head).into(),
                u32::from_le_bytes(*tail).into(),
            ),
            _ => {
                let byte = |at: usize| name.get(at).copied().map_or(0, u64::from);
                (byte(0) | byte(1) << 8 | byte(2) << 16, 0)
            }
        },
    };
    (head ^ tail.rotate_left(29) ^ length.rotate_left(56)).wrapping_mul(ODD)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::document::DocumentBuilder;

    fn document(names: &[String]) -> Vec<u8> {
        let mut out = Vec::new();
        let mut document = DocumentBuilder::start(&mut out);
        for name in names {
            document.int32(name, 1);
        }
        document.finish();
        out
    }

    fn repeated(names: &[String]) -> bool {
        let bytes = document(names);
        let document = Document::new(&bytes).unwrap();
        let mut names = Names::default();
        let mut repeated = false;
        for element in document.elements() {
            repeated |= names.repeats(element.unwrap(), document);
        }
        repeated || names.any_repeated(document)
    }

    #[test]
    fn a_name_that_occurs_twice_is_found_wherever_it_stands() {
        for count in [2, 3, 10, COMPARED, COMPARED + 1, 1000] {
            for prefix in ["", "a", "a_long_name_with_the_same_beginning_and_number_"] {
                let mut names: Vec<String> =
                    (0..count).map(|n| format!("{prefix}{n}{prefix}")).collect();
                assert!(!repeated(&names), "{count} {prefix}");
                for (from, to) in [(0, count - 1), (0, 1), (count - 2, count - 1)] {
                    let copy = names[from].clone();
                    let kept = std::mem::replace(&mut names[to], copy);
                    assert!(repeated(&names), "{count} {prefix} {from} {to}");
                    names[to] = kept;
                }
            }
        }
    }

    /// The cost of an ordinary document depends on this.
    #[test]
    fn ordinary_names_seldom_share_a_bit() {
        let names = [
            "_id",
            "a",
            "b",
            "x",
            "y",
            "name",
            "type",
            "email",
            "status",
            "created_at",
            "updated_at",
            "customer",
            "customerId",
            "items",
            "total",
            "price",
            "qty",
            "lat",
            "lng",
            "street",
            "city",
            "zip",
            "field0",
            "field1",
            "field2",
            "field3",
            "field4",
            "field5",
        ];
        let mut set = Names::default();
        let shared = names.iter().filter(|name| set.add(name.as_bytes())).count();
        assert!(shared <= 2, "{shared}");
    }
}
