//! The repair of the target: documents that still differ are sent as a replay would send them.
//!
//! The source's document is read after the replay has passed the difference, and sent as a
//! replacement with upsert, or as a delete, through the replay's own sink. A running replay may
//! have applied a later entry between the read and the write, which the write then undoes. So each
//! document is checked again afterwards, and repaired again if it still differs. Later entries
//! overwrite the repaired document. Missing collections, views and indexes are created by the
//! command that a replay would run.

use std::sync::Arc;
use std::time::Duration;

use mongodb::bson::{Bson as Value, Document as Bson, RawDocumentBuf, doc};
use oplog_relay_core::document::{Document, DocumentBuilder, kind};
use oplog_relay_core::entry::Entry;
use oplog_relay_core::namespace::Namespace;
use oplog_relay_core::position::{EntryId, Timestamp};
use oplog_relay_core::state::Order;
use oplog_relay_runtime::http::Health;
use oplog_relay_runtime::mongo::{MongoError, error_code, error_text, is_set};
use oplog_relay_runtime::shutdown::Shutdown;
use oplog_relay_runtime::startup_error::StartupError;

use super::comparison::{Comparison, Stop};
use super::definition::{Definition, Discrepancy, Expected, Part};
use super::range::OwnedId;
use super::recheck::Differing;
use super::report::{Counts, Kind};
use super::side::Server;
use crate::config::{NotEmpty, RefusedOptions, ShardKeys, Unmatched};
use crate::dead_letter::Reasons;
use crate::error::ConsumerError;
use crate::replay::plan::Planner;
use crate::replay::plan::translation::{Action, Circumstances, translate};
use crate::replay::{MongoSink, Settings};
use crate::telemetry::metrics::Metrics;
use crate::telemetry::readiness::Readiness;
use crate::worker::applied::{Applied, SinkError};
use crate::worker::assignment::Token;
use crate::worker::batch::{Batch, Located};

/// Maximum number of rounds of repairing and checking again.
const ROUNDS: u32 = 4;
/// Number of bytes of documents after which they are sent.
const TOGETHER: usize = 8 << 20;
/// The group name for the catalog if no group is given. The catalog has no notes of this group.
const NO_GROUP: &str = "oplog-consumer verify";

/// Writes repairs to the target.
pub(super) struct Repair {
    sink: MongoSink,
    token: Token,
}

impl Repair {
    /// Creates the sink of a replay for the target.
    pub(super) async fn open(
        target: &Server,
        group: Option<&str>,
        shutdown: Shutdown,
    ) -> Result<Self, ConsumerError> {
        let metrics = Metrics::new().map_err(StartupError::from)?;
        let health = Health::new(Duration::from_secs(60));
        let settings = Settings {
            group: group.unwrap_or(NO_GROUP),
            allow_lossy: false,
            unmatched: Unmatched::Count,
            if_not_empty: NotEmpty::Merge,
            refused_options: RefusedOptions::Stop,
            planner: Planner::new(1),
            dead_letter: Reasons::new(),
            shard_collections: ShardKeys::new(),
        };
        let sink = MongoSink::open(
            target.client.clone(),
            settings,
            Arc::new(metrics),
            Arc::new(Readiness::new(health)),
            shutdown,
        )
        .await?;
        let token = Token::default();
        Ok(Self { sink, token })
    }

    /// Sends entries as a replay does. The inner `Err` is the reason why the target refuses an entry.
    async fn send(&self, entries: &[Vec<u8>]) -> Result<Result<(), String>, ConsumerError> {
        let mut located = Vec::with_capacity(entries.len());
        for bytes in entries {
            let raw = Document::new(bytes);
            let entry = raw.map_err(Into::into).and_then(Entry::parse);
            let entry = match entry {
                Ok(entry) => entry,
                Err(error) => return Ok(Err(error.to_string())),
            };
            let id = EntryId {
                ts: entry.ts,
                ord: 0,
            };
            let offset = 0;
            located.push(Located { offset, id, entry });
        }
        let batch = Batch {
            topic: "",
            partition: 0,
            source: "",
            entries: &located,
        };
        let applied = self.sink.apply(&batch, &self.token).await;
        // Documents that an index still refuses are found again by the next check.
        self.sink.forget_held("", 0);
        match applied {
            Ok(Applied::Done) => Ok(Ok(())),
            Ok(Applied::Abandoned) => Err(ConsumerError::Ended("the repair")),
            Err(SinkError::Entry(error)) => Ok(Err(error.to_string())),
            Err(SinkError::Fatal(error)) if error.is_refusal() => Ok(Err(error.text())),
            Err(SinkError::Fatal(error)) => Err(error),
        }
    }

    /// Creates the missing parts of a definition on the target if that is safe. Returns the names of
    /// the created parts.
    pub(super) async fn definitions(
        &self,
        ns: &str,
        source: Option<&Definition>,
        found: &[Discrepancy],
        expected: &Expected,
    ) -> Result<Vec<String>, ConsumerError> {
        let Some(source) = source else {
            return Ok(Vec::new());
        };
        let mut created = Vec::new();
        let indexes: Vec<&String> = match found {
            [whole] if whole.part == Part::Whole && whole.target.is_none() => {
                if !self.create(ns, source, expected).await? {
                    return Ok(created);
                }
                created.push(whole.what());
                source
                    .indexes
                    .keys()
                    .filter(|name| *name != "_id_")
                    .collect()
            }
            parts => {
                let missing = parts.iter().filter(|part| part.target.is_none());
                missing
                    .filter_map(|part| match &part.part {
                        Part::Index(name) => Some(name),
                        _ => None,
                    })
                    .collect()
            }
        };
        for name in indexes {
            let Some(index) = source.indexes.get(name) else {
                continue;
            };
            if self.create_index(ns, index, expected).await? {
                created.push(format!("index {name}"));
            }
        }
        Ok(created)
    }

    async fn create(
        &self,
        ns: &str,
        source: &Definition,
        expected: &Expected,
    ) -> Result<bool, ConsumerError> {
        let name = Namespace::split(ns).collection;
        let seconds = source.options.get("expireAfterSeconds");
        if seconds.is_some() && !expected.withheld.contains_key(&None) {
            tracing::warn!(
                ns,
                "collection not created: it has expireAfterSeconds, which the catalog does not list"
            );
            return Ok(false);
        }
        let mut command = doc! { "create": name };
        command.extend(source.options.clone());
        self.run(ns, command, expected).await
    }

    async fn create_index(
        &self,
        ns: &str,
        index: &Bson,
        expected: &Expected,
    ) -> Result<bool, ConsumerError> {
        let collection = Namespace::split(ns).collection;
        let name = index.get_str("name").unwrap_or_default();
        let known = expected.withheld.contains_key(&Some(name.to_owned()));
        if index.contains_key("expireAfterSeconds") && !known {
            tracing::warn!(
                ns,
                name,
                "index not created: it has expireAfterSeconds, which the catalog does not list"
            );
            return Ok(false);
        }
        if is_set(index, "unique") && expected.order.is_none() {
            tracing::warn!(
                ns,
                name,
                "index not created: it is unique, and whether the replay preserves the order of its \
                 collection is known only with --brokers, --topic-prefix and --group"
            );
            return Ok(false);
        }
        let mut command = doc! { "createIndexes": collection };
        let fields = index.iter().filter(|(field, _)| *field != "ns");
        command.extend(fields.map(|(field, value)| (field.clone(), value.clone())));
        self.run(ns, command, expected).await
    }

    /// Runs a command as the replay of its entry would.
    async fn run(
        &self,
        ns: &str,
        command: Bson,
        expected: &Expected,
    ) -> Result<bool, ConsumerError> {
        let Namespace { db, collection } = Namespace::split(ns);
        let entry = doc! {
            "ts": Value::Timestamp(mongodb::bson::Timestamp { time: 0, increment: 0 }),
            "v": 2_i64, "op": "c", "ns": format!("{db}.$cmd"), "o": command,
        };
        let refused = |error: &dyn std::fmt::Display| {
            tracing::warn!(ns, %error, "collection, view or index not created");
            Ok(false)
        };
        let Ok(bytes) = entry.to_vec() else {
            return Ok(false);
        };
        let raw = Document::new(&bytes);
        let entry = match raw.map_err(Into::into).and_then(Entry::parse) {
            Ok(entry) => entry,
            Err(error) => return refused(&error),
        };
        let ordered = expected.order == Some(Order::Collection);
        let at = Circumstances {
            collection,
            ordered,
        };
        let translated = match translate(&entry, at) {
            Ok(translated) => translated,
            Err(error) => return refused(&error),
        };
        let Action::Run {
            command, otherwise, ..
        } = translated.action
        else {
            return Ok(false);
        };
        for bytes in [Some(command), otherwise].into_iter().flatten() {
            let Ok(command) = RawDocumentBuf::from_bytes(bytes) else {
                return Ok(false);
            };
            match self
                .sink
                .client()
                .database(db)
                .run_raw_command(command)
                .await
            {
                Ok(_) => return Ok(true),
                Err(error) if error_code(&error).is_some() => {
                    let reason = error_text(&error);
                    tracing::warn!(ns, reason, "the target refuses the command");
                }
                Err(error) => return Err(MongoError::from_driver("the target", &error).into()),
            }
        }
        Ok(false)
    }
}

impl Comparison<'_> {
    /// Repairs documents that still differ, and checks them again. Returns those that still differ
    /// afterwards, and those that are unsettled.
    pub(super) async fn repair_documents(
        &self,
        repair: &Repair,
        ns: &str,
        range: u64,
        found: Vec<Differing>,
        counts: &mut Counts,
    ) -> Result<Vec<Differing>, Stop> {
        let mut remaining = found;
        for _ in 0..ROUNDS {
            let (differing, unsettled): (Vec<_>, Vec<_>) = remaining
                .into_iter()
                .partition(|document| document.kind != Kind::Unsettled);
            remaining = unsettled;
            if differing.is_empty() {
                break;
            }
            let outcome = self.send_all(repair, ns, range, &differing).await?;
            let ids = differing.into_iter().map(|document| document.id).collect();
            let settled = self.settle(ns, ids).await?;
            counts.equal += settled.equal;
            counts.repaired += settled.equal;
            remaining.extend(settled.found);
            if let Err(reason) = outcome {
                self.report().note(&format!("not repaired: {reason}"))?;
                break;
            }
        }
        Ok(remaining)
    }

    /// Sends the repairs of documents. Deletes go first, because they may free values of unique
    /// indexes.
    async fn send_all(
        &self,
        repair: &Repair,
        ns: &str,
        range: u64,
        differing: &[Differing],
    ) -> Result<Result<(), String>, Stop> {
        let (mut deletes, mut others) = (Vec::new(), Vec::new());
        for Differing { id, kind } in differing {
            match kind {
                Kind::Extra => deletes.push(id),
                Kind::Missing | Kind::Different | Kind::Unsettled => others.push(id),
            }
        }
        let mut entries = Vec::new();
        for id in deletes {
            entries.push(entry(ns, id, None));
            self.report().repaired(range, id, "deleted")?;
        }
        let mut bytes = 0;
        for id in others {
            // The next check finds that a document was deleted at the source in the meantime.
            let Some(document) = self.source.one(ns, id).await? else {
                continue;
            };
            bytes += document.len();
            let whole = Document::new(&document).unwrap_or(Document::EMPTY);
            entries.push(entry(ns, id, Some(whole)));
            self.report().repaired(range, id, "sent")?;
            if bytes > TOGETHER {
                bytes = 0;
                if let Err(reason) = repair.send(&std::mem::take(&mut entries)).await? {
                    return Ok(Err(reason));
                }
            }
        }
        Ok(repair.send(&entries).await?)
    }
}

/// Returns an entry that sets a document to this state, or deletes it.
fn entry(ns: &str, id: &OwnedId, document: Option<Document<'_>>) -> Vec<u8> {
    let mut out = Vec::new();
    let mut entry = DocumentBuilder::start(&mut out);
    entry.raw("ts", kind::TIMESTAMP, &Timestamp::default().to_le_bytes());
    entry.int64("v", 2).str("ns", ns);
    let own = |builder: &mut DocumentBuilder<'_>| {
        builder.element(id.element());
    };
    match document {
        Some(document) => {
            entry.str("op", "u").document("o", document);
            entry.nested("o2", kind::DOCUMENT, own);
        }
        None => {
            entry.str("op", "d");
            entry.nested("o", kind::DOCUMENT, own);
        }
    }
    entry.finish();
    out
}
