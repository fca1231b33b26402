//! The server as a separate process, so that its work is not counted as its client's.

use std::time::Duration;

use anyhow::{Context, Result};

use super::documents::Contents;
use super::entry::Recipe;
use crate::services::{Program, wait_for};

/// A running `stub` program; it is killed when dropped.
#[derive(Debug)]
pub struct StubProcess {
    program: Program,
    uri: String,
    bytes: u64,
    first_second: u32,
}

/// The times at which the entries appear.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Flow {
    /// All at once.
    Past,
    /// [`Recipe::per_second`] a second, from its start on.
    Live,
}

impl StubProcess {
    /// Starts it and waits until its oplog is generated.
    pub fn start(recipe: &Recipe, flow: Flow) -> Result<StubProcess> {
        let (entries, collections) = (recipe.entries.to_string(), recipe.collections.to_string());
        let rate = recipe.per_second.to_string();
        let mut args = vec!["--entries", &entries, "--shape", recipe.shape.name()];
        args.extend(["--collections", &collections]);
        if flow == Flow::Live {
            args.extend(["--live", &rate]);
        }
        let every = recipe.command_every.map(|every| every.to_string());
        if let Some(every) = &every {
            args.extend(["--command-every", every]);
        }
        StubProcess::launch(args)
    }

    /// Starts a target that measures how long after the time in its field `ordered` each document is
    /// inserted. `serverStatus` returns the times.
    pub fn timing() -> Result<StubProcess> {
        StubProcess::launch(vec!["--entries", "0", "--timing"])
    }

    /// Starts one with documents, and one entry in its oplog.
    pub fn with_documents(contents: Contents) -> Result<StubProcess> {
        let counts = [contents.documents, contents.large_every].map(|count| count.to_string());
        let [documents, every] = &counts;
        let args = vec![
            "--entries",
            "1",
            "--documents",
            documents,
            "--large-every",
            every,
        ];
        StubProcess::launch(args)
    }

    fn launch(args: Vec<&str>) -> Result<StubProcess> {
        let mut program = Program::start("stub", args, &[])?;
        let line = wait_for("the stub server", Duration::from_secs(300), || {
            let text = program.stdout_text()?;
            if let Some((line, _)) = text.split_once('\n') {
                return Ok(Some(line.to_owned()));
            }
            anyhow::ensure!(
                program.is_running()?,
                "the stub ended: {}",
                program.stderr_text()?
            );
            Ok(None)
        })?;
        let mut words = line.split(' ');
        let mut word = || words.next().context("damaged first line");
        Ok(StubProcess {
            uri: word()?.to_owned(),
            bytes: word()?.parse().context("damaged first line")?,
            first_second: word()?.parse().context("damaged first line")?,
            program,
        })
    }

    /// Returns the connection string for clients.
    #[must_use]
    pub fn uri(&self) -> &str {
        &self.uri
    }

    /// Returns the bytes of all entries, or of all documents if it has some.
    #[must_use]
    pub const fn bytes(&self) -> u64 {
        self.bytes
    }

    /// Returns the commit time of the first entry, in seconds since 1970.
    #[must_use]
    pub const fn first_second(&self) -> u32 {
        self.first_second
    }

    /// Returns the process id.
    #[must_use]
    pub fn id(&self) -> u32 {
        self.program.id()
    }
}
