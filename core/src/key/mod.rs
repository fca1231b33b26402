//! Document keys: the Kafka key of a document, its partition, and the equality of `_id`s.
//!
//! A key is `{"_id":<value>}`, relaxed Extended JSON without spaces. Its form is a contract that
//! golden vectors protect: a document always has the same key, so all its entries are in one
//! partition in order. Two different documents may share a key, but one document must not have two.
//! The rule of this module is therefore: **`_id`s that MongoDB regards as equal have equal keys.**
//!
//! | value | key |
//! | --- | --- |
//! | integral number of any type, including -0.0 | all digits, without an exponent: `7`, `1180591620717411303424` |
//! | other double, or a decimal of exactly a double's value | the double's shortest form: `0.5`, `9.094947017729282e-13` |
//! | other decimal | its text without trailing zeros: `0.1`, `1E-20` |
//! | other decimal of 10^308 or more, or below 10^-307 (absolute value) | `{"$numberDecimal":"1E+6000"}`: a bare number would overflow or underflow a reader's double |
//! | NaN, infinities of either type | `{"$numberDouble":"NaN"}`, … |
//! | symbol | as the string |
//! | array | its values; their names are ignored, as an index ignores them |
//! | an `_id` with bytes that are not UTF-8 | `{"_id":{"$bson":"<base64>"}}` |
//! | all other values | relaxed Extended JSON |
//!
//! The base64 is that of the document `{"": <value>}` with numbers and symbols in the form that
//! equal values share (an int64, otherwise a double, otherwise a decimal without trailing zeros).
//! Equal `_id`s therefore have equal keys in this case too.
//!
//! Double 0.1 and Decimal 0.1 are different numbers and different `_id`s (the double is
//! 0.1000000000000000055…), but they share the key `0.1`. So do an ObjectId and a document
//! `{"$oid": …}`. To distinguish documents, compare their [`write_id_identity`].
//!
//! # Modules
//!
//! - `identity` writes the identity of an `_id`
//! - `partition` chooses the partition of a key

mod identity;
mod partition;

pub use identity::write_id_identity;
pub use partition::partition_for;

use crate::document::{DocumentBuilder, Element, Malformed, kind};
use crate::json::number::write_integer;
use crate::json::text::{write_base64, write_object_id};
use crate::json::{write_key_value, write_string};

/// Returns the text of the `_id` in a key that [`write_key`] has written.
pub(crate) fn id_of_key(key: &[u8]) -> &[u8] {
    key.strip_prefix(b"{\"_id\":")
        .and_then(|rest| rest.strip_suffix(b"}"))
        .unwrap_or(key)
}

/// Appends the key of the document with this `_id` to `out`.
///
/// # Errors
/// [`Malformed`] if the value is damaged or nested too deeply. `out` is then unchanged.
pub fn write_key(id: Element<'_>, out: &mut Vec<u8>) -> Result<(), Malformed> {
    let start = out.len();
    let outcome = write_whole(id, out);
    if outcome.is_err() {
        out.truncate(start);
    }
    outcome
}

fn write_whole(id: Element<'_>, out: &mut Vec<u8>) -> Result<(), Malformed> {
    // The usual types skip the general path.
    if id.kind == kind::OBJECT_ID {
        let id = id.fixed()?;
        out.extend_from_slice(br#"{"_id":{"$oid":""#);
        write_object_id(&id, out);
        out.extend_from_slice(br#""}}"#);
        return Ok(());
    }
    out.extend_from_slice(br#"{"_id":"#);
    let start = out.len();
    let utf8 = match id.kind {
        kind::INT32 => {
            write_integer(i32::from_le_bytes(id.fixed()?), out);
            true
        }
        kind::INT64 => {
            write_integer(i64::from_le_bytes(id.fixed()?), out);
            true
        }
        kind::STRING => write_string(id.string_bytes()?, out),
        _ => write_key_value(id, out)?,
    };
    if !utf8 {
        out.truncate(start);
        write_bson(id, out)?;
    }
    out.push(b'}');
    Ok(())
}

fn write_bson(id: Element<'_>, out: &mut Vec<u8>) -> Result<(), Malformed> {
    let mut identity = Vec::with_capacity(id.value.len() + 16);
    write_id_identity(id, &mut identity)?;
    let mut document = Vec::with_capacity(identity.len() + 16);
    let mut builder = DocumentBuilder::start(&mut document);
    if let Some((kind, value)) = identity.split_first() {
        builder.raw("", *kind, value);
    }
    builder.finish();
    out.extend_from_slice(br#"{"$bson":""#);
    write_base64(&document, out);
    out.extend_from_slice(br#""}"#);
    Ok(())
}
