//! FerretDB: MongoDB's wire protocol on SQLite, built once from its Go module.
//!
//! With an oplog it logs inserts, updates and deletes in `local.oplog.rs` (no commands); a test may
//! also insert entries in MongoDB's own form there. A test should write through one connection per
//! instance, because with concurrent writers `ts` may decrease.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result};
use bson::{Document, doc};
use mongodb::Client;
use mongodb::options::ClientOptions;

use crate::services::cache;
use crate::services::port::Port;
use crate::services::process::{self, Process};
use crate::services::wait::wait_until_async;
use crate::services::workdir::Workdir;

const GO_MOD: &str = include_str!("../../services/ferretdb/go.mod");
const GO_SUM: &str = include_str!("../../services/ferretdb/go.sum");
const MODULE: &str = "github.com/FerretDB/FerretDB";
/// The version of the installation steps, raised when these change.
const RECIPE: &str = "1";

const READY_WITHIN: Duration = Duration::from_secs(30);
/// The time after which SIGKILL is sent: a clean shutdown waits for every client to disconnect, and
/// SQLite survives a kill.
const STOPPED_WITHIN: Duration = Duration::from_secs(2);
const START_ATTEMPTS: usize = 3;

/// The options of a FerretDB for a test.
#[derive(Clone, Debug)]
pub struct FerretDbOptions {
    /// The set name that `hello` reports; not reported if empty.
    pub repl_set_name: String,
    /// True if writes are logged in `local.oplog.rs`.
    pub with_oplog: bool,
    /// The size of the oplog, beyond which the oldest entries are removed.
    pub oplog_bytes: i64,
    /// More arguments for the server, such as `--test-capped-cleanup-interval=1s`.
    pub args: Vec<String>,
}

impl Default for FerretDbOptions {
    fn default() -> FerretDbOptions {
        FerretDbOptions {
            repl_set_name: String::new(),
            with_oplog: false,
            oplog_bytes: 1 << 30,
            args: Vec::new(),
        }
    }
}

impl FerretDbOptions {
    /// Returns the options of a source: a member of the replica set `rs0` with an oplog.
    #[must_use]
    pub fn source() -> FerretDbOptions {
        FerretDbOptions {
            repl_set_name: "rs0".into(),
            with_oplog: true,
            ..FerretDbOptions::default()
        }
    }

    /// Returns the options of a target: a server without an oplog.
    #[must_use]
    pub fn target() -> FerretDbOptions {
        FerretDbOptions::default()
    }
}

/// A private FerretDB in a temporary directory; it is killed when dropped.
#[derive(Debug)]
pub struct FerretDb {
    process: Option<Process>,
    server: Server,
    workdir: Workdir,
    _port: Port,
}

impl FerretDb {
    /// Builds FerretDB if necessary, starts a server and waits until it serves.
    pub fn start(options: &FerretDbOptions) -> Result<FerretDb> {
        let program = install()?;
        let mut attempt = 1;
        loop {
            match FerretDb::start_once(&program, options) {
                Err(error) if attempt < START_ATTEMPTS => {
                    eprintln!("FerretDB did not start, trying another port: {error:#}");
                    attempt += 1;
                }
                outcome => return outcome,
            }
        }
    }

    fn start_once(program: &Path, options: &FerretDbOptions) -> Result<FerretDb> {
        let port = Port::lease()?;
        let workdir = Workdir::create("ferretdb")?;
        let server = Server::new(program, workdir.path(), port.number(), options.clone());
        let mut ferretdb = FerretDb {
            process: None,
            server,
            workdir,
            _port: port,
        };
        match ferretdb.run() {
            Ok(()) => Ok(ferretdb),
            Err(error) => {
                ferretdb.keep();
                Err(error)
            }
        }
    }

    /// Returns the connection string for clients.
    #[must_use]
    pub fn uri(&self) -> String {
        self.server.uri()
    }

    /// Stops the server (SIGTERM, then SIGKILL), keeping its data and port.
    pub fn stop(&mut self) -> Result<()> {
        if let Some(mut process) = self.process.take() {
            process.stop(STOPPED_WITHIN)?;
        }
        Ok(())
    }

    /// Kills the server (SIGKILL), keeping its data and port.
    pub fn kill(&mut self) -> Result<()> {
        if let Some(mut process) = self.process.take() {
            process.kill()?;
        }
        Ok(())
    }

    /// Stops the server if it runs, and starts it on the same port with the same data.
    pub fn restart(&mut self) -> Result<()> {
        self.stop()?;
        self.run()
    }

    /// Returns the server's directory: `sqlite`, and `logs` with its output.
    #[must_use]
    pub fn directory(&self) -> &Path {
        self.workdir.path()
    }

    /// Keeps the directory after the end.
    pub fn keep(&mut self) {
        self.workdir.keep();
    }

    fn run(&mut self) -> Result<()> {
        let command = self.server.prepare(true)?;
        let mut process = Process::spawn("ferretdb", command, &self.workdir.path().join("logs"))?;
        self.server
            .wait_until_ready(|| process.expect_running())
            .with_context(|| format!("the server's log ends:\n{}", process.stderr_tail()))?;
        self.process = Some(process);
        Ok(())
    }
}

/// The directory and the options of a server, which may or may not be running.
#[derive(Clone, Debug)]
pub(crate) struct Server {
    program: PathBuf,
    directory: PathBuf,
    port: u16,
    options: FerretDbOptions,
}

impl Server {
    pub(crate) fn new(
        program: &Path,
        directory: &Path,
        port: u16,
        options: FerretDbOptions,
    ) -> Server {
        Server {
            program: program.to_owned(),
            directory: directory.to_owned(),
            port,
            options,
        }
    }

    /// Returns the connection string. It has `directConnection`, because the set's members list no
    /// address that a client could reach.
    pub(crate) fn uri(&self) -> String {
        format!("mongodb://127.0.0.1:{}/?directConnection=true", self.port)
    }

    /// Creates the data directory and returns the command; a `tied` server dies with this process.
    pub(crate) fn prepare(&self, tied: bool) -> Result<Command> {
        let sqlite = self.directory.join("sqlite");
        fs::create_dir_all(&sqlite)?;
        let mut command = if tied {
            process::tied(&self.program)
        } else {
            Command::new(&self.program)
        };
        for (variable, _) in std::env::vars_os() {
            if variable.to_string_lossy().starts_with("FERRETDB_") {
                command.env_remove(variable);
            }
        }
        command
            .env("DO_NOT_TRACK", "1")
            .arg("--handler=sqlite")
            .arg(format!("--sqlite-url=file:{}/", sqlite.display()))
            .arg(format!("--listen-addr=127.0.0.1:{}", self.port))
            .arg(format!("--state-dir={}", self.directory.display()))
            .arg(format!("--repl-set-name={}", self.options.repl_set_name))
            .args(["--telemetry=disable", "--debug-addr=-", "--log-level=warn"])
            .args(&self.options.args);
        Ok(command)
    }

    /// Waits until the server answers, and creates the oplog if the options require one.
    pub(crate) fn wait_until_ready(
        &self,
        mut still_alive: impl FnMut() -> Result<()> + Send,
    ) -> Result<()> {
        block_on(async || {
            let client = self.client().await?;
            let mut death = None;
            let what = "a FerretDB that serves";
            wait_until_async(what, READY_WITHIN, async || {
                death = still_alive().err();
                death.is_some() || answers(&client).await
            })
            .await?;
            if let Some(death) = death {
                return Err(death);
            }
            if self.options.with_oplog {
                create_oplog(&client, self.options.oplog_bytes).await?;
            }
            Ok(())
        })
    }

    /// Returns true if the server answers now.
    pub(crate) fn is_ready(&self) -> Result<bool> {
        block_on(async || {
            let client = self.client().await?;
            Ok(answers(&client).await)
        })
    }

    async fn client(&self) -> Result<Client> {
        let mut options = ClientOptions::parse(self.uri()).await?;
        options.server_selection_timeout = Some(Duration::from_millis(500));
        options.connect_timeout = Some(Duration::from_millis(500));
        Ok(Client::with_options(options)?)
    }
}

async fn answers(client: &Client) -> bool {
    let admin = client.database("admin");
    admin.run_command(doc! { "ping": 1 }).await.is_ok()
}

async fn create_oplog(client: &Client, bytes: i64) -> Result<()> {
    let local = client.database("local");
    let names = local.list_collection_names().await?;
    if names.iter().any(|name| name == "oplog.rs") {
        return Ok(());
    }
    let create: Document = doc! { "create": "oplog.rs", "capped": true, "size": bytes };
    local
        .run_command(create)
        .await
        .context("cannot create local.oplog.rs")?;
    Ok(())
}

/// Runs async work on a separate thread, so that blocking calls work in async tests too.
fn block_on<T: Send>(work: impl AsyncFnOnce() -> Result<T> + Send) -> Result<T> {
    std::thread::scope(|scope| {
        let thread = scope.spawn(|| {
            tokio::runtime::Builder::new_current_thread()
                .enable_all()
                .build()?
                .block_on(work())
        });
        thread
            .join()
            .unwrap_or_else(|panic| std::panic::resume_unwind(panic))
    })
}

/// Finds the built server, or builds it.
pub(crate) fn install() -> Result<PathBuf> {
    let folder = cache::installed("ferretdb", &[GO_MOD, GO_SUM, RECIPE], build)?;
    Ok(folder.join("ferretdb"))
}

/// Builds the server. Its command needs a generated file with its version, which the published
/// module does not contain. So the module is vendored and the file is written there.
fn build(folder: &Path) -> Result<()> {
    let build = folder.join("build");
    fs::create_dir_all(&build)?;
    fs::write(build.join("go.mod"), GO_MOD)?;
    fs::write(build.join("go.sum"), GO_SUM)?;
    let go = || {
        let mut go = Command::new("go");
        go.current_dir(&build)
            .env("GOWORK", "off")
            .env("GOFLAGS", "")
            .env("CGO_ENABLED", "0");
        go
    };
    cache::run(go().args(["mod", "vendor"]))?;
    let version = GO_MOD
        .lines()
        .find_map(|line| line.trim().strip_prefix(MODULE)?.split_whitespace().next())
        .context("go.mod names no version")?;
    let version_file = build
        .join("vendor")
        .join(MODULE)
        .join("build/version/version.txt");
    fs::write(version_file, format!("{version}\n"))?;
    cache::run(
        go().args(["build", "-mod=vendor", "-trimpath", "-buildvcs=false"])
            .args(["-tags=ferretdb_no_postgresql", "-ldflags=-s -w", "-o"])
            .arg(folder.join("ferretdb"))
            .arg(format!("{MODULE}/cmd/ferretdb")),
    )?;
    fs::remove_dir_all(build)?;
    Ok(())
}
