//! The consumer's work on each entry.

use oplog_consumer::replay::plan::{BulkKind, CommandOptions, Plan, Planner, Step, write_command};
use oplog_consumer::worker::batch::Located;
use oplog_producer::encode::record::{Written, write_entry, write_frame};
use oplog_relay_core::diff::{Diff, apply_modifiers};
use oplog_relay_core::document::Document;
use oplog_relay_core::entry::{Entry, Update};
use oplog_relay_core::format::avro::SchemaIds;
use oplog_relay_core::format::origin::Origin;
use oplog_relay_core::format::raw::Frame;
use oplog_relay_core::format::{Decoded, Format, decode};
use oplog_relay_core::json::Mode;

use super::produce::id;
use super::{Piece, input};
use oplog_relay_kit::stub::Shape;

const SOURCE: &str = "rs0";
const ORIGIN: Origin<'_> = Origin {
    topic: "p.d.c",
    source: SOURCE,
    processed_at: 0,
    schemas: SchemaIds { key: 1, value: 2 },
};
const CANONICAL: Format = Format::Json(Mode::Canonical);
const LANES: usize = 4;

pub(super) fn pieces() -> Vec<Piece> {
    let inserts = || input::stub(Shape::Inserts);
    let updates = || input::stub(Shape::Updates);
    vec![
        decode_frame("decode-raw/insert", &inserts()),
        decode_each("decode-bson/insert", Format::Bson, &inserts()),
        decode_each("decode-canonical/insert", CANONICAL, &inserts()),
        decode_each("decode-canonical/update", CANONICAL, &updates()),
        read("read/insert", inserts()),
        read("read/update", updates()),
        parse_diff("diff-parse/update", updates()),
        parse_diff("diff-parse/nested-diff", input::nested_diffs()),
        apply_diff("diff-apply/update", updates()),
        apply_diff("diff-apply/nested-diff", input::nested_diffs()),
        apply_each_modifiers("modifiers-apply/modifiers", input::modifiers()),
        plan("plan/insert", inserts()),
        plan("plan/update", updates()),
        plan("plan/nested-diff", input::nested_diffs()),
        plan("plan/mixed", input::stub(Shape::Mixed)),
        command("command/insert", inserts()),
        command("command/update", updates()),
        command("command/modifiers", input::modifiers()),
    ]
}

/// A record: the place of its value in an arena, and its header.
type Record = (std::ops::Range<usize>, Option<Vec<u8>>);

fn decode_all(
    name: &'static str,
    format: Format,
    mut arena: Vec<u8>,
    records: Vec<Record>,
) -> Piece {
    let end = arena.len();
    let mut found: Vec<Decoded> = Vec::new();
    Piece::new(name, move || {
        // Decoding appends to the arena.
        arena.truncate(end);
        found.clear();
        for (value, header) in &records {
            decode(
                format,
                value.clone(),
                header.as_deref(),
                &mut arena,
                &mut found,
            )
            .unwrap();
        }
        found.len() + arena.len()
    })
}

/// Reads the header, and checks every level below it.
fn read(name: &'static str, entries: Vec<Vec<u8>>) -> Piece {
    Piece::of_bytes(name, entries, |document| {
        Entry::parse_whole(document).unwrap().ns.len()
    })
}

fn parse(bytes: &[u8]) -> Entry<'_> {
    Entry::parse(Document::new(bytes).unwrap()).unwrap()
}

fn decode_each(name: &'static str, format: Format, entries: &[Vec<u8>]) -> Piece {
    let (mut arena, mut records) = (Vec::new(), Vec::new());
    for bytes in entries {
        let entry = parse(bytes);
        let written = write_entry(format, &entry, id(&entry), &ORIGIN, &mut arena);
        let Written { header, value } = written.unwrap();
        let header = header.map(|header| arena[header.value].to_vec());
        records.push((value, header));
    }
    decode_all(name, format, arena, records)
}

fn decode_frame(name: &'static str, entries: &[Vec<u8>]) -> Piece {
    let (mut frame, mut arena) = (Frame::default(), Vec::new());
    for bytes in entries {
        let entry = parse(bytes);
        frame.push(id(&entry), entry.raw, false);
    }
    let Written { value, .. } = write_frame(&mut frame, SOURCE, &mut arena);
    decode_all(name, Format::Raw, arena, vec![(value, None)])
}

/// Returns the diff of an update.
fn diff<'a>(entry: &Entry<'a>) -> Document<'a> {
    let Update::Diff(diff) = entry.update().unwrap() else {
        unreachable!("the entries are diffs")
    };
    diff
}

fn parse_diff(name: &'static str, entries: Vec<Vec<u8>>) -> Piece {
    Piece::of_entries(name, entries, |entry| {
        let mut changes = 0;
        let parsed = Diff::parse(diff(entry)).unwrap();
        parsed.describe(&mut |_, _| changes += 1);
        changes
    })
}

fn apply_diff(name: &'static str, entries: Vec<Vec<u8>>) -> Piece {
    let document = input::document();
    Piece::of_entries(name, entries, move |entry| {
        let parsed = Diff::parse(diff(entry)).unwrap();
        let changed = parsed.apply(Document::new(&document).unwrap());
        changed.unwrap().len()
    })
}

fn apply_each_modifiers(name: &'static str, entries: Vec<Vec<u8>>) -> Piece {
    let document = input::document();
    Piece::of_entries(name, entries, move |entry| {
        let changed = apply_modifiers(Document::new(&document).unwrap(), entry.o);
        changed.unwrap().len()
    })
}

fn located(entries: Vec<Vec<u8>>) -> Vec<Located<'static>> {
    let entries: &'static [Vec<u8>] = Vec::leak(entries);
    let place = |(offset, bytes): (i64, &'static Vec<u8>)| {
        let entry = parse(bytes);
        Located {
            offset,
            id: id(&entry),
            entry,
        }
    };
    (0..).zip(entries).map(place).collect()
}

/// Plans a batch of all entries in each pass.
fn plan(name: &'static str, entries: Vec<Vec<u8>>) -> Piece {
    let entries = located(entries);
    let planner = Planner::new(LANES);
    let writes = |plan: &Plan<'_>| -> usize {
        let lanes = plan.steps.iter().flat_map(|step| match step {
            Step::Write(lanes) => lanes.as_slice(),
            Step::Command(_) => &[],
        });
        lanes
            .flat_map(|lane| &lane.bulks)
            .map(|bulk| bulk.writes.len())
            .sum()
    };
    Piece::new(name, move || {
        let plan = planner.plan(&entries).unwrap();
        writes(&plan) + plan.folded as usize
    })
}

/// Writes the commands of a batch of all entries in each pass.
fn command(name: &'static str, entries: Vec<Vec<u8>>) -> Piece {
    let entries: &'static [Located<'static>] = Vec::leak(located(entries));
    let plan = Planner::new(LANES).plan(entries).unwrap();
    let options = CommandOptions {
        bypass_validation: true,
        upsert_unmatched: false,
        max_time_ms: 30_000,
        literal_zeros: false,
        in_transaction: false,
    };
    let mut out = Vec::new();
    Piece::new(name, move || {
        out.clear();
        for step in &plan.steps {
            let Step::Write(lanes) = step else { continue };
            for bulk in lanes.iter().flat_map(|lane| &lane.bulks) {
                debug_assert!(bulk.kind != BulkKind::Rewrite, "a rewrite has no command");
                write_command("orders", bulk.kind, &bulk.writes, options, &mut out).unwrap();
            }
        }
        out.len()
    })
}
