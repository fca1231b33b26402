//! Formats, and the flags that depend on them.

use oplog_relay_core::format::Format;
use oplog_relay_core::format::debezium::Debezium;
use oplog_relay_core::json::Mode;
use oplog_relay_core::state::OrderRule;

use super::*;
use crate::publish::Oversize;
use crate::registry::RegistryLogin;

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
