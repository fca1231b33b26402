//! The standing servers of `make services-up`: one Kafka, one source with an oplog, one target and
//! one schema registry, on fixed ports. They outlive the process that starts them. Linux only:
//! `/proc` shows which server a process belongs to.

use std::fs::{self, File};
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, bail};

use crate::services::apicurio;
use crate::services::cache;
use crate::services::ferretdb::{self, FerretDbOptions, Server};
use crate::services::kafka::{self, Broker, KafkaLine, KafkaOptions};
use crate::services::process::{append, send_signal, tail};
use crate::services::wait::wait_until;

const READY_WITHIN: Duration = Duration::from_secs(60);
const STOPPED_WITHIN: Duration = Duration::from_secs(20);

/// The ports of the standing servers; Kafka's controller uses the port after Kafka's.
#[derive(Clone, Copy, Debug)]
pub struct StandingPorts {
    /// Kafka's port.
    pub kafka: u16,
    /// The port of the MongoDB server that is read.
    pub source: u16,
    /// The port of the MongoDB server that is written to.
    pub target: u16,
    /// The port of the schema registry.
    pub registry: u16,
}

impl Default for StandingPorts {
    fn default() -> StandingPorts {
        StandingPorts {
            kafka: 19_092,
            source: 27_117,
            target: 27_118,
            registry: 18_081,
        }
    }
}

/// The state of one standing server.
#[derive(Clone, Debug)]
pub struct StandingState {
    /// The name: `kafka`, `source`, `target` or `registry`.
    pub name: &'static str,
    /// The address for clients.
    pub address: String,
    /// The process id, if it runs.
    pub id: Option<u32>,
    /// True if it runs on the given port and answers.
    pub ready: bool,
}

enum Kind {
    Kafka(Broker),
    FerretDb(Server),
    Apicurio(apicurio::Server),
}

struct Member {
    name: &'static str,
    directory: PathBuf,
    kind: Kind,
}

struct Running {
    id: u32,
    address: String,
}

/// The standing servers, running or not; one process at a time holds them.
pub struct Standing {
    members: [Member; 4],
    _lock: File,
}

impl std::fmt::Debug for Standing {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.debug_struct("Standing").finish_non_exhaustive()
    }
}

impl Standing {
    /// Installs missing servers and describes them; does not start any.
    pub fn open(ports: StandingPorts) -> Result<Standing> {
        let root = cache::root()?.join("services");
        fs::create_dir_all(&root)?;
        let lock = File::create(root.join("lock"))?;
        lock.lock()?;
        let home = kafka::Home::install(KafkaLine::Current)?;
        let program = ferretdb::install()?;
        let registry = apicurio::install()?;
        let kafka = Broker::new(
            home,
            &root.join("kafka"),
            ports.kafka,
            ports.kafka + 1,
            KafkaOptions::default(),
        );
        let server = |name, port, options| {
            let directory = root.join(name);
            let server = Server::new(&program, &directory, port, options);
            Member {
                name,
                directory,
                kind: Kind::FerretDb(server),
            }
        };
        let members = [
            Member {
                name: "kafka",
                directory: root.join("kafka"),
                kind: Kind::Kafka(kafka),
            },
            server("source", ports.source, FerretDbOptions::source()),
            server("target", ports.target, FerretDbOptions::target()),
            Member {
                name: "registry",
                directory: root.join("registry"),
                kind: Kind::Apicurio(apicurio::Server::new(
                    &registry,
                    &root.join("registry"),
                    ports.registry,
                )),
            },
        ];
        Ok(Standing {
            members,
            _lock: lock,
        })
    }

    /// Starts the servers that do not run and waits until all serve; the data of the last run is
    /// kept.
    pub fn up(&self) -> Result<Vec<StandingState>> {
        for member in &self.members {
            member.up()?;
        }
        for member in &self.members {
            member.wait_until_ready()?;
        }
        self.state()
    }

    /// Stops the servers that run, keeping the data; returns their previous state.
    pub fn down(&self) -> Result<Vec<StandingState>> {
        let before = self.state()?;
        for member in &self.members {
            member.stop()?;
        }
        Ok(before)
    }

    /// Returns the state of the servers.
    pub fn state(&self) -> Result<Vec<StandingState>> {
        self.members.iter().map(Member::state).collect()
    }
}

impl Member {
    fn pid_file(&self) -> PathBuf {
        self.directory.join("pid")
    }

    fn log_file(&self) -> PathBuf {
        self.directory
            .join("logs")
            .join(format!("{}.log", self.name))
    }

    fn address(&self) -> String {
        match &self.kind {
            Kind::Kafka(broker) => broker.address(),
            Kind::FerretDb(server) => server.uri(),
            Kind::Apicurio(server) => server.url(),
        }
    }

    /// Returns the server's process and the address that it was started for. The system reuses
    /// process ids, so the command line must name this server's own directory.
    fn running(&self) -> Result<Option<Running>> {
        let Ok(text) = fs::read_to_string(self.pid_file()) else {
            return Ok(None);
        };
        let (id, address) = text
            .trim()
            .split_once(' ')
            .and_then(|(id, address)| Some((id.parse().ok()?, address)))
            .with_context(|| format!("{} is damaged", self.pid_file().display()))?;
        let command_line = fs::read(format!("/proc/{id}/cmdline")).unwrap_or_default();
        let ours = format!("{}/", self.directory.display());
        let running = String::from_utf8_lossy(&command_line).contains(&ours);
        Ok(running.then(|| Running {
            id,
            address: address.to_owned(),
        }))
    }

    /// Starts the server unless it runs.
    fn up(&self) -> Result<()> {
        let Some(running) = self.running()? else {
            return self.spawn();
        };
        if running.address != self.address() {
            bail!("{} runs at {}: stop it first", self.name, running.address);
        }
        Ok(())
    }

    fn spawn(&self) -> Result<()> {
        let mut command: Command = match &self.kind {
            Kind::Kafka(broker) => broker.prepare(false)?,
            Kind::FerretDb(server) => server.prepare(false)?,
            Kind::Apicurio(server) => server.prepare(false)?,
        };
        fs::create_dir_all(self.directory.join("logs"))?;
        let log = append(&self.log_file())?;
        // The server has its own process group, so that Ctrl-C in the starter's terminal does not
        // reach it.
        let child = std::os::unix::process::CommandExt::process_group(&mut command, 0)
            .stdin(Stdio::null())
            .stdout(log.try_clone()?)
            .stderr(log)
            .current_dir(&self.directory)
            .spawn()
            .with_context(|| format!("cannot start {}", self.name))?;
        fs::write(
            self.pid_file(),
            format!("{} {}\n", child.id(), self.address()),
        )?;
        Ok(())
    }

    fn wait_until_ready(&self) -> Result<()> {
        let still_alive = || {
            if self.running()?.is_none() {
                bail!("the process ended");
            }
            Ok(())
        };
        let ready = match &self.kind {
            Kind::Kafka(broker) => broker.wait_until_ready(READY_WITHIN, still_alive),
            Kind::FerretDb(server) => server.wait_until_ready(still_alive),
            Kind::Apicurio(server) => server.wait_until_ready(still_alive),
        };
        ready.with_context(|| {
            let log = self.log_file();
            format!(
                "{} does not serve at {}; {} ends:\n{}",
                self.name,
                self.address(),
                log.display(),
                tail(&log),
            )
        })
    }

    fn stop(&self) -> Result<()> {
        let Some(Running { id, .. }) = self.running()? else {
            return Ok(());
        };
        send_signal(id, "TERM")?;
        let gone = || self.running().is_ok_and(|running| running.is_none());
        if wait_until("the end of the server", STOPPED_WITHIN, gone).is_err() {
            send_signal(id, "KILL")?;
            wait_until("the end of the killed server", STOPPED_WITHIN, gone)?;
        }
        fs::remove_file(self.pid_file())?;
        Ok(())
    }

    fn state(&self) -> Result<StandingState> {
        let running = self.running()?;
        let here = running
            .as_ref()
            .is_some_and(|running| running.address == self.address());
        let ready = here
            && match &self.kind {
                Kind::Kafka(broker) => broker.is_ready()?,
                Kind::FerretDb(server) => server.is_ready()?,
                Kind::Apicurio(server) => server.is_ready(),
            };
        Ok(StandingState {
            name: self.name,
            id: running.as_ref().map(|running| running.id),
            address: running.map_or_else(|| self.address(), |running| running.address),
            ready,
        })
    }
}
