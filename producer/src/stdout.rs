//! Standard output, for commands that print their result.

use std::io::{self, Write as _};

use crate::error::ProducerError;

/// Writes a text and a newline. A reader that has closed the pipe, as `head` does, is not an error.
///
/// # Errors
/// [`ProducerError::Output`] if standard output cannot be written.
pub(crate) fn print_line(text: &str) -> Result<(), ProducerError> {
    is_open(writeln!(io::stdout().lock(), "{text}")).map(|_| ())
}

/// Returns false if the reader of an output has closed it: it has read all that it wants.
///
/// # Errors
/// [`ProducerError::Output`] if the output cannot be written for any other reason.
pub(crate) fn is_open(written: io::Result<()>) -> Result<bool, ProducerError> {
    match written {
        Ok(()) => Ok(true),
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Ok(false),
        Err(error) => Err(ProducerError::Output(error)),
    }
}
