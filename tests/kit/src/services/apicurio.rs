//! Apicurio Registry: a schema registry with Confluent's REST interface, in memory.

use std::fs;
use std::net::TcpStream;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, ensure};

use crate::services::cache;
use crate::services::kafka::java_program;
use crate::services::port::Port;
use crate::services::process::{self, Process};
use crate::services::wait::wait_until;
use crate::services::workdir::Workdir;

const POM: &str = include_str!("../../services/apicurio/pom.xml");
const READER: &str = include_str!("../../services/apicurio/AvroTopicReader.java");
const SERVER: &str = "io.apicurio:apicurio-registry-app:2.6.13.Final:tar.gz:all";
/// The version of the installation steps, raised when these change.
const RECIPE: &str = "1";
const READY_WITHIN: Duration = Duration::from_secs(90);
const ENDED_WITHIN: Duration = Duration::from_secs(60);

/// A registry; it is killed when dropped.
#[derive(Debug)]
pub struct Apicurio {
    process: Process,
    _workdir: Workdir,
    port: Port,
}

impl Apicurio {
    /// Installs the registry if necessary, and starts an empty one.
    ///
    /// # Errors
    /// It cannot be installed or started.
    pub fn start() -> Result<Apicurio> {
        Apicurio::start_on(Port::lease()?)
    }

    /// Starts an empty registry on this port.
    ///
    /// # Errors
    /// The errors of [`Apicurio::start`].
    pub fn start_on(port: Port) -> Result<Apicurio> {
        let workdir = Workdir::create("apicurio")?;
        let server = Server::new(&install()?, workdir.path(), port.number());
        let process = Process::spawn("apicurio", server.prepare(true)?, workdir.path())?;
        let mut registry = Apicurio {
            process,
            _workdir: workdir,
            port,
        };
        registry.wait_until_ready()?;
        Ok(registry)
    }

    fn wait_until_ready(&mut self) -> Result<()> {
        let port = self.port.number();
        wait_until("the registry", READY_WITHIN, || {
            TcpStream::connect(("127.0.0.1", port)).is_ok()
        })
        .with_context(|| {
            let log = self.process.stdout().unwrap_or_default();
            String::from_utf8_lossy(&log).into_owned()
        })?;
        self.process.expect_running()
    }

    /// Stops the registry, and returns its port for another one.
    pub fn stop(self) -> Port {
        let Apicurio { process, port, .. } = self;
        drop(process);
        port
    }

    /// Returns the address of Confluent's REST interface.
    #[must_use]
    pub fn url(&self) -> String {
        url_at(&self.port)
    }

    /// Prints the committed records of topics with Apicurio's own deserializer for Kafka's Java
    /// client: key, tab, value, both as Avro prints them.
    ///
    /// # Errors
    /// The program fails.
    pub fn print_topics(&self, brokers: &str, topics: &[&str]) -> Result<String> {
        let home = install()?;
        let workdir = Workdir::create("avro-reader")?;
        let source = workdir.path().join("AvroTopicReader.java");
        fs::write(&source, READER)?;
        let own_url = format!("http://127.0.0.1:{}/apis/registry/v2", self.port.number());
        let mut command = process::tied(java_program("java"));
        command
            .args([
                "-Xmx256m",
                "-XX:+UseSerialGC",
                "-XX:TieredStopAtLevel=1",
                "-cp",
            ])
            .arg(home.join("libs/*"))
            .arg(source)
            .args([brokers, &own_url])
            .args(topics);
        let mut process = Process::spawn("avro-reader", command, workdir.path())?;
        let status = process.wait(ENDED_WITHIN)?;
        let log = process.stderr()?;
        ensure!(status.success(), "{}", String::from_utf8_lossy(&log));
        Ok(String::from_utf8(process.stdout()?)?)
    }
}

/// Returns the address of Confluent's REST interface of a registry on this port.
#[must_use]
pub fn url_at(port: &Port) -> String {
    url(port.number())
}

fn url(port: u16) -> String {
    format!("http://127.0.0.1:{port}/apis/ccompat/v7")
}

/// The directory and the port of a registry, which may or may not be running.
pub(crate) struct Server {
    home: PathBuf,
    directory: PathBuf,
    port: u16,
}

impl Server {
    pub(crate) fn new(home: &Path, directory: &Path, port: u16) -> Server {
        Server {
            home: home.to_owned(),
            directory: directory.to_owned(),
            port,
        }
    }

    pub(crate) fn url(&self) -> String {
        url(self.port)
    }

    /// Returns the command that starts the registry. A standing server is recognized by the
    /// directory in its command line. A `tied` server ends with this process.
    pub(crate) fn prepare(&self, tied: bool) -> Result<Command> {
        let temporary = self.directory.join("tmp");
        fs::create_dir_all(&temporary)?;
        let java = java_program("java");
        let mut command = match tied {
            true => process::tied(java),
            false => Command::new(java),
        };
        command
            .current_dir(&self.directory)
            .args(["-Xmx384m", "-XX:+UseSerialGC", "-XX:TieredStopAtLevel=1"])
            .arg(format!("-Djava.io.tmpdir={}", temporary.display()))
            .arg("-Dquarkus.http.host=127.0.0.1")
            .arg(format!("-Dquarkus.http.port={}", self.port))
            .arg("-jar")
            .arg(runner(&self.home)?);
        Ok(command)
    }

    pub(crate) fn is_ready(&self) -> bool {
        TcpStream::connect(("127.0.0.1", self.port)).is_ok()
    }

    pub(crate) fn wait_until_ready(&self, still_alive: impl Fn() -> Result<()>) -> Result<()> {
        wait_until("the registry", READY_WITHIN, || {
            still_alive().is_err() || self.is_ready()
        })?;
        still_alive()
    }
}

fn runner(home: &Path) -> Result<PathBuf> {
    let files = fs::read_dir(home.join("server"))?;
    let mut files = files.filter_map(|file| Some(file.ok()?.path()));
    let is_runner = |path: &PathBuf| path.to_string_lossy().ends_with("-runner.jar");
    files.find(is_runner).context("the registry has no jar")
}

pub(crate) fn install() -> Result<PathBuf> {
    cache::installed("apicurio", &[POM, SERVER, RECIPE], |folder| {
        fs::write(folder.join("pom.xml"), POM)?;
        cache::copy_jars(folder)?;
        let server = folder.join("server");
        fs::create_dir(&server)?;
        let get = format!("-Dartifact={SERVER}");
        let mut maven = Command::new("mvn");
        maven.current_dir(folder).args(["-q", "-B"]);
        cache::run(
            maven
                .args(["dependency:get", "-Dtransitive=false", "dependency:copy"])
                .arg(get)
                .arg(format!("-DoutputDirectory={}", server.display())),
        )?;
        let archive = server.join("apicurio-registry-app-2.6.13.Final-all.tar.gz");
        cache::run(
            Command::new("tar")
                .current_dir(&server)
                .arg("-xzf")
                .arg(&archive),
        )?;
        fs::remove_file(&archive)?;
        Ok(())
    })
}
