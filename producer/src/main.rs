//! The oplog-producer program: ends with a code that means something.

use std::{io, process};

use oplog_relay_core::runtime::command_line;

fn main() -> io::Result<process::ExitCode> {
    command_line::run(oplog_producer::main)
}
