//! Kafka Connect with the official MongoDB sink connector and Debezium's transforms: foreign readers of
//! the topics.

use std::fmt::Write as _;
use std::fs;
use std::path::{Path, PathBuf};

use anyhow::Result;

use crate::services::cache;
use crate::services::kafka::java_program;
use crate::services::port::Port;
use crate::services::process::{self, Process};
use crate::services::workdir::Workdir;

const POM: &str = include_str!("../../services/connect/pom.xml");
const LOGGING: &str = include_str!("../../services/kafka/log4j2.properties");
/// The version of the installation steps, raised when these change.
const RECIPE: &str = "1";

/// The properties of a connector.
#[derive(Clone, Debug)]
pub struct Connector {
    properties: Vec<(String, String)>,
}

impl Connector {
    /// Returns a connector of this class that reads one topic.
    #[must_use]
    pub fn new(name: &str, class: &str, topic: &str) -> Connector {
        let properties = Vec::new();
        let connector = Connector { properties };
        connector
            .with("name", name)
            .with("connector.class", class)
            .with("topics", topic)
            .with("tasks.max", "1")
    }

    /// Adds a property.
    #[must_use]
    pub fn with(mut self, name: &str, value: &str) -> Connector {
        self.properties.push((name.to_owned(), value.to_owned()));
        self
    }

    fn write(&self, path: &Path) -> Result<()> {
        let mut text = String::new();
        for (name, value) in &self.properties {
            writeln!(text, "{name}={value}")?;
        }
        Ok(fs::write(path, text)?)
    }
}

/// A standalone worker; it is killed when dropped.
#[derive(Debug)]
pub struct Connect {
    process: Process,
    _workdir: Workdir,
    _port: Port,
}

impl Connect {
    /// Installs Kafka Connect if necessary, and starts a worker that runs these connectors. It reads
    /// only committed records, as text.
    ///
    /// # Errors
    /// It cannot be installed or started. A connector that fails is seen by [`Connect::expect_running`]
    /// only if the worker ends.
    pub fn start(brokers: &str, connectors: &[Connector]) -> Result<Connect> {
        let home = install()?;
        let (workdir, port) = (Workdir::create("connect")?, Port::lease()?);
        let folder = workdir.path();
        let worker = folder.join("worker.properties");
        let offsets = folder.join("offsets");
        let text = "org.apache.kafka.connect.storage.StringConverter";
        let properties = format!(
            "bootstrap.servers={brokers}\nkey.converter={text}\nvalue.converter={text}\n\
             offset.storage.file.filename={}\nlisteners=http://127.0.0.1:{}\n\
             consumer.isolation.level=read_committed\nconsumer.auto.offset.reset=earliest\n\
             offset.flush.interval.ms=1000\n",
            offsets.display(),
            port.number(),
        );
        fs::write(&worker, properties)?;
        let mut command = process::tied(java_program("java"));
        command
            .args(["-Xmx512m", "-XX:+UseSerialGC", "-XX:TieredStopAtLevel=1"])
            .arg(format!(
                "-Dlog4j2.configurationFile=file:{}",
                home.join("log4j2.properties").display()
            ))
            .arg("-Dkafka.log.level=WARN")
            .arg("-cp")
            .arg(home.join("libs/*"))
            .arg("org.apache.kafka.connect.cli.ConnectStandalone")
            .arg(&worker);
        for (number, connector) in connectors.iter().enumerate() {
            let path = folder.join(format!("connector-{number}.properties"));
            connector.write(&path)?;
            command.arg(path);
        }
        let process = Process::spawn("connect", command, folder)?;
        Ok(Connect {
            process,
            _workdir: workdir,
            _port: port,
        })
    }

    /// Fails, with the end of its log, if the worker has ended.
    ///
    /// # Errors
    /// The worker has ended.
    pub fn expect_running(&mut self) -> Result<()> {
        self.process.expect_running()
    }

    /// Returns the worker's log: warnings and errors.
    ///
    /// # Errors
    /// The log cannot be read.
    pub fn log(&self) -> Result<String> {
        let log = self.process.stderr()?;
        Ok(String::from_utf8_lossy(&log).into_owned())
    }
}

fn install() -> Result<PathBuf> {
    cache::installed("connect", &[POM, LOGGING, RECIPE], |folder| {
        fs::write(folder.join("pom.xml"), POM)?;
        fs::write(folder.join("log4j2.properties"), LOGGING)?;
        cache::copy_jars(folder)
    })
}
