//! MongoShake's default JSON: documents as Go's `encoding/json` prints the driver's types.
//!
//! | BSON | JSON |
//! | --- | --- |
//! | a document | `[{"Key": "a", "Value": 1}]`; up to MongoShake 2.6 with `Name` in place of `Key` |
//! | an array | `[1, 2]` |
//! | an empty document or array | `[]` |
//! | a timestamp | `{"T": 1, "I": 2}` |
//! | binary data | `{"Subtype": 4, "Data": "<base64>"}` |
//! | a regular expression | `{"Pattern": "a", "Options": "i"}` |
//! | an int32, int64 or double | a number |
//! | an ObjectId, a date, a decimal, a symbol, code | a string |
//! | minKey, maxKey, undefined | `{}` |
//!
//! A value that was a string cannot be distinguished from one that became a string, so both stay
//! strings. `[]` is an empty array, except in the fields of an entry that contain a document.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;

use crate::document::{Document, DocumentBuilder, Element, kind};
use crate::foreign::ForeignError;
use crate::position::Timestamp;

/// Returns the entry that a parsed text describes.
///
/// # Errors
/// [`ForeignError`] if the BSON type of a value cannot be determined.
pub(super) fn entry(text: Document<'_>) -> Result<Vec<u8>, ForeignError> {
    let mut bytes = Vec::new();
    let mut entry = DocumentBuilder::start(&mut bytes);
    for field in text.elements() {
        let field = field?;
        match field.name {
            b"ts" => drop(entry.raw("ts", kind::TIMESTAMP, &time(field)?.to_le_bytes())),
            b"o" | b"o2" | b"documentKey" if field.kind == kind::ARRAY => {
                let mut document = entry.open(field.name, kind::DOCUMENT);
                write_fields(field.document()?, &mut document)?;
                document.finish();
            }
            // A replay needs neither sessions nor positions, which MongoShake writes as the base64
            // of their BSON, nor `uk`, which MongoDB's own servers do not write.
            b"lsid" | b"PrevOpTime" | b"uk" => {}
            _ => write(field.name, field, &mut entry)?,
        }
    }
    entry.finish();
    Ok(bytes)
}

/// Reads a timestamp; MongoShake up to 2.6 writes it as one number.
fn time(field: Element<'_>) -> Result<Timestamp, ForeignError> {
    if matches!(field.kind, kind::INT32 | kind::INT64) {
        return Ok(Timestamp::from_le_bytes(field.integer()?.to_le_bytes()));
    }
    timestamp(field.document()?)?.ok_or(ForeignError::Event("ts is not a timestamp"))
}

fn timestamp(value: Document<'_>) -> Result<Option<Timestamp>, ForeignError> {
    let (Some(seconds), Some(increment)) = (value.get("T")?, value.get("I")?) else {
        return Ok(None);
    };
    let part = |part: Element<'_>| -> Result<u32, ForeignError> {
        u32::try_from(part.integer()?)
            .map_err(|_| ForeignError::Event("a timestamp is out of range"))
    };
    Ok(Some(Timestamp::new(part(seconds)?, part(increment)?)))
}

fn write(
    name: &[u8],
    value: Element<'_>,
    out: &mut DocumentBuilder<'_>,
) -> Result<(), ForeignError> {
    match value.kind {
        kind::ARRAY => write_list(name, value.document()?, out),
        kind::DOCUMENT => write_struct(name, value.document()?, out),
        _ => {
            out.element(Element { name, ..value });
            Ok(())
        }
    }
}

fn write_list(
    name: &[u8],
    list: Document<'_>,
    out: &mut DocumentBuilder<'_>,
) -> Result<(), ForeignError> {
    if !list.is_empty() && is_document(list)? {
        let mut document = out.open(name, kind::DOCUMENT);
        write_fields(list, &mut document)?;
        document.finish();
        return Ok(());
    }
    let mut array = out.open(name, kind::ARRAY);
    for item in list.elements() {
        let item = item?;
        write(item.name, item, &mut array)?;
    }
    array.finish();
    Ok(())
}

/// Returns true if every item is a field. An item of an array never looks like a field, because
/// documents in an array are lists themselves.
fn is_document(list: Document<'_>) -> Result<bool, ForeignError> {
    for item in list.elements() {
        let item = item?;
        if item.kind != kind::DOCUMENT || field(item.document()?)?.is_none() {
            return Ok(false);
        }
    }
    Ok(true)
}

/// A field of a document: its name and its value.
struct Field<'e> {
    name: &'e [u8],
    value: Element<'e>,
}

fn field(item: Document<'_>) -> Result<Option<Field<'_>>, ForeignError> {
    let name = match item.get("Key")? {
        None => item.get("Name")?,
        found => found,
    };
    let name = name.filter(|name| name.kind == kind::STRING);
    let (Some(name), Some(value)) = (name, item.get("Value")?) else {
        return Ok(None);
    };
    let name = name.string_bytes()?;
    Ok(Some(Field { name, value }))
}

fn write_fields(list: Document<'_>, out: &mut DocumentBuilder<'_>) -> Result<(), ForeignError> {
    for item in list.elements() {
        let Some(Field { name, value }) = field(item?.document()?)? else {
            return Err(ForeignError::Event(
                "a document is not a list of Key and Value",
            ));
        };
        if name.contains(&0) {
            return Err(ForeignError::Event(
                "the name of a field has a NUL character",
            ));
        }
        write(name, value, out)?;
    }
    Ok(())
}

/// Writes a value that Go prints as an object: a struct of the driver.
fn write_struct(
    name: &[u8],
    value: Document<'_>,
    out: &mut DocumentBuilder<'_>,
) -> Result<(), ForeignError> {
    let text = |field| -> Result<Option<&[u8]>, ForeignError> {
        let found = value.get(field)?;
        let found = found.filter(|found| found.kind == kind::STRING);
        Ok(found.map(Element::string_bytes).transpose()?)
    };
    let mut bytes = Vec::new();
    let kind = if let Some(ts) = timestamp(value)? {
        bytes.extend_from_slice(&ts.to_le_bytes());
        kind::TIMESTAMP
    } else if let (Some(subtype), Some(data)) = (value.get("Subtype")?, text("Data")?) {
        let wrong = |_| ForeignError::Event("the bytes of a binary value are not base64");
        let data = STANDARD.decode(data).map_err(wrong)?;
        let length = i32::try_from(data.len())
            .map_err(|_| ForeignError::Event("a binary value is too large"))?;
        let subtype = u8::try_from(subtype.integer()?)
            .map_err(|_| ForeignError::Event("the subtype of a binary value is out of range"))?;
        bytes.extend_from_slice(&length.to_le_bytes());
        bytes.push(subtype);
        bytes.extend_from_slice(&data);
        kind::BINARY
    } else if let (Some(pattern), Some(options)) = (text("Pattern")?, text("Options")?) {
        for part in [pattern, options] {
            if part.contains(&0) {
                return Err(ForeignError::Event("a pattern has a NUL character"));
            }
            bytes.extend_from_slice(part);
            bytes.push(0);
        }
        kind::REGEX
    } else {
        return Err(ForeignError::Event(
            "a value is written as {} or in a form that has no type: minKey, maxKey, undefined, code with \
             scope and DBPointer cannot be read from MongoShake's default JSON",
        ));
    };
    out.element(Element {
        name,
        kind,
        value: &bytes,
    });
    Ok(())
}
