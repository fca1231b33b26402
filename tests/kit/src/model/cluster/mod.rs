//! A sharded cluster: what a mongos does with the commands that it receives.
//!
//! The model itself is the primary shard of each database. The other shards are models of their own,
//! so that one `_id` can exist on two shards, as in a real cluster.

mod admin;
mod targeting;
mod transaction;
mod writes;

use std::collections::BTreeMap;

use bson::{Document as Bson, doc};
use oplog_relay_core::document::{Document, DocumentBuilder, Element};

use super::Model;
use super::command::{Answer, Call, done};
use super::failure::Failure;
use super::version::Version;
use crate::wire::MAX_MESSAGE_BYTES;
use targeting::ShardKey;
use transaction::Transaction;

/// Arguments that concern the session of a command, and not the shards.
const OF_SESSION: [&[u8]; 4] = [b"lsid", b"txnNumber", b"autocommit", b"startTransaction"];

/// The shards and the sharded collections of a cluster.
#[derive(Debug, Clone)]
pub(super) struct Cluster {
    /// The shards beside the primary shard.
    others: Vec<Model>,
    /// The shard keys of the sharded collections, by namespace.
    keys: BTreeMap<String, ShardKey>,
    /// The open transactions, by session.
    transactions: BTreeMap<Vec<u8>, Transaction>,
    /// True if a commit is acknowledged before all shards have committed it.
    commits_late: bool,
    /// The state of the cluster after a commit that is acknowledged and that some shards have yet to make.
    prepared: Option<Box<Model>>,
    /// Number of transactions that were committed.
    committed: u64,
    /// False if transactions are refused.
    runs_transactions: bool,
    /// True if the user may not read the database `config`.
    hides_config: bool,
}

impl Model {
    /// Returns an empty sharded cluster of that version, as a mongos shows it.
    #[must_use]
    pub fn cluster(version: Version, shards: usize) -> Model {
        let others = (1..shards).map(|_| Model::of(version)).collect();
        let mut model = Model::of(version);
        model.cluster = Some(Box::new(Cluster {
            others,
            keys: BTreeMap::new(),
            transactions: BTreeMap::new(),
            commits_late: false,
            prepared: None,
            committed: 0,
            runs_transactions: true,
            hides_config: false,
        }));
        model
    }

    /// Makes the cluster refuse transactions.
    pub fn refuse_transactions(&mut self) {
        if let Some(cluster) = &mut self.cluster {
            cluster.runs_transactions = false;
        }
    }

    /// Makes the cluster acknowledge a transaction when only the shards from which it deletes have
    /// committed it, as servers before 6.1 may do. The others commit it when a read or a write waits for
    /// them.
    pub fn commit_late(&mut self) {
        if let Some(cluster) = &mut self.cluster {
            cluster.commits_late = true;
        }
    }

    /// Makes the cluster refuse reads of the database `config`.
    pub fn hide_config(&mut self) {
        if let Some(cluster) = &mut self.cluster {
            cluster.hides_config = true;
        }
    }

    /// Returns the number of transactions that were committed.
    #[must_use]
    pub fn committed(&self) -> u64 {
        self.cluster.as_ref().map_or(0, |cluster| cluster.committed)
    }

    /// Returns the shard key of a collection, if it is sharded.
    #[must_use]
    pub fn shard_key(&self, ns: &str) -> Option<&Bson> {
        Some(&self.cluster.as_ref()?.keys.get(ns)?.pattern)
    }

    /// Returns the primary shard and the other ones.
    pub(super) fn shards(&self) -> impl Iterator<Item = &Model> {
        let others = self.cluster.iter().flat_map(|cluster| &cluster.others);
        std::iter::once(self).chain(others)
    }

    /// Runs a command as a mongos does, or returns `None` if it concerns only the primary shard.
    pub(super) fn route(&mut self, db: &str, body: Document<'_>) -> Option<Answer> {
        self.cluster.as_ref()?;
        match self.route_or_not(db, body) {
            Ok(reply) => reply.map(Ok),
            Err(failure) => Some(Err(failure)),
        }
    }

    fn route_or_not(&mut self, db: &str, body: Document<'_>) -> Result<Option<Vec<u8>>, Failure> {
        let Some(subject) = body.first()? else {
            return Ok(None);
        };
        self.finish_commit(body)?;
        if body.get("autocommit")?.is_some() {
            return self.run_in_transaction(db, body).map(Some);
        }
        if body.get("txnNumber")?.is_some() {
            // This is a retryable write. The model does not recognize a repeated one.
            let command = without_session(body)?;
            return self.try_command(db, Document::new(&command)?).map(Some);
        }
        let name = String::from_utf8_lossy(subject.name).into_owned();
        let call = Call {
            db,
            name: &name,
            body,
            subject,
        };
        match name.as_str() {
            "hello" | "isMaster" | "ismaster" => return self.mongos_hello().map(Some),
            "ping" => {
                let time = bson::Timestamp {
                    time: 1_700_000_000,
                    increment: 1,
                };
                return done(doc! { "operationTime": time }).map(Some);
            }
            "enableSharding" => return done(doc! {}).map(Some),
            "shardCollection" => return self.shard_collection(call).map(Some),
            "dropDatabase" => return self.drop_shards(call).map(Some),
            "renameCollection" => return self.rename_shards(call),
            "find" if db == "config" && call.collection()? == "collections" => {
                return self.sharded_collections(call).map(Some);
            }
            _ => {}
        }
        let ns = match subject.str() {
            Ok(collection) => format!("{db}.{collection}"),
            Err(_) => return Ok(None),
        };
        let Some(key) = self.key_of(&ns) else {
            return Ok(None);
        };
        match name.as_str() {
            "insert" => self.insert_sharded(call, &key).map(Some),
            "update" => self.update_sharded(call, &key).map(Some),
            "delete" => self.delete_sharded(call, &key).map(Some),
            "collStats" => self.sharded_stats(call).map(Some),
            "createIndexes" | "dropIndexes" | "deleteIndexes" | "collMod" | "drop" => {
                self.run_on_shards(call, &key).map(Some)
            }
            "convertToCapped" => {
                let message = format!("You can't convertToCapped a sharded collection: {ns}");
                Err(Failure::new(20, message))
            }
            _ => Ok(None),
        }
    }

    fn key_of(&self, ns: &str) -> Option<ShardKey> {
        self.cluster.as_ref()?.keys.get(ns).cloned()
    }

    /// Runs a command on one shard; 0 is the primary shard.
    fn on_shard(&mut self, shard: usize, db: &str, body: Document<'_>) -> Answer {
        let others = self.cluster.as_mut().map(|cluster| &mut cluster.others);
        match others.and_then(|others| others.get_mut(shard.checked_sub(1)?)) {
            Some(other) => other.run_here(db, body),
            None => self.run_here(db, body),
        }
    }

    fn shard(&mut self, shard: usize) -> &mut Model {
        let Some(before) = shard.checked_sub(1) else {
            return self;
        };
        let cluster = self.cluster.as_mut().expect("only a cluster has shards");
        cluster.others.get_mut(before).expect("a shard that exists")
    }

    fn count_of_shards(&self) -> usize {
        self.shards().count()
    }

    fn mongos_hello(&self) -> Answer {
        done(doc! {
            "helloOk": true,
            "isWritablePrimary": true,
            "ismaster": true,
            "msg": "isdbgrid",
            "maxBsonObjectSize": 16 << 20,
            "maxMessageSizeBytes": i32::try_from(MAX_MESSAGE_BYTES).unwrap_or(i32::MAX),
            "maxWriteBatchSize": 100_000,
            "logicalSessionTimeoutMinutes": 30,
            "minWireVersion": 0,
            "maxWireVersion": self.version.max_wire_version(),
            "readOnly": false,
        })
    }
}

/// Returns a command without the arguments that concern its session.
fn without_session(body: Document<'_>) -> Result<Vec<u8>, Failure> {
    let mut out = Vec::new();
    let mut command = DocumentBuilder::start(&mut out);
    for element in body.elements() {
        let element = element?;
        if !OF_SESSION.contains(&element.name) {
            command.element(element);
        }
    }
    command.finish();
    Ok(out)
}

/// Returns a command whose list of statements has only this one.
fn with_statement(call: Call<'_>, list: &str, statement: Element<'_>) -> Result<Vec<u8>, Failure> {
    let mut out = Vec::new();
    let mut command = DocumentBuilder::start(&mut out);
    for element in call.body.elements() {
        let element = element?;
        if element.name == list.as_bytes() {
            let mut only = command.open(element.name, element.kind);
            only.raw("0", statement.kind, statement.value);
            only.finish();
        } else {
            command.element(element);
        }
    }
    command.finish();
    Ok(out)
}
