//! Apache Kafka: private brokers for tests, and Kafka's own tools and partitioner.

mod broker;
mod home;
mod tools;

use std::process::Output;
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::time::Duration;

use anyhow::{Context, Result};

pub(crate) use broker::Broker;
pub use tools::{java_partitions, run_java};

use crate::services::port::Port;
use crate::services::process::Process;
use crate::services::workdir::Workdir;
pub(crate) use home::{Home, java_program};

const READY_WITHIN: Duration = Duration::from_secs(60);
const STOPPED_WITHIN: Duration = Duration::from_secs(20);
/// Number of attempts to start, each on other ports: another program may have taken one.
const START_ATTEMPTS: usize = 3;

/// A release line of Kafka.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum KafkaLine {
    /// The line that most tests use.
    #[default]
    Current,
    /// The oldest supported line, 2.5, which needs ZooKeeper.
    Oldest,
}

/// The options of a broker for a test.
#[derive(Clone, Debug)]
pub struct KafkaOptions {
    /// Broker properties that override the defaults of the tests.
    pub properties: Vec<(String, String)>,
    /// The upper bound of the Java heap, in megabytes.
    pub heap_mb: u32,
    /// Runs the broker as in production: Java's own choice of compiler and collector, the whole
    /// heap from the start, and the logs in memory if the host has a memory file system. Otherwise
    /// the broker is quick to start.
    pub for_speed: bool,
    /// The release line.
    pub line: KafkaLine,
    /// Users with rights, who authenticate with their name as their password at
    /// [`Kafka::sasl_brokers`]. Without users there is no authorizer.
    pub users: Vec<String>,
}

impl Default for KafkaOptions {
    fn default() -> KafkaOptions {
        KafkaOptions {
            properties: Vec::new(),
            heap_mb: 768,
            for_speed: false,
            line: KafkaLine::Current,
            users: Vec::new(),
        }
    }
}

/// A private broker in a temporary directory; it is killed when dropped.
#[derive(Debug)]
pub struct Kafka {
    process: Option<Process>,
    broker: Broker,
    workdir: Workdir,
    _ports: Vec<Port>,
}

impl Kafka {
    /// Installs Kafka if necessary, starts a broker and waits until it serves.
    pub fn start(options: &KafkaOptions) -> Result<Kafka> {
        let home = Home::install(options.line)?;
        let mut attempt = 1;
        loop {
            match Kafka::start_once(&home, options) {
                Err(error) if attempt < START_ATTEMPTS => {
                    eprintln!("kafka did not start, trying other ports: {error:#}");
                    attempt += 1;
                }
                outcome => return outcome,
            }
        }
    }

    /// Returns a broker that the tests of a process share, each under a prefix of its own. It ends with
    /// the last test that holds it: a broker with the topics of all tests would become slow.
    ///
    /// # Errors
    /// The errors of [`Kafka::start`].
    pub fn shared() -> Result<Arc<Kafka>> {
        static SHARED: Mutex<Weak<Kafka>> = Mutex::new(Weak::new());
        let mut shared = SHARED.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(kafka) = shared.upgrade() {
            return Ok(kafka);
        }
        let kafka = Arc::new(Kafka::start(&KafkaOptions::default())?);
        *shared = Arc::downgrade(&kafka);
        Ok(kafka)
    }

    fn start_once(home: &Home, options: &KafkaOptions) -> Result<Kafka> {
        let count = if options.users.is_empty() { 2 } else { 3 };
        let ports: Vec<Port> = (0..count).map(|_| Port::lease()).collect::<Result<_>>()?;
        let workdir = match options.for_speed {
            true => Workdir::create_in_memory("kafka")?,
            false => Workdir::create("kafka")?,
        };
        let mut broker = Broker::new(
            home.clone(),
            workdir.path(),
            ports[0].number(),
            ports[1].number(),
            options.clone(),
        );
        if let Some(port) = ports.get(2) {
            broker = broker.with_sasl(port.number());
        }
        let mut kafka = Kafka {
            process: None,
            broker,
            workdir,
            _ports: ports,
        };
        match kafka.run() {
            Ok(()) => Ok(kafka),
            Err(error) => {
                kafka.keep();
                Err(error)
            }
        }
    }

    /// Returns the address for clients.
    #[must_use]
    pub fn brokers(&self) -> String {
        self.broker.address()
    }

    /// Returns the address for users with rights.
    ///
    /// # Errors
    /// The broker has no such address.
    pub fn sasl_brokers(&self) -> Result<String> {
        self.broker.sasl_address().context("broker without users")
    }

    /// Grants rights, one per line: `<user> <operation> <resource type> <pattern type> <name>`.
    ///
    /// # Errors
    /// The broker refuses them.
    pub fn grant(&self, rights: &[String]) -> Result<()> {
        tools::grant(&self.brokers(), rights)
    }

    /// Stops the broker (SIGTERM, then SIGKILL), keeping its data and ports.
    pub fn stop(&mut self) -> Result<()> {
        if let Some(mut process) = self.process.take() {
            process.stop(STOPPED_WITHIN)?;
        }
        Ok(())
    }

    /// Kills the broker (SIGKILL), keeping its data and ports.
    pub fn kill(&mut self) -> Result<()> {
        if let Some(mut process) = self.process.take() {
            process.kill()?;
        }
        Ok(())
    }

    /// Stops the broker if it runs, and starts it on the same port with the same data.
    pub fn restart(&mut self) -> Result<()> {
        self.stop()?;
        self.run()
    }

    /// Runs one of Kafka's tools (`kafka-topics`, `kafka-consumer-groups`, `kafka-get-offsets`,
    /// `kafka-console-consumer`, …, or a class name) to its end, within a minute.
    ///
    /// `--bootstrap-server` is added to the tools known by name.
    pub fn tool(&self, name: &str, args: &[&str]) -> Result<Output> {
        tools::run(&self.brokers(), name, args)
    }

    /// Returns the broker's directory: `server.properties`, `data`, and `logs` with its output.
    #[must_use]
    pub fn directory(&self) -> &std::path::Path {
        self.workdir.path()
    }

    /// Keeps the directory after the end.
    pub fn keep(&mut self) {
        self.workdir.keep();
    }

    fn run(&mut self) -> Result<()> {
        let command = self.broker.prepare(true)?;
        let mut process = Process::spawn("kafka", command, &self.workdir.path().join("logs"))?;
        self.broker
            .wait_until_ready(READY_WITHIN, || process.expect_running())
            .with_context(|| format!("the broker's log ends:\n{}", process.stderr_tail()))?;
        self.process = Some(process);
        Ok(())
    }
}
