//! Entries through the producer's encoder and the consumer's plan.

use anyhow::{Result, bail};
use oplog_consumer::replay::plan::translation::{Action, Circumstances, translate};
use oplog_consumer::replay::plan::{
    Bulk, BulkKind, Command, CommandOptions, Planner, Step, write_command,
};
use oplog_consumer::worker::batch::Located;
use oplog_producer::encode::Encoder;
use oplog_producer::encode::barrier::BarrierRequest;
use oplog_producer::encode::chunk::{Chunk, EncodedRecord, TopicIndex};
use oplog_producer::prepare::route::Router;
use oplog_producer::prepare::topics::Topics;
use oplog_producer::prepare::transaction::{Parts, SpooledParts, Transactions};
use oplog_producer::source::Batch;
use oplog_relay_core::command::scope;
use oplog_relay_core::document::{Document, DocumentBuilder, kind};
use oplog_relay_core::entry::Entry;
use oplog_relay_core::filter::NamespaceFilter;
use oplog_relay_core::format::Format;
use oplog_relay_core::position::{EntryId, IdHeader};
use oplog_relay_core::state::{History, State};
use oplog_relay_core::time_series::VIEWS;
use oplog_relay_runtime::shutdown::Shutdown;

const SOURCE: &str = "rs0";
const PARTITIONS: u32 = 2;
const OPTIONS: CommandOptions = CommandOptions {
    bypass_validation: true,
    upsert_unmatched: false,
    max_time_ms: 1000,
    literal_zeros: false,
    in_transaction: false,
};
/// The fields that every bulk command has.
const COMMON: [&[u8]; 4] = [
    b"ordered",
    b"bypassDocumentValidation",
    b"maxTimeMS",
    b"writeConcern",
];

/// An entry as it reaches a consumer.
pub(crate) struct CarriedEntry {
    pub(crate) carried: (EntryId, Vec<u8>),
    /// For a command with barriers: true if its collection is in one partition.
    ordered: bool,
}

/// The records that Kafka would receive, and what a consumer would read of them.
#[derive(Default)]
pub(crate) struct Carried {
    /// The records, as descriptions.
    pub(crate) records: Vec<Vec<u8>>,
    /// The entries in the records.
    pub(crate) entries: Vec<CarriedEntry>,
    /// The producer's error text, if it stopped.
    pub(crate) refused: Option<String>,
    topics: Vec<String>,
    source: Vec<Vec<u8>>,
}

/// Encodes entries as a producer does.
pub(crate) fn carry(entries: &[Vec<u8>]) -> Result<Carried> {
    let topics = Topics::Nowhere {
        state_topic: "__cdc.state.rs0".to_owned(),
        partitions: PARTITIONS,
    };
    let parts = Parts::Spooled(SpooledParts::default());
    let transactions = Transactions::new(parts, History::default(), true, Shutdown::manual());
    let router = Router::new("cdc", NamespaceFilter::default(), State::default());
    let format = Format::Bson;
    let mut encoder = Encoder::new(SOURCE, format, router, topics, None, None, transactions);
    let mut carried = Carried {
        source: entries.to_vec(),
        ..Carried::default()
    };
    let mut chunk = Chunk::default();
    let batch = Batch::Bytes(entries.concat());
    let encoded = encoder.encode(&batch, &mut chunk, &mut |chunk| {
        carried.take(chunk).expect("records");
        Ok(())
    });
    carried.take(&mut chunk)?;
    carried.refused = encoded
        .err()
        .map(|error| format!("{:#}", anyhow::Error::from(error)));
    Ok(carried)
}

impl Carried {
    fn take(&mut self, chunk: &mut Chunk) -> Result<()> {
        let new = chunk.new_topics.drain(..);
        self.topics.extend(new.map(|topic| topic.name));
        // The first topic is that of the routing table.
        for record in chunk.records.iter().filter(|record| record.topic.0 > 0) {
            self.take_record(chunk, record)?;
        }
        if let Some(request) = &chunk.barrier {
            self.take_command(chunk, request)?;
        }
        chunk.clear();
        Ok(())
    }

    fn take_record(&mut self, chunk: &Chunk, record: &EncodedRecord) -> Result<()> {
        let Some(header) = &record.header else {
            bail!("a record without a header");
        };
        let header = String::from_utf8_lossy(chunk.bytes(&header.value));
        let Ok(IdHeader { id, .. }) = EntryId::parse_header(&header) else {
            bail!("{header} is not an id");
        };
        let value = chunk.bytes(&record.value).to_vec();
        let mut described = Vec::new();
        let mut out = DocumentBuilder::start(&mut described);
        out.str("topic", self.topic(record.topic))
            .int32("partition", record.partition);
        if let Some(key) = &record.key {
            out.str("key", std::str::from_utf8(chunk.bytes(key))?);
        }
        self.describe(id, &value, &mut out)?;
        out.finish();
        self.records.push(described);
        self.entries.push(CarriedEntry {
            carried: (id, value),
            ordered: false,
        });
        Ok(())
    }

    fn take_command(&mut self, chunk: &Chunk, request: &BarrierRequest) -> Result<()> {
        let value = chunk.bytes(&request.entry).to_vec();
        let mut described = Vec::new();
        let mut out = DocumentBuilder::start(&mut described);
        out.nested("topics", kind::ARRAY, |list| {
            for (index, at) in request.topics.iter().enumerate() {
                list.str(&index.to_string(), self.topic(at.topic));
            }
        });
        out.boolean("ordered", request.ordered);
        self.describe(request.id, &value, &mut out)?;
        out.finish();
        self.records.push(described);
        self.entries.push(CarriedEntry {
            carried: (request.id, value),
            ordered: request.ordered,
        });
        Ok(())
    }

    fn describe(&self, id: EntryId, value: &[u8], out: &mut DocumentBuilder<'_>) -> Result<()> {
        let document = Document::new(value)?;
        let op = document
            .get("op")?
            .map(oplog_relay_core::document::Element::str)
            .transpose()?;
        out.str("id", &id.to_string())
            .str("op", op.unwrap_or_default());
        if !self.source.iter().any(|entry| entry == value) {
            out.document("value", document);
        }
        Ok(())
    }

    fn topic(&self, index: TopicIndex) -> &str {
        &self.topics[index.0]
    }
}

/// Returns the target's commands, or the consumer's error text if it stops.
pub(crate) fn plan(carried: &Carried) -> Result<Result<Vec<Vec<u8>>, String>> {
    let mut located = Vec::new();
    for (offset, entry) in (0..).zip(&carried.entries) {
        let (id, bytes) = &entry.carried;
        located.push(Located {
            offset,
            id: *id,
            entry: Entry::parse(Document::new(bytes)?)?,
        });
    }
    let plan = match Planner::new(1).plan(&located) {
        Ok(plan) => plan,
        Err(error) => return Ok(Err(format!("{:#}", anyhow::Error::from(error)))),
    };
    let mut writes = Vec::new();
    for step in &plan.steps {
        match step {
            Step::Write(lanes) => {
                for bulk in lanes.iter().flat_map(|lane| &lane.bulks) {
                    writes.push(bulk_command(bulk)?);
                }
            }
            Step::Command(command) => {
                let ordered = carried.entries[command.index].ordered;
                match translated(command, ordered)? {
                    Ok(command) => writes.extend(command),
                    Err(message) => return Ok(Err(message)),
                }
            }
        }
    }
    Ok(Ok(writes))
}

/// Returns the command of a bulk without the common fields.
fn bulk_command(bulk: &Bulk<'_>) -> Result<Vec<u8>> {
    let (db, collection) = bulk.ns.split_once('.').unwrap_or((bulk.ns, ""));
    let mut command = Vec::new();
    write_command(collection, bulk.kind, &bulk.writes, OPTIONS, &mut command)?;
    let mut shown = Vec::new();
    let mut out = DocumentBuilder::start(&mut shown);
    for (index, field) in Document::new(&command)?.elements().enumerate() {
        let field = field?;
        if index == 0 && bulk.kind == BulkKind::Rewrite {
            out.str("rewrite", collection);
        } else if !COMMON.contains(&field.name) {
            out.element(field);
        }
    }
    out.str("$db", db);
    out.finish();
    Ok(shown)
}

/// Returns a command as the target receives it; `None` if there is nothing to do.
fn translated(command: &Command<'_>, ordered: bool) -> Result<Result<Option<Vec<u8>>, String>> {
    let entry = command.located.entry;
    let scope = scope(&entry)?;
    let (db, collection) = scope.map_or(("", ""), |scope| (scope.db, scope.collection));
    let at = Circumstances {
        collection,
        ordered,
    };
    let translated = match translate(&entry, at) {
        Ok(translated) => translated,
        Err(error) => return Ok(Err(format!("{:#}", anyhow::Error::from(error)))),
    };
    let mut shown = Vec::new();
    let mut out = DocumentBuilder::start(&mut shown);
    match &translated.action {
        Action::Nothing => return Ok(Ok(None)),
        Action::Run { command, .. } => {
            for field in Document::new(command)?.elements() {
                out.element(field?);
            }
            out.str("$db", db);
        }
        Action::Drop { collection: name }
        | Action::DropSeries { series: name, .. }
        | Action::DropView { view: name } => {
            out.str("drop", name).str("$db", db);
        }
        Action::ChangeSeriesView { definition } => {
            out.document("view", Document::new(definition)?)
                .str("$db", db);
        }
        Action::DropViews => {
            out.str("drop", VIEWS).str("$db", db);
        }
        Action::Rename { to, drop_target } => {
            out.str("renameCollection", &format!("{db}.{collection}"))
                .str("to", to)
                .boolean("dropTarget", *drop_target)
                .str("$db", "admin");
        }
    }
    out.finish();
    Ok(Ok(Some(shown)))
}
