//! What a server answers to a write command.

use mongodb::bson::{Bson, Document};

/// The answer to a write command.
#[derive(Debug, Clone, Default, PartialEq)]
pub(super) struct WriteReply {
    /// Documents matched, inserted or deleted; upserted ones count.
    pub(super) n: usize,
    /// Writes that were refused, in order of their index.
    pub(super) errors: Vec<WriteError>,
    /// The write concern was not met: code and text.
    pub(super) concern: Option<(i32, String)>,
}

/// One refused write.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct WriteError {
    /// Its index in the command.
    pub(super) index: usize,
    /// The server's code.
    pub(super) code: i32,
    /// The server's text.
    pub(super) text: String,
    /// Of a duplicate key: the fields and values that another document has, where the server says.
    pub(super) key: Option<Document>,
    /// Of a duplicate key: whether it is that of `_id`; `None` where the server does not say.
    pub(super) id_index: Option<bool>,
}

impl WriteReply {
    pub(super) fn read(reply: &Document) -> Self {
        let mut errors: Vec<WriteError> = reply
            .get_array("writeErrors")
            .map(Vec::as_slice)
            .unwrap_or_default()
            .iter()
            .filter_map(Bson::as_document)
            .map(WriteError::read)
            .collect();
        errors.sort_by_key(|error| error.index);
        let concern = reply.get_document("writeConcernError").ok();
        Self {
            n: number(reply.get("n"))
                .and_then(|n| n.try_into().ok())
                .unwrap_or_default(),
            errors,
            concern: concern.map(|concern| (code(concern), text(concern))),
        }
    }
}

impl WriteError {
    fn read(error: &Document) -> Self {
        let text = text(error);
        let index = number(error.get("index")).and_then(|index| index.try_into().ok());
        let pattern = error.get_document("keyPattern").ok();
        let id_index = match pattern {
            Some(pattern) => Some(pattern.len() == 1 && pattern.contains_key("_id")),
            // Servers before 4.2 name the index in the text only.
            None => text
                .contains("index: ")
                .then(|| text.contains("index: _id_")),
        };
        let value = error.get_document("keyValue").ok();
        Self {
            index: index.unwrap_or_default(),
            code: code(error),
            text,
            key: pattern
                .zip(value)
                .map(|(pattern, value)| taken(pattern, value)),
            id_index,
        }
    }
}

/// Servers of 4.2 give the values without the names of their fields.
fn taken(pattern: &Document, value: &Document) -> Document {
    let names = pattern.keys().cloned();
    names.zip(value.values().cloned()).collect()
}

fn code(error: &Document) -> i32 {
    number(error.get("code"))
        .and_then(|code| code.try_into().ok())
        .unwrap_or_default()
}

fn text(error: &Document) -> String {
    error.get_str("errmsg").unwrap_or_default().to_owned()
}

/// Servers and stand-ins differ in the type of a number.
fn number(value: Option<&Bson>) -> Option<i64> {
    match value? {
        Bson::Int32(number) => Some((*number).into()),
        Bson::Int64(number) => Some(*number),
        #[expect(
            clippy::cast_possible_truncation,
            reason = "counts and codes are small"
        )]
        Bson::Double(number) => Some(*number as i64),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use mongodb::bson::doc;

    #[test]
    fn errors_come_in_order_and_say_which_index() {
        let reply = WriteReply::read(&doc! {
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
        assert_eq!(reply.concern.unwrap().0, 64);
        assert_eq!(WriteReply::read(&doc! { "ok": 1, "n": 2 }).n, 2);
    }
}
