//! Collections whose documents depend on each other stay in one partition.

use std::collections::BTreeSet;

use anyhow::{Context as _, Result, ensure};
use bson::doc;
use mongodb::Client;
use oplog_relay_core::format::Format;
use oplog_relay_kit::services::Kafka;
use oplog_relay_kit::topic_reader::{Contents, read_topics};

use crate::support::{Line, source};

const DOCUMENTS: i32 = 60;

/// Returns the partitions of a topic that have records, and the number of their records.
fn spread(contents: &Contents, topic: &str) -> (BTreeSet<i32>, usize) {
    let records = contents.iter().filter(|((name, _), _)| name == topic);
    let records = records.filter(|(_, records)| !records.is_empty());
    let (mut partitions, mut count) = (BTreeSet::new(), 0);
    for ((_, partition), records) in records {
        partitions.insert(*partition);
        count += records.len();
    }
    (partitions, count)
}

/// Returns the partitions of a topic that have records, and the number of their records, from the
/// output of `inspect`.
fn inspected(lines: &str, topic: &str) -> Result<(BTreeSet<i32>, usize)> {
    let (mut partitions, mut count) = (BTreeSet::new(), 0);
    for line in lines.lines() {
        let line: serde_json::Value = serde_json::from_str(line)?;
        if line["topic"] == topic {
            let partition = line["partition"].as_i64().context("no partition")?;
            partitions.insert(i32::try_from(partition)?);
            count += 1;
        }
    }
    Ok((partitions, count))
}

#[tokio::test(flavor = "multi_thread")]
async fn a_unique_index_from_before_the_start_keeps_its_collection_in_one_partition() -> Result<()>
{
    let kafka = Kafka::shared()?;
    let source = source()?;
    let shop = Client::with_uri_str(source.uri()).await?.database("shop");
    let index = doc! { "key": { "name": 1 }, "name": "name_1", "unique": true };
    shop.run_command(doc! { "createIndexes": "unique", "indexes": [index] })
        .await?;
    for collection in ["unique", "plain"] {
        let documents = (0..DOCUMENTS).map(|id| doc! { "_id": id, "name": format!("n{id}") });
        shop.collection(collection).insert_many(documents).await?;
    }
    let all: BTreeSet<i32> = (0..4).collect();
    let one = |at: &BTreeSet<i32>| at.len() == 1;
    let count = usize::try_from(DOCUMENTS)?;
    for (prefix, order) in [("learnt", "auto"), ("byid", "id"), ("bycoll", "collection")] {
        let line = Line::run(&kafka, source.uri(), prefix).with("--start", "oldest");
        let line = line.flag("--until-caught-up");
        line.clone().with("--order", order).produce_all()?;
        let contents = read_topics(&kafka.brokers(), prefix, Format::Bson)?;
        let unique = spread(&contents, &format!("{prefix}.shop.unique"));
        let plain = spread(&contents, &format!("{prefix}.shop.plain"));
        ensure!((unique.1, plain.1) == (count, count), "{order}");
        ensure!(one(&unique.0) == (order != "id"), "{order}: {unique:?}");
        ensure!(
            one(&plain.0) == (order == "collection"),
            "{order}: {plain:?}"
        );
        ensure!(order == "collection" || plain.0 == all, "{plain:?}");
        let inspect = Line::new("inspect").with("--source", source.uri());
        let seen = inspect.with("--order", order).produce_all()?;
        ensure!(inspected(&seen.stdout, "oplog.shop.unique")? == unique);
        ensure!(inspected(&seen.stdout, "oplog.shop.plain")? == plain);
        // The value of `--order` is part of the saved state.
        let other = if order == "id" { "auto" } else { "id" };
        let given = format!("Give --order {order}");
        let parts = ["made with --order", "shop.", &given];
        let ended = line.with("--order", other).produce()?;
        ended.with_code(2)?.with_log(&parts)?;
    }
    Ok(())
}
