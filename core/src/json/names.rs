//! Names that occur twice in one object.
//!
//! BSON allows it and this project keeps both fields, but most readers of JSON keep only one of
//! them. The writer asks for every name of every object, so the answer for an ordinary document
//! must cost next to nothing: each name sets one bit of a small set, and only a bit that is set
//! already is worth a closer look.

use crate::document::{Document, Element};

/// Bits of the set.
const BITS: u32 = 512;
/// Objects with more fields than this are examined once, at their end. Comparing each name with
/// all names before it would take quadratic time.
const COMPARED: usize = 64;

/// The names of one object so far.
#[derive(Debug, Default)]
pub(crate) struct Names {
    seen: [u64; (BITS / u64::BITS) as usize],
    count: usize,
}

impl Names {
    /// Adds the next name. Returns true if it may have occurred before; a name that occurred
    /// before is always recognised.
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

    /// Adds the next name of a document. Returns true if a field before it has the same name;
    /// beyond [`COMPARED`] fields the answer is left to [`Names::any_repeated`].
    #[inline]
    pub(super) fn repeats(&mut self, element: Element<'_>, document: Document<'_>) -> bool {
        let before = self.count;
        self.add(element.name) && before < COMPARED && occurs(element.name, document, before)
    }

    /// Returns true if the document has too many fields for [`Names::repeats`] and a name of it
    /// occurs twice. Asked after its last field.
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

/// Mixes the length, the beginning and the end of a name. The high bits are the good ones.
#[inline]
fn hash(name: &[u8]) -> u64 {
    const ODD: u64 = 0x9e37_79b9_7f4a_7c15;
    let length = u64::try_from(name.len()).unwrap_or_default();
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

    /// What an ordinary document costs depends on it.
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
