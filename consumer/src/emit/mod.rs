//! The `emit` subcommand: writes one entry per line, in order within each partition. If a crash
//! leaves a partial line at the end of the output file, the next start removes it.
//!
//! # Modules
//!
//! - `line` writes an entry as a line of JSON
//! - `lines_file` is the output file

mod line;
pub(crate) mod lines_file;

use std::io::{self, Write};
use std::sync::{Arc, Mutex, PoisonError};

use crate::config::{Destination, LineForm};
use crate::emit::line::LineWriter;
use crate::emit::lines_file::LinesFile;
use crate::error::ConsumerError;
use crate::group::start::{Past, Traces};
use crate::replay::plan::{PlanError, PlanFault};
use crate::worker::applied::{Applied, Durability, SinkError};
use crate::worker::assignment::Token;
use crate::worker::batch::Batch;

/// Typical size of a line relative to its entry. A buffer of this size rarely has to grow.
const LINE_FACTOR: usize = 2;
/// Maximum size of a line relative to its entry, reached if the entry consists of control characters.
const MAX_LINE_FACTOR: usize = 6;
/// Entries larger than this get a buffer for the longest possible line. Memory that is reserved but not
/// touched costs nothing, while growing a buffer from 64 MB to 128 MB copies its content.
const LARGE_ENTRY: usize = 1 << 20;

/// Writes lines to standard output or to the end of a file.
pub struct JsonSink {
    form: LineForm,
    name: String,
    output: Arc<Mutex<Box<dyn Write + Send>>>,
    /// The file behind `output`; `None` for standard output.
    file: Option<LinesFile>,
}

impl std::fmt::Debug for JsonSink {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("JsonSink")
            .field("name", &self.name)
            .finish_non_exhaustive()
    }
}

impl JsonSink {
    /// Opens the output destination.
    ///
    /// # Errors
    /// Returns an error if the file cannot be opened for writing, or if another process writes to
    /// it.
    pub fn open(destination: &Destination, form: LineForm) -> Result<Self, ConsumerError> {
        let path = match destination {
            Destination::Stdout => {
                return Ok(Self {
                    form,
                    name: "standard output".to_owned(),
                    output: Arc::new(Mutex::new(Box::new(io::stdout()))),
                    file: None,
                });
            }
            Destination::File(path) => path,
        };
        let file = LinesFile::open(path)?;
        Ok(Self {
            form,
            name: path.display().to_string(),
            output: Arc::new(Mutex::new(Box::new(file.clone()))),
            file: Some(file),
        })
    }

    /// Returns the way in which written lines become durable.
    #[must_use]
    pub fn durability(&self) -> Durability {
        let file = self.file.clone();
        file.map_or(Durability::Immediate, Durability::OnRequest)
    }

    /// Returns the evidence of earlier runs of the group in the output.
    #[must_use]
    pub fn past(&self) -> Past {
        let Some(file) = &self.file else {
            return Past::Unknown;
        };
        match file.had_lines() {
            None => Past::Unknown,
            Some(false) => Past::Nothing,
            Some(true) => Past::Traces(Traces::Lines {
                file: self.name.clone(),
            }),
        }
    }

    /// Writes the lines of a batch with one write.
    ///
    /// # Errors
    /// Returns an error if an entry is damaged or the output cannot be written.
    pub async fn apply(&self, batch: &Batch<'_>, token: &Token) -> Result<Applied, SinkError> {
        let room = batch
            .entries
            .iter()
            .map(|located| room_for_line(located.entry.raw.as_bytes().len()));
        let mut lines = Vec::with_capacity(room.sum());
        let writer = LineWriter::new(batch, self.form);
        for (index, located) in batch.entries.iter().enumerate() {
            let id = located.id;
            writer.write(located, &mut lines).map_err(|error| {
                let ns = located.entry.ns.to_owned();
                SinkError::Entry(PlanError {
                    index,
                    id,
                    ns,
                    fault: PlanFault::Entry(error),
                })
            })?;
        }
        if lines.is_empty() {
            return Ok(Applied::Done);
        }
        let (output, token) = (Arc::clone(&self.output), token.clone());
        // A pipe whose reader is slow blocks the write, so it must not run on an async worker
        // thread.
        let written = tokio::task::spawn_blocking(move || {
            let mut output = output.lock().unwrap_or_else(PoisonError::into_inner);
            if !token.is_valid() {
                return Ok(Applied::Abandoned);
            }
            output.write_all(&lines)?;
            output.flush()?;
            Ok(Applied::Done)
        });
        let written = written
            .await
            .map_err(|_| ConsumerError::Ended("the line writer"))?;
        written.map_err(|error: io::Error| {
            SinkError::Fatal(match error.kind() {
                io::ErrorKind::BrokenPipe => ConsumerError::OutputClosed,
                _ => ConsumerError::Output {
                    file: self.name.clone(),
                    source: error,
                },
            })
        })
    }
}

/// Returns the number of bytes to reserve for the line of an entry with this size.
const fn room_for_line(entry_bytes: usize) -> usize {
    if entry_bytes > LARGE_ENTRY {
        entry_bytes * MAX_LINE_FACTOR
    } else {
        entry_bytes * LINE_FACTOR
    }
}
