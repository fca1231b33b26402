//! The status line: one live line at the bottom of a terminal, with optional lines above it. It is
//! shown only on a terminal.
//!
//! A process has one terminal, so the current line is a process-wide static. The log writer writes
//! above it.

use std::io::{self, IsTerminal, Write};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use tracing_subscriber::fmt::MakeWriter;

/// The maximum number of redraws per second.
const REDRAWS_PER_SECOND: u8 = 5;

/// The line that is currently on the terminal.
static SHOWN: Mutex<Option<ProgressBar>> = Mutex::new(None);

/// A live line at the bottom of the terminal. Dropping it removes the line.
#[derive(Debug)]
pub struct StatusLine {
    bar: Option<ProgressBar>,
}

impl StatusLine {
    /// Shows a line if `visible` is true and standard error is a terminal. Otherwise no call has an
    /// effect.
    #[must_use]
    pub fn new(visible: bool) -> Self {
        if !visible || !io::stderr().is_terminal() {
            return Self { bar: None };
        }
        let bar = ProgressBar::with_draw_target(
            None,
            ProgressDrawTarget::stderr_with_hz(REDRAWS_PER_SECOND),
        );
        set_style(&bar, PLAIN);
        bar.enable_steady_tick(Duration::from_millis(1000 / u64::from(REDRAWS_PER_SECOND)));
        *shown() = Some(bar.clone());
        Self { bar: Some(bar) }
    }

    /// Returns true if the line is on a terminal. Otherwise callers need not format texts for it.
    #[must_use]
    pub fn is_visible(&self) -> bool {
        self.bar.is_some()
    }

    /// Sets the text, which appears with the next redraw.
    pub fn update(&self, text: String) {
        if let Some(bar) = &self.bar {
            bar.set_message(text);
        }
    }

    /// Sets the text with a progress bar before it.
    pub fn advance(&self, done: u64, total: u64, text: String) {
        let Some(bar) = &self.bar else {
            return;
        };
        if bar.length() != Some(total) {
            bar.set_length(total);
            set_style(bar, WITH_BAR);
        }
        bar.set_position(done.min(total));
        bar.set_message(text);
    }

    /// Sets the text and the lines above it. The lines may be empty.
    pub fn update_lines(&self, above: &[String], text: String) {
        if let Some(bar) = &self.bar {
            bar.set_prefix(above.join("\n"));
            set_style(bar, if above.is_empty() { PLAIN } else { WITH_LINES });
            bar.set_message(text);
        }
    }

    /// Removes the line.
    pub fn finish(&self) {
        if let Some(bar) = &self.bar {
            bar.finish_and_clear();
            *shown() = None;
        }
    }
}

impl Drop for StatusLine {
    fn drop(&mut self) {
        self.finish();
    }
}

const PLAIN: &str = "{spinner} {wide_msg}";
const WITH_BAR: &str = "{bar:24} {percent:>3}% {wide_msg}";
const WITH_LINES: &str = "{prefix}\n{spinner} {wide_msg}";

fn set_style(bar: &ProgressBar, template: &str) {
    if let Ok(style) = ProgressStyle::with_template(template) {
        bar.set_style(style);
    }
}

/// A writer of log lines to standard error. It writes above the status line if one is shown.
#[derive(Debug, Clone, Copy, Default)]
pub struct LogWriter;

/// Runs a write to the terminal while the status line is hidden, so that the two do not mix.
pub fn beside<T>(write: impl FnOnce() -> T) -> T {
    let bar = shown().clone();
    match bar {
        Some(bar) => bar.suspend(write),
        None => write(),
    }
}

impl Write for LogWriter {
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        beside(|| io::stderr().lock().write_all(line))?;
        Ok(line.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        io::stderr().lock().flush()
    }
}

impl MakeWriter<'_> for LogWriter {
    type Writer = Self;

    fn make_writer(&self) -> Self {
        *self
    }
}

fn shown() -> MutexGuard<'static, Option<ProgressBar>> {
    // The line stays usable after a panic in another thread.
    SHOWN.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_invisible_line_does_nothing() {
        let line = StatusLine::new(false);
        assert!(!line.is_visible());
        line.update("7 entries/s".to_owned());
        line.advance(7, 8, "7 entries/s".to_owned());
        assert_eq!(beside(|| 7), 7);
        line.finish();
        assert!(shown().is_none());
        assert_eq!(LogWriter.write(b"").unwrap(), 0);
    }
}
