//! The entries of a full sync, which do not come from an oplog: documents as they were read, and
//! the commands that create their collections.
//!
//! ```text
//! {ts, t, v: 2, op: "r", ns, ui?, o: <document>, snapshot: {capturedAt}}
//! {ts, t, v: 2, op: "c", ns: "db.$cmd", ui?, o: <command>, snapshot: {capturedAt}}
//! {ts, t, v: 2, op: "i", ns: "db.system.views", o: <view>, snapshot: {capturedAt}}
//! ```
//!
//! Their `ts` is the position that the tail had reached when they were sent: they follow that entry
//! and precede the next one. Their ordinals start at [`FIRST_ORD`], above those of any transaction,
//! so that `(source, ts, ord)` still increases and still identifies one entry. `capturedAt` is the
//! wall-clock time at which the source was read. An entry with the operation `r` is applied as
//! an insert: the document gets the content that was read, whether it existed or not.

use crate::collection_uuid::CollectionUuid;
use crate::document::{Document, DocumentBuilder, kind};
use crate::position::Position;

/// The ordinal of the first entry of a full sync at a position.
pub const FIRST_ORD: u32 = 1 << 31;

/// The place and time at which the source was read.
#[derive(Debug, Clone, Copy)]
pub struct Captured<'a> {
    /// The position that the tail had reached.
    pub at: Position,
    /// `db.collection`
    pub ns: &'a str,
    /// The collection's UUID.
    pub ui: Option<CollectionUuid>,
    /// The wall-clock time in milliseconds since 1970.
    pub millis: i64,
}

impl Captured<'_> {
    /// Appends the entry of a document.
    pub fn write_document(&self, document: Document<'_>, out: &mut Vec<u8>) {
        self.write("r", self.ns, document, out);
    }

    /// Appends the entry of a command on the collection.
    pub fn write_command(&self, command: Document<'_>, out: &mut Vec<u8>) {
        let db = self.ns.split_once('.').map_or(self.ns, |(db, _)| db);
        self.write("c", &format!("{db}.$cmd"), command, out);
    }

    /// Appends the entry of a view's definition, `{_id: "db.view", viewOn, pipeline, …}`.
    pub fn write_view(&self, view: Document<'_>, out: &mut Vec<u8>) {
        let db = self.ns.split_once('.').map_or(self.ns, |(db, _)| db);
        self.write("i", &format!("{db}.system.views"), view, out);
    }

    fn write(&self, op: &str, ns: &str, o: Document<'_>, out: &mut Vec<u8>) {
        let mut entry = DocumentBuilder::start(out);
        entry.raw("ts", kind::TIMESTAMP, &self.at.ts.to_le_bytes());
        entry.int64("t", self.at.term).int32("v", 2);
        entry.str("op", op).str("ns", ns);
        if let Some(ui) = self.ui {
            entry.raw("ui", kind::BINARY, &ui.binary());
        }
        entry.document("o", o);
        entry.nested("snapshot", kind::DOCUMENT, |snapshot| {
            snapshot.date("capturedAt", self.millis);
        });
        entry.finish();
    }
}

#[cfg(test)]
mod tests {
    use bson::doc;

    use super::*;
    use crate::entry::{Entry, Operation};
    use crate::format::json::write_change_event;
    use crate::format::{Format, decode};
    use crate::json::{self, Mode};
    use crate::position::Timestamp;

    fn captured() -> Captured<'static> {
        Captured {
            at: Position {
                ts: Timestamp::new(1_700_000_000, 3),
                term: 2,
                ord: 0,
            },
            ns: "shop.orders",
            ui: Some(CollectionUuid([0x5f; 16])),
            millis: 1_700_000_009_250,
        }
    }

    /// The text is the wire format: changing it changes the records on topics.
    #[test]
    fn a_read_has_its_frozen_form() {
        let document = doc! { "_id": 1, "name": "Ada" }.to_vec().unwrap();
        let mut bytes = Vec::new();
        captured().write_document(Document::new(&document).unwrap(), &mut bytes);
        let mut text = Vec::new();
        let shown = Document::new(&bytes).unwrap();
        let exactness = json::write_document(shown, Mode::Canonical, &mut text).unwrap();
        assert_eq!(exactness, json::Exactness::Exact);
        assert_eq!(
            String::from_utf8(text).unwrap(),
            concat!(
                r#"{"ts":{"$timestamp":{"t":1700000000,"i":3}},"t":{"$numberLong":"2"},"v":{"$numberInt":"2"},"#,
                r#""op":"r","ns":"shop.orders","ui":{"$binary":{"base64":"X19fX19fX19fX19fX19fXw==","subType":"04"}},"#,
                r#""o":{"_id":{"$numberInt":"1"},"name":"Ada"},"#,
                r#""snapshot":{"capturedAt":{"$date":{"$numberLong":"1700000009250"}}}}"#
            )
        );
        let entry = Entry::parse(Document::new(&bytes).unwrap()).unwrap();
        assert_eq!(entry.operation, Operation::Insert);
        assert_eq!(entry.snapshot, Some(1_700_000_009_250));

        let mut event = Vec::new();
        write_change_event(&entry, "rs0", FIRST_ORD, Mode::Canonical, &mut event).unwrap();
        assert_eq!(
            String::from_utf8(event.clone()).unwrap(),
            concat!(
                r#"{"_id":{"source":"rs0","ts":"1700000000:3","ord":2147483648},"operationType":"read","#,
                r#""clusterTime":{"$timestamp":{"t":1700000000,"i":3}},"ns":{"db":"shop","coll":"orders"},"#,
                r#""collectionUUID":{"$binary":{"base64":"X19fX19fX19fX19fX19fXw==","subType":"04"}},"#,
                r#""documentKey":{"_id":{"$numberInt":"1"}},"fullDocument":{"_id":{"$numberInt":"1"},"name":"Ada"},"#,
                r#""snapshot":{"capturedAt":{"$date":{"$numberLong":"1700000009250"}}},"formatVersion":1}"#
            )
        );
        let (length, mut found) = (event.len(), Vec::new());
        let format = Format::Json(Mode::Canonical);
        decode(format, 0..length, None, &mut event, &mut found).unwrap();
        let back = found[0].document(&event).unwrap();
        let back = Entry::parse(back).unwrap();
        assert_eq!(
            (found[0].id.ord, back.snapshot),
            (FIRST_ORD, entry.snapshot)
        );
        assert_eq!(back.o.as_bytes(), document);
        assert_eq!(back.raw.get("op").unwrap().unwrap().str(), Ok("r"));
    }

    #[test]
    fn commands_and_views_are_entries_of_their_database() {
        let create = doc! { "create": "orders" }.to_vec().unwrap();
        let (mut command, mut view) = (Vec::new(), Vec::new());
        let create = Document::new(&create).unwrap();
        captured().write_command(create, &mut command);
        captured().write_view(create, &mut view);
        let parse = |bytes| Entry::parse(Document::new(bytes).unwrap()).unwrap();
        let (command, view) = (parse(&command), parse(&view));
        assert_eq!(
            (command.operation, command.ns),
            (Operation::Command, "shop.$cmd")
        );
        assert!(command.snapshot.is_some());
        assert!(crate::command::is_view_entry(&view));
        assert_eq!(view.ns, "shop.system.views");
    }
}
