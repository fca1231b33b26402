//! The table of commands, their arguments, and the functions that run them.

use bson::{Document as Bson, doc};
use oplog_relay_core::document::{Document, DocumentBuilder, Element, kind};

use super::Model;
use super::failure::Failure;
use super::version::Version;
use crate::wire::MAX_MESSAGE_BYTES;

/// The reply of a command that succeeded, or its failure.
pub(super) type Answer = Result<Vec<u8>, Failure>;

/// A command to run.
#[derive(Debug, Clone, Copy)]
pub(super) struct Call<'a> {
    pub(super) db: &'a str,
    pub(super) name: &'a str,
    pub(super) body: Document<'a>,
    /// The value of the command's own field, usually the name of a collection.
    pub(super) subject: Element<'a>,
}

impl<'a> Call<'a> {
    /// Returns the collection's name.
    pub(super) fn collection(&self) -> Result<&'a str, Failure> {
        let name = self.subject.str();
        let name = name.map_err(|_| Failure::new(73, "collection name has invalid type"))?;
        let invalid = name.is_empty() || name.starts_with('.') || name.contains(['$', '\0']);
        // Servers before 4.4 accept only 120 bytes, which the model does not imitate.
        if invalid || self.db.is_empty() || self.db.len() + name.len() > 254 {
            let message = format!("Invalid namespace specified '{}.{name}'", self.db);
            return Err(Failure::new(73, message));
        }
        Ok(name)
    }

    /// Returns the namespace `db.collection`.
    pub(super) fn ns(&self) -> Result<String, Failure> {
        Ok(format!("{}.{}", self.db, self.collection()?))
    }

    /// Returns an argument.
    pub(super) fn get(&self, name: &str) -> Result<Option<Element<'a>>, Failure> {
        Ok(self.body.get(name)?)
    }

    /// Returns a boolean argument; false if it is missing.
    pub(super) fn flag(&self, name: &str) -> Result<bool, Failure> {
        let flag = self.get(name)?;
        let flag = flag.map(|flag| flag.boolean().or(flag.integer().map(|n| n != 0)));
        Ok(flag.transpose()?.unwrap_or_default())
    }

    /// Returns an integer argument; `None` if it is missing or negative.
    pub(super) fn count(&self, name: &str) -> Result<Option<usize>, Failure> {
        let number = self.get(name)?.map(Element::integer).transpose()?;
        let number = number.and_then(|number| usize::try_from(number).ok());
        Ok(number)
    }

    /// Returns an argument that is a document; the empty document if it is missing.
    pub(super) fn document(&self, name: &str) -> Result<Document<'a>, Failure> {
        let found = self.get(name)?.map(Element::document).transpose()?;
        Ok(found.unwrap_or(Document::EMPTY))
    }

    /// Returns a required argument that is a list of documents, such as the statements of an `update`.
    pub(super) fn list(&self, name: &str) -> Result<Vec<Document<'a>>, Failure> {
        let list = self.get(name)?;
        let list = list.ok_or_else(|| {
            let field = format!("{}.{name}", self.name);
            Failure::missing_field(&field)
        })?;
        let mut documents = Vec::new();
        for element in list.document()?.elements() {
            documents.push(element?.document()?);
        }
        if documents.is_empty() || documents.len() > MOST_WRITES {
            let message = "Write batch sizes must be between 1 and 100000";
            return Err(Failure::new(16, message));
        }
        Ok(documents)
    }

    /// Returns the arguments without those that every command accepts.
    pub(super) fn arguments(&self) -> Result<Bson, Failure> {
        let all = Bson::from_reader(self.body.as_bytes())?;
        let own = all.into_iter().skip(1);
        Ok(own.filter(|(name, _)| !is_generic(name)).collect())
    }

    /// Fails with 40415 for an argument that is not in `known`.
    fn check(&self, known: &[&str]) -> Result<(), Failure> {
        for element in self.body.elements().skip(1) {
            let name = String::from_utf8_lossy(element?.name);
            if name == "txnNumber" || name == "startTransaction" {
                let message = "the model has no sessions and no transactions";
                return Err(Failure::new(20, message));
            }
            if !is_generic(&name) && !known.contains(&&*name) {
                return Err(Failure::unknown_field(self.name, &name));
            }
        }
        Ok(())
    }
}

/// The maximum number of writes in one command.
const MOST_WRITES: usize = 100_000;
/// Arguments that every command accepts besides its own.
const GENERIC: [&str; 10] = [
    "$db",
    "$clusterTime",
    "$readPreference",
    "lsid",
    "readConcern",
    "writeConcern",
    "maxTimeMS",
    "comment",
    "apiVersion",
    "apiStrict",
];

fn is_generic(name: &str) -> bool {
    GENERIC.contains(&name)
}

/// Completes the reply of a command that succeeded.
pub(super) fn done(mut reply: Bson) -> Answer {
    reply.insert("ok", 1.0);
    Ok(reply.to_vec()?)
}

type Run = fn(&mut Model, Call<'_>) -> Answer;

/// The commands with their arguments; `None` for a command that checks them itself, or accepts any.
const COMMANDS: &[(&str, Run, Option<&[&str]>)] = &[
    ("hello", Model::hello, None),
    ("isMaster", Model::hello, None),
    ("ismaster", Model::hello, None),
    ("buildInfo", Model::build_info, None),
    ("buildinfo", Model::build_info, None),
    ("ping", |_, _| done(doc! {}), None),
    ("endSessions", |_, _| done(doc! {}), None),
    (
        "insert",
        Model::insert,
        Some(&["documents", "ordered", "bypassDocumentValidation", KEEP_TS]),
    ),
    (
        "update",
        Model::update,
        Some(&["updates", "ordered", "bypassDocumentValidation", KEEP_TS]),
    ),
    ("delete", Model::delete, Some(&["deletes", "ordered"])),
    ("find", Model::find, Some(FIND)),
    ("aggregate", Model::aggregate, Some(&["pipeline", "cursor"])),
    ("collStats", Model::coll_stats, Some(&[])),
    (
        "getMore",
        Model::get_more,
        Some(&["collection", "batchSize"]),
    ),
    ("count", Model::count, Some(&["query"])),
    ("killCursors", Model::kill_cursors, Some(&["cursors"])),
    (
        "listDatabases",
        Model::list_databases,
        Some(&["nameOnly", "filter"]),
    ),
    (
        "listCollections",
        Model::list_collections,
        Some(&["filter", "nameOnly", "authorizedCollections", "cursor"]),
    ),
    ("listIndexes", Model::list_indexes, Some(&["cursor"])),
    ("create", Model::create, None),
    (
        "createIndexes",
        Model::create_indexes,
        Some(&["indexes", "commitQuorum"]),
    ),
    ("dropIndexes", Model::drop_indexes, Some(&["index"])),
    ("deleteIndexes", Model::drop_indexes, Some(&["index"])),
    ("drop", Model::drop_collection, Some(&[UUID])),
    ("dropDatabase", Model::drop_database, Some(&[])),
    (
        "renameCollection",
        Model::rename_collection,
        Some(&["to", "dropTarget", UUID]),
    ),
    ("collMod", Model::coll_mod, None),
    ("convertToCapped", Model::convert_to_capped, Some(&["size"])),
    ("emptycapped", Model::empty_capped, Some(&[])),
    ("applyOps", Model::apply_ops, Some(&["alwaysUpsert"])),
];
pub(super) const KEEP_TS: &str = "bypassEmptyTsReplacement";
pub(super) const UUID: &str = "collectionUUID";
const FIND: &[&str] = &[
    "projection",
    "filter",
    "sort",
    "limit",
    "skip",
    "batchSize",
    "singleBatch",
    "noCursorTimeout",
    "allowDiskUse",
    "collation",
    "tailable",
    "awaitData",
];
/// Arguments with the first version that supports them.
const SINCE: [(&str, Version); 2] = [(KEEP_TS, Version::V8_0), (UUID, Version::V6_0)];

impl Model {
    /// Runs a command and returns its reply, whether it succeeded or failed.
    ///
    /// # Errors
    /// Fails if the reply cannot be encoded, which does not happen if the command is valid BSON.
    pub fn command(&mut self, db: &str, body: Document<'_>) -> bson::error::Result<Vec<u8>> {
        match self.try_command(db, body) {
            Ok(reply) => Ok(reply),
            Err(failure) => match failure.reply(self.version) {
                Ok(reply) => Ok(reply),
                Err(other) => {
                    doc! { "ok": 0.0, "code": other.code, "errmsg": other.message }.to_vec()
                }
            },
        }
    }

    /// Runs a command on the cluster, or on this server if it is not a cluster.
    pub(super) fn try_command(&mut self, db: &str, body: Document<'_>) -> Answer {
        match self.route(db, body) {
            Some(answer) => answer,
            None => self.run_here(db, body),
        }
    }

    /// Runs a command on this server, or on the primary shard of a cluster.
    pub(super) fn run_here(&mut self, db: &str, body: Document<'_>) -> Answer {
        let subject = body.first()?;
        let subject = subject.ok_or_else(|| Failure::new(9, "an empty command"))?;
        let name = String::from_utf8_lossy(subject.name);
        let command = COMMANDS.iter().find(|(known, ..)| *known == name);
        let Some((_, run, arguments)) = command else {
            return Err(Failure::new(59, format!("no such command: '{name}'")));
        };
        let call = Call {
            db,
            name: &name,
            body,
            subject,
        };
        if let Some(arguments) = arguments {
            let known = arguments.iter().copied().filter(|argument| {
                let since = SINCE.iter().find(|(name, _)| name == argument);
                since.is_none_or(|(_, since)| *since <= self.version)
            });
            call.check(&known.collect::<Vec<_>>())?;
        }
        let reply = run(self, call)?;
        match name.as_ref() {
            "find" | "listCollections" => self.with_operation_time(reply),
            _ => Ok(reply),
        }
    }

    /// Adds the time of the newest entry to a reply, as a member of a replica set does.
    fn with_operation_time(&self, reply: Vec<u8>) -> Answer {
        let Some(newest) = self.newest() else {
            return Ok(reply);
        };
        let mut whole = Vec::new();
        let mut timed = DocumentBuilder::start(&mut whole);
        for element in Document::new(&reply)?.elements() {
            timed.element(element?);
        }
        let [seconds, increment] = [newest.time, newest.increment].map(u32::to_le_bytes);
        timed.raw(
            "operationTime",
            kind::TIMESTAMP,
            &[increment, seconds].concat(),
        );
        timed.finish();
        Ok(whole)
    }

    fn hello(&mut self, _: Call<'_>) -> Answer {
        let ts = self.newest().unwrap_or(bson::Timestamp {
            time: 1_700_000_000,
            increment: 1,
        });
        let optime = doc! { "ts": ts, "t": 1_i64 };
        let date = bson::DateTime::from_millis(i64::from(ts.time) * 1000);
        done(doc! {
            "helloOk": true,
            "isWritablePrimary": true,
            "ismaster": true,
            "secondary": false,
            "setName": "model",
            "setVersion": 1,
            "hosts": [&self.address],
            "primary": &self.address,
            "me": &self.address,
            "lastWrite": {
                "opTime": optime.clone(), "lastWriteDate": date,
                "majorityOpTime": optime, "majorityWriteDate": date,
            },
            "maxBsonObjectSize": 16 << 20,
            "maxMessageSizeBytes": i32::try_from(MAX_MESSAGE_BYTES).unwrap_or(i32::MAX),
            "maxWriteBatchSize": 100_000,
            "minWireVersion": 0,
            "maxWireVersion": self.version.max_wire_version(),
            "readOnly": false,
        })
    }

    fn build_info(&mut self, _: Call<'_>) -> Answer {
        let [major, minor] = self.version.numbers();
        done(doc! {
            "version": format!("{major}.{minor}.0"),
            "versionArray": [major, minor, 0, 0],
            "maxBsonObjectSize": 16 << 20,
        })
    }
}
