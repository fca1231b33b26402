//! The stub server as a program: `stub [--entries N] [--shape inserts|updates|mixed|large]
//! [--collections N] [--live N] [--command-every N] [--timing] [--documents N] [--large-every N]`.
//!
//! Generates its oplog, prints its connection string, the total bytes of the entries and the second
//! of the first one on one line, and serves until it is terminated. With `--live` the entries appear
//! from now on, N a second. With `--command-every` every N-th entry is a command. With `--timing` it measures how long after the time in its field `ordered` each document
//! is inserted. With `--documents` the first collection of the entries has N documents, and the
//! printed bytes are theirs. With `--large-every` every N-th document has 16 MB.
#![allow(
    clippy::print_stdout,
    reason = "a command for a terminal prints its results"
)]

use std::time::{SystemTime, UNIX_EPOCH};

use anyhow::{Context, Result, bail};
use oplog_relay_kit::stub::{Contents, Oplog, Recipe, Server, Shape};

const USAGE: &str = "usage: stub [--entries N] [--shape inserts|updates|mixed|large] \
[--collections N] [--live N] [--command-every N] [--timing] [--documents N] [--large-every N]";

fn main() -> Result<()> {
    let mut recipe = Recipe::new(1_000_000, Shape::Inserts);
    let mut contents = Contents::default();
    let (mut live, mut is_timing) = (false, false);
    let mut args = std::env::args().skip(1);
    while let Some(flag) = args.next() {
        if flag == "--timing" {
            is_timing = true;
            continue;
        }
        let value = args.next().context(USAGE)?;
        match flag.as_str() {
            "--live" => {
                live = true;
                recipe.per_second = value.parse::<u64>().context(USAGE)?.max(1);
            }
            "--entries" => recipe.entries = value.parse().context(USAGE)?,
            "--shape" => recipe.shape = Shape::from_name(&value).context(USAGE)?,
            "--collections" => recipe.collections = value.parse::<u64>().context(USAGE)?.max(1),
            "--command-every" => {
                recipe.command_every = Some(value.parse::<u64>().context(USAGE)?.max(1));
            }
            "--documents" => contents.documents = value.parse().context(USAGE)?,
            "--large-every" => contents.large_every = value.parse().context(USAGE)?,
            _ => bail!("unknown option {flag}; {USAGE}"),
        }
    }
    let now = SystemTime::now().duration_since(UNIX_EPOCH)?;
    let now = u32::try_from(now.as_secs())?;
    let server = if live {
        recipe.first_second = now;
        Server::start_live(Oplog::make(recipe))?
    } else if is_timing {
        Server::start_timing(Oplog::make(recipe))?
    } else {
        // Kafka rolls a segment when a timestamp is more than a week after the segment's first one.
        // After entries that are years old, the timestamp of every commit would be.
        recipe.end_at(now);
        Server::start_with(Oplog::make(recipe), contents)?
    };
    println!(
        "{} {} {}",
        server.uri(),
        server.bytes(),
        recipe.first_second
    );
    server.wait();
    Ok(())
}
