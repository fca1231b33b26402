use oplog_relay_core::position::Timestamp;
use oplog_relay_core::state::NamespacesRecord;

use oplog_relay_core::state::SourceMode;

use super::*;

fn source(set: &str, id: Option<&str>) -> SourceRecord {
    SourceRecord {
        set_name: Some(set.to_owned()),
        replica_set_id: id.map(str::to_owned),
        ..SourceRecord::new("rs0".to_owned(), SourceMode::Oplog)
    }
}

const fn at(seconds: u32) -> Position {
    Position {
        ts: Timestamp::new(seconds, 1),
        term: 1,
        ord: 0,
    }
}

#[test]
fn another_replica_set_under_the_same_name_is_refused() {
    let mut checkpoint = Checkpoint::default();
    assert!(checkpoint.check_source(&source("rs0", None)).is_ok());
    checkpoint.state.source = Some(source("rs0", Some("aa")));
    assert!(checkpoint.check_source(&source("rs0", Some("aa"))).is_ok());
    assert!(checkpoint.check_source(&source("rs0", None)).is_ok());
    assert!(checkpoint.check_source(&source("rs1", None)).is_err());
    assert!(checkpoint.check_source(&source("rs0", Some("bb"))).is_err());
}

#[test]
fn saved_positions_are_read_and_damage_is_reported() {
    let stored = |value: &str| Stored {
        offset: 0,
        timestamp_ms: None,
        key: None,
        value: Some(value.as_bytes().to_vec()),
    };
    let good = stored(r#"{"v":1,"ts":"7:3","term":2,"ord":0,"routing":1}"#);
    let read = read_position(&good).unwrap();
    assert_eq!(read.position.unwrap().to_string(), "7:3 (term 2)");
    assert_eq!(read.history, History::default());
    assert_eq!(
        (read.routing, read.reads, read.had_state),
        (Some(1), 0, false)
    );
    let open = stored(
        r#"{"v":1,"ts":"7:3","term":2,"ord":9,"routing":1,"open":"5:1","reads":5,"state":true}"#,
    );
    let read = read_position(&open).unwrap();
    assert_eq!(
        (read.routing, read.reads, read.had_state),
        (Some(1), 5, true)
    );
    assert_eq!(
        (read.position.unwrap().ord, read.history.open),
        (9, Some(Timestamp::new(5, 1)))
    );
    assert!(read_position(&stored("{}")).is_err());
}

#[test]
fn committed_positions_and_state_must_still_exist() {
    let check = |checkpoint: &Checkpoint, committed| checkpoint.check_kept("cdc", "rs0", committed);
    let first = Checkpoint::default();
    assert!(check(&first, None).is_ok());
    // This process has committed before.
    let forgotten = check(&first, Some(at(7)));
    assert!(matches!(forgotten, Err(PositionLost::Forgotten { .. })));

    let mut used = Checkpoint::default();
    used.state.source = Some(source("rs0", None));
    let forgotten = check(&used, None).unwrap_err().to_string();
    for part in [
        "__cdc.position.rs0",
        "__cdc.state.rs0",
        "--start",
        "To recover",
    ] {
        assert!(forgotten.contains(part), "{forgotten}");
    }
    used.position = Some(at(7));
    used.had_state = true;
    assert!(check(&used, None).is_ok() && check(&used, Some(at(7))).is_ok());
    let back = check(&used, Some(at(8)));
    assert!(matches!(back, Err(PositionLost::WentBack { .. })));

    used.state.source = None;
    let forgotten = check(&used, None);
    assert!(matches!(
        forgotten,
        Err(PositionLost::StateForgotten { .. })
    ));
    // An earlier version may have saved a position before it had a state to save.
    used.had_state = false;
    assert!(check(&used, None).is_ok());
}

#[test]
fn a_position_that_an_operator_has_set_back_is_not_lost() {
    let mut checkpoint = Checkpoint {
        position: Some(at(7)),
        ..Checkpoint::default()
    };
    checkpoint.state.source = Some(SourceRecord {
        moves: 2,
        ..source("rs0", None)
    });
    let check = |checkpoint: &Checkpoint, moves| {
        let committed = checkpoint.expected(Some(at(9)), moves);
        checkpoint.check_kept("cdc", "rs0", committed)
    };
    assert!(check(&checkpoint, 1).is_ok());
    let back = check(&checkpoint, 2);
    assert!(matches!(back, Err(PositionLost::WentBack { .. })));
    // The loss of the record does not look like a change.
    checkpoint.state.source = None;
    assert!(check(&checkpoint, 2).is_err());
}

#[test]
fn a_request_alone_does_not_show_that_the_source_was_running() {
    let mut checkpoint = Checkpoint::default();
    let request = br#"{"v":1,"namespaces":["a.*"]}"#;
    checkpoint.state.apply("request/1", Some(request)).unwrap();
    assert!(checkpoint.check_kept("cdc", "rs0", None).is_ok());
}

#[test]
fn namespaces_that_were_excluded_so_far_are_refused() {
    let filter = |include: &[&str], exclude: &[&str]| {
        NamespaceFilter::new(include.iter().copied(), exclude.iter().copied()).unwrap()
    };
    let mut checkpoint = Checkpoint::default();
    checkpoint.state.source = Some(source("rs0", None));
    // An earlier version did not save the namespaces.
    assert!(checkpoint.check_namespaces(&filter(&[], &[])).is_ok());
    checkpoint.state.source = Some(SourceRecord {
        namespaces: Some(NamespacesRecord {
            include: vec!["shop.*".to_owned()],
            exclude: vec!["shop.tmp".to_owned()],
        }),
        ..source("rs0", None)
    });
    let check = |include: &[&str], exclude: &[&str]| {
        let checked = checkpoint.check_namespaces(&filter(include, exclude));
        checked.err().map(|error| error.to_string())
    };
    assert_eq!(check(&["shop"], &["shop.tmp"]), None);
    assert_eq!(check(&["shop.orders"], &["shop.tmp", "shop.x"]), None);
    for (include, exclude) in [
        (&["shop"][..], &[][..]),
        (&["shop", "crm"], &["shop.tmp"]),
        (&[], &["shop.tmp"]),
    ] {
        let message = check(include, exclude).unwrap();
        assert!(message.contains("--change-namespaces"), "{message}");
        assert!(message.contains("shop.* except shop.tmp"), "{message}");
    }
}
