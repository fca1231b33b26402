//! Stretches that are applied again: the target is ahead, and ends where it was.

use anyhow::Result;
use oplog_relay_tests::model::{Model, ModelServer};

use crate::carry::Carried;

/// Replays a set, resets the group to the beginning, and replays it again.
fn again(name: &str) -> Result<()> {
    let carried = Carried::new(name, &format!("again-{name}"))?;
    let target = ModelServer::start(Model::default())?;
    let group = format!("again-{name}");
    carried.replay(&target, &group, 1)?;
    carried.expect(&target)?;
    carried
        .topics
        .reset(&group, &["--all-topics", "--to-earliest"])?;
    carried.replay(&target, &group, 3)?;
    carried.expect(&target)
}

#[test]
fn collections_that_were_renamed_and_dropped_since() -> Result<()> {
    again("ddl")
}

#[test]
fn unique_values_that_other_documents_have_now() -> Result<()> {
    again("unique-indexes")
}

#[test]
fn a_random_mix() -> Result<()> {
    again("workload-a")
}
