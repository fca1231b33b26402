//! `insert`, `update` and `delete`.

use bson::{Bson as Value, Document as Bson, doc, oid::ObjectId};
use oplog_relay_core::compare::compare_values;
use oplog_relay_core::document::{Document, DocumentBuilder, Element, kind};

use super::Model;
use super::command::{Answer, Call, KEEP_TS, done};
use super::failure::Failure;
use super::fields::stored;
use super::filter::{self, operators};
use super::index::value_of;
use super::record::{Collection, RecordId};
use super::update::{apply, check_names};
use super::version::Version;

/// The largest document that is inserted.
const MOST_BYTES: usize = 16 << 20;
/// What an update may make it larger.
const MARGIN: usize = 16 << 10;

/// What came of the writes of a command.
#[derive(Debug, Default)]
struct Outcome {
    n: i32,
    modified: i32,
    upserted: Vec<Bson>,
    errors: Vec<Bson>,
}

impl Outcome {
    /// Notes a refusal; says whether to stop there.
    fn refuse(&mut self, index: usize, failure: &Failure, call: Call<'_>) -> Result<bool, Failure> {
        self.errors.push(failure.write_error(index));
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
        if !self.errors.is_empty() {
            reply.insert("writeErrors", self.errors);
        }
        done(reply)
    }
}

impl Model {
    pub(super) fn insert(&mut self, call: Call<'_>) -> Answer {
        let mut outcome = Outcome::default();
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
        let mut outcome = Outcome::default();
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
        let (version, ns, now) = (self.version, call.ns()?, self.now());
        let keep_ts = call.flag(KEEP_TS)?;
        let found = match self.existing(call.db, call.collection()?)? {
            None => Vec::new(),
            Some(collection) => {
                let mut found = collection.select(update.query)?;
                if !update.multi {
                    found.truncate(1);
                }
                for record in &found {
                    let old = collection.document(*record).unwrap_or(Document::EMPTY);
                    let new = update.applied(old, keep_ts, now, version)?;
                    outcome.n += 1;
                    if new == old.as_bytes() {
                        continue;
                    }
                    check_validator(collection, &new, call)?;
                    check_growth(collection, *record, &new, version)?;
                    collection.replace(&ns, *record, new)?;
                    outcome.modified += 1;
                    collection.drop_oldest()?;
                }
                found
            }
        };
        if found.is_empty() && update.upsert {
            let new = update.made(keep_ts, now, version)?;
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
        let mut outcome = Outcome::default();
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
        check_fields("delete.deletes", statement, &["q", "limit", "hint"])?;
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

/// A statement of an `update`.
#[derive(Debug, Clone, Copy)]
struct Update<'a> {
    query: Document<'a>,
    change: Document<'a>,
    is_replacement: bool,
    upsert: bool,
    multi: bool,
}

impl<'a> Update<'a> {
    fn read(statement: Document<'a>, version: Version) -> Result<Update<'a>, Failure> {
        check_fields(
            "update.updates",
            statement,
            &["q", "u", "upsert", "multi", "hint"],
        )?;
        let flag = |name| -> Result<bool, Failure> {
            let flag = statement.get(name)?.map(Element::boolean).transpose()?;
            Ok(flag.unwrap_or_default())
        };
        let element = required(statement, "u")?;
        let change = element.document()?;
        let first = change.first()?;
        if element.kind == kind::ARRAY {
            let stage = first.and_then(|first| first.document().ok()?.first().ok()?);
            let stage = stage.map_or_else(String::new, |stage| {
                String::from_utf8_lossy(stage.name).into_owned()
            });
            let message = format!("Unrecognized pipeline stage name: '{stage}'");
            return Err(Failure::new(40324, message));
        }
        let update = Update {
            query: required(statement, "q")?.document()?,
            change,
            is_replacement: !first.is_some_and(|first| first.name.starts_with(b"$")),
            upsert: flag("upsert")?,
            multi: flag("multi")?,
        };
        if update.is_replacement {
            if update.multi {
                let message = "multi update is not supported for replacement-style update";
                return Err(Failure::new(9, message));
            }
            change.validate()?;
            check_names(element, version)?;
        }
        Ok(update)
    }

    /// What becomes of a document.
    fn applied(
        &self,
        old: Document<'_>,
        keep_ts: bool,
        now: [u8; 8],
        version: Version,
    ) -> Result<Vec<u8>, Failure> {
        let old_id = old.get("_id")?.unwrap_or(NO_ID);
        let new = if self.is_replacement {
            let id = self.change.get("_id")?.unwrap_or(old_id);
            stored(self.change, id, keep_ts, now)?
        } else {
            apply(old, self.change, version)?
        };
        if new.len() > MOST_BYTES + MARGIN {
            let message = "Resulting document after update is larger than 16777216";
            return Err(Failure::new(17419, message));
        }
        let id = Document::new(&new)?.get("_id")?;
        if id.is_none_or(|id| compare_values(id, old_id).is_ne()) {
            let message = "the (immutable) field '_id' was found to have been altered";
            return Err(Failure::new(66, message));
        }
        Ok(new)
    }

    /// The document that an upsert makes.
    fn made(&self, keep_ts: bool, now: [u8; 8], version: Version) -> Result<Vec<u8>, Failure> {
        let made = new_id();
        let mut base = Vec::new();
        let mut builder = DocumentBuilder::start(&mut base);
        for element in self.query.elements() {
            let element = element?;
            let equal = operators(element).map_or(Ok(Some(element)), |inner| inner.get("$eq"))?;
            if let Some(equal) = equal
                && !element.name.starts_with(b"$")
                && (!self.is_replacement || element.name == b"_id")
            {
                builder.element(Element {
                    name: element.name,
                    ..equal
                });
            }
        }
        builder.finish();
        let base = Document::new(&base)?;
        let asked = base.get("_id")?;
        let own = self.change.get("_id")?.filter(|_| self.is_replacement);
        if let (Some(asked), Some(own)) = (asked, own)
            && compare_values(asked, own).is_ne()
        {
            let message = "the (immutable) field '_id' was found to have been altered";
            return Err(Failure::new(66, message));
        }
        let new = if self.is_replacement {
            self.change.as_bytes().to_vec()
        } else {
            apply(base, self.change, version)?
        };
        let new = Document::new(&new)?;
        let id = match new.get("_id")?.or(asked) {
            Some(id) => id,
            None => Document::new(&made)?.first()?.unwrap_or(NO_ID),
        };
        check_id(id)?;
        stored(new, id, keep_ts || !self.is_replacement, now)
    }
}

const NO_ID: Element<'static> = Element {
    name: b"_id",
    kind: kind::NULL,
    value: &[],
};

/// `{_id: ObjectId()}`
fn new_id() -> Vec<u8> {
    let mut out = Vec::new();
    let mut builder = DocumentBuilder::start(&mut out);
    builder.raw("_id", kind::OBJECT_ID, &ObjectId::new().bytes());
    builder.finish();
    out
}

fn check_id(id: Element<'_>) -> Result<(), Failure> {
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

fn required<'a>(statement: Document<'a>, name: &str) -> Result<Element<'a>, Failure> {
    let found = statement.get(name)?;
    found.ok_or_else(|| Failure::missing_field(name))
}

fn check_fields(command: &str, statement: Document<'_>, known: &[&str]) -> Result<(), Failure> {
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
