//! Collections that are created and dropped on a source while both programs run.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use anyhow::{Context, Result, ensure};
use oplog_relay_kit::ddl::Rounds;
use oplog_relay_kit::http_status::{metric, status};
use oplog_relay_kit::model::{Model, ModelServer};
use oplog_relay_kit::services::{Port, Program, wait_until};
use oplog_relay_kit::stub::{Oplog, Server};

use crate::topics::{LIMIT, Topics};

/// A source, a producer, the members of a group and a target, started before the first entry.
struct Pipeline {
    _source: Server,
    target: ModelServer,
    producer: Program,
    members: Vec<Program>,
    port: Port,
    /// Keeps the broker running.
    _topics: Topics,
}

fn now() -> Result<i64> {
    let now = SystemTime::now().duration_since(UNIX_EPOCH)?;
    Ok(i64::try_from(now.as_millis())?)
}

impl Pipeline {
    fn start(prefix: &str, rounds: &Rounds, members: usize) -> Result<Pipeline> {
        let topics = Topics::none(prefix)?;
        let source = Server::start_live(Oplog::given(&rounds.oplog()?)?)?;
        let target = ModelServer::start(Model::default())?;
        let members: Result<Vec<Program>> = (0..members)
            .map(|_| topics.start(&target, prefix, &[]))
            .collect();
        let port = Port::lease()?;
        let flags = [
            "run".to_owned(),
            "--start=oldest".to_owned(),
            "--partitions=4".to_owned(),
            format!("--http=127.0.0.1:{}", port.number()),
            format!("--source={}", source.uri()),
            format!("--brokers={}", topics.brokers()),
            format!("--topic-prefix={prefix}"),
        ];
        Ok(Pipeline {
            producer: Program::producer(flags.iter().map(String::as_str))?,
            _source: source,
            target,
            members: members?,
            port,
            _topics: topics,
        })
    }

    /// Waits until the target has all of the source's data.
    fn wait(&mut self, rounds: &Rounds) -> Result<()> {
        wait_until("all data on the target", LIMIT, || {
            rounds.are_applied(&self.target.model())
        })
        .with_context(|| {
            format!(
                "{:?}\nproducer: {}\nmember: {}",
                status(self.port.number()),
                self.producer.stderr_text().unwrap_or_default(),
                self.members[0].stderr_text().unwrap_or_default()
            )
        })
    }

    /// Checks that the producer did not fail and restart its session.
    fn expect_one_session(&self) -> Result<()> {
        let sessions = metric(self.port.number(), "oplog_producer_sessions_total");
        ensure!(
            sessions == Some(1.0),
            "{sessions:?} sessions: {}",
            self.producer.stderr_text()?
        );
        Ok(())
    }

    fn stop(&mut self) -> Result<()> {
        let programs = self.members.iter_mut().chain([&mut self.producer]);
        for program in programs {
            program.terminate()?;
            program.wait(LIMIT)?;
        }
        Ok(())
    }
}

#[test]
fn a_thousand_commands_do_not_fail_the_session() -> Result<()> {
    let rounds = Rounds {
        rounds: 400,
        names: 5,
        begin: now()? + 3000,
        span: Duration::from_secs(6),
    };
    ensure!(rounds.commands() >= 1000);
    let mut pipeline = Pipeline::start("often", &rounds, 1)?;
    pipeline.wait(&rounds)?;
    pipeline.expect_one_session()?;
    pipeline.stop()
}

#[test]
fn short_lived_collections_do_not_fail_the_session() -> Result<()> {
    let rounds = Rounds {
        rounds: 60,
        names: 60,
        begin: now()? + 3000,
        span: Duration::from_secs(4),
    };
    let mut pipeline = Pipeline::start("fleeting", &rounds, 2)?;
    pipeline.wait(&rounds)?;
    pipeline.expect_one_session()?;
    pipeline.stop()
}
