//! Sources, and what is possible with each kind.

use oplog_relay_core::format::Format;
use oplog_relay_core::json::Mode;
use oplog_relay_runtime::config::Start;

use super::*;

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
