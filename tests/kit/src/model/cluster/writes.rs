//! Writes to sharded collections.
//!
//! A mongos sends each statement to the shards that its filter or document selects
//! (`chunk_manager_targeter.cpp`), and a shard refuses an update that changes the shard key of its
//! document outside a transaction (`update_stage.cpp`). The model does not search all shards for an
//! upsert without the shard key, as servers since 7.1 do.

use bson::{Document as Bson, doc};
use oplog_relay_core::document::{Document, DocumentBuilder, Element, Malformed, kind};

use super::targeting::{KeyValues, NO_SHARD_KEY, ShardKey, has_exact_id, shard_of};
use super::with_statement;
use crate::model::Model;
use crate::model::command::{Answer, Call};
use crate::model::failure::Failure;
use crate::model::record::{Collection, RecordId};
use crate::model::statement::Update;
use crate::model::version::Version;

/// A shard key that an update changed without having the whole key in its filter.
const KEY_NOT_IN_FILTER: i32 = 31025;

/// The sum of the replies of the shards.
#[derive(Default)]
struct Sum {
    n: i64,
    modified: i64,
    upserted: Vec<Bson>,
    errors: Vec<Vec<u8>>,
}

impl Sum {
    /// Adds the reply of a shard to the statement with this index.
    fn add(&mut self, reply: &[u8], index: usize) -> Result<(), Failure> {
        let reply = Document::new(reply)?;
        let number = |name| -> Result<i64, Malformed> {
            let number = reply.get(name)?.map(Element::integer).transpose()?;
            Ok(number.unwrap_or_default())
        };
        self.n += number("n")?;
        self.modified += number("nModified")?;
        if let Some(upserted) = reply.get("upserted")? {
            for one in upserted.document()?.elements() {
                let mut one = Bson::from_reader(one?.document()?.as_bytes())?;
                one.insert("index", i32::try_from(index).unwrap_or(i32::MAX));
                self.upserted.push(one);
            }
        }
        if let Some(errors) = reply.get("writeErrors")? {
            for error in errors.document()?.elements() {
                self.errors.push(with_index(error?.document()?, index)?);
            }
        }
        Ok(())
    }

    /// Adds the refusal of a statement.
    fn refuse(&mut self, failure: &Failure, index: usize, version: Version) -> Result<(), Failure> {
        self.errors.push(failure.write_error(index, version)?);
        Ok(())
    }

    fn reply(self) -> Answer {
        let mut reply = doc! { "n": self.n, "nModified": self.modified };
        if !self.upserted.is_empty() {
            reply.insert("upserted", self.upserted);
        }
        reply.insert("ok", 1.0);
        let reply = reply.to_vec()?;
        let mut out = Vec::new();
        let mut whole = DocumentBuilder::start(&mut out);
        if !self.errors.is_empty() {
            whole.nested("writeErrors", kind::ARRAY, |list| {
                for (index, error) in self.errors.iter().enumerate() {
                    list.raw(&index.to_string(), kind::DOCUMENT, error);
                }
            });
        }
        for element in Document::new(&reply)?.elements() {
            whole.element(element?);
        }
        whole.finish();
        Ok(out)
    }
}

fn with_index(error: Document<'_>, index: usize) -> Result<Vec<u8>, Failure> {
    let mut out = Vec::new();
    let mut whole = DocumentBuilder::start(&mut out);
    for element in error.elements() {
        let element = element?;
        if element.name == b"index" {
            whole.int32("index", i32::try_from(index).unwrap_or(i32::MAX));
        } else {
            whole.element(element);
        }
    }
    whole.finish();
    Ok(out)
}

/// A function that sends one statement of a command to its shards, and adds their replies to the sum.
type Send =
    fn(&mut Model, Call<'_>, &ShardKey, Document<'_>, &mut Sum, usize) -> Result<(), Failure>;

impl Model {
    pub(super) fn insert_sharded(&mut self, call: Call<'_>, key: &ShardKey) -> Answer {
        self.each(call, key, "documents", Model::insert_on_shard)
    }

    pub(super) fn update_sharded(&mut self, call: Call<'_>, key: &ShardKey) -> Answer {
        self.each(call, key, "updates", Model::update_on_shards)
    }

    pub(super) fn delete_sharded(&mut self, call: Call<'_>, key: &ShardKey) -> Answer {
        self.each(call, key, "deletes", Model::delete_on_shards)
    }

    /// Sends the statements of a command one by one, and stops at the first refusal if they are ordered.
    fn each(&mut self, call: Call<'_>, key: &ShardKey, list: &str, send: Send) -> Answer {
        let ordered = call.get("ordered")?.is_none() || call.flag("ordered")?;
        let mut sum = Sum::default();
        for (index, statement) in call.list(list)?.into_iter().enumerate() {
            let before = sum.errors.len();
            if let Err(failure) = send(self, call, key, statement, &mut sum, index) {
                sum.refuse(&failure, index, self.version)?;
            }
            if ordered && sum.errors.len() > before {
                break;
            }
        }
        sum.reply()
    }

    fn insert_on_shard(
        &mut self,
        call: Call<'_>,
        key: &ShardKey,
        document: Document<'_>,
        sum: &mut Sum,
        index: usize,
    ) -> Result<(), Failure> {
        let values = key.values_of(document, self.version)?;
        let shard = shard_of(&values, self.count_of_shards())?;
        let command = with_statement(call, "documents", element(document))?;
        let reply = self.on_shard(shard, call.db, Document::new(&command)?)?;
        sum.add(&reply, index)
    }

    fn update_on_shards(
        &mut self,
        call: Call<'_>,
        key: &ShardKey,
        statement: Document<'_>,
        sum: &mut Sum,
        index: usize,
    ) -> Result<(), Failure> {
        let update = Update::read(statement, self.version)?;
        let in_query = key.values_in(update.query)?;
        let shards = match (&in_query, update.replacement()) {
            (Some(values), _) => self.only(values)?,
            (None, _) if update.upsert => {
                let message =
                    "Failed to target upsert by query :: could not extract exact shard key";
                return Err(Failure::new(NO_SHARD_KEY, message));
            }
            (None, Some(replacement)) => {
                let values = key.values_of(replacement, self.version)?;
                self.only(&values)?
            }
            (None, None) if update.multi || has_exact_id(update.query)? => self.all(),
            (None, None) => {
                let message = "A {multi:false} update on a sharded collection must contain an exact \
                               match on _id or target a single shard";
                return Err(Failure::new(72, message));
            }
        };
        let command = with_statement(call, "updates", element(statement))?;
        for shard in shards {
            let before = self.copy_of(shard, call)?;
            let reply = self.on_shard(shard, call.db, Document::new(&command)?)?;
            let changes_key = self.changes_key(shard, call, key, &before);
            if !matches!(changes_key, Ok(false)) {
                // A document that the cluster refuses, such as one with an array in the shard key, is
                // not stored either.
                self.put_back(shard, call, before)?;
            }
            if changes_key? {
                let message = match in_query {
                    None => {
                        let message = "Shard key update is not allowed without specifying the full \
                                       shard key in the query";
                        return Err(Failure::new(KEY_NOT_IN_FILTER, message));
                    }
                    Some(_) => {
                        "Must run update to shard key field in a multi-statement transaction or with \
                         retryWrites: true."
                    }
                };
                return Err(Failure::new(20, message));
            }
            sum.add(&reply, index)?;
        }
        Ok(())
    }

    fn delete_on_shards(
        &mut self,
        call: Call<'_>,
        key: &ShardKey,
        statement: Document<'_>,
        sum: &mut Sum,
        index: usize,
    ) -> Result<(), Failure> {
        let query = crate::model::write::required(statement, "q")?.document()?;
        let limit = crate::model::write::required(statement, "limit")?.integer()?;
        let shards = match key.values_in(query)? {
            Some(values) => self.only(&values)?,
            None if limit == 0 || has_exact_id(query)? => self.all(),
            None => {
                let message = "A single delete on a sharded collection must contain an exact match on \
                               _id or contain the shard key";
                return Err(Failure::new(NO_SHARD_KEY, message));
            }
        };
        let command = with_statement(call, "deletes", element(statement))?;
        for shard in shards {
            let reply = self.on_shard(shard, call.db, Document::new(&command)?)?;
            sum.add(&reply, index)?;
        }
        Ok(())
    }

    fn only(&self, values: &KeyValues) -> Result<Vec<usize>, Failure> {
        Ok(vec![shard_of(values, self.count_of_shards())?])
    }

    fn all(&self) -> Vec<usize> {
        (0..self.count_of_shards()).collect()
    }

    /// Returns a copy of the collection on one shard, to which a refused write is rolled back.
    fn copy_of(&mut self, shard: usize, call: Call<'_>) -> Result<Option<Collection>, Failure> {
        let name = call.collection()?;
        Ok(self.shard(shard).collection(call.db, name).cloned())
    }

    fn put_back(
        &mut self,
        shard: usize,
        call: Call<'_>,
        before: Option<Collection>,
    ) -> Result<(), Failure> {
        let name = call.collection()?;
        if let Some(before) = before {
            self.shard(shard).put(call.db, name, before);
        }
        Ok(())
    }

    /// Returns true if the shard key of a document on this shard differs from what it was. The types of
    /// numbers count since 4.4. A document that an upsert created must belong to the shard.
    fn changes_key(
        &mut self,
        shard: usize,
        call: Call<'_>,
        key: &ShardKey,
        before: &Option<Collection>,
    ) -> Result<bool, Failure> {
        let (version, shards) = (self.version, self.count_of_shards());
        let Some(after) = self.copy_of(shard, call)? else {
            return Ok(false);
        };
        let records: Vec<(RecordId, Document<'_>)> = after.records().collect();
        for (record, document) in records {
            let values = key.values_of(document, version)?;
            match before.as_ref().and_then(|before| before.document(record)) {
                Some(old) if key.values_of(old, version)? != values => return Ok(true),
                Some(_) => {}
                None if shard_of(&values, shards)? != shard => return Ok(true),
                None => {}
            }
        }
        Ok(false)
    }
}

fn element(document: Document<'_>) -> Element<'_> {
    Element {
        name: b"",
        kind: kind::DOCUMENT,
        value: document.as_bytes(),
    }
}
