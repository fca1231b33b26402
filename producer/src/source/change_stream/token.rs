//! Resume tokens.
//!
//! A token is opaque, except that its `_data` begins with a cluster time: MongoDB writes it in
//! hexadecimal as the byte 0x82, for a timestamp, and the eight bytes of the timestamp, most
//! significant first. The token of an event begins with the cluster time of the event. Any other
//! token is a high-water mark: the stream has returned every event before that cluster time.

use oplog_relay_core::document::{Document, kind};
use oplog_relay_core::position::Timestamp;

/// The first byte of a value that is a timestamp.
const TIMESTAMP: u8 = 0x82;

/// Returns the cluster time with which a token begins; `None` for a token of another form, such as
/// those of compatible services.
#[must_use]
pub fn time_of(token: Document<'_>) -> Option<Timestamp> {
    let data = token.get("_data").ok()??;
    let mut bytes = [0; 9];
    match data.kind {
        kind::STRING => {
            let text = data.string_bytes().ok()?.get(..18)?;
            for (byte, digits) in bytes.iter_mut().zip(text.chunks(2)) {
                let digits = std::str::from_utf8(digits).ok()?;
                *byte = u8::from_str_radix(digits, 16).ok()?;
            }
        }
        kind::BINARY => bytes.copy_from_slice(data.binary().ok()?.bytes.get(..9)?),
        _ => return None,
    }
    let [first, s0, s1, s2, s3, i0, i1, i2, i3] = bytes;
    let time = Timestamp::new(
        u32::from_be_bytes([s0, s1, s2, s3]),
        u32::from_be_bytes([i0, i1, i2, i3]),
    );
    (first == TIMESTAMP).then_some(time)
}

#[cfg(test)]
mod tests {
    use bson::doc;

    use super::*;

    #[test]
    fn a_token_of_mongodb_begins_with_its_cluster_time() {
        let time = |token: bson::Document| {
            let bytes = token.to_vec().unwrap();
            time_of(Document::new(&bytes).unwrap())
        };
        // The token of an event that MongoDB 5.0 has written, and a high-water mark.
        let event = "826B0C5A66000001402B022C0100296E5A10045D6410530024401990A6590A80774085461E6B00291E5F696400290004";
        let at = Timestamp::new(0x6b0c_5a66, 0x140);
        assert_eq!(time(doc! { "_data": event }), Some(at));
        assert_eq!(
            time(doc! { "_data": "826B0C5A66000001402B0229296E04" }),
            Some(at)
        );
        for other in ["", "8263", "026B0C5A6600000140", "82xxxxxxxxxxxxxxxx"] {
            assert_eq!(time(doc! { "_data": other }), None, "{other}");
        }
        assert_eq!(time(doc! { "token": 1 }), None);
    }
}
