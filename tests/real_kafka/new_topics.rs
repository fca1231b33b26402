//! Topics that appear while a group reads.

use anyhow::{Context, Result, ensure};
use oplog_relay_kit::model::{Model, ModelServer};
use oplog_relay_kit::services::wait_until;

use crate::made::Made;
use crate::topics::{LIMIT, Topics};

/// The Kafka client of the replay would find the topic after half a minute. The replay learns of it from the
/// producer's state topic.
#[test]
fn a_new_topic_is_read_at_once() -> Result<()> {
    let mut made = Made::default();
    made.insert("s.a", 1, 1)?;
    let topics = Topics::carry("new-topics", &made.oplog()?)?;
    let target = ModelServer::start(Model::default())?;
    let flags = [
        "--kafka-option=topic.metadata.refresh.interval.ms=30000",
        "--log-level=info,oplog_consumer::group::claims=debug",
    ];
    let mut replay = topics.start(&target, "new-topics", &flags)?;
    let written = |ns: &str| {
        wait_until(ns, LIMIT, || target.model().state().contains_key(ns))
            .with_context(|| replay.stderr_text().unwrap_or_default())
    };
    written("s.a")?;
    for (ns, ui) in [("s.b", 2), ("s.c", 3)] {
        made.insert(ns, ui, 1)?;
        topics.produce(&made.oplog()?, &[])?;
        written(ns)?;
        let log = replay.stderr_text()?;
        let topic = format!("new-topics.{ns}");
        let mut claims = log.lines().filter(|line| line.contains("has claimed"));
        ensure!(claims.any(|line| line.contains(&topic)), "{ns}: {log}");
    }
    replay.terminate()?;
    replay.wait(LIMIT).map(drop)
}
