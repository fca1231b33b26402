use super::*;
use crate::json::Mode;
use crate::position::Timestamp;

#[test]
fn records_have_their_frozen_form() {
    let position = Position {
        ts: Timestamp::new(7, 3),
        term: 2,
        ord: 0,
    };
    let record = PositionRecord::new(position, 1);
    let text = serde_json::to_string(&record).unwrap();
    assert_eq!(text, r#"{"v":1,"ts":"7:3","term":2,"ord":0,"routing":1}"#);
    assert_eq!(record.position(), Ok(position));
    assert_eq!(serde_json::from_str(&text).ok(), Some(record.clone()));

    let history = History {
        begin: Some(Timestamp::new(1, 1)),
        open: Some(Timestamp::new(6, 2)),
    };
    let record = record.with_history(history);
    let text = serde_json::to_string(&record).unwrap();
    assert_eq!(
        text,
        r#"{"v":1,"ts":"7:3","term":2,"ord":0,"routing":1,"begin":"1:1","open":"6:2"}"#
    );
    assert_eq!(record.history(), Ok(history));
    assert_eq!(serde_json::from_str(&text).ok(), Some(record));

    let topic = TopicRecord {
        v: STATE_VERSION,
        format: Format::Json(Mode::Relaxed),
        format_version: 1,
        partitions: 4,
        earlier: Vec::new(),
        ends: Vec::new(),
    };
    let text = serde_json::to_string(&topic).unwrap();
    assert_eq!(
        text,
        r#"{"v":1,"format":"json","json":"relaxed","format_version":1,"partitions":4}"#
    );
    assert_eq!(serde_json::from_str::<TopicRecord>(&text).unwrap(), topic);

    let route = RouteRecord {
        v: STATE_VERSION,
        ns: "shop.orders".to_owned(),
        ui: None,
        topic: "cdc.shop.orders".to_owned(),
        order: Order::Id,
        rules: 1,
        rule: OrderRule::Auto,
    };
    let text = serde_json::to_string(&route).unwrap();
    assert_eq!(
        text,
        r#"{"v":1,"ns":"shop.orders","topic":"cdc.shop.orders","order":"id","rules":1}"#
    );
    assert_eq!(serde_json::from_str::<RouteRecord>(&text).unwrap(), route);
    let route = RouteRecord {
        rule: OrderRule::Id,
        ..route
    };
    let text = serde_json::to_string(&route).unwrap();
    assert_eq!(
        text,
        r#"{"v":1,"ns":"shop.orders","topic":"cdc.shop.orders","order":"id","rules":1,"rule":"id"}"#
    );
}

#[test]
fn records_of_a_full_sync_have_their_frozen_form() {
    let texts = [
        (
            "copy/5f0c",
            r#"{"v":1,"ns":"a.b","ui":"5f0c","kind":"collection","stage":"planned","documents":0,"bytes":0,"expected_documents":3,"expected_bytes":90}"#,
        ),
        ("range/5f0c/0", r#"{"v":1,"from":"AA==","until":"BB=="}"#),
        ("range/a/b.c/7", r#"{"v":1,"from":"AA==","after":"CC=="}"#),
        ("request/12", r#"{"v":1,"namespaces":["a.*"]}"#),
    ];
    let mut state = State::default();
    for (key, text) in texts {
        state.apply(key, Some(text.as_bytes())).unwrap();
    }
    let copy = &state.copies["5f0c"];
    assert_eq!(serde_json::to_string(copy).unwrap(), texts[0].1);
    let range = &state.ranges[&("5f0c".to_owned(), 0)];
    assert_eq!(serde_json::to_string(range).unwrap(), texts[1].1);
    let range = &state.ranges[&("a/b.c".to_owned(), 7)];
    assert_eq!(serde_json::to_string(range).unwrap(), texts[2].1);
    let request = &state.requests["12"];
    assert_eq!(serde_json::to_string(request).unwrap(), texts[3].1);
    for (key, _) in texts {
        state.apply(key, None).unwrap();
    }
    assert_eq!(state, State::default());
    assert!(state.apply("range/a", None).is_err());
}

#[test]
fn a_topic_keeps_the_formats_that_it_had() {
    let topic = TopicRecord {
        v: STATE_VERSION,
        format: Format::Json(Mode::Relaxed),
        format_version: 1,
        partitions: 4,
        earlier: Vec::new(),
        ends: Vec::new(),
    };
    let topic = topic.in_format(Format::Raw).in_format(Format::Bson);
    let text = serde_json::to_string(&topic).unwrap();
    assert_eq!(
        text,
        r#"{"v":1,"format":"bson","format_version":1,"partitions":4,"earlier":[{"format":"json","json":"relaxed"},{"format":"raw"}]}"#
    );
    assert_eq!(serde_json::from_str::<TopicRecord>(&text).unwrap(), topic);
}

#[test]
fn state_applies_records_and_refuses_unknown_ones() {
    let mut state = State::default();
    state
        .apply("source", Some(br#"{"v":1,"name":"rs0","set_name":"rs0"}"#))
        .unwrap();
    state
        .apply(
            "topic/cdc.a.b",
            Some(br#"{"v":1,"format":"bson","format_version":1,"partitions":4}"#),
        )
        .unwrap();
    assert_eq!(state.topics["cdc.a.b"].format, Format::Bson);
    state.apply("topic/cdc.a.b", None).unwrap();
    assert!(state.topics.is_empty());
    assert!(state.apply("holiday/1", Some(b"{}")).is_err());
    assert!(state.apply("source", Some(b"[]")).is_err());
}

#[test]
fn records_of_a_session_have_their_frozen_form() {
    let position = Position {
        ts: Timestamp::new(7, 3),
        term: 2,
        ord: 0,
    };
    let record = PositionRecord {
        state: true,
        ..PositionRecord::new(position, 1)
    };
    let text = serde_json::to_string(&record).unwrap();
    assert_eq!(
        text,
        r#"{"v":1,"ts":"7:3","term":2,"ord":0,"routing":1,"state":true}"#
    );
    assert_eq!(
        serde_json::from_str::<PositionRecord>(&text).unwrap(),
        record
    );

    let text = r#"{"v":1,"ts":"7:3","term":-1,"ord":2,"routing":1,"resume":{"token":"{\"_data\":\"82\"}","commands":[{"ts":"7:1","op":"rename","ns":"s.a","to":"s.b"}]}}"#;
    let record: PositionRecord = serde_json::from_str(text).unwrap();
    assert_eq!(serde_json::to_string(&record).unwrap(), text);
    assert_eq!(
        record.resume.unwrap().commands[0].time(),
        Ok(Timestamp::new(7, 1))
    );
    let text = r#"{"v":1,"name":"rs0","mode":"change-stream"}"#;
    let source: SourceRecord = serde_json::from_str(text).unwrap();
    assert_eq!(serde_json::to_string(&source).unwrap(), text);

    let text = r#"{"v":1,"name":"rs0","set_name":"rs0","namespaces":{"include":["shop.*"],"exclude":["shop.tmp*"]}}"#;
    let source: SourceRecord = serde_json::from_str(text).unwrap();
    assert_eq!(serde_json::to_string(&source).unwrap(), text);
    assert_eq!(source.namespaces.unwrap().include, ["shop.*"]);

    let text = r#"{"v":1,"name":"rs0","began":"5:1","gaps":[{"after":"7:3","through":"9:1","at":12,"reason":"operator"}]}"#;
    let source: SourceRecord = serde_json::from_str(text).unwrap();
    assert_eq!(serde_json::to_string(&source).unwrap(), text);

    let text = r#"{"v":1,"format":"bson","format_version":1,"partitions":2,"ends":[7,0]}"#;
    let topic: TopicRecord = serde_json::from_str(text).unwrap();
    assert_eq!(serde_json::to_string(&topic).unwrap(), text);
    assert_eq!(topic.ends, [7, 0]);
}

/// Fields that a later version adds must not stop this one.
#[test]
fn fields_of_a_later_version_are_ignored() {
    let later = |text: &str| text.replace("{\"v\":1,", "{\"v\":1,\"later\":{\"a\":[1]},");
    let position = later(r#"{"v":1,"ts":"7:3","term":2,"ord":0,"routing":1}"#);
    assert!(serde_json::from_str::<PositionRecord>(&position).is_ok());
    let mut state = State::default();
    for (key, text) in [
        ("source", r#"{"v":1,"name":"rs0"}"#),
        (
            "topic/cdc.a.b",
            r#"{"v":1,"format":"bson","format_version":1,"partitions":4}"#,
        ),
    ] {
        state.apply(key, Some(later(text).as_bytes())).unwrap();
    }
    assert_eq!(state.topics["cdc.a.b"].partitions, 4);
}
