//! Debezium's envelope.
//!
//! `before` and `after` are strings of Extended JSON, v1 by default.
//! `updateDescription.updatedFields` is in relaxed JSON by default, in which a 64-bit integer looks
//! like a 32-bit one. The key contains the `_id` in relaxed JSON. For a delete without
//! `before`, the `_id` is only in the key.

use crate::document::{Document, DocumentBuilder, Element, kind};
use crate::foreign::change_event::{timestamp, write_replacement, write_update};
use crate::foreign::entry::{Header, Output, embedded, present};
use crate::foreign::update::Description;
use crate::foreign::{ForeignError, Record, Rules, Updates, connect};
use crate::json;

/// Decodes an event.
pub(super) fn decode(
    rules: Rules,
    record: &Record<'_>,
    output: &mut Output<'_>,
) -> Result<(), ForeignError> {
    let value = output.arena.get(record.value.clone()).unwrap_or_default();
    let parsed = connect::parse(value)?;
    let fields = Document::new(&parsed)?;
    let expected = rules.writer;
    let Some(op) = fields.get("op")? else {
        if is_about_transactions(fields)? || is_heartbeat(fields)? {
            return Ok(());
        }
        let reason = "it has no op (the transform ExtractNewDocumentState removes the envelope)";
        return Err(ForeignError::NotOf { expected, reason });
    };
    let source = embedded(fields, "source")?;
    let source = source.ok_or(ForeignError::NotOf {
        expected,
        reason: "it has no source",
    })?;
    let event = Event {
        rules,
        fields,
        key: record.key,
        header: header(source, rules)?,
    };
    match op.str()? {
        "c" | "r" => event.insert(output),
        "u" => event.update(output),
        "d" => event.delete(output),
        _ => Err(ForeignError::Event("its op is not c, r, u or d")),
    }
}

/// Returns true for a record of the topic `<prefix>.transaction`, which marks the beginning or the
/// end of a transaction.
fn is_about_transactions(fields: Document<'_>) -> Result<bool, ForeignError> {
    let status = present(fields, "status")?.filter(|status| status.kind == kind::STRING);
    let status = status.map(Element::string_bytes).transpose()?;
    Ok(matches!(status, Some(b"BEGIN" | b"END")) && fields.get("event_count")?.is_some())
}

fn is_heartbeat(fields: Document<'_>) -> Result<bool, ForeignError> {
    let only = fields.elements().nth(1).is_none();
    Ok(only && fields.get("ts_ms")?.is_some())
}

fn header(source: Document<'_>, rules: Rules) -> Result<Header<'_>, ForeignError> {
    let expected = rules.writer;
    let text = |name, reason| -> Result<&str, ForeignError> {
        let found = present(source, name)?;
        let found = found.ok_or(ForeignError::NotOf { expected, reason })?;
        Ok(found.str()?)
    };
    let number = |name| -> Result<Option<i64>, ForeignError> {
        Ok(present(source, name)?.map(Element::integer).transpose()?)
    };
    let seconds = number("ts_ms")?.unwrap_or_default().div_euclid(1000);
    Ok(Header {
        ts: timestamp(seconds, number("ord")?.unwrap_or_default()),
        op: "n",
        db: text("db", "its source has no db")?,
        collection: text("collection", "its source has no collection")?,
        ui: None,
        wall: number("wallTime")?,
        lsid: None,
        txn_number: number("txnNumber")?,
    })
}

/// An event.
struct Event<'e> {
    rules: Rules,
    fields: Document<'e>,
    key: Option<&'e [u8]>,
    header: Header<'e>,
}

impl Event<'_> {
    fn insert(&self, output: &mut Output<'_>) -> Result<(), ForeignError> {
        self.check_key()?;
        let after = self.document("after")?;
        let after = after.ok_or(ForeignError::Event("the event has no after"))?;
        let after = Document::new(&after)?;
        output.write(&self.header.of("i"), |entry| {
            entry.document("o", after);
            Ok(())
        })?;
        Ok(())
    }

    fn update(&self, output: &mut Output<'_>) -> Result<(), ForeignError> {
        self.check_key()?;
        let header = self.header.of("u");
        let after = self.document("after")?;
        let described = embedded(self.fields, "updateDescription")?;
        let uses_after = described.is_none() || self.rules.updates == Updates::Documents;
        if let Some(after) = after.as_deref().filter(|_| uses_after) {
            let after = Document::new(after)?;
            let id = after.get("_id")?;
            let id = id.ok_or(ForeignError::Event("after has no _id"))?;
            let key = key_of(id);
            return write_replacement(&header, after, Document::new(&key)?, output);
        }
        let Some(described) = described else {
            return Err(ForeignError::Event(
                "the update has neither after nor updateDescription",
            ));
        };
        let mut updated = Vec::new();
        if let Some(text) = present(described, "updatedFields")? {
            json::parse_old_document(text.string_bytes()?, &mut updated)?;
        }
        let updated = match updated.as_slice() {
            [] => None,
            bytes => Some(Document::new(bytes)?),
        };
        if let Some(updated) = updated
            && !self.rules.accepts_lossy
            && has_small_integer(updated)?
        {
            return Err(ForeignError::Lossy(
                "the update has no after, and Debezium writes its updatedFields in relaxed JSON by default \
                 (json.serialization.mode=legacy), in which a 64-bit integer looks like a 32-bit one. It has \
                 no after if capture.mode is change_streams, or if the document was deleted soon after; in \
                 the second case nothing is lost",
            ));
        }
        let list = |name| -> Result<Option<Document<'_>>, ForeignError> {
            Ok(present(described, name)?
                .map(Element::document)
                .transpose()?)
        };
        let description = Description {
            updated,
            removed: list("removedFields")?,
            truncated: list("truncatedArrays")?,
            length: "size",
            disambiguated: None,
        };
        let id = self.id()?;
        write_update(&header, &description, Document::new(&id)?, output)
    }

    fn delete(&self, output: &mut Output<'_>) -> Result<(), ForeignError> {
        let id = self.id()?;
        let id = Document::new(&id)?;
        output.write(&self.header.of("d"), |entry| {
            entry.document("o", id);
            Ok(())
        })?;
        Ok(())
    }

    /// Parses a document that the event contains as a string.
    fn document(&self, name: &str) -> Result<Option<Vec<u8>>, ForeignError> {
        let Some(text) = present(self.fields, name)? else {
            return Ok(None);
        };
        let mut document = Vec::new();
        json::parse_old_document(text.string_bytes()?, &mut document)?;
        Ok(Some(document))
    }

    /// Checks that the record has Debezium's key, by which all records of a document are in one
    /// partition.
    fn check_key(&self) -> Result<(), ForeignError> {
        if self.rules.checks_keys && self.id_in_key()?.is_none() {
            return Err(ForeignError::Unordered(
                "the key of the record does not have Debezium's id (a transform has changed it)",
            ));
        }
        Ok(())
    }

    /// Returns `{_id: …}` from the document before or after the change, or from the key.
    fn id(&self) -> Result<Vec<u8>, ForeignError> {
        self.check_key()?;
        // The documents keep the type of the `_id`; the key may not.
        for name in ["before", "after"] {
            if let Some(document) = self.document(name)?
                && let Some(id) = Document::new(&document)?.get("_id")?
            {
                return Ok(key_of(id));
            }
        }
        self.id_in_key()?.ok_or(ForeignError::Event(
            "the _id of the document is missing: the record has no key with Debezium's id",
        ))
    }

    fn id_in_key(&self) -> Result<Option<Vec<u8>>, ForeignError> {
        let Some(key) = self.key else { return Ok(None) };
        let Ok(parsed) = connect::parse(key) else {
            return Ok(None);
        };
        let Some(text) = Document::new(&parsed)?.get("id")? else {
            return Ok(None);
        };
        if text.kind != kind::STRING {
            return Ok(None);
        }
        // The string is a value, and the parser reads objects only.
        let object = [b"{\"_id\":", text.string_bytes()?, b"}"].concat();
        let mut id = Vec::new();
        json::parse_old_document(&object, &mut id)?;
        Ok(Some(id))
    }
}

/// Returns `{_id: …}`.
fn key_of(id: Element<'_>) -> Vec<u8> {
    let mut bytes = Vec::new();
    let mut key = DocumentBuilder::start(&mut bytes);
    key.raw("_id", id.kind, id.value);
    key.finish();
    bytes
}

/// Returns true if a document has a 32-bit integer at any level, which may have been a 64-bit one.
fn has_small_integer(document: Document<'_>) -> Result<bool, ForeignError> {
    for field in document.elements() {
        let field = field?;
        let found = match field.kind {
            kind::INT32 => true,
            kind::DOCUMENT | kind::ARRAY => has_small_integer(field.document()?)?,
            _ => false,
        };
        if found {
            return Ok(true);
        }
    }
    Ok(false)
}
