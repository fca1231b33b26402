//! The text of strings, names, hex and base64.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;

const HEX: [u8; 16] = *b"0123456789abcdef";

/// Writes `bytes` as a JSON string with its quotes.
///
/// Only characters that JSON requires to be escaped are escaped. Bytes that are not UTF-8 become
/// U+FFFD. Returns true if all bytes were UTF-8.
pub fn write_string(bytes: &[u8], out: &mut Vec<u8>) -> bool {
    out.reserve(bytes.len() + 2);
    out.push(b'"');
    let is_utf8 = if plain_length::<true>(bytes) == bytes.len() {
        out.extend_from_slice(bytes);
        true
    } else {
        write_escaped(bytes, out)
    };
    out.push(b'"');
    is_utf8
}

fn write_escaped(bytes: &[u8], out: &mut Vec<u8>) -> bool {
    let mut is_utf8 = true;
    for chunk in bytes.utf8_chunks() {
        let mut rest = chunk.valid().as_bytes();
        while let Some((plain, tail)) = rest.split_at_checked(plain_length::<false>(rest)) {
            out.extend_from_slice(plain);
            let Some((byte, tail)) = tail.split_first() else {
                break;
            };
            write_escape(*byte, out);
            rest = tail;
        }
        if !chunk.invalid().is_empty() {
            out.extend_from_slice("\u{fffd}".as_bytes());
            is_utf8 = false;
        }
    }
    is_utf8
}

fn write_escape(byte: u8, out: &mut Vec<u8>) {
    let short = match byte {
        b'"' | b'\\' => byte,
        0x08 => b'b',
        b'\t' => b't',
        b'\n' => b'n',
        0x0c => b'f',
        b'\r' => b'r',
        _ => {
            out.extend_from_slice(b"\\u00");
            out.extend_from_slice(&hex_pair(byte));
            return;
        }
    };
    out.extend_from_slice(&[b'\\', short]);
}

/// Returns the number of leading bytes that need no escape in JSON (and, for `ASCII_ONLY`, are
/// ASCII).
pub(super) fn plain_length<const ASCII_ONLY: bool>(bytes: &[u8]) -> usize {
    let mut length = 0;
    let mut rest = bytes;
    while let Some((word, tail)) = rest.split_first_chunk::<8>() {
        if any_special::<ASCII_ONLY>(u64::from_le_bytes(*word)) {
            break;
        }
        length += 8;
        rest = tail;
    }
    let special = |byte: &u8| {
        *byte < 0x20 || matches!(*byte, b'"' | b'\\') || (ASCII_ONLY && !byte.is_ascii())
    };
    length + rest.iter().position(special).unwrap_or(rest.len())
}

/// Returns true if one of eight bytes is a control character, a quote or a backslash (or not
/// ASCII).
#[inline]
fn any_special<const ASCII_ONLY: bool>(word: u64) -> bool {
    const ONES: u64 = u64::from_le_bytes([0x01; 8]);
    const HIGHS: u64 = u64::from_le_bytes([0x80; 8]);
    const SPACES: u64 = u64::from_le_bytes([0x20; 8]);
    const QUOTES: u64 = u64::from_le_bytes([b'"'; 8]);
    const BACKSLASHES: u64 = u64::from_le_bytes([b'\\'; 8]);
    // Subtracting borrows into a byte's high bit exactly if some byte is below the subtrahend.
    let control = word.wrapping_sub(SPACES) & !word;
    let quotes = word ^ QUOTES;
    let quote = quotes.wrapping_sub(ONES) & !quotes;
    let backslashes = word ^ BACKSLASHES;
    let backslash = backslashes.wrapping_sub(ONES) & !backslashes;
    let not_ascii = if ASCII_ONLY { word } else { 0 };
    (control | quote | backslash | not_ascii) & HIGHS != 0
}

/// Returns two lowercase hex digits.
pub(super) fn hex_pair(byte: u8) -> [u8; 2] {
    [hex_digit(byte >> 4), hex_digit(byte & 0x0f)]
}

fn hex_digit(nibble: u8) -> u8 {
    *HEX.get(usize::from(nibble))
        .expect("four bits have 16 values")
}

/// Writes an ObjectId's 24 hex digits.
#[inline]
pub(crate) fn write_object_id(id: &[u8; 12], out: &mut Vec<u8>) {
    let mut digits = [0; 24];
    for (pair, byte) in digits.as_chunks_mut::<2>().0.iter_mut().zip(id) {
        *pair = hex_pair(*byte);
    }
    out.extend_from_slice(&digits);
}

/// Returns the value of hex digits that fill `N` bytes, in either case.
pub(super) fn parse_hex<const N: usize>(digits: &[u8]) -> Option<[u8; N]> {
    let (pairs, rest) = digits.as_chunks::<2>();
    if pairs.len() != N || !rest.is_empty() {
        return None;
    }
    let mut bytes = [0; N];
    for (byte, [high, low]) in bytes.iter_mut().zip(pairs) {
        *byte = (hex_value(*high)? << 4) | hex_value(*low)?;
    }
    Some(bytes)
}

/// Returns the value of a hex digit.
pub(super) fn hex_value(digit: u8) -> Option<u8> {
    match digit {
        b'0'..=b'9' => Some(digit - b'0'),
        b'a'..=b'f' => Some(digit - b'a' + 10),
        b'A'..=b'F' => Some(digit - b'A' + 10),
        _ => None,
    }
}

/// Writes padded standard base64.
pub(crate) fn write_base64(bytes: &[u8], out: &mut Vec<u8>) {
    let start = out.len();
    out.resize(start + bytes.len().div_ceil(3) * 4, 0);
    let space = out.get_mut(start..).expect("it was reserved");
    let written = STANDARD
        .encode_slice(bytes, space)
        .expect("four bytes were reserved for each three");
    out.truncate(start + written);
}

/// Appends the bytes that base64 represents. Returns `None` if the text is not base64.
pub(super) fn parse_base64(text: &[u8], out: &mut Vec<u8>) -> Option<()> {
    STANDARD.decode_vec(text, out).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn string(bytes: &[u8]) -> (String, bool) {
        let mut out = Vec::new();
        let is_utf8 = write_string(bytes, &mut out);
        (String::from_utf8(out).unwrap(), is_utf8)
    }

    #[test]
    fn only_characters_that_json_requires_are_escaped() {
        assert_eq!(string(b""), ("\"\"".into(), true));
        assert_eq!(
            string("naïve \u{7f} / ☆".as_bytes()).0,
            "\"naïve \u{7f} / ☆\""
        );
        assert_eq!(
            string(b"a\"b\\c\x08\t\n\x0c\r\0\x1f").0,
            r#""a\"b\\c\b\t\n\f\r\u0000\u001f""#
        );
    }

    #[test]
    fn invalid_utf8_is_replaced_and_reported() {
        assert_eq!(
            string(b"ok\xffok\"\xc3"),
            ("\"ok\u{fffd}ok\\\"\u{fffd}\"".into(), false)
        );
    }

    #[test]
    fn every_byte_at_every_place_of_a_word_is_seen() {
        for byte in 0..=u8::MAX {
            for place in 0..24 {
                let mut bytes = [b'a'; 24];
                bytes[place] = byte;
                let special = byte < 0x20 || byte == b'"' || byte == b'\\';
                let expected = if special { place } else { 24 };
                assert_eq!(
                    plain_length::<false>(&bytes),
                    expected,
                    "{byte:#x} at {place}"
                );
                let expected = if special || byte >= 0x80 { place } else { 24 };
                assert_eq!(
                    plain_length::<true>(&bytes),
                    expected,
                    "{byte:#x} at {place}"
                );
            }
        }
    }

    #[test]
    fn hex_is_read_in_both_cases() {
        assert_eq!(parse_hex::<2>(b"aF09"), Some([0xaf, 0x09]));
        assert_eq!(parse_hex::<2>(b"aF0"), None);
        assert_eq!(parse_hex::<2>(b"aF0g"), None);
    }
}
