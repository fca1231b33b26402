//! Writes a mixed load: `load <uri> <database> <writes> [<writes per second>]`.

use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use oplog_relay_tests::load::Load;

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<()> {
    let mut arguments = std::env::args().skip(1);
    let uri = arguments
        .next()
        .context("load <uri> <database> <writes> [<writes per second>]")?;
    let database = arguments.next().context("<database> is missing")?;
    let writes: u64 = arguments.next().context("<writes> is missing")?.parse()?;
    let rate: Option<f64> = arguments.next().map(|rate| rate.parse()).transpose()?;
    let mut load = Load::connect(&uri, &database, 7).await?;
    let start = Instant::now();
    while load.writes() < writes {
        load.round(100).await?;
        if let Some(rate) = rate {
            let due = Duration::from_secs_f64(load.writes() as f64 / rate);
            tokio::time::sleep(due.saturating_sub(start.elapsed())).await;
        }
    }
    println!("{}", load.writes());
    Ok(())
}
