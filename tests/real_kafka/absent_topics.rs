//! Topics that are deleted before a group has read them.

use anyhow::{Result, ensure};
use bson::doc;
use oplog_relay_kit::model::{Model, ModelServer};

use crate::made::Made;
use crate::topics::Topics;

/// Returns topics with a rename, whose barrier joins two of them.
fn renamed(prefix: &str) -> Result<Topics> {
    let mut made = Made::default();
    made.create("s.a", 1)?;
    for id in 0..20 {
        made.insert("s.a", 1, id)?;
    }
    made.rename("s.a", 1, "s.b")?;
    for id in 0..20 {
        made.set("s.b", 1, id, doc! { "n": id })?;
    }
    Topics::carry(prefix, &made.oplog()?)
}

/// Deletes one of the two topics and checks that a replay ends and names it.
fn refused_without(prefix: &str, deleted: &str) -> Result<(Topics, ModelServer)> {
    let topics = renamed(prefix)?;
    let name = format!("{prefix}.s.{deleted}");
    topics.tool("kafka-topics", &["--delete", "--topic", &name])?;
    let target = ModelServer::start(Model::default())?;
    let refusal = (4, "which does not exist: it was deleted");
    topics.refused(&target, prefix, &[], refusal)?;
    Ok((topics, target))
}

#[test]
fn a_follower_does_not_wait_for_the_command_of_a_topic_that_was_deleted() -> Result<()> {
    refused_without("absent-leader", "a").map(drop)
}

#[test]
fn a_command_waits_for_a_deleted_topic_until_the_operator_allows_a_partial_reset() -> Result<()> {
    let (topics, target) = refused_without("absent-follower", "b")?;
    let flags = ["--allow-partial-reset"];
    topics.replay(&target, "absent-follower", 2, &flags)?;
    let state = target.model().state();
    ensure!(state.contains_key("s.b") && !state.contains_key("s.a"));
    Ok(())
}
