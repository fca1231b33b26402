//! Performs every piece of work a given number of times, so that callgrind can count its
//! instructions: `pieces [PASSES]`.
//!
//! Prints the name of each piece, in the order in which they run.
#![allow(
    clippy::print_stdout,
    reason = "the test that runs this program reads its output"
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
