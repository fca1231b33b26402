//! The programs as processes, without a broker: exit codes, signals and logs.

use std::net::TcpListener;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use bson::doc;
use oplog_relay_kit::model::{Model, ModelServer};
use oplog_relay_kit::services::{Program, binary, wait_for};
use oplog_relay_runtime::shutdown::GRACE;

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

/// The broker accepts connections and never answers. A program that has not reached Kafka ends as
/// requested, and not with the error of the broker.
#[test]
fn sigterm_while_kafka_is_away_ends_both_programs_with_143() -> Result<()> {
    let folder = tempfile::tempdir()?;
    let dump = write_dump(folder.path(), 1)?;
    let target = ModelServer::start(Model::default())?;
    let target = format!("--target={}", target.uri());
    let producer = [
        "run",
        "--start=oldest",
        "--source-name=s",
        "--source",
        &dump,
    ];
    let replay = ["replay", "--group=g", &target];
    let emit = ["emit", "--group=g", "--to=stdout"];
    for words in [&producer[..], &replay, &emit] {
        let broker = TcpListener::bind("127.0.0.1:0")?;
        broker.set_nonblocking(true)?;
        let brokers = format!("--brokers={}", broker.local_addr()?);
        let common = ["--http=off", &brokers, "--topic-prefix=p"];
        let start = if words[0] == "run" {
            Program::producer
        } else {
            Program::consumer
        };
        let mut program = start([words, &common].concat())?;
        let connection = wait_for("a connection to Kafka", LIMIT, || Ok(broker.accept().ok()));
        let _open = connection.with_context(|| program.stderr_text().unwrap_or_default())?;
        program.terminate()?;
        ended(program, GRACE, (143, ""))?;
    }
    Ok(())
}

/// Writes a dump of that many entries; returns its path.
fn write_dump(folder: &Path, entries: u32) -> Result<String> {
    let mut dump = Vec::new();
    for second in 1..=entries {
        let time = bson::Timestamp {
            time: second,
            increment: 1,
        };
        let o = doc! { "_id": second };
        let entry = doc! { "ts": time, "t": 1_i64, "v": 2, "op": "i", "ns": "s.a", "o": o };
        dump.extend(entry.to_vec()?);
    }
    let path = folder.join("oplog.bson");
    std::fs::write(&path, dump)?;
    Ok(path.to_str().context("the path is not UTF-8")?.to_owned())
}

#[test]
fn a_dump_is_counted_and_one_without_entries_after_the_start_causes_a_warning() -> Result<()> {
    let folder = tempfile::tempdir()?;
    for (entries, start, parts) in [
        (3, "2:1", &["entries=3", "after_start=2"][..]),
        (
            3,
            "9:1",
            &["after_start=0", "ends before the start", "nothing was sent"],
        ),
        (0, "oldest", &["entries=0", "the dump has no entries"]),
    ] {
        let dump = write_dump(folder.path(), entries)?;
        let words = [
            "inspect",
            "--topic-prefix=p",
            "--source-name=s",
            "--start",
            start,
        ];
        let mut program = Program::producer(words.into_iter().chain(["--source", &dump]))?;
        let code = program.wait(LIMIT)?;
        let log = program.stderr_text()?;
        for part in parts {
            ensure!(code == 0 && log.contains(part), "{code}, {part}: {log}");
        }
        let is_warned = log.contains("nothing was sent");
        ensure!(is_warned == (start != "2:1"), "{log}");
    }
    Ok(())
}

/// `oplog-producer inspect | head`: the reader has all that it wants.
#[test]
fn a_reader_that_closes_the_output_of_inspect_is_not_an_error() -> Result<()> {
    let folder = tempfile::tempdir()?;
    // More than the buffer and a pipe hold, and less than both, which is written only at the end.
    for entries in [2, 2_000] {
        let dump = write_dump(folder.path(), entries)?;
        let (reader, writer) = std::io::pipe()?;
        drop(reader);
        let mut program = std::process::Command::new(binary("oplog-producer")?);
        let program = program.args(["inspect", "--source-name=s", "--source", &dump]);
        let ended = program.stdout(writer).output()?;
        let log = String::from_utf8_lossy(&ended.stderr);
        ensure!(ended.status.code() == Some(0), "{entries}: {log}");
    }
    Ok(())
}
