//! The UUID of a collection, which stays the same when the collection is renamed.

use std::fmt::{self, Write as _};
use std::str::FromStr;

/// The UUID of a collection (`ui` of an entry). Its text has the usual form with hyphens.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct CollectionUuid(pub [u8; 16]);

impl CollectionUuid {
    /// Returns the value as BSON stores it: the length, the subtype 4, and the bytes.
    #[inline]
    #[must_use]
    pub fn binary(&self) -> [u8; 21] {
        let mut binary = [0; 21];
        if let Some((head, tail)) = binary.split_first_chunk_mut::<5>() {
            *head = [16, 0, 0, 0, 4];
            tail.copy_from_slice(&self.0);
        }
        binary
    }

    /// Returns the text with hyphens.
    #[must_use]
    pub fn hyphenated(&self) -> [u8; 36] {
        const DIGITS: [u8; 16] = *b"0123456789abcdef";
        let digit = |bits: u8| {
            *DIGITS
                .get(usize::from(bits))
                .expect("four bits have 16 values")
        };
        let digits = self.0.iter().flat_map(|byte| [byte >> 4, byte & 15]);
        let mut text = [b'-'; 36];
        let places = text.iter_mut().enumerate();
        let places = places.filter(|(index, _)| !matches!(index, 8 | 13 | 18 | 23));
        for ((_, place), bits) in places.zip(digits) {
            *place = digit(bits);
        }
        text
    }
}

impl fmt::Display for CollectionUuid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.hyphenated()
            .iter()
            .try_for_each(|digit| f.write_char(char::from(*digit)))
    }
}

/// A text that is not a UUID.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is not a UUID")]
pub struct UuidError(String);

impl FromStr for CollectionUuid {
    type Err = UuidError;

    /// Parses 32 hexadecimal digits. Hyphens are ignored.
    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let digits: String = text.chars().filter(|c| *c != '-').collect();
        let is_uuid = digits.len() == 32 && digits.bytes().all(|digit| digit.is_ascii_hexdigit());
        let bits = u128::from_str_radix(&digits, 16).ok().filter(|_| is_uuid);
        bits.map(|bits| Self(bits.to_be_bytes()))
            .ok_or_else(|| UuidError(text.to_owned()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_and_bytes_are_converted_both_ways() {
        let uuid =
            CollectionUuid(*b"\x00\x01\x02\x03\x04\x05\x06\x07\x08\x09\x0a\x0b\x0c\x0d\x0e\xff");
        let text = "00010203-0405-0607-0809-0a0b0c0d0eff";
        assert_eq!(uuid.to_string(), text);
        assert_eq!(text.parse(), Ok(uuid));
        assert_eq!(text.replace('-', "").parse(), Ok(uuid));
        for text in ["", "a.b", "0001", "+0010203-0405-0607-0809-0a0b0c0d0ef"] {
            assert!(text.parse::<CollectionUuid>().is_err(), "{text}");
        }
    }
}
