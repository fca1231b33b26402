//! The stub server as a program: `stub [--entries N] [--shape inserts|mixed]`.
//!
//! Makes its oplog, prints its connection string and the bytes of all entries on one line, and
//! serves until it is ended.
#![allow(
    clippy::print_stdout,
    reason = "a command for a terminal: what it prints is its work"
)]

use anyhow::{Context, Result, bail};
use oplog_relay_tests::stub::{Oplog, Server, Shape};

const USAGE: &str = "usage: stub [--entries N] [--shape inserts|mixed]";

fn main() -> Result<()> {
    let mut entries = 1_000_000;
    let mut shape = Shape::Inserts;
    let mut args = std::env::args().skip(1);
    while let Some(flag) = args.next() {
        let value = args.next().context(USAGE)?;
        match flag.as_str() {
            "--entries" => entries = value.parse().context(USAGE)?,
            "--shape" => shape = Shape::from_name(&value).context(USAGE)?,
            _ => bail!("unknown option {flag}; {USAGE}"),
        }
    }
    let server = Server::start(Oplog::generate(entries, shape))?;
    println!("{} {}", server.uri(), server.oplog().bytes());
    server.wait();
    Ok(())
}
