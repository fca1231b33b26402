//! The oplog-consumer program. Its exit codes are defined by the library.

use std::{io, process};

use oplog_relay_runtime::command_line;
use tikv_jemallocator::Jemalloc;

/// The global allocator, also used by the C libraries. Records are allocated in one thread and
/// freed in another. In that case jemalloc retains less memory than the system's allocator.
#[global_allocator]
static ALLOCATOR: Jemalloc = Jemalloc;

fn main() -> io::Result<process::ExitCode> {
    command_line::run(oplog_consumer::main)
}
