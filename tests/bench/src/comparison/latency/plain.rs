//! The baseline: a loop that puts each reply of the source into a Kafka transaction, and then one
//! record into another topic, as a producer that saves its position does.

use std::time::Duration;

use anyhow::{Context, Result, bail};
use futures_util::StreamExt;
use oplog_relay_core::document::{Document, Element};
use oplog_relay_core::entry::Entry;
use oplog_relay_core::key::{partition_for, write_key};
use rdkafka::ClientConfig;
use rdkafka::producer::{BaseProducer, BaseRecord, Producer};

use crate::comparison::baseline::produce::{on_one_thread, open_cursor};

/// The name of the case.
pub(in crate::comparison) const NAME: &str = "plain-transactions";
const LIMIT: Duration = Duration::from_secs(60);

/// Returns the topic that stands for the position topic.
pub(super) fn place_topic(topic: &str) -> String {
    format!("{topic}-place")
}

/// Runs until it is killed. The arguments are the source, the brokers, the topic and the number of
/// its partitions.
pub(in crate::comparison) fn run(arguments: &[String]) -> Result<()> {
    let [source, brokers, topic, partitions] = arguments else {
        bail!("four arguments expected");
    };
    let producer: BaseProducer = ClientConfig::new()
        .set("bootstrap.servers", brokers)
        .set("transactional.id", topic)
        .set("compression.type", "lz4")
        .set("linger.ms", "0")
        .create()?;
    producer.init_transactions(LIMIT)?;
    let partitions = partitions.parse()?;
    on_one_thread(async {
        let mut cursor = open_cursor(source).await?;
        loop {
            let reply = cursor.next().await.context("the cursor was closed")??;
            carry(&producer, topic, partitions, reply.doc_slices()?.as_bytes())?;
        }
    })
}

/// Sends one reply as a transaction.
fn carry(producer: &BaseProducer, topic: &str, partitions: u32, reply: &[u8]) -> Result<()> {
    let mut entries = Document::new(reply)?.elements().peekable();
    if entries.peek().is_none() {
        return Ok(());
    }
    producer.begin_transaction()?;
    let mut key = Vec::new();
    for document in entries {
        let document = document.and_then(Element::document)?;
        key.clear();
        write_key(Entry::parse(document)?.document_id()?, &mut key)?;
        let partition = i32::try_from(partition_for(&key, partitions))?;
        let record = BaseRecord::to(topic).partition(partition).key(&key);
        let sent = producer.send(record.payload(document.as_bytes()));
        sent.map_err(|(error, _)| error)?;
    }
    let place = place_topic(topic);
    let record = BaseRecord::<[u8], [u8]>::to(&place).key(b"place");
    let sent = producer.send(record.payload(b"place"));
    sent.map_err(|(error, _)| error)?;
    // The commit itself would check only every 100 ms whether the records are delivered.
    while producer.in_flight_count() > 0 {
        producer.poll(Duration::ZERO);
        std::thread::sleep(Duration::from_micros(200));
    }
    Ok(producer.commit_transaction(LIMIT)?)
}
