//! Performs every piece of work a given number of times, for callgrind to count: `pieces [PASSES]`.
//!
//! Prints the names in the order of the work.
#![allow(
    clippy::print_stdout,
    reason = "what it prints is read by the test that runs it"
)]

use anyhow::{Context, Result};
use oplog_relay_bench::pieces::{Piece, warmed_piece};

fn main() -> Result<()> {
    let passes = std::env::args().nth(1).map_or(Ok(1), |text| text.parse());
    let passes = passes.context("usage: pieces [PASSES]")?;
    for mut piece in Piece::all() {
        warmed_piece(&mut piece, passes);
        println!("{}", piece.name);
    }
    Ok(())
}
