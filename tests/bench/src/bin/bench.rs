//! Compares both programs with loops of the plain client libraries; see the module `comparison`.

use anyhow::Result;

fn main() -> Result<()> {
    let args: Vec<String> = std::env::args().skip(1).collect();
    oplog_relay_bench::comparison::run(&args)
}
