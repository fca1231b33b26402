//! The change events of MongoDB, as mongo-kafka writes them.

use crate::document::{Document, DocumentBuilder, Element, Malformed, kind};
use crate::foreign::entry::{Header, Output, embedded, present};
use crate::foreign::update::Description;
use crate::foreign::{ForeignError, Record, Rules, Updates, connect};
use crate::position::Timestamp;

/// Decodes an event that is Extended JSON.
pub(super) fn decode_json(
    rules: Rules,
    record: &Record<'_>,
    output: &mut Output<'_>,
) -> Result<(), ForeignError> {
    let value = output.arena.get(record.value.clone()).unwrap_or_default();
    let parsed = connect::parse(value)?;
    decode(rules, record.key, Document::new(&parsed)?, output)
}

/// Decodes an event that is BSON.
pub(super) fn decode_bson(
    rules: Rules,
    record: &Record<'_>,
    output: &mut Output<'_>,
) -> Result<(), ForeignError> {
    let value = output.arena.get(record.value.clone()).unwrap_or_default();
    // The entry will be appended to the buffer that contains the event.
    let copy = value.to_vec();
    decode(rules, record.key, Document::new(&copy)?, output)
}

/// An event.
struct Event<'e> {
    rules: Rules,
    fields: Document<'e>,
    key: Option<&'e [u8]>,
    header: Header<'e>,
}

fn decode(
    rules: Rules,
    key: Option<&[u8]>,
    fields: Document<'_>,
    output: &mut Output<'_>,
) -> Result<(), ForeignError> {
    let expected = rules.writer;
    let Some(operation) = fields.get("operationType")? else {
        let reason = "it has no operationType (with publish.full.document.only=true the connector \
                      writes documents, which do not show the operation)";
        return Err(ForeignError::NotOf { expected, reason });
    };
    if is_ours(fields)? {
        let reason = "it is an event of oplog-producer";
        return Err(ForeignError::NotOf { expected, reason });
    }
    if present(fields, "splitEvent")?.is_some() {
        return Err(ForeignError::Event(
            "the event is a fragment ($changeStreamSplitLargeEvent), which cannot be read: copy this \
             document again",
        ));
    }
    let operation = operation.str()?;
    let event = Event {
        rules,
        fields,
        key,
        header: header(rules, fields)?,
    };
    match operation {
        "insert" | "replace" | "update" | "delete" => event.change(operation, output),
        // The change stream of a collection ends; its drop or rename is a separate event.
        "invalidate" => Ok(()),
        _ => event.command(operation, output),
    }
}

/// Returns true for a change event of oplog-producer, whose `_id` is the identity of an entry.
pub(super) fn is_ours(fields: Document<'_>) -> Result<bool, Malformed> {
    let id = present(fields, "_id")?.filter(|id| id.kind == kind::DOCUMENT);
    let Some(id) = id.map(Element::document).transpose()? else {
        return Ok(false);
    };
    Ok(id.get("source")?.is_some() && id.get("ord")?.is_some())
}

fn header(rules: Rules, fields: Document<'_>) -> Result<Header<'_>, ForeignError> {
    let wall = present(fields, "wallTime")?;
    // The formatters that keep types write a date here.
    if wall.is_some_and(|wall| wall.kind == kind::STRING) && !rules.accepts_lossy {
        return Err(ForeignError::Lossy(
            "the record is in simplified JSON (output.json.formatter=…SimplifiedJson), which loses types: \
             an ObjectId and a date are written as strings. With the DefaultJson or ExtendedJson \
             formatter, or with output.format.value=bson, the connector keeps them",
        ));
    }
    let ns = embedded(fields, "ns")?;
    let part = |name| -> Result<&str, ForeignError> {
        let found = ns.map(|ns| ns.get(name)).transpose()?.flatten();
        Ok(found.map(Element::str).transpose()?.unwrap_or_default())
    };
    let time = present(fields, "clusterTime")?;
    let txn_number = present(fields, "txnNumber")?;
    let ui = present(fields, "collectionUUID")?;
    Ok(Header {
        ts: time
            .map(Element::timestamp)
            .transpose()?
            .unwrap_or_default(),
        op: "n",
        db: part("db")?,
        collection: part("coll")?,
        ui: ui.filter(|ui| ui.kind == kind::BINARY),
        wall: wall.and_then(|wall| wall.date().ok()),
        lsid: embedded(fields, "lsid")?,
        txn_number: txn_number.map(Element::integer).transpose()?,
    })
}

impl<'e> Event<'e> {
    /// Writes the entry of a change of a document.
    fn change(&self, operation: &str, output: &mut Output<'_>) -> Result<(), ForeignError> {
        if self.header.db.is_empty() || self.header.collection.is_empty() {
            return Err(ForeignError::Event("the event has no ns"));
        }
        let key = self.document("documentKey")?;
        let key = key.ok_or(ForeignError::Event("the event has no documentKey"))?;
        let id = key.get("_id")?;
        let id = id.ok_or(ForeignError::Event(
            "the documentKey of the event has no _id",
        ))?;
        if self.rules.checks_keys {
            self.check_key(id)?;
        }
        let whole = self.document("fullDocument")?;
        let described = embedded(self.fields, "updateDescription")?;
        let op = match operation {
            "insert" => "i",
            "delete" => "d",
            _ => "u",
        };
        let header = self.header.of(op);
        let uses_whole = described.is_none() || self.rules.updates == Updates::Documents;
        match (operation, whole, described) {
            ("delete", _, _) => output.write(&header, |entry| {
                entry.document("o", key);
                Ok(())
            })?,
            ("insert", Some(whole), _) => output.write(&header, |entry| {
                entry.document("o", whole);
                Ok(())
            })?,
            ("replace", Some(whole), _) => write_replacement(&header, whole, key, output)?,
            ("update", Some(whole), _) if uses_whole => {
                write_replacement(&header, whole, key, output)?;
            }
            ("update", _, Some(described)) => {
                let list = |name| -> Result<Option<Document<'_>>, ForeignError> {
                    Ok(present(described, name)?
                        .map(Element::document)
                        .transpose()?)
                };
                let description = Description {
                    updated: list("updatedFields")?,
                    removed: list("removedFields")?,
                    truncated: list("truncatedArrays")?,
                    length: "newSize",
                    disambiguated: list("disambiguatedPaths")?,
                };
                write_update(&header, &description, key, output)?;
            }
            _ => {
                return Err(ForeignError::Event(
                    "the event has neither a fullDocument nor an updateDescription (does the \
                     connector's pipeline have a projection?)",
                ));
            }
        }
        Ok(())
    }

    fn document(&self, name: &str) -> Result<Option<Document<'e>>, ForeignError> {
        let Some(found) = present(self.fields, name)? else {
            return Ok(None);
        };
        if found.kind == kind::STRING {
            return Err(ForeignError::Event(
                "the documents in the event are strings (output.format.value=schema), which cannot be \
                 read: use json or bson",
            ));
        }
        Ok(Some(found.document()?))
    }

    /// Checks that the key of the record is the document key, so that all records of a document are
    /// in one partition. The default key before version 1.11 is the resume token, which differs in
    /// each record.
    fn check_key(&self, id: Element<'_>) -> Result<(), ForeignError> {
        let Some(key) = self.key else {
            return Err(ForeignError::Unordered("the record has no key"));
        };
        let parsed = match Document::new(key) {
            Ok(document) => Ok(document.as_bytes().to_vec()),
            Err(_) => connect::parse(key),
        };
        let parsed = parsed.unwrap_or_default();
        let found = Document::new(&parsed).ok();
        // With a shard key beside the _id, the records of a document have different keys: copied
        // documents have the _id alone, and the shard key may change.
        let found = found.filter(|key| key.elements().count() == 1);
        let found = found.and_then(|key| key.get("_id").ok().flatten());
        match found {
            Some(found) if found.kind == id.kind && found.value == id.value => Ok(()),
            _ => Err(ForeignError::Unordered(
                "the key of the record is not the _id of the document (it is the resume token in old versions \
                 and with change.stream.document.key.as.key=false, and includes the shard key of a sharded \
                 collection)",
            )),
        }
    }

    /// Writes the entry of a command. An event that corresponds to no command of an oplog becomes a
    /// command with the name of the event. A replay ignores the commands that it knows, such as
    /// `shardCollection`, and stops at any other command ([`crate::command::COMMANDS`]).
    fn command(&self, operation: &str, output: &mut Output<'_>) -> Result<(), ForeignError> {
        let Header { db, collection, .. } = self.header;
        if operation.contains('\0') {
            return Err(ForeignError::Event("the operationType has a NUL character"));
        }
        if db.is_empty() {
            return Err(ForeignError::Event("the event has no ns"));
        }
        let header = self.header.of_command();
        let described = embedded(self.fields, "operationDescription")?;
        let described = described.unwrap_or(Document::EMPTY);
        match operation {
            "rename" => {
                let to = embedded(self.fields, "to")?;
                let to = to.ok_or(ForeignError::Event("the rename has no new name"))?;
                let part = |name| to.get(name)?.map(Element::str).transpose();
                let (Some(to_db), Some(to_collection)) = (part("db")?, part("coll")?) else {
                    return Err(ForeignError::Event("the rename has no new name"));
                };
                output.write(&header, |entry| {
                    entry.nested("o", kind::DOCUMENT, |o| {
                        o.str("renameCollection", &format!("{db}.{collection}"))
                            .str("to", &format!("{to_db}.{to_collection}"))
                            // The rename succeeded, so the source dropped any collection of that
                            // name.
                            .boolean("dropTarget", true);
                    });
                    Ok(())
                })?;
            }
            "dropDatabase" => output.write(&header, |entry| {
                entry.nested("o", kind::DOCUMENT, |o| {
                    o.int32("dropDatabase", 1);
                });
                Ok(())
            })?,
            // The event lists its indexes as `commitIndexBuild` does.
            "createIndexes" => {
                write_command(&header, "commitIndexBuild", collection, described, output)?;
            }
            "dropIndexes" => {
                let indexes = present(described, "indexes")?;
                let indexes = indexes.ok_or(ForeignError::Event("the event has no indexes"))?;
                for index in indexes.document()?.elements() {
                    let name = index?.document()?.get("name")?;
                    let name = name
                        .ok_or(ForeignError::Event("an index has no name"))?
                        .str()?;
                    output.write(&header, |entry| {
                        entry.nested("o", kind::DOCUMENT, |o| {
                            o.str("dropIndexes", collection).str("index", name);
                        });
                        Ok(())
                    })?;
                }
            }
            "modify" => write_command(&header, "collMod", collection, described, output)?,
            _ => write_command(&header, operation, collection, described, output)?,
        }
        Ok(())
    }
}

/// Writes a command whose options are the fields of the event's `operationDescription`.
fn write_command(
    header: &Header<'_>,
    name: &str,
    collection: &str,
    options: Document<'_>,
    output: &mut Output<'_>,
) -> Result<(), ForeignError> {
    output.write(header, |entry| {
        let mut o = entry.open(b"o", kind::DOCUMENT);
        o.str(name, collection);
        for option in options.elements() {
            o.element(option?);
        }
        o.finish();
        Ok(())
    })?;
    Ok(())
}

/// Writes a replacement.
pub(super) fn write_replacement(
    header: &Header<'_>,
    whole: Document<'_>,
    key: Document<'_>,
    output: &mut Output<'_>,
) -> Result<(), ForeignError> {
    if whole.get("_id")?.is_none() {
        return Err(ForeignError::Event("the document in the event has no _id"));
    }
    output.write(header, |entry| {
        entry.document("o", whole).document("o2", key);
        Ok(())
    })?;
    Ok(())
}

/// Writes an update of fields.
pub(super) fn write_update(
    header: &Header<'_>,
    description: &Description<'_>,
    key: Document<'_>,
    output: &mut Output<'_>,
) -> Result<(), ForeignError> {
    let update = description.update()?;
    let update = Document::new(&update)?;
    output.write(header, |entry: &mut DocumentBuilder<'_>| {
        entry.document("o", update).document("o2", key);
        Ok(())
    })?;
    Ok(())
}

/// Returns the time of an event whose seconds and increment are separate fields.
pub(super) fn timestamp(seconds: i64, increment: i64) -> Timestamp {
    match (u32::try_from(seconds), u32::try_from(increment)) {
        (Ok(seconds), Ok(increment)) => Timestamp::new(seconds, increment),
        (Ok(seconds), Err(_)) => Timestamp::new(seconds, 0),
        (Err(_), _) => Timestamp::default(),
    }
}
