use super::*;
use crate::encode::barrier::BarrierTopic;

/// Returns the headers for routers of a record as `name=value`.
fn shown(chunk: &Chunk, record: &EncodedRecord) -> Vec<String> {
    let headers = &chunk.router_headers[record.router_headers.clone()];
    let shown = headers.iter().map(|header| {
        let value = text(chunk, &header.value);
        format!("{}={value}", header.name)
    });
    shown.collect()
}

fn encoder_of(format: Format, headers: RouterHeaders) -> Encoder {
    encoder(format).with_router_headers(headers)
}

#[test]
fn a_record_has_no_headers_for_routers_by_default() {
    let chunk = encode(&mut encoder(Format::Bson), &[entry(1, "i", "shop.a", 7)]).unwrap();
    assert!(chunk.router_headers.is_empty());
    assert!(
        chunk
            .records
            .iter()
            .all(|record| record.router_headers.is_empty())
    );
}

#[test]
fn full_headers_say_what_a_router_needs() {
    let mut encoder = encoder_of(Format::Bson, RouterHeaders::Full);
    let entries = [entry(1, "i", "shop.a", 7), entry(2, "d", "shop.b", 7)];
    let chunk = encode(&mut encoder, &entries).unwrap();
    let of_data = chunk.records.iter().filter(|record| record.topic.0 > 0);
    let all: Vec<_> = of_data.map(|record| shown(&chunk, record)).collect();
    let expected = [("insert", "shop.a", "1:1"), ("delete", "shop.b", "2:1")];
    assert_eq!(all.len(), expected.len());
    for (found, (op, ns, ts)) in all.iter().zip(expected) {
        let expected = [
            format!("op={op}"),
            format!("ns={ns}"),
            format!("ts={ts}"),
            "content-type=application/bson".to_owned(),
        ];
        assert_eq!(*found, expected);
    }
}

#[test]
fn cloud_events_have_the_attributes_of_their_kafka_binding() {
    let mut encoder = encoder_of(Format::Json(Mode::Relaxed), RouterHeaders::CloudEvents);
    let chunk = encode(&mut encoder, &[entry(1, "i", "shop.a", 7)]).unwrap();
    let record = chunk.records.last().unwrap();
    let expected = [
        "ce_specversion=1.0",
        "ce_id=rs0/1:1/0",
        "ce_source=/oplog-relay/rs0",
        "ce_type=mongodb.insert",
        "ce_subject=shop.a",
        "ce_time=1970-01-01T00:00:00.005Z",
        "ce_partitionkey={\"_id\":7}",
        "content-type=application/json",
    ];
    assert_eq!(shown(&chunk, record), expected);
}

#[test]
fn a_tombstone_does_not_have_the_identity_of_its_delete() {
    let debezium = Format::Debezium(oplog_relay_core::format::debezium::Debezium {
        mode: Mode::Relaxed,
        with_schema: false,
    });
    let mut encoder = encoder_of(debezium, RouterHeaders::CloudEvents);
    let chunk = encode(&mut encoder, &[entry(1, "d", "shop.a", 7)]).unwrap();
    let [.., delete, tombstone] = chunk.records.as_slice() else {
        panic!("fewer than two records");
    };
    assert!(!delete.router_headers.is_empty() && tombstone.router_headers.is_empty());
}

#[test]
fn a_command_on_a_collection_with_a_dot_in_its_name_has_its_namespace() {
    let mut bytes = Vec::new();
    let mut command = DocumentBuilder::start(&mut bytes);
    command.raw("ts", kind::TIMESTAMP, &Timestamp::new(1, 1).to_le_bytes());
    command.str("op", "c").str("ns", "shop.$cmd");
    command.nested("o", kind::DOCUMENT, |o| {
        o.str("startIndexBuild", "fs.files");
    });
    command.finish();
    let mut encoder = encoder_of(Format::Bson, RouterHeaders::Full);
    let chunk = encode(&mut encoder, &[bytes]).unwrap();
    let headers = shown(&chunk, chunk.records.last().unwrap());
    assert_eq!(headers[1], "ns=shop.fs.files");
}

#[test]
fn commands_and_their_barriers_have_headers() {
    let mut encoder = encoder_of(Format::Bson, RouterHeaders::Full);
    let chunk = encode(&mut encoder, &[command(2, "drop")]).unwrap();
    let barrier = chunk.barrier.as_ref().unwrap();
    let entry = chunk.bytes(&barrier.entry);
    let mut out = Chunk::default();
    let BarrierTopic { partitions, .. } = barrier.topics[0];
    let ends = vec![vec![0; partitions as usize]];
    barrier
        .write(entry, "rs0", &["cdc.shop.a"], &ends, &mut out)
        .unwrap();
    let ops: Vec<_> = out
        .records
        .iter()
        .map(|record| shown(&out, record)[0].clone())
        .collect();
    assert_eq!(ops.len(), partitions as usize + 1);
    let (command, barriers) = ops.split_last().unwrap();
    assert_eq!(command, "op=drop");
    assert!(barriers.iter().all(|op| op == "op=noop"), "{barriers:?}");
    let last = shown(&out, out.records.last().unwrap());
    assert_eq!(last[1], "ns=shop.a");
}
