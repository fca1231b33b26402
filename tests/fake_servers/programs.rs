//! The programs as processes, without a broker: exit codes, signals and logs.

use std::time::Duration;

use anyhow::{Result, ensure};
use oplog_relay_kit::services::Program;

const LIMIT: Duration = Duration::from_secs(60);
const NO_BROKER: &str = "--brokers=127.0.0.1:1";

/// Checks the exit code of a program and a text of its log.
fn ended(mut program: Program, limit: Duration, (code, part): (i32, &str)) -> Result<()> {
    let ended = program.wait(limit)?;
    let log = program.stderr_text()?;
    ensure!(
        ended == code && log.contains(part),
        "ended with {ended}: {log}"
    );
    Ok(())
}

#[test]
fn a_connection_string_or_an_option_that_cannot_be_used_ends_the_consumer_with_2() -> Result<()> {
    let common = ["--http=off", NO_BROKER, "--topic-prefix=p", "--group=g"];
    let run = |command: &str, more: &[&str]| {
        let words = [&[command], &common[..], more].concat();
        Program::consumer(words)
    };
    let target = "--target=mongodb://127.0.0.1:1/?authMechanism=NONSENSE";
    ended(run("replay", &[target])?, LIMIT, (2, "NONSENSE"))?;
    // Each option is valid; librdkafka refuses the file when it creates a client.
    let options = [
        "--kafka-option=security.protocol=ssl",
        "--kafka-option=ssl.ca.location=/no/such/file",
    ];
    let emit = run("emit", &[&["--to=stdout"], &options[..]].concat())?;
    ended(emit, LIMIT, (2, "ssl.ca.location"))
}
