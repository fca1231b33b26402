//! An installed Kafka: its jars from Maven, a formatted data directory to copy, and a class-data
//! archive that halves the start time of a broker.

use std::ffi::OsString;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result};

use crate::services::cache;
use crate::services::kafka::{Broker, KafkaLine, KafkaOptions};
use crate::services::port::Port;
use crate::services::process::{self, Process};

const POM: &str = include_str!("../../../services/kafka/pom.xml");
const LOGGING: &str = include_str!("../../../services/kafka/log4j2.properties");
const OLD_POM: &str = include_str!("../../../services/kafka-2.5/pom.xml");
const OLD_LOGGING: &str = include_str!("../../../services/kafka-2.5/log4j.properties");
const OLD_BROKER: &str = include_str!("../../../services/kafka-2.5/OldBroker.java");
/// The version of the installation steps, raised when these change.
const RECIPE: &str = "1";
/// The cluster id. It is the same everywhere, because these brokers never connect to each other.
const CLUSTER_ID: &str = "b3Bsb2ctcmVsYXktdGVzdA";

/// The folder of an installation.
#[derive(Clone, Debug)]
pub(crate) struct Home {
    folder: PathBuf,
    line: KafkaLine,
}

impl Home {
    /// Finds the installation, or creates it.
    pub(crate) fn install(line: KafkaLine) -> Result<Home> {
        let home = |folder: &Path| Home {
            folder: folder.to_owned(),
            line,
        };
        let folder = match line {
            KafkaLine::Current => {
                let inputs = [POM, LOGGING, RECIPE];
                cache::installed("kafka", &inputs, |folder| {
                    let home = home(folder);
                    home.fetch(POM, LOGGING)?;
                    home.format()?;
                    home.archive_classes()
                })?
            }
            KafkaLine::Oldest => {
                let inputs = [OLD_POM, OLD_LOGGING, OLD_BROKER, RECIPE];
                cache::installed("kafka-2.5", &inputs, |folder| {
                    let home = home(folder);
                    home.fetch(OLD_POM, OLD_LOGGING)?;
                    home.compile_old_broker()
                })?
            }
        };
        Ok(home(&folder))
    }

    pub(crate) fn line(&self) -> KafkaLine {
        self.line
    }

    pub(crate) fn java(&self) -> PathBuf {
        java_program("java")
    }

    /// Returns the class path, as Java expands it.
    pub(crate) fn class_path(&self) -> OsString {
        let libraries = self.folder.join("libs/*").into_os_string();
        match self.line {
            KafkaLine::Current => libraries,
            KafkaLine::Oldest => {
                let mut path = self.classes().into_os_string();
                path.push(":");
                path.push(libraries);
                path
            }
        }
    }

    /// Adds the Java options of a broker.
    pub(crate) fn broker_args(&self, command: &mut Command, options: &KafkaOptions) {
        let heap_mb = options.heap_mb;
        command
            .arg(format!("-Xmx{heap_mb}m"))
            .arg("-Djava.awt.headless=true");
        if options.for_speed {
            command.arg(format!("-Xms{heap_mb}m")).arg("-XX:+UseG1GC");
        } else {
            command.arg("-Xms128m");
            self.quick_start_args(command);
        }
        self.common_args(command, "INFO");
    }

    /// Adds the Java options of a program that runs briefly.
    pub(crate) fn quick_start_args(&self, command: &mut Command) {
        command.args([
            "-Xshare:auto",
            "-XX:+UseSerialGC",
            "-XX:TieredStopAtLevel=1",
        ]);
        let archive = self.class_archive();
        if archive.exists() {
            command.arg(option("-XX:SharedArchiveFile=", &archive));
        }
    }

    /// Adds the Java options that all programs share.
    pub(crate) fn common_args(&self, command: &mut Command, log_level: &str) {
        let logging = match self.line {
            KafkaLine::Current => "-Dlog4j2.configurationFile=file:",
            KafkaLine::Oldest => "-Dlog4j.configuration=file:",
        };
        command
            .arg(option(logging, &self.logging()))
            .arg(format!("-Dkafka.log.level={log_level}"))
            .arg("-cp")
            .arg(self.class_path());
    }

    /// Makes `data` a freshly formatted data directory.
    pub(crate) fn copy_formatted(&self, data: &Path) -> Result<()> {
        fs::create_dir_all(data)?;
        for entry in fs::read_dir(self.formatted())? {
            let entry = entry?;
            fs::copy(entry.path(), data.join(entry.file_name()))?;
        }
        Ok(())
    }

    fn fetch(&self, pom: &str, logging: &str) -> Result<()> {
        fs::write(self.folder.join("pom.xml"), pom)?;
        fs::write(self.logging(), logging)?;
        cache::copy_jars(&self.folder)
    }

    fn compile_old_broker(&self) -> Result<()> {
        let source = self.folder.join("OldBroker.java");
        fs::write(&source, OLD_BROKER)?;
        let mut command = Command::new(java_program("javac"));
        command.arg("-d").arg(self.classes());
        command.arg("-cp").arg(self.class_path());
        cache::run(command.arg(source))?;
        Ok(())
    }

    /// Formats once and keeps the result, which saves a Java start for every broker. The files
    /// contain neither a port nor a path.
    fn format(&self) -> Result<()> {
        let workshop = self.folder.join("format");
        let broker = Broker::new(self.clone(), &workshop, 9092, 9093, KafkaOptions::default());
        let properties = broker.write_properties()?;
        let mut command = Command::new(self.java());
        self.common_args(&mut command, "WARN");
        command
            .args(["kafka.tools.StorageTool", "format", "-t", CLUSTER_ID, "-c"])
            .arg(properties);
        cache::run(&mut command)?;
        fs::rename(broker.data(), self.formatted())?;
        fs::remove_dir_all(workshop)?;
        Ok(())
    }

    /// Runs a broker once so that Java writes an archive of the loaded classes.
    fn archive_classes(&self) -> Result<()> {
        let workshop = self.folder.join("archive");
        let ports = [Port::lease()?, Port::lease()?];
        let broker = Broker::new(
            self.clone(),
            &workshop,
            ports[0].number(),
            ports[1].number(),
            KafkaOptions::default(),
        );
        let properties = broker.write_properties()?;
        self.copy_formatted(&broker.data())?;
        let mut command = process::tied(self.java());
        command.arg(option("-XX:ArchiveClassesAtExit=", &self.class_archive()));
        self.broker_args(&mut command, &KafkaOptions::default());
        command.arg("kafka.Kafka").arg(properties);
        let mut running = Process::spawn("kafka", command, &workshop)?;
        broker
            .wait_until_ready(Duration::from_secs(120), || running.expect_running())
            .context("the first broker did not start")?;
        running.stop(Duration::from_secs(60))?;
        fs::remove_dir_all(workshop)?;
        Ok(())
    }

    fn logging(&self) -> PathBuf {
        self.folder.join(match self.line {
            KafkaLine::Current => "log4j2.properties",
            KafkaLine::Oldest => "log4j.properties",
        })
    }

    fn classes(&self) -> PathBuf {
        self.folder.join("classes")
    }

    fn formatted(&self) -> PathBuf {
        self.folder.join("formatted")
    }

    fn class_archive(&self) -> PathBuf {
        self.folder.join("classes.jsa")
    }
}

/// Returns a program of the JDK.
pub(crate) fn java_program(name: &str) -> PathBuf {
    match std::env::var_os("JAVA_HOME") {
        Some(home) => Path::new(&home).join("bin").join(name),
        None => PathBuf::from(name),
    }
}

fn option(name: &str, path: &Path) -> OsString {
    let mut option = OsString::from(name);
    option.push(path);
    option
}
