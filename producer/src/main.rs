//! The oplog-producer program. The exit code reports the outcome.

use std::{io, process};

use oplog_relay_runtime::command_line;
use tikv_jemallocator::Jemalloc;

/// The allocator, also for the C libraries. With the system's allocator a busy producer retains much
/// more memory, because records are allocated in one thread and freed in another.
#[global_allocator]
static ALLOCATOR: Jemalloc = Jemalloc;

fn main() -> io::Result<process::ExitCode> {
    command_line::run(oplog_producer::main)
}
