//! A server's reply to a write command.
//!
//! A reply is read from its bytes, because the key in an error message may not be valid UTF-8.
//! Servers up to 5.0 quote the key as the index stores it, and an index with a collation stores
//! sort keys.

use mongodb::bson::{deserialize_from_document, doc};
use mongodb::error::{CommandError, ErrorKind};
use oplog_relay_core::document::{Document, Element, Malformed, kind};

/// The reply to a write command.
#[derive(Debug, Clone, Default, PartialEq)]
pub(crate) struct WriteReply {
    /// Number of documents that were matched, inserted, deleted or upserted.
    pub(crate) n: usize,
    /// Refused writes, in order of their index.
    pub(crate) errors: Vec<WriteError>,
    pub(crate) concern: Option<ConcernError>,
}

/// A write concern error.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct ConcernError {
    /// The server's error code.
    pub(crate) code: i32,
    /// The server's error text.
    pub(crate) text: String,
}

/// A refused write.
#[derive(Debug, Clone, Default, PartialEq)]
pub(crate) struct WriteError {
    /// Index of the write in the command.
    pub(crate) index: usize,
    /// The server's error code.
    pub(crate) code: i32,
    /// The server's error text.
    pub(crate) text: String,
    /// For a duplicate key, a document with the fields and values that another document has. `None`
    /// if the server does not report them, or reports them in an encoded form.
    pub(crate) key: Option<Vec<u8>>,
    /// For a duplicate key, true if it is a key of the `_id` index; `None` if the server does not
    /// report the index.
    pub(crate) id_index: Option<bool>,
}

impl WriteReply {
    pub(crate) fn read(reply: Document<'_>) -> Result<Self, Malformed> {
        let mut errors = Vec::new();
        if let Some(list) = part(reply, "writeErrors")? {
            for error in list.elements() {
                errors.push(WriteError::read(error?.document()?)?);
            }
        }
        errors.sort_by_key(|error| error.index);
        let concern = part(reply, "writeConcernError")?;
        Ok(Self {
            n: count(reply, "n")?,
            errors,
            concern: concern.map(ConcernError::read).transpose()?,
        })
    }

    /// Creates the reply to a command of one write that was refused as a whole.
    pub(crate) fn refused(code: i32, text: String) -> Self {
        Self {
            errors: vec![WriteError::of_command(code, text)],
            ..Self::default()
        }
    }
}

impl ConcernError {
    fn read(error: Document<'_>) -> Result<Self, Malformed> {
        Ok(Self {
            code: code(error)?,
            text: text(error)?,
        })
    }
}

impl WriteError {
    /// Creates the error of a command that was refused as a whole. Its text names the index of a
    /// duplicate key.
    pub(crate) fn of_command(code: i32, text: String) -> Self {
        Self {
            id_index: id_index_in(&text),
            code,
            text,
            ..Self::default()
        }
    }

    /// Returns the refusal as the error of a command, for commands of which every refused write counts
    /// as a failure.
    pub(crate) fn as_command_error(&self) -> mongodb::error::Error {
        let error = doc! { "code": self.code, "codeName": "", "errmsg": &self.text };
        match deserialize_from_document::<CommandError>(error) {
            Ok(error) => ErrorKind::Command(error).into(),
            Err(error) => error.into(),
        }
    }

    fn read(error: Document<'_>) -> Result<Self, Malformed> {
        let text = text(error)?;
        let pattern = part(error, "keyPattern")?;
        let id_index = match pattern {
            Some(pattern) => {
                let mut fields = pattern.elements();
                let first = fields.next().transpose()?;
                Some(first.is_some_and(|first| first.name == b"_id") && fields.next().is_none())
            }
            // Servers before 4.2 name the index only in the text.
            None => id_index_in(&text),
        };
        let key = match (pattern, part(error, "keyValue")?) {
            (Some(pattern), Some(value)) if is_of_documents(error, &text)? => {
                Some(key_document(pattern, value)?)
            }
            _ => None,
        };
        Ok(Self {
            index: count(error, "index")?,
            code: code(error)?,
            text,
            key,
            id_index,
        })
    }
}

fn id_index_in(text: &str) -> Option<bool> {
    text.contains("index: ")
        .then(|| text.contains("index: _id_"))
}

/// Returns true if the key has the values of the document, and neither their hexadecimal form nor
/// their sort keys.
fn is_of_documents(error: Document<'_>, text: &str) -> Result<bool, Malformed> {
    let encoded = error.get("hexEncoded")?.is_some() || error.get("collation")?.is_some();
    Ok(!encoded && !text.contains(COLLATION))
}

/// The text between the index name and the key, if the index has a collation.
pub(crate) const COLLATION: &str = " collation: {";

/// Combines the names of `pattern` with the values of `value`: servers of 4.2 report the values
/// without their field names.
fn key_document(pattern: Document<'_>, value: Document<'_>) -> Result<Vec<u8>, Malformed> {
    let mut out = Vec::new();
    let mut key = oplog_relay_core::document::DocumentBuilder::start(&mut out);
    for (field, value) in pattern.elements().zip(value.elements()) {
        key.element(Element {
            name: field?.name,
            ..value?
        });
    }
    key.finish();
    Ok(out)
}

fn part<'a>(reply: Document<'a>, name: &str) -> Result<Option<Document<'a>>, Malformed> {
    let found = reply.get(name)?;
    let found = found.filter(|found| [kind::DOCUMENT, kind::ARRAY].contains(&found.kind));
    found.map(Element::document).transpose()
}

/// Reads a number, whose type differs between MongoDB and compatible servers.
fn count(reply: Document<'_>, name: &str) -> Result<usize, Malformed> {
    let number = reply.get(name)?.and_then(|number| number.integer().ok());
    Ok(number
        .and_then(|number| number.try_into().ok())
        .unwrap_or_default())
}

fn code(error: Document<'_>) -> Result<i32, Malformed> {
    let code = error.get("code")?.and_then(|code| code.integer().ok());
    Ok(code
        .and_then(|code| code.try_into().ok())
        .unwrap_or_default())
}

fn text(error: Document<'_>) -> Result<String, Malformed> {
    let text = error.get("errmsg")?;
    let text = text.and_then(|text| text.string_bytes().ok());
    Ok(String::from_utf8_lossy(text.unwrap_or_default()).into_owned())
}

#[cfg(test)]
mod tests {
    use super::*;
    use mongodb::bson::doc;

    fn read(reply: &mongodb::bson::Document) -> WriteReply {
        WriteReply::read(Document::new(&reply.to_vec().unwrap()).unwrap()).unwrap()
    }

    #[test]
    fn errors_are_sorted_and_identify_the_id_index() {
        let reply = read(&doc! {
            "ok": 1.0,
            "n": 3_i64,
            "writeErrors": [
                { "index": 4, "code": 11000, "errmsg": "E11000 dup", "keyPattern": { "email": 1 } },
                { "index": 1, "code": 11000, "errmsg": "E11000 dup", "keyPattern": { "_id": 1 } },
                { "index": 2, "code": 11000, "errmsg": "E11000 … index: _id_ dup key: {}" },
                { "index": 3.0, "code": 11000, "errmsg": "E11000 duplicate key" },
            ],
            "writeConcernError": { "code": 64, "errmsg": "waiting for replication timed out" },
        });
        assert_eq!(reply.n, 3);
        let seen: Vec<_> = reply.errors.iter().map(|e| (e.index, e.id_index)).collect();
        assert_eq!(
            seen,
            [
                (1, Some(true)),
                (2, Some(true)),
                (3, None),
                (4, Some(false))
            ]
        );
        assert_eq!(reply.concern.unwrap().code, 64);
        assert_eq!(read(&doc! { "ok": 1, "n": 2 }).n, 2);
    }

    #[test]
    fn the_error_of_a_command_names_its_index() {
        let of = |text: &str| WriteError::of_command(11000, text.to_owned()).id_index;
        assert_eq!(of("E11000 … index: _id_ dup key: {}"), Some(true));
        assert_eq!(of("E11000 … index: a_1 dup key: {}"), Some(false));
        assert_eq!(of("E11000"), None);
    }

    #[test]
    fn an_encoded_key_is_ignored() {
        let error = doc! {
            "index": 0, "code": 11000, "errmsg": "E11000 … index: a_1 dup key: { a: 7 }",
            "keyPattern": { "a": 1 }, "keyValue": { "": 7 },
        };
        let with = |name: &str, value: mongodb::bson::Bson| {
            let mut error = error.clone();
            error.insert(name, value);
            let reply = read(&doc! { "ok": 1, "n": 0, "writeErrors": [error] });
            reply.errors[0].key.clone()
        };
        let key = doc! { "a": 7 }.to_vec().unwrap();
        assert_eq!(with("index", 0.into()), Some(key));
        assert_eq!(with("hexEncoded", vec![true].into()), None);
        assert_eq!(with("collation", doc! { "locale": "fr" }.into()), None);
        let text = "E11000 … index: a_1 collation: { locale: \"fr\" } dup key: { a: \"0x29\" }";
        assert_eq!(with("errmsg", text.into()), None);
    }
}
