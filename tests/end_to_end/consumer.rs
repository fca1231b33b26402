//! The replay of the writes of a live source.

use anyhow::{Context, Result, ensure};
use oplog_relay_core::format::Format;
use oplog_relay_kit::load::{Load, contents};
use oplog_relay_kit::services::{FerretDb, FerretDbOptions, Kafka, Program};
use oplog_relay_kit::topic_reader::read_topics;
use rdkafka::admin::{AdminClient, AdminOptions};
use rdkafka::client::DefaultClientContext;
use rdkafka::{ClientConfig, Offset, TopicPartitionList};

use crate::support::{Ended, Line, source, tool};

/// Replays everything under a prefix as a consumer group of that name.
fn replay(kafka: &Kafka, target: &FerretDb, prefix: &str) -> Result<Ended> {
    let line = Line::new("replay")
        .with("--brokers", kafka.brokers())
        .with("--topic-prefix", prefix)
        .with("--group", prefix)
        .with("--target", target.uri())
        .with("--http", "off");
    Ended::wait(Program::consumer(line.flag("--until-caught-up").words())?)
}

/// Replays into an empty target, checks that it then equals the source, and returns it.
pub(crate) async fn expect_equal_target(
    kafka: &Kafka,
    source: &FerretDb,
    prefix: &str,
) -> Result<FerretDb> {
    let target = FerretDb::start(&FerretDbOptions::target())?;
    replay(kafka, &target, prefix)?.with_code(0)?;
    let verify = Line::new("verify").with("--source", source.uri());
    let verify = verify.with("--target", target.uri());
    let verdict = Ended::wait(Program::consumer(verify.words())?)?;
    ensure!(verdict.code == 0, "{}{}", verdict.stdout, verdict.stderr);
    // The source must not be empty, or the comparison would prove nothing.
    let wanted = contents(&source.uri(), "shop").await?;
    let found = contents(&target.uri(), "shop").await?;
    ensure!(!wanted.is_empty() && wanted == found, "the contents differ");
    Ok(target)
}

#[tokio::test(flavor = "multi_thread")]
async fn target_equals_its_source_and_the_group_has_no_lag() -> Result<()> {
    let kafka = Kafka::shared()?;
    let source = source()?;
    let mut load = Load::connect(&source.uri(), "shop", 5).await?;
    while load.writes() < 3_000 {
        load.round(100).await?;
    }
    let line = Line::run(&kafka, source.uri(), "lagless").with("--start", "oldest");
    line.flag("--until-caught-up").produce_all()?;
    expect_equal_target(&kafka, &source, "lagless").await?;

    let described = tool(
        &kafka,
        "kafka-consumer-groups",
        &["--describe", "--group", "lagless"],
    )?;
    let partitions: Vec<Vec<&str>> = described
        .lines()
        .map(|line| line.split_whitespace().collect())
        .filter(|words: &Vec<&str>| words.first() == Some(&"lagless"))
        .collect();
    ensure!(!partitions.is_empty(), "{described}");
    for words in &partitions {
        // The columns are GROUP TOPIC PARTITION CURRENT-OFFSET LOG-END-OFFSET LAG, with '-' for a
        // partition that never had a record.
        let empty = words[4] == "0";
        ensure!(words[5] == "0" || (empty && words[5] == "-"), "{described}");
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn an_offset_below_the_start_of_the_log_ends_the_replay_with_code_4() -> Result<()> {
    let kafka = Kafka::shared()?;
    let source = source()?;
    let target = FerretDb::start(&FerretDbOptions::target())?;
    let mut load = Load::connect(&source.uri(), "shop", 6).await?;
    load.round(50).await?;
    let line = Line::run(&kafka, source.uri(), "deleted").with("--start", "oldest");
    line.flag("--until-caught-up").produce_all()?;
    replay(&kafka, &target, "deleted")?.with_code(0)?;

    let contents = read_topics(&kafka.brokers(), "deleted", Format::Bson)?;
    let fullest = contents.iter().max_by_key(|(_, records)| records.len());
    let ((topic, partition), _) = fullest.context("the producer wrote no records")?;
    // The group goes back to offset 0, and then the records before offset 2 are deleted: the
    // committed offset refers to a record that no longer exists.
    let reset = [
        "--reset-offsets",
        "--to-earliest",
        "--execute",
        "--topic",
        topic,
    ];
    tool(
        &kafka,
        "kafka-consumer-groups",
        &[&["--group", "deleted"], &reset[..]].concat(),
    )?;
    let mut gone = TopicPartitionList::new();
    gone.add_partition_offset(topic, *partition, Offset::Offset(2))?;
    let admin: AdminClient<DefaultClientContext> = ClientConfig::new()
        .set("bootstrap.servers", kafka.brokers())
        .create()?;
    admin.delete_records(&gone, &AdminOptions::new()).await?;
    let ended = replay(&kafka, &target, "deleted")?;
    ended.with_code(4)?.with_log(&[topic])?;
    Ok(())
}
