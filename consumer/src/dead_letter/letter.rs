//! What is written to the dead-letter topic: the record as it was, and why it is there. Pure.

use oplog_relay_core::position::EntryId;

use super::Reason;

/// Characters of a message that are kept.
const MESSAGE: usize = 1_000;

/// First part of the names of all our headers.
pub(super) const PREFIX: &str = "oplog-dead-letter-";

/// A record that could not be applied, or an entry of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Letter {
    /// Offset of the record.
    pub offset: i64,
    /// Why it is a dead letter.
    pub reason: Reason,
    /// The target's error code, where it gave one.
    pub code: Option<i32>,
    /// What was said about it.
    pub text: String,
    /// The entry; none where the record cannot be read.
    pub entry: Option<LetterEntry>,
}

/// An entry of a record.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LetterEntry {
    /// `<source>/<seconds>:<increment>/<ord>`
    pub id: String,
    /// Its namespace.
    pub ns: String,
    /// Its BSON, where the record carries others too: then it is the dead letter's value.
    pub bytes: Option<Vec<u8>>,
}

impl LetterEntry {
    /// An entry of a source.
    #[must_use]
    pub fn new(source: &str, id: EntryId, ns: &str, bytes: Option<&[u8]>) -> Self {
        Self {
            id: format!("{source}/{}/{}", id.ts, id.ord),
            ns: ns.to_owned(),
            bytes: bytes.map(<[u8]>::to_vec),
        }
    }
}

/// Where a letter comes from and goes.
#[derive(Debug, Clone, Copy)]
pub(super) struct Envelope<'a> {
    /// The group that could not apply it.
    pub(super) group: &'a str,
    /// The record's topic.
    pub(super) topic: &'a str,
    /// The record's partition.
    pub(super) partition: i32,
    /// Now, RFC 3339.
    pub(super) time: &'a str,
}

/// Our headers of a letter, in order. `omitted` says what of the record is not in it, and why.
pub(super) fn headers(
    letter: &Letter,
    envelope: Envelope<'_>,
    omitted: Option<&str>,
) -> Vec<(String, String)> {
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
        .map(|(name, value)| (format!("{PREFIX}{name}"), value))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use oplog_relay_core::position::Timestamp;

    /// Names and order are a contract for whoever reads the topic.
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
        let expected = expected.map(|(name, value)| (name.to_owned(), value.to_owned()));
        assert_eq!(found, expected);
    }
}
