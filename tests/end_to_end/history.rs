//! The entries of an oplog, and the check that the topics contain them.

use std::collections::BTreeMap;

use anyhow::{Context, Result, ensure};
use bson::doc;
use futures_util::TryStreamExt as _;
use mongodb::{Client, Collection};
use oplog_relay_core::command::{Treatment, scope, treatment};
use oplog_relay_core::document::Document;
use oplog_relay_core::entry::{Entry, Operation};
use oplog_relay_core::format::Format;
use oplog_relay_core::key::{partition_for, write_key};
use oplog_relay_core::namespace::Namespace;
use oplog_relay_core::position::EntryId;
use oplog_relay_core::topic::{collection_topic, command_topic};
use oplog_relay_kit::topic_reader::{Contents, Place, TopicRecord, entries};

/// The entries of an oplog in order, as their bytes.
#[derive(Debug, Clone, Default)]
pub(crate) struct History(pub(crate) Vec<Vec<u8>>);

impl History {
    /// Reads the oplog directly from a server.
    pub(crate) async fn of_server(uri: &str) -> Result<History> {
        let client = Client::with_uri_str(uri).await?;
        let oplog: Collection<bson::RawDocumentBuf> =
            client.database("local").collection("oplog.rs");
        let found = oplog.find(doc! {}).sort(doc! { "$natural": 1 }).await?;
        let documents: Vec<bson::RawDocumentBuf> = found.try_collect().await?;
        let documents = documents.into_iter().map(bson::RawDocumentBuf::into_bytes);
        Ok(History(documents.collect()))
    }

    /// Splits a dump into its entries.
    pub(crate) fn of_dump(mut bytes: &[u8]) -> Result<History> {
        let mut documents = Vec::new();
        while !bytes.is_empty() {
            let (document, rest) = Document::split(bytes)?;
            documents.push(document.as_bytes().to_vec());
            bytes = rest;
        }
        Ok(History(documents))
    }

    pub(crate) fn entries(&self) -> impl Iterator<Item = Result<Entry<'_>>> {
        let documents = self.0.iter();
        documents.map(|bytes| Ok(Entry::parse(Document::new(bytes)?)?))
    }

    /// Keeps the entries for which `keep` returns true.
    pub(crate) fn filtered(&self, keep: impl Fn(&Entry<'_>) -> bool) -> Result<History> {
        let mut kept = Vec::new();
        for (entry, bytes) in self.entries().zip(&self.0) {
            if keep(&entry?) {
                kept.push(bytes.clone());
            }
        }
        Ok(History(kept))
    }

    /// Returns the entries that must have records: all except noops.
    fn by_id(&self) -> Result<BTreeMap<EntryId, &[u8]>> {
        let mut entries = BTreeMap::new();
        for (entry, bytes) in self.entries().zip(&self.0) {
            let entry = entry?;
            if entry.operation != Operation::Noop {
                entries.insert(
                    EntryId {
                        ts: entry.ts,
                        ord: 0,
                    },
                    bytes.as_slice(),
                );
            }
        }
        Ok(entries)
    }

    /// Checks that the topics hold each of these entries (except noops) once, unchanged, in its
    /// partition and in order, and nothing else. Returns the number of entries.
    pub(crate) fn expect_once_in(
        &self,
        contents: &Contents,
        prefix: &str,
        source: &str,
        format: Format,
    ) -> Result<usize> {
        let mut expected = self.by_id()?;
        let count = expected.len();
        let mut last = BTreeMap::new();
        for ((topic, partition), record, found) in entries(contents) {
            let at = format!("{topic}[{partition}] at {}: {}", record.offset, found.id);
            ensure!(found.source == source, "{at} is of source {}", found.source);
            let bytes = expected
                .remove(&found.id)
                .with_context(|| format!("{at} occurs twice, or is not an entry of the source"))?;
            let entry = Entry::parse(Document::new(bytes)?)?;
            if format != Format::Raw && format != Format::Bson {
                expect_same_meaning(&found.bytes, &entry, format).context(at.clone())?;
            } else {
                ensure!(found.bytes == bytes, "{at} was changed");
            }
            let mut key = Vec::new();
            let (home, partitions) = home(&entry, contents, prefix, &mut key)?;
            ensure!(*topic == home, "{at} belongs to {home}");
            let wanted = if key.is_empty() {
                0
            } else {
                partition_for(&key, partitions)
            };
            ensure!(
                i64::from(*partition) == i64::from(wanted),
                "{at} belongs to {wanted}"
            );
            if format != Format::Raw {
                let given = record.key.clone().unwrap_or_default();
                ensure!(given == key, "{at} has the key {:?}", record.key);
                let stamp = entry.ts.clamp_wall(entry.wall);
                ensure!(
                    record.timestamp >= stamp,
                    "{at} has the time {}",
                    record.timestamp
                );
            }
            let before = last.insert((topic, partition), found.id);
            ensure!(
                before.is_none_or(|before| before < found.id),
                "{at} comes after {before:?}"
            );
        }
        let missing: Vec<_> = expected.keys().take(5).map(ToString::to_string).collect();
        ensure!(
            expected.is_empty(),
            "{} missing: {missing:?}; there are {:?}",
            expected.len(),
            read(contents)
        );
        Ok(count)
    }
}

/// Returns the first 20 offsets that were read from each partition, for an error text.
fn read(contents: &Contents) -> BTreeMap<&Place, Vec<i64>> {
    let offsets = |records: &Vec<TopicRecord>| {
        let offsets = records.iter().map(|record| record.offset);
        offsets.take(20).collect()
    };
    contents
        .iter()
        .map(|(place, records)| (place, offsets(records)))
        .collect()
}

/// Returns the topic of an entry and its number of partitions. `key` receives the key of its
/// document, and stays empty for a command.
fn home(
    entry: &Entry<'_>,
    contents: &Contents,
    prefix: &str,
    key: &mut Vec<u8>,
) -> Result<(String, u32)> {
    let Namespace { db, collection } = entry.namespace();
    let topic = if entry.operation == Operation::Command {
        match (scope(entry)?, treatment(entry)?) {
            (Some(scope), Some(Treatment::Barrier | Treatment::Build | Treatment::Inline)) => {
                collection_topic(prefix, scope.db, scope.collection)
            }
            (None, _) | (Some(_), Some(Treatment::Ignore | Treatment::Stop) | None) => {
                command_topic(prefix, db)
            }
        }
    } else {
        write_key(entry.document_id()?, key)?;
        collection_topic(prefix, db, collection)
    };
    let partitions = contents.keys().filter(|(name, _)| *name == topic).count();
    Ok((topic, partitions as u32))
}

/// Checks that an entry that was decoded from JSON has the meaning of the original. JSON does not
/// contain every field, and relaxed JSON does not preserve the types of numbers.
fn expect_same_meaning(found: &[u8], wanted: &Entry<'_>, format: Format) -> Result<()> {
    let found = Entry::parse(Document::new(found)?)?;
    ensure!(found.operation == wanted.operation && found.ns == wanted.ns && found.ts == wanted.ts);
    ensure!(
        found.ui == wanted.ui && found.wall == wanted.wall,
        "ui or wall differs"
    );
    if format.is_exact() {
        let same = match wanted.operation {
            Operation::Update => found.update()? == wanted.update()?,
            // A delete may contain the whole old document; only its `_id` is compared.
            Operation::Delete => true,
            _ => found.o == wanted.o,
        };
        ensure!(same, "o differs");
        if wanted.operation != Operation::Command {
            let (one, other) = (found.document_id()?, wanted.document_id()?);
            ensure!(
                (one.kind, one.value) == (other.kind, other.value),
                "_id differs"
            );
        }
    }
    Ok(())
}
