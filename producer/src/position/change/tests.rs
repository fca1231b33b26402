use oplog_relay_core::state::{CopyKind, CopyRecord, CopyStage, STATE_VERSION, SourceMode, State};

use super::*;
use crate::position_lost::PositionLost;
use crate::saved::checkpoint::RecordPlace;

const fn at(seconds: u32, ord: u32) -> Position {
    Position {
        ts: Timestamp::new(seconds, 1),
        term: 4,
        ord,
    }
}

fn source(began: Option<&str>) -> SourceRecord {
    SourceRecord {
        began: began.map(str::to_owned),
        ..SourceRecord::new("rs0".to_owned(), SourceMode::Oplog)
    }
}

/// A source that began at 10 and has reached 50.
fn saved() -> Checkpoint {
    Checkpoint {
        position: Some(at(50, 0)),
        routing: Some(3),
        reads: 7,
        had_state: true,
        place: Some(RecordPlace {
            offset: 9,
            written_ms: Some(1_000_000),
        }),
        state: State {
            source: Some(source(Some("10:1"))),
            ..State::default()
        },
        ..Checkpoint::default()
    }
}

fn change(wanted: Position) -> Change {
    Change {
        prefix: "cdc".to_owned(),
        wanted,
        accepted: Accepted::default(),
        first: FirstPosition::Refused,
        identity: source(None),
        collections: None,
    }
}

fn decide(change: &Change, saved: &Checkpoint) -> Result<Option<Decided>, PositionChangeError> {
    change.decide(saved, 77).map_err(|error| match error {
        ProducerError::PositionChange(refused) => *refused,
        other => panic!("{other}"),
    })
}

#[test]
fn a_position_or_a_state_that_was_lost_in_kafka_is_not_replaced() {
    let lost = |change: &Change, saved: &Checkpoint| match change.decide(saved, 77) {
        Err(ProducerError::PositionLost(lost)) => *lost,
        other => panic!("{other:?}"),
    };
    let first = Change {
        first: FirstPosition::Required,
        ..change(at(60, 0))
    };
    let no_position = Checkpoint {
        position: None,
        ..saved()
    };
    for change in [first, change(at(20, 0))] {
        let found = lost(&change, &no_position);
        assert!(matches!(found, PositionLost::Forgotten { .. }), "{found}");
    }
    let no_state = Checkpoint {
        state: State::default(),
        ..saved()
    };
    let found = lost(&change(at(20, 0)), &no_state);
    assert!(
        matches!(found, PositionLost::StateForgotten { .. }),
        "{found}"
    );
}

#[test]
fn a_move_back_keeps_the_routing_and_is_counted() {
    let decided = decide(&change(at(20, 0)), &saved()).unwrap().unwrap();
    let expected = PositionRecord {
        state: true,
        ..PositionRecord::new(at(20, 0), 3)
    };
    assert_eq!(decided.direction, Direction::Back);
    assert_eq!(decided.position, expected);
    let moved = SourceRecord {
        moves: 1,
        ..source(Some("10:1"))
    };
    assert_eq!(decided.source, Some(moved));
    assert_eq!(decide(&change(at(50, 0)), &saved()), Ok(None));
}

#[test]
fn a_move_forward_needs_consent_and_leaves_a_gap() {
    let forward = change(at(60, 0));
    let refused = decide(&forward, &saved());
    assert!(matches!(refused, Err(PositionChangeError::Gap { .. })));
    let accepted = Accepted {
        gap: true,
        ..Accepted::default()
    };
    let forward = Change {
        accepted,
        ..forward
    };
    let gaps = |saved: &Checkpoint, change: &Change| {
        let decided = decide(change, saved).unwrap().unwrap();
        (decided.source.unwrap().gaps, decided.position.begin)
    };
    let gap = |after, through| {
        let (after, through): (&str, &str) = (after, through);
        GapRecord {
            after: after.to_owned(),
            through: through.to_owned(),
            at: 77,
            reason: GapReason::Operator,
            resent_after: None,
        }
    };
    // A transaction that began in the gap is incomplete, and not a reason to stop.
    let begin = Some("60:2".to_owned());
    assert_eq!(
        gaps(&saved(), &forward),
        (vec![gap("50:1", "60:1")], begin.clone())
    );
    // The rest of a transaction that was sent in part is skipped too.
    let inside = Checkpoint {
        position: Some(at(60, 5)),
        ..saved()
    };
    assert_eq!(gaps(&inside, &forward).0, [gap("60:0", "60:1")]);
    // A second gap directly after the first one lengthens it.
    let mut again = saved();
    again.state.source.as_mut().unwrap().gaps = vec![gap("30:1", "50:1")];
    assert_eq!(gaps(&again, &forward).0, [gap("30:1", "60:1")]);
}

#[test]
fn the_oldest_gaps_become_one_when_there_are_too_many() {
    let mut gaps = Vec::new();
    let count = u32::try_from(GAPS).unwrap() + 5;
    for second in 1..=count {
        let (after, through) = (at(second * 10, 0).ts, at(second * 10 + 5, 0).ts);
        add_gap(&mut gaps, after, through, 7);
    }
    assert_eq!(gaps.len(), GAPS);
    let first = (gaps[0].after.as_str(), gaps[0].through.as_str());
    assert_eq!(first, ("10:1", "65:1"));
    assert_eq!(gaps[1].after, "70:1");
}

#[test]
fn a_position_before_the_end_of_a_gap_needs_consent_and_keeps_the_gap() {
    let mut with_gap = saved();
    let gap = GapRecord::new(at(30, 0).ts, at(40, 0).ts, 5, GapReason::Operator);
    with_gap.state.source.as_mut().unwrap().gaps = vec![gap.clone()];
    let back = |seconds, before_start| -> Result<Vec<GapRecord>, PositionChangeError> {
        let accepted = Accepted {
            before_start,
            ..Accepted::default()
        };
        let change = Change {
            accepted,
            ..change(at(seconds, 0))
        };
        let decided = decide(&change, &with_gap)?;
        Ok(decided.unwrap().source.unwrap().gaps)
    };
    assert_eq!(back(40, false), Ok(vec![gap.clone()]), "unchanged");
    for (seconds, resent_after) in [(35, "35:1"), (25, "30:1")] {
        let refused = back(seconds, false);
        assert!(matches!(
            refused,
            Err(PositionChangeError::AcrossGap { .. })
        ));
        let resent = GapRecord {
            resent_after: Some(resent_after.to_owned()),
            ..gap.clone()
        };
        assert_eq!(back(seconds, true), Ok(vec![resent]));
    }
}

#[test]
fn a_position_before_the_stream_began_needs_consent() {
    let before = |saved: &Checkpoint, seconds, before_start| {
        let accepted = Accepted {
            before_start,
            ..Accepted::default()
        };
        let change = Change {
            accepted,
            ..change(at(seconds, 0))
        };
        decide(&change, saved)
    };
    assert!(before(&saved(), 10, false).is_ok());
    let refused = before(&saved(), 9, false).unwrap_err();
    assert!(refused.to_string().contains("(after 10:1)"), "{refused}");
    let accepted = before(&saved(), 9, true).unwrap().unwrap();
    assert_eq!(accepted.source.unwrap().began.as_deref(), Some("9:1"));
    // The source was saved by an earlier version.
    let mut unknown = saved();
    unknown.state.source = Some(source(None));
    let refused = before(&unknown, 40, false).unwrap_err();
    assert!(refused.to_string().contains("is not known"), "{refused}");
    let accepted = before(&unknown, 40, true).unwrap().unwrap();
    assert_eq!(accepted.source.unwrap().began, None);
}

#[test]
fn an_incomplete_full_sync_and_an_open_transaction_of_a_dump_forbid_a_change() {
    let mut copying = saved();
    let copy = CopyRecord {
        v: STATE_VERSION,
        ns: "s.a".to_owned(),
        ui: None,
        kind: CopyKind::Collection,
        stage: CopyStage::Reading,
        requested: false,
        only_documents: false,
        filter: None,
        documents: 0,
        bytes: 0,
        expected_documents: 0,
        expected_bytes: 0,
    };
    copying.state.copies.insert("s.a".to_owned(), copy);
    let refused = decide(&change(at(20, 0)), &copying);
    assert_eq!(
        refused,
        Err(PositionChangeError::FullSync { collections: 1 })
    );
    let mut open = saved();
    open.history.open = Some(Timestamp::new(45, 1));
    let refused = decide(&change(at(20, 0)), &open);
    assert!(matches!(
        refused,
        Err(PositionChangeError::OpenTransaction { .. })
    ));
}

#[test]
fn an_import_is_for_a_source_without_a_position() {
    let first = Change {
        first: FirstPosition::Required,
        ..change(at(60, 0))
    };
    let refused = decide(&first, &saved());
    assert!(matches!(
        refused,
        Err(PositionChangeError::AlreadySaved { .. })
    ));
    let nothing = Checkpoint::default();
    let decided = decide(&first, &nothing).unwrap().unwrap();
    assert_eq!(decided.direction, Direction::First);
    assert_eq!(decided.source.unwrap().began.as_deref(), Some("60:1"));
    assert_eq!(
        (decided.position.routing, decided.position.begin),
        (FIRST_ROUTING, None)
    );
    let refused = decide(&change(at(60, 0)), &nothing);
    assert!(matches!(refused, Err(PositionChangeError::NotSaved { .. })));
}

#[test]
fn a_history_that_began_after_the_position_no_longer_excuses_incomplete_transactions() {
    let mut later = saved();
    later.history.begin = Some(Timestamp::new(30, 2));
    let begin = |seconds| {
        let decided = decide(&change(at(seconds, 0)), &later).unwrap().unwrap();
        decided.position.begin
    };
    assert_eq!(begin(30), Some("30:2".to_owned()));
    assert_eq!(begin(29), None);
}

#[test]
fn a_producer_that_has_just_saved_its_position_seems_to_be_running() {
    let set = change(at(20, 0));
    let stopped = |set: &Change, now| set.check_stopped(&saved(), now);
    assert_eq!(
        stopped(&set, 1_000_000 + 59_999),
        Err(PositionChangeError::Running { seconds: 59 })
    );
    assert_eq!(stopped(&set, 1_000_000 + 60_000), Ok(()));
    // The clock of the producer is ahead.
    assert!(stopped(&set, 900_000).is_err());
    let accepted = Accepted {
        fence: true,
        ..Accepted::default()
    };
    let fencing = Change { accepted, ..set };
    assert_eq!(stopped(&fencing, 1_000_000), Ok(()));
}
