//! The JSON that Kafka Connect's converters write.
//!
//! | converter | the value |
//! | --- | --- |
//! | `StringConverter` | the text |
//! | `JsonConverter`, `schemas.enable=false` | a struct as an object, a string as a JSON string |
//! | `JsonConverter`, `schemas.enable=true` | `{"schema": …, "payload": …}`, whose payload is such an object or string |

use crate::document::{Document, Element, kind};
use crate::foreign::ForeignError;
use crate::json;

/// Parses a key or a value and returns its object as BSON. If the value is a JSON string, the text
/// in the string is parsed.
///
/// # Errors
/// [`ForeignError::Json`] if the text is not a JSON object, [`ForeignError::Event`] if a payload is
/// neither an object nor a string.
pub(super) fn parse(text: &[u8]) -> Result<Vec<u8>, ForeignError> {
    let mut parsed = Vec::new();
    if text.trim_ascii_start().starts_with(b"\"") {
        // The parser reads objects only.
        let object = [b"{\"payload\":", text, b"}"].concat();
        json::parse_old_document(&object, &mut parsed)?;
        return unwrapped(Document::new(&parsed)?.get("payload")?);
    }
    json::parse_old_document(text, &mut parsed)?;
    let document = Document::new(&parsed)?;
    if document.get("schema")?.is_some()
        && let Some(payload) = document.get("payload")?
    {
        return unwrapped(Some(payload));
    }
    Ok(parsed)
}

fn unwrapped(payload: Option<Element<'_>>) -> Result<Vec<u8>, ForeignError> {
    let mut parsed = Vec::new();
    match payload {
        Some(payload) if payload.kind == kind::DOCUMENT => {
            parsed.extend_from_slice(payload.document()?.as_bytes());
        }
        Some(payload) if payload.kind == kind::STRING => {
            json::parse_old_document(payload.string_bytes()?, &mut parsed)?;
        }
        _ => {
            return Err(ForeignError::Event(
                "the payload is neither an object nor a string",
            ));
        }
    }
    Ok(parsed)
}
