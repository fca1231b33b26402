//! The time until another instance follows a source whose instance has ended.

use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use anyhow::Result;
use oplog_relay_kit::http_status::status;
use oplog_relay_kit::services::{Port, Program, wait_until};
use oplog_relay_kit::stub::{Oplog, Recipe, Server, Shape};

use super::options::Options;
use super::scene::Scene;
use super::verdict::at_most;

const PREFIX: &str = "takeover";
const LIMIT: Duration = Duration::from_secs(60);
/// Entries that the source writes in a second.
const RATE: u64 = 100;
/// `--takeover-after`, in seconds: the shortest session timeout that a broker accepts by default.
const TAKEOVER_AFTER: u64 = 6;
/// The longest time until the next instance commits, in seconds: after a graceful stop, and after the
/// session timeout of an instance that no longer responds.
const MOST_AFTER_STOP: f64 = 2.0;
const MOST_AFTER_CRASH: f64 = 7.0;

/// The way in which an instance ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Ending {
    Stopped,
    Killed,
    Suspended,
}

impl Ending {
    pub(super) const ALL: &'static [Ending] = &[Ending::Stopped, Ending::Killed, Ending::Suspended];

    const fn name(self) -> &'static str {
        match self {
            Ending::Stopped => "takeover after SIGTERM",
            Ending::Killed => "takeover after SIGKILL",
            Ending::Suspended => "takeover after SIGSTOP",
        }
    }

    const fn most(self) -> f64 {
        match self {
            Ending::Stopped => MOST_AFTER_STOP,
            Ending::Killed | Ending::Suspended => MOST_AFTER_CRASH,
        }
    }

    fn end(self, program: &mut Program) -> Result<()> {
        match self {
            Ending::Stopped => program.terminate(),
            Ending::Killed => program.kill_9(),
            Ending::Suspended => program.signal("STOP"),
        }
    }
}

/// An instance of oplog-producer.
struct Instance {
    program: Program,
    port: Port,
}

impl Instance {
    fn start(scene: &Scene, source: &Server) -> Result<Instance> {
        let (place, port) = (scene.place_of(PREFIX, 1), Port::lease()?);
        let program = Program::producer([
            "run".to_owned(),
            format!("--http=127.0.0.1:{}", port.number()),
            format!("--brokers={}", place.brokers),
            format!("--topic-prefix={PREFIX}"),
            format!("--source={}", source.uri()),
            "--source-name=rs0".to_owned(),
            "--start=oldest".to_owned(),
            "--high-availability".to_owned(),
            format!("--takeover-after={TAKEOVER_AFTER}s"),
        ])?;
        Ok(Instance { program, port })
    }

    fn has_role(&self, role: &str) -> bool {
        status(self.port.number()).is_some_and(|shown| shown["role"] == role)
    }

    fn has_committed(&self) -> bool {
        let shown = status(self.port.number());
        shown.is_some_and(|shown| shown["commits"].as_u64() > Some(0))
    }
}

/// Ends the instance that follows the source, in each of the ways, and reports the time until the next
/// one has committed.
pub(super) fn measure(scene: &Scene, options: &Options) -> Result<String> {
    let now = SystemTime::now().duration_since(UNIX_EPOCH)?;
    let source = Server::start_live(Oplog::make(Recipe {
        per_second: RATE,
        first_second: u32::try_from(now.as_secs())?,
        ..Recipe::new(RATE * 600, Shape::Inserts)
    }))?;
    let mut lines = vec![format!(
        "two instances, one source of {RATE} entries a second, --takeover-after {TAKEOVER_AFTER}s"
    )];
    let mut active = Instance::start(scene, &source)?;
    wait_until("the first instance", LIMIT, || active.has_committed())?;
    for ending in options.endings {
        let standby = Instance::start(scene, &source)?;
        wait_until("the standby", LIMIT, || standby.has_role("standby"))?;
        let begun = Instant::now();
        ending.end(&mut active.program)?;
        wait_until("the takeover", LIMIT, || standby.has_committed())?;
        let seconds = begun.elapsed().as_secs_f64();
        lines.push(at_most(ending.name(), seconds, ending.most(), "s"));
        active = standby;
    }
    active.program.stop(LIMIT)?;
    scene.remove(PREFIX)?;
    Ok(lines.join("\n"))
}
