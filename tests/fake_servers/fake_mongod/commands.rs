//! Commands and the replies to them: most are in tables beside this file.

use anyhow::{Context, Result, bail};
use bson::{Bson, Document, doc};
use oplog_relay_core::document::Document as Raw;
use oplog_relay_core::json::{Mode, parse_document, write_value};
use oplog_relay_kit::model::{Model, Version};

fn run(model: &mut Model, db: &str, command: &str) -> Result<Document> {
    let mut bytes = Vec::new();
    parse_document(command.as_bytes(), &mut bytes)?;
    let reply = model.command(db, Raw::new(&bytes)?)?;
    Ok(Document::from_reader(reply.as_slice())?)
}

fn code(reply: &Document) -> Option<i32> {
    let errors = reply.get_array("writeErrors").ok();
    let error = errors.and_then(|errors| errors.first()?.as_document());
    error.unwrap_or(reply).get_i32("code").ok()
}

/// Formats a document as relaxed Extended JSON.
fn json(document: &Document) -> Result<String> {
    let bytes = doc! { "v": document.clone() }.to_vec()?;
    let mut text = Vec::new();
    let value = Raw::new(&bytes)?.first()?.context("no value")?;
    assert!(write_value(value, Mode::Relaxed, &mut text).is_ok());
    Ok(String::from_utf8(text)?)
}

/// Runs the commands of a table one after the other in database `d`, those of renames in `admin`.
/// After `->` is the expected code of the command's failure or of its first write error, or a part
/// of its reply.
fn check(version: Version, table: &str) -> Result<Model> {
    let mut model = Model::of(version);
    for line in table.lines().filter(|line| !line.starts_with('#')) {
        let (command, expected) = line.split_once(" -> ").context(line.to_owned())?;
        let is_rename = command.starts_with("{\"renameCollection\"");
        let db = if is_rename { "admin" } else { "d" };
        let reply = run(&mut model, db, command).context(line.to_owned())?;
        let text = json(&reply)?;
        if let Ok(expected) = expected.parse() {
            assert_eq!(code(&reply), Some(expected), "{line}: {text}");
        } else {
            assert_eq!(code(&reply), None, "{line}: {text}");
            assert_eq!(reply.get("ok"), Some(&Bson::Double(1.0)));
            assert!(text.contains(expected), "{line}: {text}");
        }
    }
    Ok(model)
}

#[test]
fn writes_are_answered_as_by_a_server() -> Result<()> {
    check(Version::V4_4, include_str!("tables/writes.txt"))?;
    Ok(())
}

#[test]
fn collections_are_created_and_changed_as_by_a_server() -> Result<()> {
    let model = check(Version::V4_4, include_str!("tables/collections.txt"))?;
    let left: Vec<_> = model.state().into_keys().collect();
    assert_eq!(left, ["d.cap", "d.system.views"]);
    Ok(())
}

#[test]
fn indexes_are_created_and_dropped_as_by_a_server() -> Result<()> {
    check(Version::V4_4, include_str!("tables/indexes.txt"))?;
    Ok(())
}

#[test]
fn the_collation_of_a_collection_applies_to_its_ids_and_indexes() -> Result<()> {
    check(Version::V6_0, include_str!("tables/collation.txt"))?;
    Ok(())
}

#[test]
fn versions_differ_as_those_of_a_server() -> Result<()> {
    check(Version::V6_0, include_str!("tables/later.txt"))?;
    check(Version::V7_0, r#"{"drop":"none"} -> ok"#)?;
    check(Version::V4_2, r#"{"create":"t","anything":true} -> 72"#)?;
    Ok(())
}

#[test]
fn an_empty_timestamp_is_replaced_only_at_the_top_level() -> Result<()> {
    const EMPTY: &str = r#"{"$timestamp":{"t":0,"i":0}}"#;
    let insert = |more: &str| {
        format!(
            r#"{{"insert":"c","documents":[{{"_id":{EMPTY},"t":{EMPTY},"d":{{"t":{EMPTY}}}}}]{more}}}"#
        )
    };
    for (more, kept) in [("", 2), (r#","bypassEmptyTsReplacement":true"#, 3)] {
        let mut model = Model::of(Version::V8_0);
        assert_eq!(code(&run(&mut model, "d", &insert(more))?), None);
        let found = json(&run(&mut model, "d", r#"{"find":"c"}"#)?)?;
        assert_eq!(found.matches(EMPTY).count(), kept, "{found}");
    }
    Ok(())
}

#[test]
fn unique_indexes_refuse_the_same_documents_as_on_a_server() -> Result<()> {
    let insert = |text: &str| format!(r#"{{"insert":"c","documents":[{text}]}}"#);
    let lines = include_str!("tables/unique.txt").lines();
    for line in lines.filter(|line| !line.starts_with('#')) {
        let parts: Vec<_> = line.split(" | ").collect();
        let [index, taken, refused] = parts[..] else {
            bail!("{line}");
        };
        let index = format!(r#"{{{index},"name":"i","unique":true}}"#);
        let create = format!(r#"{{"createIndexes":"c","indexes":[{index}]}}"#);
        let mut model = Model::default();
        assert_eq!(code(&run(&mut model, "d", &create)?), None, "{line}");
        assert_eq!(code(&run(&mut model, "d", &insert(taken))?), None, "{line}");
        assert_eq!(
            code(&run(&mut model, "d", &insert(refused))?),
            Some(11000),
            "{line}"
        );

        // The same documents are inserted before the index is created.
        let mut model = Model::default();
        run(&mut model, "d", &insert(taken))?;
        assert_eq!(code(&run(&mut model, "d", &create)?), None, "{line}");
        run(&mut model, "d", r#"{"dropIndexes":"c","index":"i"}"#)?;
        run(&mut model, "d", &insert(refused))?;
        assert_eq!(code(&run(&mut model, "d", &create)?), Some(11000), "{line}");
    }
    Ok(())
}

#[test]
fn a_duplicate_is_reported_with_its_index_and_key() -> Result<()> {
    let mut model = check(Version::V6_0, include_str!("tables/duplicate.txt"))?;
    let update = r#"{"update":"c","updates":[{"q":{"_id":3},"u":{"a":"x"}}]}"#;
    let reply = run(&mut model, "d", update)?;
    let error = reply.get_array("writeErrors")?[0]
        .as_document()
        .context("no error")?;
    let expected = doc! {
        "index": 0,
        "code": 11000,
        "keyPattern": { "a": 1, "b.c": -1 },
        "keyValue": { "a": "x", "b.c": Bson::Null },
        "errmsg": "E11000 duplicate key error collection: d.c index: i \
                   dup key: { a: \"x\", b.c: null }",
    };
    assert_eq!(error, &expected);
    let reply = run(&mut model, "d", r#"{"insert":"c","documents":[{"_id":3}]}"#)?;
    let text = json(&reply)?;
    assert!(
        text.contains(r#""keyPattern":{"_id":1},"keyValue":{"_id":3}"#),
        "{text}"
    );
    assert!(text.contains(r"index: _id_ dup key: { _id: 3 }"), "{text}");
    Ok(())
}

#[test]
fn queries_find_the_same_documents_as_on_a_server() -> Result<()> {
    let mut model = Model::default();
    let insert = r#"{"insert":"c","documents":[{"_id":1,"a":1,"d":{"x":1}},
        {"_id":2,"a":[1,"b"],"d":[{"x":2},{"x":3}]},{"_id":3,"a":null},
        {"_id":4,"a":2.5,"d":{"x":[3]}},{"_id":{"$minKey":1}}]}"#;
    assert_eq!(code(&run(&mut model, "d", insert)?), None);
    for (arguments, expected) in [
        (r#""filter":{"a":1}"#, "1,2"),
        (r#""filter":{"a":[1,"b"]}"#, "2"),
        (r#""filter":{"a":null,"_id":{"$gte":0}}"#, "3"),
        (r#""filter":{"a":{"$exists":false}}"#, r#"{"$minKey":1}"#),
        (r#""filter":{"a":{"$gt":1,"$lte":2.5}}"#, "4"),
        (r#""filter":{"a":{"$in":["b",2.5]}}"#, "2,4"),
        (r#""filter":{"a":{"$type":"string"}}"#, "2"),
        (r#""filter":{"d.x":3}"#, "2,4"),
        (r#""filter":{"d.1.x":3}"#, "2"),
        (r#""filter":{"$or":[{"a":2.5},{"d.x":1}]}"#, "1,4"),
        (r#""filter":{"_id":{"$in":[4,1,9,1.0]}}"#, "1,4"),
        (r#""sort":{"_id":1},"limit":2"#, r#"{"$minKey":1},1"#),
        (r#""sort":{"_id":-1},"skip":3"#, r#"1,{"$minKey":1}"#),
        (r#""sort":{"$natural":-1},"limit":1"#, r#"{"$minKey":1}"#),
    ] {
        let reply = run(&mut model, "d", &format!(r#"{{"find":"c",{arguments}}}"#))?;
        let found = reply
            .get_document("cursor")?
            .get_array("firstBatch")?
            .iter();
        let ids = found.map(|found| {
            let id = found.as_document().and_then(|found| found.get("_id"));
            let id = json(&doc! { "_id": id.context("_id")?.clone() })?;
            Ok(id
                .trim_start_matches(r#"{"_id":"#)
                .strip_suffix('}')
                .unwrap_or("")
                .to_owned())
        });
        let ids: Result<Vec<String>> = ids.collect();
        assert_eq!(ids?.join(","), expected, "{arguments}");
    }
    for filter in [r#"{"a":{"$near":1}}"#, r#"{"$where":"1"}"#] {
        let reply = run(
            &mut model,
            "d",
            &format!(r#"{{"find":"c","filter":{filter}}}"#),
        )?;
        assert_eq!(code(&reply), Some(2), "{filter}");
    }
    Ok(())
}
