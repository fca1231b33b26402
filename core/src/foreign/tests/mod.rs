mod change_event;
mod debezium;
mod mongoshake;
mod programs;

use bson::{Bson, Document};

use super::*;
use crate::entry::Entry;

/// Rules that accept everything.
pub(super) const fn rules(writer: Writer) -> Rules {
    Rules {
        writer,
        updates: Updates::Changes,
        accepts_lossy: true,
        checks_keys: false,
    }
}

/// Returns the entries of a record with their ids as text.
pub(super) fn entries_of(
    rules: Rules,
    key: Option<&[u8]>,
    value: &[u8],
) -> Result<Vec<(String, Document)>, ForeignError> {
    // The value is not at the start of the arena.
    let mut arena = b"before".to_vec();
    let start = arena.len();
    arena.extend_from_slice(value);
    let mut found = Vec::new();
    let record = Record {
        value: start..arena.len(),
        key,
        offset: 40,
    };
    decode(rules, &record, &mut arena, &mut found)?;
    let entries = found.iter().map(|decoded| {
        let raw = decoded.document(&arena).unwrap();
        let entry = Entry::parse_whole(raw).unwrap();
        assert_eq!(entry.ts, decoded.id.ts);
        let document = Document::from_reader(raw.as_bytes()).unwrap();
        (decoded.id.to_string(), document)
    });
    Ok(entries.collect())
}

/// Returns the only entry of a record.
pub(super) fn entry_of(rules: Rules, key: Option<&[u8]>, value: &[u8]) -> (String, Document) {
    let mut entries = entries_of(rules, key, value).unwrap();
    assert_eq!(entries.len(), 1, "{entries:?}");
    entries.remove(0)
}

pub(super) fn text_of(error: &ForeignError) -> String {
    let source = std::error::Error::source(error).map(ToString::to_string);
    format!("{error}: {}", source.unwrap_or_default())
}

pub(super) fn bytes(document: &Document) -> Vec<u8> {
    document.to_vec().unwrap()
}

pub(super) fn timestamp(time: u32, increment: u32) -> Bson {
    Bson::Timestamp(bson::Timestamp { time, increment })
}
