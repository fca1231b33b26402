//! `insert`, `update` and `delete`.

use bson::{Bson as Value, Document as Bson, doc, oid::ObjectId};
use oplog_relay_core::document::{Document, DocumentBuilder, Element, kind};

use super::Model;
use super::command::{Answer, Call, KEEP_TS};
use super::failure::Failure;
use super::fields::stored;
use super::filter::{self, operators};
use super::index::value_of;
use super::record::{Collection, RecordId};
use super::statement::{Circumstances, Update};
use super::version::Version;

/// Maximum number of bytes of an inserted document.
pub(super) const MOST_BYTES: usize = 16 << 20;

/// The outcome of the writes of a command.
#[derive(Debug, Default)]
struct Outcome {
    version: Version,
    n: i32,
    modified: i32,
    upserted: Vec<Bson>,
    errors: Vec<Vec<u8>>,
}

impl Outcome {
    fn of(version: Version) -> Outcome {
        Outcome {
            version,
            ..Outcome::default()
        }
    }

    /// Records a refusal; returns true if the command stops there.
    fn refuse(&mut self, index: usize, failure: &Failure, call: Call<'_>) -> Result<bool, Failure> {
        self.errors.push(failure.write_error(index, self.version)?);
        Ok(call.get("ordered")?.is_none() || call.flag("ordered")?)
    }

    fn reply(self, is_update: bool) -> Answer {
        let mut reply = doc! { "n": self.n };
        if is_update {
            reply.insert("nModified", self.modified);
        }
        if !self.upserted.is_empty() {
            reply.insert("upserted", self.upserted);
        }
        reply.insert("ok", 1.0);
        let reply = reply.to_vec()?;
        if self.errors.is_empty() {
            return Ok(reply);
        }
        let mut out = Vec::new();
        let mut whole = DocumentBuilder::start(&mut out);
        whole.nested("writeErrors", kind::ARRAY, |errors| {
            for (index, error) in self.errors.iter().enumerate() {
                errors.raw(&index.to_string(), kind::DOCUMENT, error);
            }
        });
        for element in Document::new(&reply)?.elements() {
            whole.element(element?);
        }
        whole.finish();
        Ok(out)
    }
}

impl Model {
    pub(super) fn insert(&mut self, call: Call<'_>) -> Answer {
        let mut outcome = Outcome::of(self.version);
        call.collection()?;
        for (index, document) in call.list("documents")?.into_iter().enumerate() {
            match self.insert_one(call, document) {
                Ok(()) => outcome.n += 1,
                Err(failure) => {
                    if outcome.refuse(index, &failure, call)? {
                        break;
                    }
                }
            }
        }
        outcome.reply(false)
    }

    fn insert_one(&mut self, call: Call<'_>, document: Document<'_>) -> Result<(), Failure> {
        document.validate()?;
        if document.as_bytes().len() > MOST_BYTES {
            return Err(Failure::new(2, "object to insert too large"));
        }
        for element in document.elements() {
            let name = element?.name;
            if name.starts_with(b"$") && self.version < Version::V5_0 {
                let name = String::from_utf8_lossy(name);
                let message = format!("Document can't have $ prefixed field names: {name}");
                return Err(Failure::new(2, message));
            }
        }
        let made = new_id();
        let id = match document.get("_id")? {
            Some(id) => id,
            None => Document::new(&made)?.first()?.unwrap_or(NO_ID),
        };
        check_id(id)?;
        let bytes = stored(document, id, call.flag(KEEP_TS)?, self.now())?;
        let ns = call.ns()?;
        let collection = self.writable(call.db, call.collection()?)?;
        check_validator(collection, &bytes, call)?;
        collection.insert(&ns, bytes)
    }

    pub(super) fn update(&mut self, call: Call<'_>) -> Answer {
        let mut outcome = Outcome::of(self.version);
        call.collection()?;
        for (index, statement) in call.list("updates")?.into_iter().enumerate() {
            let done = self.update_some(call, statement, index, &mut outcome);
            if let Err(failure) = done
                && outcome.refuse(index, &failure, call)?
            {
                break;
            }
        }
        outcome.reply(true)
    }

    fn update_some(
        &mut self,
        call: Call<'_>,
        statement: Document<'_>,
        index: usize,
        outcome: &mut Outcome,
    ) -> Result<(), Failure> {
        let update = Update::read(statement, self.version)?;
        let ns = call.ns()?;
        let at = Circumstances {
            keep_ts: call.flag(KEEP_TS)?,
            now: self.now(),
            version: self.version,
        };
        let found = match self.existing(call.db, call.collection()?)? {
            None => Vec::new(),
            Some(collection) => {
                let mut found = collection.select(update.query)?;
                if !update.multi {
                    found.truncate(1);
                }
                for record in &found {
                    let old = collection.document(*record).unwrap_or(Document::EMPTY);
                    let new = update.applied(old, at)?;
                    outcome.n += 1;
                    if new == old.as_bytes() {
                        continue;
                    }
                    check_validator(collection, &new, call)?;
                    check_growth(collection, *record, &new, at.version)?;
                    collection.replace(&ns, *record, new)?;
                    outcome.modified += 1;
                    collection.drop_oldest()?;
                }
                found
            }
        };
        if found.is_empty() && update.upsert {
            let new = update.made(at)?;
            let collection = self.writable(call.db, call.collection()?)?;
            check_validator(collection, &new, call)?;
            let id = Document::new(&new)?.first()?.unwrap_or(NO_ID);
            let id = value_of(id)?;
            collection.insert(&ns, new)?;
            outcome.n += 1;
            let index = i32::try_from(index).unwrap_or(i32::MAX);
            outcome.upserted.push(doc! { "index": index, "_id": id });
        }
        Ok(())
    }

    pub(super) fn delete(&mut self, call: Call<'_>) -> Answer {
        let mut outcome = Outcome::of(self.version);
        call.collection()?;
        for (index, statement) in call.list("deletes")?.into_iter().enumerate() {
            match self.delete_some(call, statement) {
                Ok(n) => outcome.n += n,
                Err(failure) => {
                    if outcome.refuse(index, &failure, call)? {
                        break;
                    }
                }
            }
        }
        outcome.reply(false)
    }

    fn delete_some(&mut self, call: Call<'_>, statement: Document<'_>) -> Result<i32, Failure> {
        check_fields(
            "delete.deletes",
            statement,
            &["q", "limit", "hint", "collation"],
        )?;
        let query = required(statement, "q")?.document()?;
        let limit = required(statement, "limit")?.integer()?;
        if ![0, 1].contains(&limit) {
            let message = "The limit field in delete objects must be 0 or 1";
            return Err(Failure::new(9, message));
        }
        let version = self.version;
        let Some(collection) = self.existing(call.db, call.collection()?)? else {
            return Ok(0);
        };
        if collection.is_capped() && version < Version::V5_0 {
            let message = format!("cannot remove from a capped collection: {}", call.ns()?);
            return Err(Failure::new(20, message));
        }
        let mut found = collection.select(query)?;
        if limit == 1 {
            found.truncate(1);
        }
        for record in &found {
            collection.remove(*record)?;
        }
        Ok(i32::try_from(found.len()).unwrap_or(i32::MAX))
    }
}

/// Stands for the `_id` of a document that has none.
pub(super) const NO_ID: Element<'static> = Element {
    name: b"_id",
    kind: kind::NULL,
    value: &[],
};

/// Returns `{_id: ObjectId()}`.
pub(super) fn new_id() -> Vec<u8> {
    let mut out = Vec::new();
    let mut builder = DocumentBuilder::start(&mut out);
    builder.raw("_id", kind::OBJECT_ID, &ObjectId::new().bytes());
    builder.finish();
    out
}

pub(super) fn check_id(id: Element<'_>) -> Result<(), Failure> {
    let what = match id.kind {
        kind::ARRAY => "an array",
        kind::REGEX => "a regex",
        kind::UNDEFINED => "undefined",
        kind::DOCUMENT if operators(id).is_some() => {
            let message = "_id fields may not contain '$'-prefixed fields";
            return Err(Failure::new(52, message));
        }
        _ => return Ok(()),
    };
    Err(Failure::new(2, format!("can't use {what} for _id")))
}

pub(super) fn required<'a>(statement: Document<'a>, name: &str) -> Result<Element<'a>, Failure> {
    let found = statement.get(name)?;
    found.ok_or_else(|| Failure::missing_field(name))
}

pub(super) fn check_fields(
    command: &str,
    statement: Document<'_>,
    known: &[&str],
) -> Result<(), Failure> {
    for element in statement.elements() {
        let name = String::from_utf8_lossy(element?.name);
        if !known.contains(&&*name) {
            return Err(Failure::unknown_field(command, &name));
        }
    }
    Ok(())
}

fn check_validator(
    collection: &Collection,
    document: &[u8],
    call: Call<'_>,
) -> Result<(), Failure> {
    let option = |name, usual| collection.options.get_str(name).unwrap_or(usual);
    let enforced = option("validationLevel", "strict") != "off"
        && option("validationAction", "error") == "error";
    let Some(Value::Document(validator)) = collection.options.get("validator") else {
        return Ok(());
    };
    if !enforced || call.flag("bypassDocumentValidation")? {
        return Ok(());
    }
    let validator = validator.to_vec()?;
    let (document, validator) = (Document::new(document)?, Document::new(&validator)?);
    if filter::matches(document, validator, &collection.collation)? {
        return Ok(());
    }
    Err(Failure::new(121, "Document failed validation"))
}

fn check_growth(
    collection: &Collection,
    record: RecordId,
    new: &[u8],
    version: Version,
) -> Result<(), Failure> {
    let old = collection.document(record).map(|old| old.as_bytes().len());
    if collection.is_capped() && version < Version::V5_0 && old != Some(new.len()) {
        let message = "Cannot change the size of a document in a capped collection";
        return Err(Failure::new(10003, message));
    }
    Ok(())
}
