//! Emitting: one change event a line, in order per partition, whole lines only.

use std::fs::{File, OpenOptions};
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};

use oplog_relay_core::barrier::strip;
use oplog_relay_core::command::is_command;
use oplog_relay_core::document::Document;
use oplog_relay_core::entry::{Entry, EntryError};
use oplog_relay_core::format::json::write_change_event;
use oplog_relay_core::json::Mode;

use crate::assignment::Token;
use crate::batch::{Batch, Located};
use crate::config::Destination;
use crate::error::ConsumerError;
use crate::plan::{PlanError, PlanFault};
use crate::sink::{Applied, SinkError};

/// What a line takes, of its entry's bytes, about: room that need not grow.
const LINE_FACTOR: usize = 2;

/// Writes lines to standard output or to the end of a file.
pub struct JsonSink {
    mode: Mode,
    name: String,
    output: Arc<Mutex<Box<dyn Write + Send>>>,
}

impl std::fmt::Debug for JsonSink {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("JsonSink")
            .field("name", &self.name)
            .finish_non_exhaustive()
    }
}

impl JsonSink {
    /// Opens the destination. A part of a line that a crash left at the end of a file is cut off:
    /// its entry was not committed and comes again.
    ///
    /// # Errors
    /// When the file cannot be opened for writing.
    pub fn open(destination: &Destination, mode: Mode) -> Result<Self, ConsumerError> {
        let (name, output): (String, Box<dyn Write + Send>) = match destination {
            Destination::Stdout => ("standard output".to_owned(), Box::new(io::stdout())),
            Destination::File(path) => {
                let name = path.display().to_string();
                let file = open_at_line_end(path)
                    .map_err(|error| ConsumerError::Output(name.clone(), error))?;
                (name, Box::new(file))
            }
        };
        Ok(Self {
            mode,
            name,
            output: Arc::new(Mutex::new(output)),
        })
    }

    /// Writes a batch's lines at once.
    ///
    /// # Errors
    /// When an entry is damaged or the output cannot be written.
    pub async fn apply(&self, batch: &Batch<'_>, token: &Token) -> Result<Applied, SinkError> {
        let bytes = batch
            .entries
            .iter()
            .map(|located| located.entry.raw.as_bytes().len());
        let mut lines = Vec::with_capacity(bytes.sum::<usize>() * LINE_FACTOR);
        for (index, located) in batch.entries.iter().enumerate() {
            let id = located.id;
            write_line(located, batch.source, self.mode, &mut lines).map_err(|error| {
                let ns = located.entry.ns.to_owned();
                SinkError::Entry(PlanError {
                    index,
                    id,
                    ns,
                    fault: PlanFault::Entry(error),
                })
            })?;
            lines.push(b'\n');
        }
        if lines.is_empty() {
            return Ok(Applied::Done);
        }
        let (output, token) = (Arc::clone(&self.output), token.clone());
        // A reader that does not read blocks the write: not on a thread that others need.
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
            .map_err(|_| ConsumerError::Ended("the writer of lines"))?;
        written.map_err(|error: io::Error| {
            SinkError::Fatal(match error.kind() {
                io::ErrorKind::BrokenPipe => ConsumerError::OutputClosed,
                _ => ConsumerError::Output(self.name.clone(), error),
            })
        })
    }
}

/// A command without the barrier that it came with: that is for groups that replay.
fn write_line(
    located: &Located<'_>,
    source: &str,
    mode: Mode,
    lines: &mut Vec<u8>,
) -> Result<(), EntryError> {
    let mut stripped = Vec::new();
    let ord = located.id.ord;
    if is_command(&located.entry) && strip(located.entry.raw, &mut stripped)? {
        let entry = Entry::parse(Document::new(&stripped)?)?;
        return write_change_event(&entry, source, ord, mode, lines);
    }
    write_change_event(&located.entry, source, ord, mode, lines)
}

const BLOCK: u64 = 64 << 10;

/// Opens a file for writing after its last whole line.
fn open_at_line_end(path: &Path) -> io::Result<File> {
    let mut file = OpenOptions::new()
        .read(true)
        .append(true)
        .create(true)
        .open(path)?;
    if !file.metadata()?.is_file() {
        return Ok(file);
    }
    let length = file.metadata()?.len();
    let mut end = length;
    while end > 0 {
        let start = end.saturating_sub(BLOCK);
        let mut block = Vec::new();
        file.seek(SeekFrom::Start(start))?;
        Read::by_ref(&mut file)
            .take(end - start)
            .read_to_end(&mut block)?;
        if let Some(newline) = block.iter().rposition(|byte| *byte == b'\n') {
            end = start + u64::try_from(newline).unwrap_or_default() + 1;
            break;
        }
        end = start;
    }
    if end < length {
        tracing::warn!(
            path = %path.display(),
            bytes = length - end,
            "cut off an unfinished last line; its entry comes again"
        );
        file.set_len(end)?;
    }
    Ok(file)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_unfinished_line_is_cut_off() {
        let path = std::env::temp_dir().join(format!("oplog-emit-{}", std::process::id()));
        let long = "x".repeat(usize::try_from(BLOCK).unwrap() * 2);
        for (before, after) in [
            (String::new(), String::new()),
            ("one\ntwo\n".to_owned(), "one\ntwo\n".to_owned()),
            ("one\ntw".to_owned(), "one\n".to_owned()),
            (format!("one\n{long}"), "one\n".to_owned()),
            (long.clone(), String::new()),
        ] {
            std::fs::write(&path, before).unwrap();
            open_at_line_end(&path)
                .unwrap()
                .write_all(b"next\n")
                .unwrap();
            assert_eq!(
                std::fs::read_to_string(&path).unwrap(),
                format!("{after}next\n")
            );
        }
        std::fs::remove_file(&path).unwrap();
    }
}
