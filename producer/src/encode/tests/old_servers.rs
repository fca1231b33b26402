//! Entries of servers up to 3.4, and entries that cannot be read.

use super::*;

/// Returns a command in `shop.$cmd` whose argument is `of` or, if that is empty, a number.
fn shop(seconds: u32, name: &str, of: &str) -> Vec<u8> {
    let mut out = Vec::new();
    let mut entry = DocumentBuilder::start(&mut out);
    entry.raw(
        "ts",
        kind::TIMESTAMP,
        &Timestamp::new(seconds, 1).to_le_bytes(),
    );
    entry.str("op", "c").str("ns", "shop.$cmd");
    entry.nested("o", kind::DOCUMENT, |o| {
        match of {
            "" => o.int32(name, 1),
            of => o.str(name, of),
        };
    });
    entry.finish();
    out
}

/// Encodes entries and returns the chunks.
fn chunks(encoder: &mut Encoder, entries: &[Vec<u8>]) -> Vec<Chunk> {
    let (mut chunks, mut chunk) = (Vec::new(), Chunk::default());
    let batch = Batch::Bytes(entries.concat());
    let mut hand_on = |chunk: &mut Chunk| {
        chunks.push(std::mem::take(chunk));
        Ok(())
    };
    encoder.encode(&batch, &mut chunk, &mut hand_on).unwrap();
    chunks.push(chunk);
    chunks
}

/// Returns the identity and the collection of each `drop` with barriers.
fn drops(chunks: &[Chunk]) -> Vec<(String, String)> {
    let barriers = chunks
        .iter()
        .filter_map(|chunk| Some((chunk, chunk.barrier.as_ref()?)));
    barriers
        .map(|(chunk, barrier)| {
            let bytes = chunk.bytes(&barrier.entry);
            let entry = Entry::parse(Document::new(bytes).unwrap()).unwrap();
            let command = entry.command().unwrap();
            assert_eq!(command.name, b"drop");
            (barrier.id.to_string(), command.str().unwrap().to_owned())
        })
        .collect()
}

#[test]
fn a_lone_drop_of_a_database_drops_each_of_its_collections_behind_barriers() {
    let mut encoder = encoder(Format::Bson);
    let before = [
        entry(1, "i", "shop.a", 1),
        entry(2, "i", "shop.b.c", 1),
        entry(3, "i", "shopping.a", 1),
        shop(4, "create", "empty"),
        entry(5, "i", "shop.gone", 1),
    ];
    chunks(&mut encoder, &before);
    chunks(&mut encoder, &[shop(6, "drop", "gone")]);
    let ended = chunks(
        &mut encoder,
        &[shop(7, "dropDatabase", ""), entry(8, "i", "shop.a", 2)],
    );
    let expected = [("7:1/0", "a"), ("7:1/1", "b.c"), ("7:1/2", "empty")];
    let expected = expected.map(|(id, name)| (id.to_owned(), name.to_owned()));
    assert_eq!(drops(&ended), expected);
    let last = ended.last().unwrap();
    assert_eq!(
        last.reached.position.map(|end| (end.ts.seconds, end.ord)),
        Some((8, 0))
    );
    // No collection is left to be dropped.
    let again = chunks(&mut encoder, &[shop(9, "drop", "a")]);
    assert_eq!(drops(&again).len(), 1);
    let nothing = chunks(&mut encoder, &[shop(10, "dropDatabase", "")]);
    assert!(drops(&nothing).is_empty());
}

#[test]
fn a_session_that_begins_between_two_drops_sends_those_that_are_left() {
    let mut state = State::default();
    let mut first = encoder(Format::Bson);
    let before = [entry(1, "i", "shop.a", 1), entry(2, "i", "shop.b", 1)];
    let end = shop(7, "dropDatabase", "");
    let mut whole = chunks(&mut first, &before);
    whole.extend(chunks(&mut first, std::slice::from_ref(&end)));
    let position = whole.iter().position(|chunk| chunk.barrier.is_some());
    let (sent, _) = whole.split_at(position.unwrap() + 1);
    for chunk in sent {
        for record in chunk.records.iter().filter(|record| record.topic.0 == 0) {
            let key = text(chunk, record.key.as_ref().unwrap());
            // An empty value deletes the key.
            let value = Some(chunk.bytes(&record.value)).filter(|value| !value.is_empty());
            state.apply(&key, value).unwrap();
        }
    }
    let reached = sent.last().unwrap().reached.position;
    assert_eq!(reached.map(|end| (end.ts.seconds, end.ord)), Some((7, 1)));
    let mut second = encoder_with(Format::Bson, state, reached);
    let rest = chunks(&mut second, &[end]);
    assert_eq!(drops(&rest), [("7:1/1".to_owned(), "b".to_owned())]);
    assert_eq!(drops(&whole)[1..], drops(&rest));
    let last = rest.last().unwrap();
    assert_eq!(
        last.reached.position.map(|end| (end.ts.seconds, end.ord)),
        Some((7, 0))
    );
}

#[test]
fn an_unknown_operation_stops_the_stream_only_in_a_streamed_namespace() {
    let filter = NamespaceFilter::new([], ["shop.secret"]).unwrap();
    let router = Router::new("cdc", filter, State::default());
    let topics = Topics::Nowhere {
        state_topic: "__cdc.state.rs0".to_owned(),
        partitions: 4,
    };
    let kept = Parts::Spooled(SpooledParts::default());
    let transactions = Transactions::new(kept, History::default(), true, Shutdown::manual());
    let mut encoder = Encoder::new(
        "rs0",
        Format::Bson,
        router,
        topics,
        None,
        None,
        transactions,
    );
    let passed = [
        entry(1, "ci", "config.x", 1),
        entry(2, "xi", "shop.secret", 1),
        entry(3, "db", "shop.", 1),
    ];
    let passed = chunks(&mut encoder, &passed);
    let end = passed.last().unwrap().reached.position;
    assert_eq!(end.map(|end| end.ts.seconds), Some(3));
    let error = encode(&mut encoder, &[entry(4, "xi", "shop.a", 1)]).unwrap_err();
    let text = error.to_string();
    assert!(text.contains("4:1") && text.contains("shop.a"), "{text}");
}

#[test]
fn damage_inside_an_entry_is_reported_with_its_time_and_namespace() {
    let mut deep = Vec::new();
    DocumentBuilder::start(&mut deep).finish();
    for _ in 0..600 {
        let mut outer = Vec::new();
        let mut document = DocumentBuilder::start(&mut outer);
        document.int32("_id", 1).raw("x", kind::DOCUMENT, &deep);
        document.finish();
        deep = outer;
    }
    let mut out = Vec::new();
    let mut entry = DocumentBuilder::start(&mut out);
    entry.raw("ts", kind::TIMESTAMP, &Timestamp::new(9, 1).to_le_bytes());
    entry.str("op", "i").str("ns", "shop.a");
    entry.raw("o", kind::DOCUMENT, &deep);
    entry.finish();
    let mut encoder = encoder(Format::Json(Mode::Relaxed));
    let text = encode(&mut encoder, &[out]).unwrap_err().to_string();
    for part in ["9:1", "\"shop.a\"", "nested deeper than 512 levels"] {
        assert!(text.contains(part), "{text}");
    }
}
