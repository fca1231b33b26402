use bson::{Timestamp as BsonTimestamp, doc};

use super::*;

const TOKEN: &str = "8263AB0411000000012B0229296E04";

fn at() -> Timestamp {
    Timestamp::new(0x63ab_0411, 1)
}

fn read(program: OtherProgram, text: &str) -> Result<Timestamp, String> {
    other(program, text, None).map(|imported| imported.through)
}

#[test]
fn checkpoints_of_mongoshake_are_numbers_or_timestamps() {
    let read = |text: &str| read(OtherProgram::MongoShake, text);
    let number = (u64::from(1_653_514_649_u32) << 32) + 3;
    let expected = Ok(Timestamp::new(1_653_514_649, 3));
    for text in [
        format!(r#"{{"name":"rs0","ckpt":{number},"version":2,"oplog_disk_queue":""}}"#),
        format!(r#"[{{"_id":1,"name":"rs0","ckpt":{{"$numberLong":"{number}"}}}}]"#),
        r#"{"name":"rs0","ckpt":{"$timestamp":{"t":1653514649,"i":3}}}"#.to_owned(),
    ] {
        assert_eq!(read(&text), expected, "{text}");
    }
    let two = r#"{"name":"a","ckpt":4294967297} {"name":"b","ckpt":8589934594}"#;
    assert!(read(two).unwrap_err().contains("(a, b)"));
    let named = other(OtherProgram::MongoShake, two, Some("b")).unwrap();
    assert_eq!(
        (named.through, named.is_entry),
        (Timestamp::new(2, 2), true)
    );
    assert!(read(r#"{"name":"a"}"#).is_err());
    assert!(read(r#"{"name":"a","ckpt":"x"}"#).is_err());
    assert!(read("x").unwrap_err().contains("not JSON"));
}

#[test]
fn mongoshake_may_not_have_read_all_events_with_the_time_of_its_checkpoint() {
    for (document, increment, is_entry) in [
        (
            r#"{"name":"rs0","ckpt":4294967303,"fetch_method":"oplog"}"#,
            7,
            true,
        ),
        (
            r#"{"name":"rs0","ckpt":4294967303,"fetch_method":"change_stream"}"#,
            6,
            false,
        ),
        (r#"{"name":"mongos","ckpt":4294967303}"#, 6, false),
    ] {
        let found = other(OtherProgram::MongoShake, document, None).unwrap();
        let expected = (Timestamp::new(1, increment), is_entry);
        assert_eq!((found.through, found.is_entry), expected, "{document}");
    }
}

#[test]
fn a_checkpoint_is_not_in_the_future() {
    let of = |seconds| Imported::entry(Timestamp::new(seconds, 1));
    assert!(of(1_000).check_past(1_000_000).is_ok());
    assert!(of(4_600).check_past(1_000_000).is_ok(), "a fast clock");
    assert!(of(4_601).check_past(1_000_000).is_err());
}

#[test]
fn checkpoints_of_mongo_connector_are_numbers_with_the_name_of_a_shard() {
    let read = |text: &str| read(OtherProgram::MongoConnector, text);
    let expected = Ok(Timestamp::new(1, 7));
    let name = "Collection(Database(MongoClient('a', 27017), u'local'), u'oplog.rs')";
    for text in [
        "4294967303".to_owned(),
        format!(r#"["{name}", 4294967303]"#),
        format!(r#"[["{name}", 4294967303]]"#),
    ] {
        assert_eq!(read(&text), expected, "{text}");
    }
    let two = r#"[["shard-a", 4294967303], ["shard-b", 8589934594]]"#;
    assert!(read(two).unwrap_err().contains("shard-a, shard-b"));
    let named = other(OtherProgram::MongoConnector, two, Some("b"));
    assert_eq!(named.unwrap().through, Timestamp::new(2, 2));
}

#[test]
fn offsets_with_tokens_mean_everything_before_the_cluster_time() {
    let before = Ok(at().before());
    let bson = doc! { "_data": TOKEN }.to_vec().unwrap();
    let base64 = base64::Engine::encode(&base64::engine::general_purpose::STANDARD, bson);
    let debezium = |text: &str| read(OtherProgram::Debezium, text);
    for text in [
        format!(r#"{{"sec":-1,"ord":-1,"resume_token":"{base64}"}}"#),
        format!(r#"{{"sec":1,"ord":2,"resume_token":"{TOKEN}"}}"#),
        format!(r#"[{{"server_id":"x"}},{{"resume_token":"{base64}"}}]"#),
        format!(r#"{{"sec":{},"ord":1}}"#, at().seconds),
    ] {
        assert_eq!(debezium(&text), before, "{text}");
    }
    for bad in [
        r#"{"sec":-1,"ord":-1}"#,
        r#"{"sec":1,"ord":1,"initsync":true}"#,
        r#"{"resume_token":"AAAA"}"#,
        "{}",
    ] {
        assert!(debezium(bad).is_err(), "{bad}");
    }
    let mongo_kafka = |text: &str| read(OtherProgram::MongoKafka, text);
    for text in [
        format!(r#"{{"_id":"{{\"_data\": \"{TOKEN}\"}}"}}"#),
        format!(r#"{{"_id":{{"_data":"{TOKEN}"}},"HEARTBEAT":"true"}}"#),
    ] {
        assert_eq!(mongo_kafka(&text), before, "{text}");
    }
    let copying = format!(r#"{{"_id":"{{\"_data\": \"{TOKEN}\"}}","copy":"true"}}"#);
    assert!(mongo_kafka(&copying).unwrap_err().contains("not complete"));
}

#[test]
fn the_offsets_of_several_connectors_are_told_apart() {
    let offset = |ord: u32| format!(r#"{{"sec":7,"ord":{ord}}}"#);
    let read = |text: &str, name: Option<&str>| {
        let found = other(OtherProgram::Debezium, text, name);
        found.map(|imported| imported.through.increment + 1)
    };
    let key = |name: &str| format!(r#"["{name}",{{"server_id":"{name}"}}]"#);
    let (a, b) = (key("a"), key("b"));
    // As arrays, and as a console consumer prints keys and values.
    let arrays = format!(
        "[{a},{}] [{b},{}] [{a},{}]",
        offset(1),
        offset(2),
        offset(3)
    );
    let lines = format!("{a}\t{}\n{b}\t{}\n{a}\t{}", offset(1), offset(2), offset(3));
    for text in [&arrays, &lines] {
        let refused = read(text, None).unwrap_err();
        assert!(refused.contains(&format!("({a}, {b})")), "{refused}");
        assert_eq!(read(text, Some("\"a\"")), Ok(3));
        assert_eq!(read(text, Some("\"b\"")), Ok(2));
        assert!(read(text, Some("c")).is_err());
    }
    // A tombstone removes an offset.
    assert_eq!(read(&format!("{lines}\n{b}\tnull"), None), Ok(3));
    assert_eq!(read(&format!("{arrays} [{b},null]"), None), Ok(3));
    // The last offset of one source counts.
    assert_eq!(read(&format!("{} {}", offset(1), offset(2)), None), Ok(2));
}

#[test]
fn the_end_of_a_dump_is_its_last_entry() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("oplog.bson");
    let read = |bytes: &[u8]| {
        std::fs::write(&path, bytes).unwrap();
        last_entry(&path).unwrap()
    };
    let mut dump = Vec::new();
    for (second, size) in [(5, 10), (6, 100_000), (7, 10)] {
        let ts = BsonTimestamp {
            time: second,
            increment: 2,
        };
        let o = doc! { "_id": 1, "x": "x".repeat(size) };
        let entry = doc! { "ts": ts, "t": 4_i64, "v": 2, "op": "i", "ns": "s.a", "o": o };
        dump.extend(entry.to_vec().unwrap());
    }
    let expected = Imported {
        through: Timestamp::new(7, 2),
        term: Some(4),
        is_entry: true,
    };
    assert_eq!(read(&dump), Ok(expected));
    assert!(read(&dump[..dump.len() - 3]).is_err());
    assert!(read(&[]).is_err());
    assert!(last_entry(&folder.path().join("absent")).is_err());
}
