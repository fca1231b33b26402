//! Topics that appear while a group reads.

use anyhow::{Context, Result};
use oplog_relay_kit::model::{Model, ModelServer};
use oplog_relay_kit::services::wait_until;

use crate::made::Made;
use crate::topics::{LIMIT, Topics};

/// The Kafka client of the replay would find the topic only after 15 minutes. The replay learns of it from
/// the producer's state topic.
#[test]
fn a_new_topic_is_read_at_once() -> Result<()> {
    let mut made = Made::default();
    made.insert("s.a", 1, 1)?;
    let topics = Topics::carry("new-topics", &made.oplog()?)?;
    let target = ModelServer::start(Model::default())?;
    // With the long interval the client takes minutes to find the start offsets of a new group.
    topics.replay(&target, "new-topics", 1, &[])?;
    let seldom = "--kafka-option=topic.metadata.refresh.interval.ms=900000";
    let mut replay = topics.start(&target, "new-topics", &[seldom])?;
    let written = |ns: &str| {
        wait_until(ns, LIMIT, || target.model().state().contains_key(ns))
            .with_context(|| replay.stderr_text().unwrap_or_default())
    };
    written("s.a")?;
    for (ns, ui) in [("s.b", 2), ("s.c", 3)] {
        made.insert(ns, ui, 1)?;
        topics.produce(&made.oplog()?, &[])?;
        written(ns)?;
    }
    replay.terminate()?;
    replay.wait(LIMIT).map(drop)
}
