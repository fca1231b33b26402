//! The oldest supported line of Kafka.

use std::sync::Arc;

use anyhow::{Context, Result, ensure};
use bson::doc;
use oplog_relay_kit::model::{Model, ModelServer, State};
use oplog_relay_kit::services::{Kafka, KafkaLine, KafkaOptions, Program};
use oplog_relay_kit::topic_reader::{count_keys, read_undecoded};
use oplog_relay_runtime::kafka::{Admin, KafkaOptions as ClientOptions};

use crate::carry::CATALOG;
use crate::made::Made;
use crate::topics::{LIMIT, Topics};

/// The limit that the broker's policy permits in topics whose names begin with "capped".
const CAP: i64 = 8 << 20;

fn history() -> Result<Made> {
    let mut made = Made::default();
    made.create("s.a", 1)?;
    for id in 0..200 {
        made.insert_with("s.a", 1, doc! { "_id": id, "k": id })?;
    }
    let index =
        doc! { "createIndexes": "a", "v": 2, "unique": true, "key": { "k": 1 }, "name": "k_1" };
    made.command("s.a", 1, index)?;
    made.rename("s.a", 1, "s.b")?;
    for id in 0..200 {
        made.set("s.b", 1, id, doc! { "n": id * 2 })?;
    }
    made.create("s.gone", 2)?;
    made.insert("s.gone", 2, 1)?;
    made.drop("s.gone", 2)?;
    Ok(made)
}

fn state(model: &Model) -> State {
    let mut state = model.state();
    state.retain(|ns, _| !ns.starts_with(CATALOG));
    state
}

/// Runs a producer three times, then a replay, an emit and an audit, and checks the results.
fn carries(topics: &Topics, prefix: &str) -> Result<()> {
    let mut made = history()?;
    topics.produce(&made.oplog()?, &[])?;
    for id in 300..320 {
        made.insert_with("s.b", 1, doc! { "_id": id, "k": id })?;
    }
    topics.produce(&made.oplog()?, &[])?;
    topics.produce(&made.oplog()?, &[])?;
    let target = ModelServer::start(Model::default())?;
    topics.replay(&target, prefix, 2, &["--dead-letter=undecodable"])?;
    ensure!(
        state(&target.model()) == state(&made.expected()?),
        "{prefix}"
    );
    let lines = topics.emit(&format!("{prefix}-lines"))?;
    // Emit writes every entry and no barrier.
    ensure!(lines.lines().count() == 426, "{}", lines.lines().count());
    let brokers = topics.brokers();
    ensure!(count_keys(&brokers, prefix)? > 0);
    let flags = [
        format!("--brokers={brokers}"),
        format!("--topic-prefix={prefix}"),
    ];
    let audit = ["audit"]
        .into_iter()
        .chain(flags.iter().map(String::as_str));
    let mut audit = Program::consumer(audit)?;
    let code = audit.wait(LIMIT)?;
    ensure!(
        code == 0,
        "{}{}",
        audit.stdout_text()?,
        audit.stderr_text()?
    );
    Ok(())
}

fn limit_of(brokers: &str, topic: &str) -> Result<Option<i64>> {
    let options = ClientOptions {
        brokers: brokers.to_owned(),
        options: Vec::new(),
    };
    let settings = tokio::runtime::Runtime::new()?.block_on(async {
        let admin = Admin::connect(&options).await?;
        admin.topic_settings(topic).await
    })?;
    Ok(settings.context(topic.to_owned())?.max_message_bytes)
}

#[test]
fn kafka_2_5_with_a_cap_on_sizes_carries_everything() -> Result<()> {
    let options = KafkaOptions {
        line: KafkaLine::Oldest,
        ..KafkaOptions::default()
    };
    let kafka = Arc::new(Kafka::start(&options)?);
    let brokers = kafka.brokers();
    carries(&Topics::on(Arc::clone(&kafka), "old"), "old")?;
    ensure!(limit_of(&brokers, "old.s.b")? == Some(100 << 20));

    // The producer uses the largest limit that the cluster permits, unless the operator sets one.
    let capped = Topics::on(Arc::clone(&kafka), "capped");
    let oplog = history()?.oplog()?;
    let refused = "--topic-config=max.message.bytes=16777216";
    let refusal = "Kafka refuses to create topics with max.message.bytes=16777216";
    capped.produce_to_code(&oplog, &[refused], (2, refusal))?;
    carries(&capped, "capped")?;
    ensure!(limit_of(&brokers, "capped.s.b")? == Some(CAP));
    let given = Topics::on(Arc::clone(&kafka), "given");
    given.produce(&oplog, &["--topic-config=max.message.bytes=300000"])?;
    ensure!(limit_of(&brokers, "given.s.b")? == Some(300_000));
    ensure!(!read_undecoded(&brokers, "given")?.is_empty());
    Ok(())
}
