//! The point at which a change stream continues. It is saved with each position of a source that is
//! read through a change stream.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde::{Deserialize, Serialize};

use crate::document::{Document, Element, Malformed};
use crate::json::{Exactness, JsonError, Mode, parse_document, write_document};
use crate::position::{PositionError, Timestamp};

/// The field of a token that is written as base64.
const BSON: &str = "$bson";

/// The resume token at a position, and what the stream must remember beyond it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ResumePoint {
    /// The resume token, a document, as canonical Extended JSON. A token whose text would not be
    /// parsed to the same bytes is written as `{"$bson": "<base64 of its BSON>"}`.
    pub token: String,
    /// The commands that other shards of a sharded cluster may still report, the oldest first.
    #[serde(skip_serializing_if = "Vec::is_empty", default)]
    pub commands: Vec<RecentCommand>,
}

/// A command of a sharded cluster. Each shard on which it runs reports it, and only the first report
/// is carried.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RecentCommand {
    /// The cluster time of the first report, `<seconds>:<increment>`.
    pub ts: String,
    /// The `operationType` of the event: `drop`, `rename` or `dropDatabase`.
    pub op: String,
    /// The namespace of the event; for `dropDatabase` the database.
    pub ns: String,
    /// The new name that a `rename` gives the collection.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub to: Option<String>,
}

impl RecentCommand {
    /// Returns the cluster time of the first report.
    ///
    /// # Errors
    /// [`PositionError`] if `ts` is not a timestamp.
    pub fn time(&self) -> Result<Timestamp, PositionError> {
        self.ts.parse()
    }
}

impl ResumePoint {
    /// Creates the point of a resume token.
    #[must_use]
    pub fn new(token: Document<'_>, commands: Vec<RecentCommand>) -> Self {
        let mut text = Vec::new();
        let written = write_document(token, Mode::Canonical, &mut text);
        let text = match (written, String::from_utf8(text)) {
            (Ok(Exactness::Exact), Ok(text)) => text,
            _ => format!("{{\"{BSON}\":\"{}\"}}", STANDARD.encode(token.as_bytes())),
        };
        Self {
            token: text,
            commands,
        }
    }

    /// Returns the resume token as BSON.
    ///
    /// # Errors
    /// [`TokenError`] if the text is neither Extended JSON nor base64.
    pub fn token(&self) -> Result<Vec<u8>, TokenError> {
        let mut token = Vec::new();
        parse_document(self.token.as_bytes(), &mut token)?;
        let encoded = Document::new(&token)?.get(BSON)?;
        match encoded.map(Element::string_bytes).transpose()? {
            Some(encoded) => Ok(STANDARD.decode(encoded)?),
            None => Ok(token),
        }
    }
}

/// The reason why a saved resume token cannot be read.
#[derive(Debug, thiserror::Error)]
pub enum TokenError {
    /// It is not Extended JSON.
    #[error("the resume token is not Extended JSON")]
    Json(#[from] JsonError),
    /// It has a field of another type.
    #[error("the resume token is damaged")]
    Malformed(#[from] Malformed),
    /// The BSON in it is not base64.
    #[error("the resume token is not base64")]
    Base64(#[from] base64::DecodeError),
}

#[cfg(test)]
mod tests {
    use bson::doc;

    use super::*;

    #[test]
    fn a_token_keeps_its_bytes() {
        let binary = bson::Binary {
            subtype: bson::spec::BinarySubtype::Generic,
            bytes: vec![0x82, 1],
        };
        for token in [
            doc! { "_data": "8263AB04" },
            doc! { "_data": { "$oid": "x" } },
            doc! { "_data": binary, "_typeBits": bson::Binary::from_uuid(bson::Uuid::from_bytes([7; 16])) },
        ] {
            let bytes = token.to_vec().unwrap();
            let point = ResumePoint::new(Document::new(&bytes).unwrap(), Vec::new());
            let saved = serde_json::to_string(&point).unwrap();
            let read: ResumePoint = serde_json::from_str(&saved).unwrap();
            assert_eq!(read.token().unwrap(), bytes, "{saved}");
        }
    }
}
