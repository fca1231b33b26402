//! The entries of the prepared oplog: the content of an entry follows from its number.

use oplog_relay_core::document::{DocumentBuilder, kind};
use oplog_relay_core::position::Timestamp;

use super::recipe_commands::Command;

/// The namespace of all entries, or of the first collection's entries.
pub const NAMESPACE: &str = "bench.orders";
/// The parts of [`NAMESPACE`].
const DATABASE: &str = "bench";
const COLLECTION: &str = "orders";
/// The election term of all entries.
pub(super) const TERM: i64 = 7;
/// Bytes of an insert, the size with which the published figures were measured.
pub(super) const INSERT_BYTES: usize = 466;
/// Bytes of a large insert, near the size limit of a document.
pub(super) const LARGE_BYTES: usize = 16_000_000;
/// Number of consecutive entries of which five insert, three update and two delete the documents of
/// these five inserts.
pub(super) const GROUP: u64 = 10;
const FIRST_SECOND: u32 = 1_700_000_000;
pub(super) const UI: [u8; 16] = *b"stub-collection!";
const WORDS: [&str; 16] = [
    "harbour", "orange", "window", "seven", "paper", "mountain", "silver", "letter", "garden",
    "engine", "bottle", "winter", "bridge", "candle", "market", "river",
];

/// The kinds of entries in an oplog.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Shape {
    /// Inserts of 466 bytes.
    Inserts,
    /// `$v: 2` updates of three fields.
    Updates,
    /// Inserts, `$v: 2` updates and deletes, 5 : 3 : 2.
    Mixed,
    /// Inserts of 16 MB.
    Large,
}

/// The content of a generated oplog.
#[derive(Debug, Clone, Copy)]
pub struct Recipe {
    /// Number of entries.
    pub entries: u64,
    /// The kinds of the entries.
    pub shape: Shape,
    /// Number of collections, which receive ten consecutive entries each in turn.
    pub collections: u64,
    /// The commit time of the first entry, in seconds since 1970.
    pub first_second: u32,
    /// Number of entries that are committed in each second.
    pub per_second: u64,
    /// Number of entries from one command to the next; `None` if there are no commands.
    pub command_every: Option<u64>,
}

impl Recipe {
    /// Returns a recipe for entries of one collection, at past times.
    #[must_use]
    pub const fn new(entries: u64, shape: Shape) -> Recipe {
        Recipe {
            entries,
            shape,
            collections: 1,
            first_second: FIRST_SECOND,
            per_second: 1000,
            command_every: None,
        }
    }

    /// Sets the time of the last entry to that second.
    pub fn end_at(&mut self, second: u32) {
        let seconds = u32::try_from(self.entries / self.per_second).unwrap_or(u32::MAX);
        self.first_second = second.saturating_sub(seconds);
    }

    /// Returns the number of the collection of entry `number`, which is 0 for the first collection.
    fn collection(&self, number: u64) -> u64 {
        let new = self.new_collection(number);
        new.unwrap_or(number / GROUP % self.collections)
    }

    /// Returns the time of entry `number`, which increases with the number.
    pub(super) fn time(&self, number: u64) -> Timestamp {
        let second = u32::try_from(number / self.per_second).unwrap_or(u32::MAX);
        let increment = u32::try_from(number % self.per_second).unwrap_or(0) + 1;
        Timestamp::new(self.first_second.saturating_add(second), increment)
    }

    /// Returns the commit time of entry `number`, in milliseconds since 1970.
    #[must_use]
    pub fn wall(&self, number: u64) -> i64 {
        let millis = number.saturating_mul(1000) / self.per_second;
        i64::from(self.first_second) * 1000 + millis.cast_signed()
    }
}

impl Shape {
    /// Returns the shape of that name.
    #[must_use]
    pub fn from_name(name: &str) -> Option<Shape> {
        match name {
            "inserts" => Some(Shape::Inserts),
            "updates" => Some(Shape::Updates),
            "mixed" => Some(Shape::Mixed),
            "large" => Some(Shape::Large),
            _ => None,
        }
    }

    /// Returns its name on a command line.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Shape::Inserts => "inserts",
            Shape::Updates => "updates",
            Shape::Mixed => "mixed",
            Shape::Large => "large",
        }
    }
}

/// Appends entry `number`.
pub(super) fn write_entry(number: u64, recipe: &Recipe, out: &mut Vec<u8>) {
    if let Some(command) = recipe.command(number) {
        return write_command(number, command, recipe, out);
    }
    let group = number - number % GROUP;
    match (recipe.shape, number % GROUP) {
        (Shape::Inserts, _) | (Shape::Mixed, 0..=4) => {
            write_insert(number, recipe, INSERT_BYTES, out);
        }
        (Shape::Large, _) => write_insert(number, recipe, LARGE_BYTES, out),
        (Shape::Updates, _) => write_update(number, number, recipe, out),
        (Shape::Mixed, place @ 5..=7) => write_update(number, group + place - 5, recipe, out),
        (Shape::Mixed, place) => write_delete(number, group + place - 5, recipe, out),
    }
}

/// Appends an insert. It is built twice, because the words fill the bytes that the other fields
/// leave of the entry's length.
fn write_insert(number: u64, recipe: &Recipe, bytes: usize, out: &mut Vec<u8>) {
    let start = out.len();
    write_insert_with(number, recipe, 0, out);
    let room = bytes.saturating_sub(out.len() - start);
    out.truncate(start);
    write_insert_with(number, recipe, room, out);
}

fn write_insert_with(number: u64, recipe: &Recipe, word_bytes: usize, out: &mut Vec<u8>) {
    let mut entry = begin("i", number, recipe, out);
    entry.nested("o", kind::DOCUMENT, |order| {
        fill_order(order, number, recipe.wall(number), word_bytes);
    });
    end(number, recipe, entry);
}

/// Appends document `number` of a collection, of that many bytes.
pub(super) fn write_document(number: u64, bytes: usize, out: &mut Vec<u8>) {
    let (start, mut room) = (out.len(), 0);
    for _ in 0..2 {
        out.truncate(start);
        let mut document = DocumentBuilder::start(out);
        fill_order(&mut document, number, 0, room);
        document.finish();
        room = bytes.saturating_sub(out.len() - start);
    }
}

fn fill_order(order: &mut DocumentBuilder<'_>, number: u64, ordered: i64, word_bytes: usize) {
    let mut random = Random::new(number);
    order.raw("_id", kind::OBJECT_ID, &object_id(number));
    order.int64("number", number.cast_signed());
    order.str("customer", &random.text(18));
    order.str("state", ["new", "paid", "sent"][random.below(3)]);
    order.raw("total", kind::DOUBLE, &random.price().to_le_bytes());
    order.int32("items", i32::try_from(random.below(40)).unwrap_or(0));
    order.boolean("gift", random.below(8) == 0);
    order.date("ordered", ordered);
    order.nested("address", kind::DOCUMENT, |address| {
        address.str("street", &random.text(16));
        address.str("city", random.word());
    });
    order.nested("tags", kind::ARRAY, |tags| {
        tags.str("0", random.word()).str("1", random.word());
    });
    order.str("words", &random.text(word_bytes));
}

fn write_update(number: u64, target: u64, recipe: &Recipe, out: &mut Vec<u8>) {
    let mut random = Random::new(number);
    let mut entry = begin("u", number, recipe, out);
    entry.nested("o", kind::DOCUMENT, |update| {
        update.int32("$v", 2);
        update.nested("diff", kind::DOCUMENT, |diff| {
            diff.nested("u", kind::DOCUMENT, |fields| {
                fields.str("state", "paid");
                fields.raw("total", kind::DOUBLE, &random.price().to_le_bytes());
                fields.str("words", &random.text(60));
            });
        });
    });
    entry.nested("o2", kind::DOCUMENT, |id| {
        id.raw("_id", kind::OBJECT_ID, &object_id(target));
    });
    end(number, recipe, entry);
}

fn write_delete(number: u64, target: u64, recipe: &Recipe, out: &mut Vec<u8>) {
    let mut entry = begin("d", number, recipe, out);
    entry.nested("o", kind::DOCUMENT, |id| {
        id.raw("_id", kind::OBJECT_ID, &object_id(target));
    });
    end(number, recipe, entry);
}

/// Appends a command.
fn write_command(number: u64, command: Command, recipe: &Recipe, out: &mut Vec<u8>) {
    let mut entry = begin("c", number, recipe, out);
    entry.nested("o", kind::DOCUMENT, |o| match command {
        Command::Create => {
            o.str("create", &collection_name(recipe.collection(number)));
        }
        Command::CreateUniqueIndex => {
            let name = format!("unique{number}");
            o.str("createIndexes", &collection_name(recipe.collection(number)));
            o.int32("v", 2);
            o.nested("key", kind::DOCUMENT, |key| {
                key.int32(&name, 1);
            });
            o.str("name", &name);
            o.boolean("unique", true);
        }
    });
    end(number, recipe, entry);
}

/// Returns the name of a collection, without the database.
fn collection_name(collection: u64) -> String {
    match collection {
        0 => COLLECTION.to_owned(),
        other => format!("{COLLECTION}{other}"),
    }
}

/// Appends the fields before `o`, in the order of a server.
fn begin<'o>(op: &str, number: u64, recipe: &Recipe, out: &'o mut Vec<u8>) -> DocumentBuilder<'o> {
    let collection = recipe.collection(number);
    let mut ui = [16, 0, 0, 0, 4].to_vec();
    ui.extend_from_slice(&UI);
    let mut entry = DocumentBuilder::start(out);
    entry.str("op", op);
    if op == "c" {
        entry.str("ns", &format!("{DATABASE}.$cmd"));
    } else {
        let name = collection_name(collection);
        entry.str("ns", &format!("{DATABASE}.{name}"));
    }
    if collection > 0 {
        let end = ui.len() - 8;
        ui[end..].copy_from_slice(&collection.to_be_bytes());
    }
    entry.raw("ui", kind::BINARY, &ui);
    entry
}

/// Appends the fields after `o`.
fn end(number: u64, recipe: &Recipe, mut entry: DocumentBuilder<'_>) {
    entry.raw("ts", kind::TIMESTAMP, &recipe.time(number).to_le_bytes());
    entry
        .int64("t", TERM)
        .int64("v", 2)
        .date("wall", recipe.wall(number));
    entry.finish();
}

/// Returns the `_id` of document `number`.
#[must_use]
pub fn object_id(number: u64) -> [u8; 12] {
    let mut id = [0x65, 0x53, 0xf1, 0, 0, 0, 0, 0, 0, 0, 0, 0];
    id[4..].copy_from_slice(&number.to_be_bytes());
    id
}

/// Splitmix64: the same numbers for the same entry, on every machine.
struct Random(u64);

impl Random {
    const fn new(number: u64) -> Random {
        Random(number.wrapping_mul(0x2545_f491_4f6c_dd1d))
    }

    const fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    fn below(&mut self, bound: u64) -> usize {
        usize::try_from(self.next() % bound).unwrap_or(0)
    }

    fn word(&mut self) -> &'static str {
        WORDS[self.below(WORDS.len() as u64)]
    }

    /// Returns a price with two decimals, as a double.
    fn price(&mut self) -> f64 {
        f64::from(u32::try_from(self.below(100_000)).unwrap_or(0)) / 100.0
    }

    /// Returns a text of exactly that many bytes: words, and numbers that keep it from compressing
    /// too well.
    fn text(&mut self, bytes: usize) -> String {
        let mut text = String::with_capacity(bytes + 24);
        while text.len() < bytes {
            text.push_str(self.word());
            text.push_str(&format!(" {:x} ", self.next() & 0xff_ffff));
        }
        text.truncate(bytes);
        text
    }
}

#[cfg(test)]
mod tests {
    use oplog_relay_core::document::Document;
    use oplog_relay_core::entry::{Entry, Operation};

    use super::*;

    fn entry(number: u64, shape: Shape) -> Vec<u8> {
        let mut bytes = Vec::new();
        write_entry(number, &Recipe::new(0, shape), &mut bytes);
        bytes
    }

    #[test]
    fn inserts_are_valid_and_of_one_length() {
        for number in [0, 9, 10, 999, 1000, 999_999, 10_000_000] {
            let bytes = entry(number, Shape::Inserts);
            let document = Document::new(&bytes).expect("a document");
            document.validate().expect("valid");
            assert_eq!(bytes.len(), INSERT_BYTES);
            let parsed = Entry::parse(document).expect("an entry");
            let time = Recipe::new(0, Shape::Inserts).time(number);
            assert_eq!((parsed.ts, parsed.ns), (time, NAMESPACE));
        }
    }

    #[test]
    fn updates_and_deletes_touch_documents_inserted_before() {
        let mut live = Vec::new();
        for number in 0..40 {
            let bytes = entry(number, Shape::Mixed);
            let entry = Entry::parse(Document::new(&bytes).expect("a document")).expect("entry");
            let id = entry.document_id().expect("an _id").value.to_vec();
            match entry.operation {
                Operation::Insert => live.push(id),
                Operation::Update => assert!(live.contains(&id)),
                _ => {
                    assert!(live.contains(&id));
                    live.retain(|known| *known != id);
                }
            }
        }
        assert_eq!(live.len(), 12);
    }

    #[test]
    fn a_collection_has_one_name_and_one_uuid() {
        let recipe = Recipe {
            collections: 3,
            ..Recipe::new(0, Shape::Mixed)
        };
        let mut seen = std::collections::BTreeMap::new();
        for number in 0..90 {
            let mut bytes = Vec::new();
            write_entry(number, &recipe, &mut bytes);
            let entry = Entry::parse(Document::new(&bytes).expect("a document")).expect("entry");
            let known = seen.entry(entry.ns.to_owned()).or_insert((entry.ui, 0));
            assert_eq!(known.0, entry.ui);
            known.1 += 1;
        }
        assert_eq!(seen.len(), 3);
        assert!(seen.values().all(|(_, count)| *count == 30));
    }

    #[test]
    fn times_increase() {
        let recipe = Recipe::new(0, Shape::Inserts);
        assert!((0..5000).all(|number| recipe.time(number) < recipe.time(number + 1)));
    }
}
