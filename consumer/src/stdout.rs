//! Standard output, for commands that print their result.

use std::io::{self, Write as _};

use oplog_relay_runtime::status_line::beside;

use crate::error::ConsumerError;

/// Writes a text and a newline. A reader that has closed the pipe is not an error.
///
/// # Errors
/// Returns [`ConsumerError::Output`] if standard output cannot be written.
pub fn print_line(text: &str) -> Result<(), ConsumerError> {
    match beside(|| writeln!(io::stdout().lock(), "{text}")) {
        Err(error) if error.kind() != io::ErrorKind::BrokenPipe => Err(ConsumerError::Output {
            file: "standard output".to_owned(),
            source: error,
        }),
        _ => Ok(()),
    }
}
