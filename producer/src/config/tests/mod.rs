mod formats;
mod sources;

use clap::Parser;

use super::*;
use crate::config::arguments::{Arguments, Command};

fn run_all(flags: &[&str]) -> Result<RunConfig, ConfigError> {
    let flags = ["oplog-producer", "run"].iter().chain(flags);
    let Command::Run(arguments) = Arguments::try_parse_from(flags).unwrap().command else {
        panic!("not run");
    };
    RunConfig::check(&arguments)
}

/// Returns the configuration of the only source.
fn run(flags: &[&str]) -> Result<SourceConfig, ConfigError> {
    let mut config = run_all(flags)?;
    assert_eq!(config.sources.len(), 1);
    Ok(config.sources.remove(0))
}

#[test]
fn all_faults_are_reported_at_once() {
    let error = run(&[
        "--source-name=RS",
        "--topic-prefix=a.b",
        "--format=xml",
        "--partitions=0",
        "--order=chance",
        "--oversize=never",
        "--start=yesterday",
        "--replication-factor=0",
        "--kafka-option=acks=1",
        "--topic-config=cleanup.policy=compact",
        "--kafka-option=transaction.timeout.ms=1000",
        "--http=nowhere",
        "--sync=some",
    ])
    .unwrap_err()
    .to_string();
    for flag in [
        "--source: is required",
        "--source-name",
        "--topic-prefix",
        "--format",
        "--partitions",
        "--order",
        "--oversize",
        "--start",
        "--replication-factor",
        "--brokers: is required",
        "acks",
        "--topic-config: cleanup.policy cannot be set",
        "transaction.timeout.ms: must be",
        "--http",
        "--sync",
    ] {
        assert!(error.contains(flag), "{flag} is not in:\n{error}");
    }
}

#[test]
fn a_pattern_that_cannot_be_used_is_a_fault_of_its_flag() {
    for (flags, place) in [
        (
            ["--include-namespaces=a", "--exclude-namespaces=,b"],
            "--exclude-namespaces: ",
        ),
        (
            ["--include-namespaces=,a", "--exclude-namespaces=b"],
            "--include-namespaces: ",
        ),
    ] {
        let common = [
            "--brokers=k:1",
            "--topic-prefix=cdc",
            "--source=mongodb://a",
        ];
        let faults = run_all(&[&common[..], &flags].concat());
        let faults = faults.unwrap_err().to_string();
        assert!(
            faults.starts_with(place) && faults.lines().count() == 1,
            "{faults}"
        );
    }
}

#[test]
fn a_full_sync_is_refused_with_a_start_or_a_dump() {
    let live = [
        "--source=mongodb://localhost",
        "--brokers=k:1",
        "--topic-prefix=cdc",
    ];
    let with = |more: &[&'static str]| run(&[&live[..], more].concat());
    let config = with(&["--sync=full", "--full-sync-rate=5MiB"])
        .unwrap()
        .full_sync;
    assert_eq!(
        (config.sync, config.rate),
        (Some(Sync::Full), Some(5 << 20))
    );
    assert_eq!(with(&["--start=now"]).unwrap().full_sync.sync, None);
    let error = with(&["--sync=full-then-tail", "--start=now"]).unwrap_err();
    assert!(error.to_string().contains("omit --start"), "{error}");
    let dump = [
        "--source=.",
        "--source-name=d",
        "--brokers=k:1",
        "--topic-prefix=cdc",
        "--sync=full",
    ];
    let error = run(&dump).unwrap_err().to_string();
    assert!(error.contains("no documents to copy"), "{error}");
}

#[test]
fn a_request_needs_a_source_namespaces_and_a_valid_filter() {
    let ask = |more: &[&'static str]| {
        let common = ["oplog-producer", "full-sync", "--brokers=k:1"];
        let arguments = Arguments::try_parse_from(common.iter().chain(more)).unwrap();
        let Command::FullSync(arguments) = arguments.command else {
            panic!("not full-sync");
        };
        RequestConfig::check(&arguments)
    };
    let error = ask(&["--filter=[1"]).unwrap_err().to_string();
    for flag in [
        "--topic-prefix",
        "--source-name",
        "--namespaces",
        "--filter",
    ] {
        assert!(error.contains(flag), "{flag} is not in:\n{error}");
    }
    let mistyped = ask(&["--topic-prefix=a.b", "--source-name=RS", "--namespaces=*"]);
    let mistyped = mistyped.unwrap_err().to_string();
    assert!(
        mistyped.contains("--topic-prefix: may") && mistyped.contains("--source-name: may"),
        "{mistyped}"
    );
    let good = ask(&[
        "--topic-prefix=cdc",
        "--source-name=rs0",
        "--namespaces=a,b.c",
        r#"--filter={"n":{"$gt":5}}"#,
    ]);
    assert_eq!(good.unwrap().request.namespaces, ["a", "b.c"]);
}
