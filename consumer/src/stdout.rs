//! Standard output, where it is the program's answer.

use std::io::{self, Write as _};

use oplog_relay_runtime::status_line::beside;

use crate::error::ConsumerError;

/// Writes a text and a newline. A reader that has gone away misses it, no more.
///
/// # Errors
/// [`ConsumerError::Output`].
pub fn tell(text: &str) -> Result<(), ConsumerError> {
    match beside(|| writeln!(io::stdout().lock(), "{text}")) {
        Err(error) if error.kind() != io::ErrorKind::BrokenPipe => {
            Err(ConsumerError::Output("standard output".to_owned(), error))
        }
        _ => Ok(()),
    }
}
