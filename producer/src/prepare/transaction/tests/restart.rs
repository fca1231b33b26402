//! Stops and restarts inside and between the entries of transactions.

use super::*;
use crate::session::pipeline::{Queues, encode, queues};
use crate::source::SourceEvent;
use crate::telemetry::metrics::Metrics;

/// Returns a transaction of three entries that fills several chunks, a second transaction that begins
/// before it and commits after it, and single entries in between.
fn history() -> Vec<Vec<u8>> {
    let part = |seconds, previous, of: i32, ids: std::ops::Range<i32>, flag: Doc| {
        let mut o = doc! { "applyOps": inserts(ids) };
        o.extend(flag);
        let session = session(u8::try_from(of).unwrap(), 1);
        command(seconds, o, &[session, after(previous)])
    };
    let partial = || doc! { "partialTxn": true };
    vec![
        plain(1, 1, &[]),
        part(2, 0, 1, 100_000..100_010, partial()),
        part(3, 0, 2, 10_000..20_000, partial()),
        plain(4, 2, &[]),
        part(5, 3, 2, 20_000..29_000, partial()),
        part(6, 5, 2, 29_000..30_000, doc! { "count": 20_000 }),
        plain(7, 3, &[]),
        part(8, 2, 1, 100_010..100_012, doc! { "count": 12 }),
        plain(9, 4, &[]),
    ]
}

fn seconds_of(bytes: &[u8]) -> u32 {
    let entry = Entry::parse(Document::new(bytes).unwrap()).unwrap();
    entry.ts.seconds
}

/// Resumes from a saved position in the way a session with a dump does.
fn resumed(end: Position, history: History) -> Outcome {
    let entries = super::restart::history();
    let open = history.open.map_or(u32::MAX, |open| open.seconds);
    let done =
        |seconds: u32| seconds < end.ts.seconds || (seconds == end.ts.seconds && end.ord == 0);
    let (before, rest): (Vec<_>, Vec<_>) = entries
        .into_iter()
        .partition(|bytes| done(seconds_of(bytes)));
    let earlier = before.into_iter();
    let start = Start {
        end: Some(end),
        history,
        from_oldest: false,
        earlier: earlier
            .filter(|bytes| seconds_of(bytes) >= open)
            .flatten()
            .collect(),
        ..Start::default()
    };
    run_from(start, &rest).unwrap()
}

#[test]
fn txn_open_across_restart_at_every_chunk_end() {
    let whole = run(&history());
    assert_eq!(whole.records.len(), 4 + 20_000 + 12);
    let inside = |(end, _, _): &&(Position, History, usize)| end.ord > 0;
    assert!(whole.ends.iter().filter(inside).count() >= 2);
    for (end, history, sent) in &whole.ends {
        let rest = resumed(*end, *history);
        assert_eq!(rest.records, whole.records[*sent..], "{end}");
    }
}

#[test]
fn txn_open_across_restart_after_every_entry() {
    let entries = history();
    let whole = run(&entries);
    for count in 1..entries.len() {
        let first = run(&entries[..count]);
        let (end, history, sent) = *first.ends.last().unwrap();
        let expected = &[
            None,
            Some(2),
            Some(2),
            Some(2),
            Some(2),
            Some(2),
            Some(2),
            None,
        ];
        assert_eq!(first.open(), expected[count - 1], "{count}");
        let rest = resumed(end, history);
        assert_eq!(rest.records, whole.records[sent..], "{count}");
    }
}

/// A session may commit before it has reread the dump, for example the barrier of a routing change.
#[test]
fn the_start_of_an_open_transaction_stays_saved_until_the_dump_is_read_again() {
    let saved = History {
        begin: Some(Timestamp::new(1, 1)),
        open: Some(Timestamp::new(2, 1)),
    };
    let kept = Parts::Spooled(SpooledParts::default());
    let mut transactions = Transactions::new(kept, saved, false, Shutdown::manual());
    assert_eq!(transactions.history(), saved);
    let entries = history();
    for bytes in &entries[1..7] {
        let entry = Entry::parse(Document::new(bytes).unwrap()).unwrap();
        transactions.recall(&entry).unwrap();
        assert_eq!(transactions.history(), saved, "{}", entry.ts);
    }
    let commit = Entry::parse(Document::new(&entries[7]).unwrap()).unwrap();
    transactions.recall(&commit).unwrap();
    assert_eq!(transactions.history().open, None);
}

#[test]
fn frames_are_cut_inside_a_large_transaction() {
    let text = "x".repeat(4000);
    let large = |id| doc! { "op": "i", "ns": "shop.a", "o": { "_id": id, "text": &text } };
    let operations: Vec<Doc> = (0..9000).map(large).collect();
    let o = doc! { "applyOps": operations };
    let batch = Batch::Bytes(command(5, o, &[session(1, 1)]));
    let mut encoder = encoder(Start {
        format: Format::Raw,
        ..Start::default()
    });
    let (mut chunk, mut ends) = (Chunk::default(), Vec::new());
    encoder
        .encode(&batch, &mut chunk, &mut |chunk| {
            assert!(chunk.arena.len() < 20 << 20);
            ends.push(chunk.reached.position.unwrap().ord);
            chunk.clear();
            Ok(())
        })
        .unwrap();
    assert!(
        ends.len() >= 2 && ends[0] > 0 && ends[0] < ends[1],
        "{ends:?}"
    );
}

#[test]
fn a_position_inside_what_is_no_transaction_is_refused() {
    let end = Position {
        ts: Timestamp::new(1, 1),
        term: TERM,
        ord: 2,
    };
    let at = |end| Start {
        end: Some(end),
        ..Start::default()
    };
    let error = run_from(at(end), &[plain(1, 1, &[])]).unwrap_err();
    assert!(
        error.to_string().contains("inside a transaction"),
        "{error}"
    );
    let short = command(1, doc! { "applyOps": [insert(1)] }, &[session(1, 1)]);
    let error = run_from(at(end), &[short]).unwrap_err();
    assert!(error.to_string().contains("counts 2 operations"), "{error}");
    let done = Position { ord: 0, ..end };
    let error = run_from(at(done), &[plain(1, 1, &[])]).unwrap_err();
    assert!(error.to_string().contains("ts goes backwards"), "{error}");
}

#[test]
fn a_shutdown_stops_the_read_between_two_entries_of_a_transaction() {
    let shutdown = Shutdown::manual();
    let kept = Parts::Spooled(SpooledParts::default());
    let mut transactions = Transactions::new(kept, History::default(), true, shutdown.clone());
    let entries = history();
    let parse = |bytes| Entry::parse(Document::new(bytes).unwrap()).unwrap();
    for bytes in &entries[..5] {
        transactions.see(&parse(bytes)).unwrap();
    }
    let entry = parse(&entries[5]);
    let Seen::Commit(commit) = transactions.see(&entry).unwrap() else {
        panic!("no commit");
    };
    let chain = transactions.chain(&entry, &commit).unwrap().unwrap();
    assert_eq!((chain.parts.len(), chain.count), (2, Some(20_000)));
    assert!(transactions.read(&entry, chain.parts[0]).is_ok());
    shutdown.trigger();
    let read = transactions.read(&entry, chain.parts[0]);
    assert!(matches!(read, Err(ProducerError::Interrupted)));
}

#[test]
fn an_interrupted_encoder_hands_over_its_chunks_and_reports_no_error() {
    let start = Start::default();
    let shutdown = start.shutdown.clone();
    let encoder = encoder(start);
    let Queues {
        mut handover,
        intake,
    } = queues();
    let (events_in, events) = tokio::sync::mpsc::channel(2);
    let entries = history();
    let event = SourceEvent::Batch(Batch::Bytes(entries[..6].concat()));
    assert!(events_in.try_send(event).is_ok());
    shutdown.trigger();
    let metrics = Metrics::new().unwrap();
    let encoding = std::thread::spawn(move || {
        let ended = encode(encoder, events, &mut handover, &metrics);
        assert!(ended.is_ok());
    });
    // The commit at 6 was not encoded.
    let ends: Vec<_> = intake
        .chunks()
        .filter_map(|chunk| chunk.reached.position)
        .collect();
    encoding.join().unwrap();
    let end = ends.last().unwrap();
    assert_eq!((end.ts.seconds, end.ord), (5, 0));
}
