//! Transactions of several entries.

use super::*;
use crate::prepare::transaction::spooled::SpoolSize;

fn partial(seconds: u32, previous: u32, ids: std::ops::Range<i32>, of: Doc) -> Vec<u8> {
    let o = doc! { "applyOps": inserts(ids), "partialTxn": true };
    command(seconds, o, &[of, after(previous)])
}

fn last(seconds: u32, previous: u32, ids: std::ops::Range<i32>, count: i64, of: Doc) -> Vec<u8> {
    let o = doc! { "applyOps": inserts(ids), "count": count };
    command(seconds, o, &[of, after(previous)])
}

fn prepare(seconds: u32, previous: u32, ids: std::ops::Range<i32>, of: Doc) -> Vec<u8> {
    let o = doc! { "applyOps": inserts(ids), "prepare": true };
    command(seconds, o, &[of, after(previous)])
}

fn commit(seconds: u32, previous: u32, of: Doc) -> Vec<u8> {
    let o = doc! { "commitTransaction": 1, "commitTimestamp": ts(previous) };
    command(seconds, o, &[of, after(previous)])
}

fn abort(seconds: u32, previous: u32, of: Doc) -> Vec<u8> {
    command(
        seconds,
        doc! { "abortTransaction": 1 },
        &[of, after(previous)],
    )
}

#[test]
fn txn_42_chain_interleaved_with_other_entries() {
    let outcome = run(&[
        partial(1, 0, 10..12, session(1, 1)),
        plain(2, 1, &[]),
        partial(3, 1, 12..14, session(1, 1)),
        plain(4, 2, &[]),
        last(5, 3, 14..15, 5, session(1, 1)),
        plain(6, 3, &[]),
    ]);
    assert_eq!(outcome.documents(), [1, 2, 10, 11, 12, 13, 14, 3]);
    let ids = ["2/0", "4/0", "5/0", "5/1", "5/2", "5/3", "5/4", "6/0"];
    assert_eq!(outcome.ids(), ids);
    assert_eq!(outcome.records[3].place(), Some((1, 5)));
    let entry = &outcome.records[3].entry;
    assert_eq!(entry.get_timestamp("ts").ok(), Some(ts(5)));
    assert_eq!(outcome.open(), None);
    assert_eq!(outcome.counts.committed, 1);
}

#[test]
fn two_txns_interleaved() {
    let outcome = run(&[
        partial(1, 0, 10..11, session(1, 1)),
        partial(2, 0, 20..21, session(2, 1)),
        partial(3, 1, 11..12, session(1, 1)),
        last(4, 2, 21..22, 2, session(2, 1)),
        last(5, 3, 12..13, 3, session(1, 1)),
    ]);
    assert_eq!(outcome.documents(), [20, 21, 10, 11, 12]);
}

#[test]
fn txn_prepared_commit() {
    let outcome = run(&[
        partial(1, 0, 1..3, session(1, 1)),
        prepare(3, 1, 3..4, session(1, 1)),
        plain(4, 9, &[]),
        commit(5, 3, session(1, 1)),
    ]);
    assert_eq!(outcome.documents(), [9, 1, 2, 3]);
    assert_eq!(outcome.ids(), ["4/0", "5/0", "5/1", "5/2"]);
    assert_eq!(outcome.records[3].place(), Some((2, 3)));
}

#[test]
fn txn_prepared_abort() {
    let outcome = run(&[
        partial(1, 0, 1..3, session(1, 1)),
        prepare(3, 1, 3..4, session(1, 1)),
        abort(4, 3, session(1, 1)),
    ]);
    assert_eq!((outcome.documents(), outcome.open()), (vec![], None));
    assert_eq!((outcome.counts.aborted, outcome.counts.committed), (1, 0));
    let (end, _, _) = outcome.ends[0];
    assert_eq!((end.ts.seconds, end.ord), (4, 0));
}

#[test]
fn txn_empty_prepare() {
    let outcome = run(&[
        prepare(3, 0, 0..0, session(1, 1)),
        commit(5, 3, session(1, 1)),
    ]);
    assert_eq!((outcome.records.len(), outcome.open()), (0, None));
    assert_eq!(outcome.counts.committed, 1);
}

#[test]
fn batched_chain_partial_txn_no_lsid() {
    let outcome = run(&[
        partial(1, 0, 1..3, doc! {}),
        partial(2, 1, 3..4, doc! {}),
        last(3, 2, 4..5, 4, doc! {}),
    ]);
    assert_eq!(outcome.documents(), [1, 2, 3, 4]);
    assert_eq!(outcome.records[3].place(), Some((3, 4)));
    let entry = &outcome.records[3].entry;
    assert!(!entry.contains_key("lsid"));
}

#[test]
fn a_chain_without_a_count_is_counted() {
    let o = doc! { "applyOps": inserts(3..4) };
    let outcome = run(&[
        partial(1, 0, 1..3, session(1, 1)),
        command(2, o, &[session(1, 1), after(1)]),
    ]);
    assert_eq!(outcome.records[0].place(), Some((0, 3)));
}

#[test]
fn retryable_write_with_prev_op_time_is_not_txn() {
    let outcome = run(&[
        plain(1, 1, &[session(1, 4), doc! { "stmtId": 0 }, after(0)]),
        plain(2, 2, &[session(1, 4), doc! { "stmtId": 1 }, after(1)]),
    ]);
    assert_eq!(outcome.ids(), ["1/0", "2/0"]);
    assert!(!outcome.records[1].entry.contains_key("txn"));
    assert_eq!(
        outcome.counts,
        crate::encode::chunk::TransactionCounts::default()
    );
}

#[test]
fn parts_that_are_never_committed_are_dropped_at_the_next_txn_number_of_their_session() {
    let open = partial(1, 0, 1..3, session(1, 4));
    let outcome = run(&[open.clone(), plain(2, 9, &[session(2, 7)])]);
    assert_eq!(outcome.open(), Some(1));
    let outcome = run(&[open.clone(), plain(2, 9, &[session(1, 4)])]);
    assert_eq!(outcome.open(), Some(1));
    let outcome = run(&[open.clone(), plain(2, 9, &[session(1, 5)])]);
    assert_eq!(outcome.open(), None);
    let outcome = run(&[open, partial(2, 0, 5..6, session(1, 5))]);
    assert_eq!(outcome.open(), Some(2));
}

#[test]
fn txn_larger_than_memory_goes_through_a_file() {
    let entries = [
        partial(1, 0, 1..40, session(1, 1)),
        partial(2, 0, 100..140, session(2, 1)),
        partial(3, 1, 40..80, session(1, 1)),
        last(4, 3, 80..81, 80, session(1, 1)),
        abort(5, 2, session(2, 1)),
    ];
    let mut spooled = SpooledParts::with_budget(entries[0].len());
    for bytes in &entries[..3] {
        let entry = Entry::parse(Document::new(bytes).unwrap()).unwrap();
        let Shape::Part(link) = Shape::of(&entry).unwrap() else {
            panic!("no part");
        };
        spooled.keep(&entry, link).unwrap();
    }
    let expected = SpoolSize {
        bytes_in_memory: entries[0].len(),
        entries_in_file: 2,
    };
    assert_eq!(spooled.size(), expected);
    let start = Start {
        spooled: SpooledParts::with_budget(entries[0].len()),
        ..Start::default()
    };
    let outcome = run_from(start, &entries).unwrap();
    let expected: Vec<i32> = (1..81).collect();
    assert_eq!(outcome.documents(), expected);
    assert_eq!(outcome.open(), None);
}

#[test]
fn ended_transactions_use_neither_memory_nor_file() {
    let mut spooled = SpooledParts::with_budget(300);
    let mut links = Vec::new();
    for seconds in 1..20 {
        let bytes = partial(seconds, seconds - 1, 1..3, session(1, 1));
        let entry = Entry::parse(Document::new(&bytes).unwrap()).unwrap();
        let link = Link::read(entry.raw).unwrap();
        spooled.keep(&entry, link).unwrap();
        assert_eq!(spooled.read(link.at).unwrap().unwrap(), bytes);
        links.push(link);
    }
    let size = spooled.size();
    assert!(
        size.bytes_in_memory <= 300 && size.entries_in_file >= 17,
        "{size:?}"
    );
    for link in links {
        spooled.forget(link.at);
        assert_eq!(spooled.read(link.at).unwrap(), None);
    }
    assert_eq!(
        (spooled.size(), spooled.oldest()),
        (SpoolSize::default(), None)
    );
}

#[test]
fn a_chain_from_before_the_oldest_entry_is_skipped() {
    let entries = [
        plain(2, 1, &[]),
        partial(3, 1, 12..14, session(1, 1)),
        last(5, 3, 14..15, 5, session(1, 1)),
        plain(6, 2, &[]),
    ];
    let outcome = run(&entries);
    assert_eq!(outcome.documents(), [1, 2]);
    assert_eq!(
        (outcome.counts.incomplete, outcome.counts.committed),
        (1, 0)
    );
    assert_eq!(outcome.open(), None);
    // After a restart the same holds, because the start of the stream is saved.
    let (_, history, _) = outcome.ends[0];
    assert_eq!(history.begin, Some(Timestamp::new(2, 1)));
    let end = |seconds| Position {
        ts: Timestamp::new(seconds, 1),
        term: TERM,
        ord: 0,
    };
    let start = Start {
        end: Some(end(2)),
        history,
        from_oldest: false,
        ..Start::default()
    };
    let outcome = run_from(start, &entries[1..]).unwrap();
    assert_eq!(
        (outcome.documents(), outcome.counts.incomplete),
        (vec![2], 1)
    );
    // A stream with another start should have read the entry, so the position is lost.
    let start = Start {
        end: Some(end(2)),
        from_oldest: false,
        ..Start::default()
    };
    let error = run_from(start, &entries[1..]).unwrap_err();
    assert!(matches!(error, ProducerError::PositionLost(_)), "{error}");
    let text = error.to_string();
    assert!(
        text.contains("committed at 5:1") && text.contains("at 1:1"),
        "{text}"
    );
}

#[test]
fn a_missing_entry_after_the_start_stops_a_stream_from_the_oldest_entry() {
    let error = run_from(
        Start::default(),
        &[
            partial(1, 0, 10..12, session(1, 1)),
            last(5, 3, 14..15, 5, session(1, 1)),
        ],
    );
    assert!(matches!(error, Err(ProducerError::PositionLost(_))));
}

#[test]
fn an_entry_of_another_term_is_not_part_of_the_chain() {
    let o = doc! { "applyOps": inserts(3..4), "count": 3 };
    let previous = doc! { "prevOpTime": { "ts": ts(1), "t": TERM + 1 } };
    let error = run_from(
        Start::default(),
        &[
            partial(1, 0, 1..3, session(1, 1)),
            command(2, o, &[session(1, 1), previous]),
        ],
    );
    assert!(matches!(error, Err(ProducerError::PositionLost(_))));
}

#[test]
fn a_circular_chain_is_refused() {
    let text = refusal(&[
        partial(1, 2, 1..3, session(1, 1)),
        partial(2, 1, 1..3, session(1, 1)),
        last(3, 2, 3..4, 9, session(1, 1)),
    ]);
    assert!(text.contains("does not name an earlier entry"), "{text}");
}

/// Returns the same entry in another term.
fn in_term(bytes: &[u8], term: i64) -> Vec<u8> {
    let mut entry = Doc::from_reader(bytes).unwrap();
    entry.insert("t", term);
    entry.to_vec().unwrap()
}

#[test]
fn an_election_ends_open_transactions_that_are_not_prepared() {
    let open = partial(1, 0, 1..3, session(1, 4));
    let elected = in_term(&plain(3, 9, &[]), TERM + 1);
    assert_eq!(run(&[open.clone(), elected.clone()]).open(), None);
    let older = in_term(&plain(3, 9, &[]), -1);
    assert_eq!(run(&[open.clone(), older]).open(), Some(1));
    // The new primary commits the prepared transaction.
    let entries = [
        open,
        prepare(2, 1, 3..4, session(1, 4)),
        elected,
        in_term(&commit(4, 2, session(1, 4)), TERM + 1),
    ];
    assert_eq!(run(&entries[..3]).open(), Some(1));
    assert_eq!(run(&entries).documents(), [9, 1, 2, 3]);
    // Without a session no transaction can be prepared.
    let batched = partial(1, 0, 1..3, doc! {});
    assert_eq!(run(&[batched, entries[2].clone()]).open(), None);
}

#[test]
fn an_apply_ops_whose_previous_entry_is_not_a_part_stands_alone() {
    let single = |seconds, previous| {
        let o = doc! { "applyOps": inserts(10..12) };
        command(seconds, o, &[session(1, 4), after(previous)])
    };
    // One dump contains a statement of a retryable write, the other starts after it.
    for entries in [
        vec![plain(2, 1, &[session(1, 4)]), single(5, 2)],
        vec![plain(2, 1, &[]), single(5, 1)],
    ] {
        let outcome = run(&entries);
        assert_eq!(outcome.documents(), [1, 10, 11]);
        assert_eq!(
            (outcome.counts.incomplete, outcome.counts.committed),
            (0, 1)
        );
    }
}
