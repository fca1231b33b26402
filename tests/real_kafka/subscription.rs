//! The namespaces of a group, changed while a member runs.

use anyhow::{Result, ensure};
use oplog_relay_kit::model::{Model, ModelServer};
use oplog_relay_kit::services::wait_until;

use crate::made::Made;
use crate::topics::{LIMIT, Topics};

#[test]
fn a_running_member_ends_with_2_when_another_one_changes_the_namespaces() -> Result<()> {
    let mut made = Made::default();
    made.create("s.a", 1)?;
    made.insert("s.a", 1, 0)?;
    let topics = Topics::carry("namespaces", &made.oplog()?)?;
    let target = ModelServer::start(Model::default())?;
    let mut old = topics.start(&target, "namespaces", &["--include-namespaces=s"])?;
    wait_until("the document", LIMIT, || {
        target.model().state().contains_key("s.a")
    })?;
    let mut new = topics.start(&target, "namespaces", &["--change-subscription"])?;
    let code = old.wait(LIMIT)?;
    let log = old.stderr_text()?;
    ensure!(code == 2 && log.contains("all namespaces"), "{code}: {log}");
    ensure!(new.is_running()?, "{}", new.stderr_text()?);
    new.terminate()?;
    new.wait(LIMIT).map(drop)
}
