//! Measures the producer against its client libraries used directly; see the library's `bench`.

use anyhow::Result;

fn main() -> Result<()> {
    let args: Vec<String> = std::env::args().skip(1).collect();
    oplog_relay_bench::comparison::run(&args)
}
