//! The content of a dead letter: the original record and the reason it was not applied. Performs no
//! I/O.

use oplog_relay_core::position::EntryId;

use super::Reason;

/// Maximum number of characters of the message header.
const MESSAGE: usize = 1_000;

/// Prefix of the names of all headers that the consumer adds.
pub(super) const PREFIX: &str = "oplog-dead-letter-";

/// A record, or an entry of a record, that could not be applied.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Letter {
    /// The offset of the record in its source topic.
    pub offset: i64,
    /// The reason the record is a dead letter.
    pub reason: Reason,
    /// The target's error code, if it returned one.
    pub code: Option<i32>,
    /// The error text, written to the `message` header.
    pub text: String,
    /// The entry; `None` if the record cannot be read.
    pub entry: Option<LetterEntry>,
}

/// An entry of a record, as it is identified in the headers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LetterEntry {
    /// The identity of the entry: `<source>/<seconds>:<increment>/<ord>`.
    pub id: String,
    /// The entry's namespace.
    pub ns: String,
    /// The BSON that is the value of the dead letter: an entry of a record that may contain
    /// several, or an insert of a document that was held. `None` if the value is that of the
    /// record.
    pub bytes: Option<Vec<u8>>,
}

impl LetterEntry {
    /// Identifies an entry of a source.
    #[must_use]
    pub fn new(source: &str, id: EntryId, ns: &str, bytes: Option<&[u8]>) -> Self {
        Self {
            id: format!("{source}/{}/{}", id.ts, id.ord),
            ns: ns.to_owned(),
            bytes: bytes.map(<[u8]>::to_vec),
        }
    }
}

/// The origin of a set of letters and the time at which they are sent.
#[derive(Debug, Clone, Copy)]
pub(super) struct Envelope<'a> {
    /// The consumer group that could not apply the record.
    pub(super) group: &'a str,
    /// The record's topic.
    pub(super) topic: &'a str,
    /// The record's partition.
    pub(super) partition: i32,
    /// The current time, in RFC 3339 format.
    pub(super) time: &'a str,
}

/// A header of a letter.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct LetterHeader {
    /// The name, with its prefix.
    pub(super) name: String,
    /// The value.
    pub(super) value: String,
}

/// Returns the headers that the consumer adds to a letter, in order. `omitted` describes the part
/// of the record that is not in the letter, and the reason.
pub(super) fn headers(
    letter: &Letter,
    envelope: Envelope<'_>,
    omitted: Option<&str>,
) -> Vec<LetterHeader> {
    let mut headers = vec![
        ("topic", envelope.topic.to_owned()),
        ("partition", envelope.partition.to_string()),
        ("offset", letter.offset.to_string()),
        ("reason", letter.reason.word().to_owned()),
        ("message", letter.text.chars().take(MESSAGE).collect()),
        ("group", envelope.group.to_owned()),
        ("time", envelope.time.to_owned()),
    ];
    headers.extend(letter.code.map(|code| ("code", code.to_string())));
    if let Some(entry) = &letter.entry {
        headers.push(("entry", entry.id.clone()));
        headers.push(("ns", entry.ns.clone()));
    }
    headers.extend(omitted.map(|omitted| ("omitted", omitted.to_owned())));
    let named = headers.into_iter();
    named
        .map(|(name, value)| LetterHeader {
            name: format!("{PREFIX}{name}"),
            value,
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use oplog_relay_core::position::Timestamp;

    /// Header names and their order are a contract with the readers of the topic.
    #[test]
    fn headers_are_frozen() {
        let id = EntryId {
            ts: Timestamp::new(7, 3),
            ord: 2,
        };
        let letter = Letter {
            offset: 41,
            reason: Reason::Write,
            code: Some(121),
            text: "no".repeat(MESSAGE),
            entry: Some(LetterEntry::new("rs0", id, "shop.a", None)),
        };
        let envelope = Envelope {
            group: "g",
            topic: "cdc.shop.a",
            partition: 3,
            time: "2026-01-31T14:03:00Z",
        };
        let found = headers(&letter, envelope, Some("the value"));
        let long = "no".repeat(MESSAGE / 2);
        let expected = [
            ("oplog-dead-letter-topic", "cdc.shop.a"),
            ("oplog-dead-letter-partition", "3"),
            ("oplog-dead-letter-offset", "41"),
            ("oplog-dead-letter-reason", "write"),
            ("oplog-dead-letter-message", &long),
            ("oplog-dead-letter-group", "g"),
            ("oplog-dead-letter-time", "2026-01-31T14:03:00Z"),
            ("oplog-dead-letter-code", "121"),
            ("oplog-dead-letter-entry", "rs0/7:3/2"),
            ("oplog-dead-letter-ns", "shop.a"),
            ("oplog-dead-letter-omitted", "the value"),
        ];
        let expected = expected.map(|(name, value)| LetterHeader {
            name: name.to_owned(),
            value: value.to_owned(),
        });
        assert_eq!(found, expected);
    }
}
