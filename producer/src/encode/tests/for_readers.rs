use super::*;
use oplog_relay_core::format::debezium::Debezium;

const DEBEZIUM: Format = Format::Debezium(Debezium {
    mode: Mode::Relaxed,
    with_schema: false,
});

/// Returns the topic, key and value of each record of a data topic.
fn records(chunk: &Chunk) -> Vec<(&str, String, String)> {
    let is_data = |record: &&EncodedRecord| record.topic.0 > 0;
    let parts = |record: &EncodedRecord| {
        let key = record.key.as_ref().unwrap();
        let topic = chunk.new_topics[record.topic.0].name.clone();
        (topic, text(chunk, key), text(chunk, &record.value))
    };
    let names: Vec<_> = chunk.records.iter().filter(is_data).map(parts).collect();
    let known = |name: &str| {
        let mut topics = chunk.new_topics.iter();
        topics
            .find(|topic| topic.name == name)
            .unwrap()
            .name
            .as_str()
    };
    let with_name = |(topic, key, value): (String, _, _)| (known(&topic), key, value);
    names.into_iter().map(with_name).collect()
}

#[test]
fn a_debezium_topic_has_its_keys_and_a_tombstone_after_each_delete() {
    let mut encoder = encoder(DEBEZIUM);
    let entries = [entry(1, "i", "shop.a", 1), entry(2, "d", "shop.a", 1)];
    let chunk = encode(&mut encoder, &entries).unwrap();
    let found = records(&chunk);
    let topics_and_keys: Vec<_> = found
        .iter()
        .map(|(topic, key, _)| (*topic, key.as_str()))
        .collect();
    assert_eq!(topics_and_keys, [("cdc.shop.a", r#"{"id":"1"}"#); 3]);
    let ops = [r#""op":"c""#, r#""op":"d""#];
    for (op, (_, _, value)) in ops.iter().zip(&found) {
        assert!(value.contains(op), "{value}");
    }
    assert_eq!(found[2].2, "", "the tombstone");
    let places: Vec<_> = chunk
        .records
        .iter()
        .rev()
        .take(3)
        .map(|r| (r.topic, r.partition))
        .collect();
    assert_eq!(places, [places[0]; 3]);
    // `ts_ms` is the time of processing, so it is never 0.
    assert!(!found[0].2.contains(r#""ts_ms":0"#), "{}", found[0].2);
}

#[test]
fn topics_for_readers_have_neither_commands_nor_barriers_nor_collections_of_the_server() {
    for format in [DEBEZIUM, Format::ReaderJson(Mode::Relaxed)] {
        let mut encoder = encoder(format);
        let entries = [
            entry(1, "i", "shop.a", 1),
            entry(2, "i", "shop.system.buckets.t", 1),
            entry(3, "i", "shop.tmp.agg_out.1", 1),
            command(4, "create"),
            entry(5, "n", "", 0),
            command(6, "drop"),
            entry(7, "i", "shop.a", 2),
        ];
        let chunk = encode(&mut encoder, &entries).unwrap();
        assert!(chunk.barrier.is_none());
        let found = records(&chunk);
        assert_eq!(found.len(), 2, "{found:?}");
        assert_eq!(chunk.new_topics.len(), 2, "the state and one collection");
        assert_eq!(chunk.reached.position.unwrap().ts, Timestamp::new(7, 1));
        assert!(
            found
                .iter()
                .all(|(_, _, value)| !value.contains("rawEntry"))
        );
    }
}

#[test]
fn a_drop_ends_a_route_in_a_format_for_readers() {
    let mut encoder = encoder(DEBEZIUM);
    encode(&mut encoder, &[entry(1, "i", "shop.a", 1)]).unwrap();
    let chunk = encode(&mut encoder, &[command(2, "drop")]).unwrap();
    let keys: Vec<_> = chunk
        .records
        .iter()
        .map(|r| text(&chunk, r.key.as_ref().unwrap()))
        .collect();
    assert_eq!(keys, ["route/shop.a"]);
    assert!(chunk.bytes(&chunk.records[0].value).is_empty());
}
