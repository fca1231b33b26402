//! The producer's work on each entry.

use oplog_producer::encode::record::{write_entry, write_frame};
use oplog_relay_core::entry::Entry;
use oplog_relay_core::format::Format;
use oplog_relay_core::format::avro::SchemaIds;
use oplog_relay_core::format::origin::Origin;
use oplog_relay_core::format::raw::Frame;
use oplog_relay_core::json::Mode;
use oplog_relay_core::key::{partition_for, write_key};
use oplog_relay_core::position::EntryId;

use super::{ENTRIES, Piece, input};
use oplog_relay_kit::stub::Shape;

const SOURCE: &str = "rs0";
const ORIGIN: Origin<'_> = Origin {
    topic: "p.d.c",
    source: SOURCE,
    processed_at: 0,
    schemas: SchemaIds { key: 1, value: 2 },
};
const PARTITIONS: u32 = 16;
const RELAXED: Format = Format::Json(Mode::Relaxed);
const CANONICAL: Format = Format::Json(Mode::Canonical);
const AVRO: Format = Format::Avro(Mode::Relaxed);

pub(super) fn pieces() -> Vec<Piece> {
    let inserts = || input::stub(Shape::Inserts);
    let updates = || input::stub(Shape::Updates);
    vec![
        header("header/insert", inserts()),
        header("header/update", updates()),
        header("header/delete", input::deletes()),
        key("key/insert", inserts()),
        key("key/update", updates()),
        frame("encode-raw/insert", inserts()),
        encode("encode-bson/insert", Format::Bson, inserts()),
        encode("encode-relaxed/insert", RELAXED, inserts()),
        encode("encode-relaxed/update", RELAXED, updates()),
        encode("encode-relaxed/modifiers", RELAXED, input::modifiers()),
        encode("encode-relaxed/nested-diff", RELAXED, input::nested_diffs()),
        encode("encode-relaxed/delete", RELAXED, input::deletes()),
        encode("encode-avro/insert", AVRO, inserts()),
        encode("encode-avro/update", AVRO, updates()),
        encode("encode-canonical/insert", CANONICAL, inserts()),
        encode("encode-canonical/update", CANONICAL, updates()),
    ]
}

fn header(name: &'static str, entries: Vec<Vec<u8>>) -> Piece {
    Piece::of_bytes(name, entries, |document| {
        Entry::parse(document).unwrap().ns.len()
    })
}

fn key(name: &'static str, entries: Vec<Vec<u8>>) -> Piece {
    let mut key = Vec::new();
    Piece::of_entries(name, entries, move |entry| {
        key.clear();
        write_key(entry.document_id().unwrap(), &mut key).unwrap();
        key.len() + partition_for(&key, PARTITIONS) as usize
    })
}

pub(super) const fn id(entry: &Entry<'_>) -> EntryId {
    EntryId {
        ts: entry.ts,
        ord: 0,
    }
}

fn encode(name: &'static str, format: Format, entries: Vec<Vec<u8>>) -> Piece {
    let mut out = Vec::new();
    Piece::of_entries(name, entries, move |entry| {
        out.clear();
        write_entry(format, entry, id(entry), &ORIGIN, &mut out).unwrap();
        out.len()
    })
}

/// Encodes one frame in each pass.
fn frame(name: &'static str, entries: Vec<Vec<u8>>) -> Piece {
    let (mut frame, mut out) = (Frame::default(), Vec::new());
    Piece::of_entries(name, entries, move |entry| {
        frame.push(id(entry), entry.raw, false);
        if u64::from(frame.count()) < ENTRIES {
            return frame.len();
        }
        out.clear();
        write_frame(&mut frame, SOURCE, &mut out);
        out.len()
    })
}
