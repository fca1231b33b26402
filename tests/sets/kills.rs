//! Members that are killed at barriers.

use anyhow::{Result, ensure};
use oplog_relay_tests::model::{Model, ModelServer};
use oplog_relay_tests::services::wait_until;

use crate::carry::Carried;
use crate::topics::LIMIT;

/// Commands that ran so far.
fn commands(target: &ModelServer) -> usize {
    let state = target.model().state();
    state.get("oplog_relay.catalog").map_or(0, Vec::len)
}

#[test]
fn one_of_three_members_killed_again_and_again_while_commands_run() -> Result<()> {
    let carried = Carried::new("ddl", "killed")?;
    let target = ModelServer::start(Model::default())?;
    let start = || carried.topics.start(&target, "killed", &[]);
    let mut members = vec![start()?, start()?, start()?];
    for kill in 0..6 {
        let before = commands(&target);
        // Nearly all of the time somebody waits at a barrier.
        wait_until("commands", LIMIT, || commands(&target) >= before + 5)?;
        let mut member = members.remove(0);
        ensure!(member.is_running()?, "{kill}: {}", member.stderr_text()?);
        member.kill_9()?;
        members.push(start()?);
    }
    for mut member in members {
        ensure!(member.is_running()?, "{}", member.stderr_text()?);
        member.terminate()?;
        member.wait(LIMIT)?;
    }
    carried.replay(&target, "killed", 3)?;
    carried.expect(&target)
}
