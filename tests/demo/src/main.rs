//! The main use case on real servers, shown step by step: `make demo`.
#![allow(
    clippy::print_stdout,
    clippy::cast_precision_loss,
    reason = "the demo prints to a terminal, and its numbers are small"
)]

mod scene;
mod tour;

use std::process::ExitCode;

use anyhow::Result;

use crate::tour::Demo;

#[tokio::main]
async fn main() -> Result<ExitCode> {
    let mut demo = Demo::start()?;
    let passed = demo.run().await?;
    demo.stop()?;
    Ok(if passed {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    })
}
