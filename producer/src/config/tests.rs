use clap::Parser;
use oplog_relay_core::format::debezium::Debezium;
use oplog_relay_core::json::Mode;

use super::*;
use crate::config::arguments::{Arguments, Command};
use crate::registry::RegistryLogin;

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
fn several_sources_have_names_and_settings_of_their_own() {
    let common = ["--brokers=k:1", "--topic-prefix=cdc", "--start=oldest"];
    let with = |flags: &[&str]| run_all(&[&common[..], flags].concat());
    let config = with(&[
        "--source=eu=mongodb://eu/?replicaSet=a",
        r#"--source={"name":"us","uri":"mongodb://us","start":"now","include_namespaces":["shop"]}"#,
    ])
    .unwrap();
    let [eu, us] = &config.sources[..] else {
        panic!("two sources");
    };
    let name = |source: &SourceConfig| source.stream.source_name.clone();
    assert_eq!((name(eu), name(us)), (Some("eu".into()), Some("us".into())));
    assert_eq!(
        (eu.stream.start, us.stream.start),
        (Some(Start::Oldest), Some(Start::Now))
    );
    assert!(eu.stream.filter.passes("web.x") && !us.stream.filter.passes("web.x"));

    let faults = |flags: &[&str]| with(flags).unwrap_err().to_string();
    let missing = faults(&["--source=eu=mongodb://eu", "--source=mongodb://us"]);
    assert!(
        missing.contains("each of several sources needs a name"),
        "{missing}"
    );
    let twice = faults(&["--source=eu=mongodb://a", "--source=eu=mongodb://b"]);
    assert!(twice.contains("two sources have the name eu"), "{twice}");
    let named = faults(&[
        "--source=eu=mongodb://a",
        "--source=us=mongodb://b",
        "--source-name=x",
    ]);
    assert!(named.contains("--source-name: names one source"), "{named}");
    let other = faults(&["--source=eu=mongodb://a", "--source-name=x"]);
    assert!(other.contains("--source-name: is x"), "{other}");
    // A fault of one source names it; a fault that all have is reported once.
    let mixed = faults(&[
        "--source=eu=mongodb://a",
        r#"--source={"name":"us","uri":"mongodb://b","start":"never"}"#,
        "--partitions=0",
    ]);
    assert!(mixed.contains("source us, --start: "), "{mixed}");
    assert_eq!(mixed.matches("--partitions").count(), 1, "{mixed}");
    assert_eq!(mixed.lines().count(), 2, "{mixed}");
}

#[test]
fn instances_share_live_sources_with_names() {
    let common = ["--brokers=k:1", "--topic-prefix=cdc", "--high-availability"];
    let with = |flags: &[&str]| run_all(&[&common[..], flags].concat());
    let config = with(&["--source=eu=mongodb://eu"]).unwrap();
    let instances = config.instances.unwrap();
    assert_eq!(instances.group, "__cdc.producers");
    assert_eq!(instances.takeover_after.as_secs(), 10);
    for (flags, fault) in [
        (&["--source=mongodb://eu"][..], "needs --source-name"),
        (
            &["--source=eu=mongodb://eu", "--until-caught-up"],
            "--until-caught-up",
        ),
        (&["--source=eu=mongodb://eu", "--sync=full"], "--sync full"),
        (
            &["--source=eu=mongodb://eu", "--takeover-after=1s"],
            "from 6s to 30m",
        ),
        (&["--source=dump=-"], "needs live sources"),
    ] {
        let faults = with(flags).unwrap_err().to_string();
        assert!(faults.contains(fault), "{faults}");
    }
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
fn a_source_that_cannot_be_parsed_hides_no_other_fault_and_causes_none() {
    let unreadable = r#"--source={"name":"eu","topic_prefix":"cdc","x":1}"#;
    let faults = |flags: &[&str]| run_all(flags).unwrap_err().to_string();
    let lines = |text: &str| -> Vec<String> {
        let places = text.lines().map(|line| line.split_once(": ").unwrap().0);
        places.map(str::to_owned).collect()
    };
    let found = faults(&[unreadable, "--format=xml"]);
    assert_eq!(
        lines(&found),
        ["--source", "--format", "--brokers"],
        "{found}"
    );
    let found = faults(&[unreadable, "--source=us=mongodb://us", "--brokers=k:1"]);
    let places = ["--source", "source us, --topic-prefix"];
    assert_eq!(lines(&found), places, "{found}");
    let arguments = ["oplog-producer", "inspect", unreadable, "--format=xml"];
    let Command::Inspect(arguments) = Arguments::try_parse_from(arguments).unwrap().command else {
        panic!("not inspect");
    };
    let found = InspectConfig::check(&arguments).unwrap_err().to_string();
    assert_eq!(lines(&found), ["--source", "--format"], "{found}");
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
fn a_live_source_needs_no_name_and_hides_its_password() {
    let config = run(&[
        "--source=mongodb://ada:secret@localhost/?directConnection=true",
        "--brokers=localhost:9092",
        "--topic-prefix=cdc",
        "--format=json",
        "--json=canonical",
        "--start=1700000000:3",
        "--include-namespaces=shop,web.*",
    ])
    .unwrap();
    assert_eq!(config.stream.format, Format::Json(Mode::Canonical));
    let start = Start::Position {
        seconds: 1_700_000_000,
        increment: 3,
    };
    assert_eq!(config.stream.start, Some(start));
    assert!(config.stream.filter.passes("web.x") && !config.stream.filter.passes("other.x"));
    assert!(!format!("{config:?}").contains("secret"));
}

/// Returns the format of these flags, or the faults.
fn format_of(flags: &[&str]) -> Result<Format, String> {
    let common = [
        "--source=mongodb://h",
        "--brokers=k:1",
        "--topic-prefix=cdc",
    ];
    let config = run(&[&common[..], flags].concat());
    config
        .map(|config| config.stream.format)
        .map_err(|error| error.to_string())
}

#[test]
fn each_envelope_has_its_format_and_invalid_combinations_are_refused() {
    let debezium = |with_schema| {
        Format::Debezium(Debezium {
            mode: Mode::Relaxed,
            with_schema,
        })
    };
    let table: [(&[&str], Format); 7] = [
        (&[], Format::Json(Mode::Relaxed)),
        (&["--replayable=true"], Format::Json(Mode::Relaxed)),
        (&["--replayable=false"], Format::ReaderJson(Mode::Relaxed)),
        (
            &["--envelope=oplog", "--json=canonical"],
            Format::Oplog(Mode::Canonical),
        ),
        (&["--envelope=debezium"], debezium(false)),
        (
            &["--envelope=debezium", "--replayable=false"],
            debezium(false),
        ),
        (
            &["--envelope=debezium", "--envelope-schema"],
            debezium(true),
        ),
    ];
    for (flags, format) in table {
        let found = format_of(&[&["--format=json"], flags].concat());
        assert_eq!(found, Ok(format), "{flags:?}");
    }
    let refused: [(&[&str], &str); 6] = [
        (&["--format=bson", "--envelope=oplog"], "--envelope: "),
        (&["--format=raw", "--replayable=false"], "--replayable: "),
        (
            &["--format=json", "--envelope-schema"],
            "--envelope-schema: ",
        ),
        (
            &["--format=json", "--envelope=x"],
            "change-event, oplog or debezium",
        ),
        (
            &["--format=json", "--envelope=debezium", "--replayable=true"],
            "--replayable: ",
        ),
        (
            &["--format=json", "--envelope=oplog", "--replayable=false"],
            "--replayable: ",
        ),
    ];
    for (flags, fault) in refused {
        let error = format_of(flags).unwrap_err();
        assert!(error.contains(fault), "{flags:?}: {error}");
    }
}

fn live(flags: &[&str]) -> Result<StreamConfig, String> {
    let common = [
        "--source=mongodb://h",
        "--brokers=k:1",
        "--topic-prefix=cdc",
    ];
    let config = run(&[&common[..], flags].concat());
    let stream = config.map(|config| config.stream);
    stream.map_err(|error| error.to_string())
}

#[test]
fn documents_are_looked_up_on_a_live_source_where_an_envelope_has_a_place_for_them() {
    let snapshot = "--topic-mode=snapshot";
    let lookup = "--full-document=lookup";
    let before = "--full-document-before=lookup";
    let debezium = "--envelope=debezium";
    let json = "--format=json";
    for (flags, current, before) in [
        (&[json][..], false, false),
        (&[json, lookup], true, false),
        (&[json, before], false, true),
        (&[json, lookup, before, "--replayable=false"], true, true),
        (&[json, lookup, before, debezium], true, true),
        (&[json, snapshot], true, false),
        (&[json, snapshot, "--replayable=false", lookup], true, false),
    ] {
        let lookups = Lookups { current, before };
        assert_eq!(live(flags).unwrap().lookups, lookups, "{flags:?}");
    }
    let stream = live(&[json, snapshot, "--json=canonical"]).unwrap();
    assert_eq!(stream.format, Format::Snapshot(Mode::Canonical));
    assert_eq!(stream.order, OrderRule::Id);
    for (flags, fault) in [
        (&[json, "--full-document=x"][..], "none or lookup"),
        (&[json, "--topic-mode=x"], "changes or snapshot"),
        (&[lookup], "--full-document: lookup needs --format json"),
        (
            &[json, lookup, "--envelope=oplog"],
            "--full-document: lookup needs",
        ),
        (
            &[before],
            "--full-document-before: lookup needs --format json",
        ),
        (&[json, "--full-document-before=x"], "none or lookup"),
        (&[json, snapshot, before], "--full-document-before: cannot"),
        (&[snapshot], "--topic-mode: snapshot needs --format json"),
        (&[json, snapshot, debezium], "--envelope: "),
        (&[json, snapshot, "--replayable=true"], "--replayable: "),
        (&[json, snapshot, "--order=collection"], "--order: "),
    ] {
        let faults = live(flags).unwrap_err();
        assert!(faults.contains(fault), "{flags:?}: {faults}");
    }
    let dump = [
        "--source=.",
        "--source-name=d",
        "--brokers=k:1",
        "--topic-prefix=cdc",
        json,
    ];
    for flag in [lookup, before, snapshot] {
        let faults = run(&[&dump[..], &[flag]].concat()).unwrap_err().to_string();
        assert!(faults.contains("needs a live source"), "{flag}: {faults}");
    }
}

#[test]
fn topics_for_readers_are_spread_by_id() {
    let order_of =
        |flags: &[&str]| live(&[&["--format=json"], flags].concat()).map(|stream| stream.order);
    let readers = "--replayable=false";
    assert_eq!(order_of(&[]).unwrap(), OrderRule::Auto);
    assert_eq!(order_of(&[readers]).unwrap(), OrderRule::Id);
    let error = order_of(&[readers, "--order=collection"]).unwrap_err();
    assert!(error.contains("--order: "), "{error}");
}

#[test]
fn a_dump_needs_a_name_and_cannot_start_now() {
    let common = ["--brokers=b", "--topic-prefix=cdc", "--source=-"];
    let error = run(&[&common[..], &["--start=now"]].concat())
        .unwrap_err()
        .to_string();
    assert!(
        error.contains("--source-name") && error.contains("--start"),
        "{error}"
    );
    assert!(run(&[&common[..], &["--source-name=d", "--start=oldest"]].concat()).is_ok());
    let missing = [
        "--brokers=b",
        "--topic-prefix=cdc",
        "--source=/no/such/file",
    ];
    assert!(
        run(&missing)
            .unwrap_err()
            .to_string()
            .contains("existing file")
    );
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

#[test]
fn records_can_be_split_only_in_raw_and_bson() {
    let with = |format: &str| {
        let format = format!("--format={format}");
        let common = ["--source=mongodb://a/", "--brokers=k", "--topic-prefix=cdc"];
        run(&[&common[..], &["--oversize=split", &format]].concat())
    };
    for format in ["raw", "bson"] {
        assert_eq!(with(format).unwrap().oversize, Oversize::Split, "{format}");
    }
    for format in ["json", "avro"] {
        let error = with(format).unwrap_err().to_string();
        assert!(
            error.contains("--oversize: split needs --format raw or bson"),
            "{error}"
        );
    }
}

#[test]
fn a_registry_is_for_avro_and_its_faults_contain_no_secrets() {
    let with = |flags: &[&str]| {
        let common = ["--source=mongodb://a/", "--brokers=k", "--topic-prefix=cdc"];
        run_all(&[&common[..], flags].concat())
    };
    let url = "--registry-url=https://one:8081/api,http://two";
    let registry = with(&["--format=avro", url]).unwrap().registry.unwrap();
    assert_eq!(registry.urls, ["https://one:8081/api", "http://two"]);
    assert!(registry.registers && registry.login == RegistryLogin::None);
    // The rest of a transaction may have to be written in Avro.
    assert!(with(&["--change-routing", url]).unwrap().registry.is_some());
    for (flags, fault) in [
        (&["--format=avro"][..], "--registry-url: is required"),
        (
            &[url],
            "--registry-url: can only be used with --format avro",
        ),
        (
            &["--registry-token=hidden"],
            "--registry-token: needs --registry-url",
        ),
        (
            &["--format=avro", "--registry-url=http://u:hidden@h"],
            "give them with --registry-login",
        ),
        (
            &["--format=avro", "--registry-url=http://h?key=hidden"],
            "must not contain ? or #",
        ),
        (
            &["--format=avro", "--registry-url=registry:8081"],
            "must begin with http://",
        ),
        (
            &["--format=avro", "--registry-url=http://h:99999"],
            "must be an address",
        ),
        (
            &["--format=avro", url, "--registry-login=hidden"],
            "must be user:password",
        ),
        (
            &["--format=avro", url, "--registry-token=hid\nden"],
            "must be visible characters",
        ),
        (
            &["--format=avro", url, "--registry-ca=Cargo.toml"],
            "has no certificate in PEM",
        ),
        (
            &["--format=avro", url, "--registry-subjects=all"],
            "must be topic, record",
        ),
    ] {
        let error = with(flags).unwrap_err().to_string();
        assert!(error.contains(fault), "{fault} is not in:\n{error}");
        assert!(
            !error.contains("hidden") && !error.contains("hid\n"),
            "{error}"
        );
    }
}

#[test]
fn what_a_change_stream_cannot_do_is_refused_with_all_other_faults() {
    let common = [
        "--brokers=b",
        "--topic-prefix=p",
        "--source-mode=change-stream",
    ];
    let live = "--source=mongodb://localhost/";
    let faults = |more: &[&str]| {
        let flags = [&common[..], more].concat();
        run(&flags).map_or_else(|error| error.to_string(), |_| String::new())
    };
    assert_eq!(faults(&[live, "--start=now"]), "");
    let flags = [
        live,
        "--start=oldest",
        "--full-document-before=lookup",
        "--format=json",
    ];
    let error = faults(&flags);
    assert!(error.contains("--start: oldest"), "{error}");
    assert!(error.contains("--full-document-before"), "{error}");
    let error = faults(&[live, "--sync=full-then-tail"]);
    assert!(error.contains("mongodump"), "{error}");
    let error = faults(&["--source=.", "--source-name=a", "--start=5:1"]);
    assert!(error.contains("a dump is an oplog"), "{error}");
    let error = run(&[live, "--source-mode=binlog"])
        .unwrap_err()
        .to_string();
    assert!(
        error.contains("--source-mode: must be auto, oplog or change-stream"),
        "{error}"
    );
}
