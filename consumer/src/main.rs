//! The oplog-consumer program: ends with a code that means something.

use std::{io, process};

use oplog_relay_runtime::command_line;
use tikv_jemallocator::Jemalloc;

/// For the C libraries too. It halves the memory that a busy producer keeps, because records are
/// made in one thread and freed in another.
#[global_allocator]
static ALLOCATOR: Jemalloc = Jemalloc;

fn main() -> io::Result<process::ExitCode> {
    command_line::run(oplog_consumer::main)
}
