//! The oplog-producer program. The exit code reports the outcome.

use std::{io, process};

use oplog_relay_runtime::command_line;
use tikv_jemallocator::Jemalloc;

/// The allocator, also for the C libraries. It halves the memory that a busy producer retains, because
/// records are allocated in one thread and freed in another.
#[global_allocator]
static ALLOCATOR: Jemalloc = Jemalloc;

fn main() -> io::Result<process::ExitCode> {
    command_line::run(oplog_producer::main)
}
