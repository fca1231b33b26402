//! Recognition of the program that wrote a value.

use std::fmt;

use crate::document::Document;
use crate::foreign::{Writer, change_event, connect, raw_frame};
use crate::format::Format;

/// The program that probably wrote a value.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Program {
    /// oplog-producer.
    Relay,
    /// Another program.
    Other(Writer),
}

impl fmt::Display for Program {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Relay => {
                f.write_str("oplog-producer (specify its --topic-prefix instead of --input)")
            }
            Self::Other(writer) => write!(f, "{writer} (specify --input {writer})"),
        }
    }
}

/// Returns the program that probably wrote a value. It is for error messages about values that
/// could not be decoded as expected.
#[must_use]
pub fn recognize(value: &[u8]) -> Option<Program> {
    if Format::Raw.fits(value, false) {
        return Some(Program::Relay);
    }
    if matches!(value.trim_ascii_start().first(), Some(b'{' | b'"'))
        && let Ok(parsed) = connect::parse(value)
    {
        return of_fields(Document::new(&parsed).ok()?, Encoding::Json);
    }
    if let Ok(document) = Document::new(value) {
        return of_fields(document, Encoding::Bson);
    }
    raw_frame::is_frame(value).then_some(Program::Other(Writer::MongoshakeRaw))
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Encoding {
    Json,
    Bson,
}

fn of_fields(document: Document<'_>, encoding: Encoding) -> Option<Program> {
    let has = |name| document.get(name).is_ok_and(|found| found.is_some());
    let one_of = |json, bson| {
        Some(Program::Other(match encoding {
            Encoding::Json => json,
            Encoding::Bson => bson,
        }))
    };
    if has("operationType") {
        if change_event::is_ours(document) == Ok(true) {
            return Some(Program::Relay);
        }
        return one_of(Writer::MongoKafkaJson, Writer::MongoKafkaBson);
    }
    if has("parsedlog") || (has("op") && has("ns") && has("ts")) {
        return one_of(Writer::MongoshakeJson, Writer::MongoshakeBson);
    }
    (has("op") && has("source")).then_some(Program::Other(Writer::Debezium))
}
