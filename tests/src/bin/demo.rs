//! The main job on real servers, visibly: `make demo`.

use std::process::ExitCode;

use anyhow::Result;
use oplog_relay_tests::demo::Demo;

#[tokio::main]
async fn main() -> Result<ExitCode> {
    let mut demo = Demo::start()?;
    let held = demo.run().await?;
    demo.stop()?;
    Ok(if held {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    })
}
