//! Servers that stop answering: `/readyz` of the programs reports it, and `/livez` does not.

use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use oplog_relay_kit::http_status::probe;
use oplog_relay_kit::model::{Model, ModelServer};
use oplog_relay_kit::services::{Port, Program, wait_until};
use oplog_relay_kit::stub::{Oplog, Server, Shape};

use crate::idle;
use crate::made::Made;
use crate::topics::{LIMIT, Topics};

/// The value of [`FLAG`]: the shortest time that the programs accept.
const STALLED_AFTER: Duration = Duration::from_secs(5);
const FLAG: &str = "--stalled-after=5s";

fn live(port: &Port) -> bool {
    probe(port.number(), "/livez").is_some_and(|live| live.passes)
}

/// Waits until the program is ready.
fn wait_until_ready(port: &Port, program: &Program) -> Result<()> {
    wait_until("a program that is ready", LIMIT, || {
        probe(port.number(), "/readyz").is_some_and(|ready| ready.passes)
    })
    .with_context(|| program.stderr_text().unwrap_or_default())
}

/// Waits until the program is not ready for that reason, while it is live.
fn wait_until_unready(port: &Port, reason: &str) -> Result<()> {
    let mut last = None;
    let waited = wait_until(reason, LIMIT, || {
        last = probe(port.number(), "/readyz");
        let unready = last.as_ref().filter(|ready| !ready.passes);
        unready.is_some_and(|unready| unready.text.contains(reason))
    });
    waited.with_context(|| format!("{last:?}"))?;
    ensure!(live(port), "a program that waits is not live");
    Ok(())
}

fn start_producer(topics: &Topics, source: &Server, port: &Port) -> Result<Program> {
    let (uri, brokers) = (source.uri(), topics.brokers());
    let http = format!("--http=127.0.0.1:{}", port.number());
    let common = ["run", "--start=oldest", FLAG, &http];
    let flags = ["--source", &uri, "--brokers", &brokers];
    let prefix = ["--topic-prefix", topics.prefix()];
    Program::producer([&common[..], &flags, &prefix].concat())
}

#[test]
fn a_target_that_takes_no_writes_makes_the_replay_unready_until_it_answers() -> Result<()> {
    let mut made = Made::default();
    made.insert("s.a", 1, 1)?;
    let topics = Topics::carry("stalled-target", &made.oplog()?)?;
    let target = ModelServer::start(Model::default())?;
    target.hold("insert", "a");
    let port = Port::lease()?;
    let program = idle::start(&topics, "stalled-target", &target, &port, &[FLAG])?;
    wait_until_unready(&port, "applying the same records")?;
    target.resume();
    wait_until_ready(&port, &program)
}

/// The end of each partition lies after the marker of its last transaction, which is not a record.
#[test]
fn a_member_without_new_records_stays_ready() -> Result<()> {
    let mut made = Made::default();
    made.insert("s.a", 1, 1)?;
    let topics = Topics::carry("nothing-new", &made.oplog()?)?;
    let target = ModelServer::start(Model::default())?;
    let port = Port::lease()?;
    let program = idle::start(&topics, "nothing-new", &target, &port, &[FLAG])?;
    wait_until_ready(&port, &program)?;
    wait_until("the document", LIMIT, || {
        target.model().state().contains_key("s.a")
    })?;
    let (begun, mut last) = (Instant::now(), None);
    wait_until("a longer time without records", LIMIT, || {
        last = probe(port.number(), "/readyz");
        let is_ready = last.as_ref().is_some_and(|ready| ready.passes);
        !is_ready || begun.elapsed() >= STALLED_AFTER * 3 / 2
    })?;
    ensure!(last.as_ref().is_some_and(|ready| ready.passes), "{last:?}");
    Ok(())
}

#[test]
fn a_source_that_does_not_answer_makes_the_producer_unready_until_it_does() -> Result<()> {
    let topics = Topics::none("silent-source")?;
    let source = Server::start(Oplog::generate(10, Shape::Inserts))?;
    let port = Port::lease()?;
    let program = start_producer(&topics, &source, &port)?;
    wait_until_ready(&port, &program)?;
    source.hold("getMore");
    wait_until_unready(&port, "no event from the source")?;
    source.resume();
    wait_until_ready(&port, &program)
}

/// Planning a full sync of many collections may take minutes.
#[test]
fn a_session_that_takes_long_to_open_does_not_look_stuck() -> Result<()> {
    let topics = Topics::none("long-plan")?;
    let source = Server::start(Oplog::generate(10, Shape::Inserts))?;
    source.hold("find");
    let port = Port::lease()?;
    let program = start_producer(&topics, &source, &port)?;
    wait_until("a query of the session", LIMIT, || {
        source.held() > 0 && live(&port)
    })
    .with_context(|| program.stderr_text().unwrap_or_default())?;
    let begun = Instant::now();
    let mut was_live = true;
    wait_until("more time than a stall may take", LIMIT, || {
        was_live &= live(&port);
        begun.elapsed() > STALLED_AFTER * 3 / 2
    })?;
    ensure!(
        was_live && source.held() > 0,
        "the producer was considered stuck"
    );
    source.resume();
    wait_until_ready(&port, &program)
}
