//! Commands and what they are answered, in tables: one line after the other on one model.

use anyhow::{Context, Result};
use bson::{Bson, Document, doc};
use oplog_relay_core::document::Document as Raw;
use oplog_relay_core::json::{Mode, parse_document, write_value};
use oplog_relay_tests::model::{Model, Version};

/// What a command must come to.
#[derive(Debug, Clone, Copy)]
enum Expect {
    /// It goes well, and this is in its reply.
    Reply(&'static str),
    /// It fails with this code, or its first write does.
    Code(i32),
}

use Expect::{Code, Reply};

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

/// Relaxed Extended JSON.
fn json(document: &Document) -> Result<String> {
    let bytes = doc! { "v": document.clone() }.to_vec()?;
    let mut text = Vec::new();
    let value = Raw::new(&bytes)?.first()?.context("a value")?;
    assert!(write_value(value, Mode::Relaxed, &mut text).is_ok());
    Ok(String::from_utf8(text)?)
}

/// Runs the lines one after the other in database `d`, those of renames in `admin`.
fn check(version: Version, lines: &[(&str, Expect)]) -> Result<Model> {
    let mut model = Model::of(version);
    for (command, expected) in lines {
        let is_rename = command.starts_with("{\"renameCollection\"");
        let db = if is_rename { "admin" } else { "d" };
        let reply = run(&mut model, db, command).context((*command).to_owned())?;
        let text = json(&reply)?;
        match expected {
            Code(expected) => assert_eq!(code(&reply), Some(*expected), "{command}: {text}"),
            Reply(part) => {
                assert_eq!(code(&reply), None, "{command}: {text}");
                assert_eq!(reply.get("ok"), Some(&Bson::Double(1.0)));
                assert!(text.contains(part), "{command}: {text}");
            }
        }
    }
    Ok(model)
}

#[test]
fn writes_are_answered_as_by_a_server() -> Result<()> {
    check(
        Version::V4_4,
        &[
            (
                r#"{"insert":"c","documents":[{"a":0,"_id":1},{"_id":2}]}"#,
                Reply(r#""n":2"#),
            ),
            (r#"{"find":"c"}"#, Reply(r#"[{"_id":1,"a":0},{"_id":2}]"#)),
            // Ordered: nothing after the first refusal.
            (
                r#"{"insert":"c","documents":[{"_id":3},{"_id":1.0},{"_id":4}]}"#,
                Code(11000),
            ),
            (
                r#"{"find":"c","filter":{"_id":{"$in":[3,4]}}}"#,
                Reply(r#"[{"_id":3}]"#),
            ),
            (
                r#"{"insert":"c","ordered":false,"documents":[{"_id":1},{"_id":4},{"_id":2}]}"#,
                Code(11000),
            ),
            (
                r#"{"find":"c","filter":{"_id":4}}"#,
                Reply(r#"[{"_id":4}]"#),
            ),
            (r#"{"insert":"c","documents":[]}"#, Code(16)),
            (r#"{"insert":"c"}"#, Code(40414)),
            (r#"{"insert":"c","documents":[{"$a":1}]}"#, Code(2)),
            (r#"{"insert":"c","documents":[{"_id":[1]}]}"#, Code(2)),
            (
                r#"{"insert":"c","documents":[{}],"bypassEmptyTsReplacement":true}"#,
                Code(40415),
            ),
            (r#"{"insert":"c$","documents":[{}]}"#, Code(73)),
            (r#"{"insert":"system.other","documents":[{}]}"#, Code(73)),
            (
                r#"{"update":"c","updates":[{"q":{"_id":1},"u":{"$set":{"a":1}}}]}"#,
                Reply(r#""n":1,"nModified":1"#),
            ),
            (
                r#"{"update":"c","updates":[{"q":{"_id":{"$eq":1}},"u":{"$set":{"a":1}}}]}"#,
                Reply(r#""n":1,"nModified":0"#),
            ),
            (
                r#"{"update":"c","updates":[{"q":{"_id":9},"u":{"$set":{"a":1}}}]}"#,
                Reply(r#""n":0,"nModified":0"#),
            ),
            (
                r#"{"update":"c","updates":[{"q":{"_id":9},"u":{"b":1},"upsert":true}]}"#,
                Reply(r#""upserted":[{"index":0,"_id":9}]"#),
            ),
            (
                r#"{"find":"c","filter":{"b":1}}"#,
                Reply(r#"[{"_id":9,"b":1}]"#),
            ),
            (
                r#"{"update":"c","updates":[{"q":{"_id":1.0},"u":{"_id":1.5}}]}"#,
                Code(66),
            ),
            (
                r#"{"update":"c","updates":[{"q":{"_id":1},"u":{"$set":{"a.b":1}}},
                   {"q":{"_id":1},"u":{"z":1}}]}"#,
                Code(28),
            ),
            (
                r#"{"find":"c","filter":{"_id":1}}"#,
                Reply(r#"[{"_id":1,"a":1}]"#),
            ),
            (
                r#"{"update":"c","updates":[{"q":{"_id":1},"u":[{"$set":{"a":1}}]}]}"#,
                Code(40324),
            ),
            (
                r#"{"update":"c","updates":[{"q":{"_id":1},"u":{"a":{"$x":1}}}]}"#,
                Code(52),
            ),
            (
                r#"{"delete":"c","deletes":[{"q":{"_id":1},"limit":2}]}"#,
                Code(9),
            ),
            (
                r#"{"delete":"c","deletes":[{"q":{"_id":1},"limit":1}]}"#,
                Reply(r#""n":1"#),
            ),
            (
                r#"{"delete":"c","deletes":[{"q":{"_id":1},"limit":1}]}"#,
                Reply(r#""n":0"#),
            ),
            (
                r#"{"delete":"none","deletes":[{"q":{},"limit":0}]}"#,
                Reply(r#""n":0"#),
            ),
            (
                r#"{"delete":"c","deletes":[{"q":{},"limit":0}]}"#,
                Reply(r#""n":4"#),
            ),
            (r#"{"insert":"c","documents":[{}],"txnNumber":1}"#, Code(20)),
            (r#"{"explain":{"find":"c"}}"#, Code(59)),
        ],
    )?;
    Ok(())
}

#[test]
fn a_timestamp_of_nothing_becomes_the_time_at_the_top_only() -> Result<()> {
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
fn collections_are_made_and_changed_as_by_a_server() -> Result<()> {
    let model = check(
        Version::V4_4,
        &[
            (
                r#"{"create":"c","idIndex":{"v":2,"key":{"_id":1},"name":"_id_","ns":"d.c"}}"#,
                Reply(""),
            ),
            (r#"{"create":"c"}"#, Code(48)),
            (r#"{"create":"t","temp":true}"#, Code(72)),
            (r#"{"create":"t","autoIndexId":true}"#, Code(50001)),
            (r#"{"create":"t","anything":true}"#, Code(40415)),
            (
                r#"{"create":"t","idIndex":{"v":2,"key":{"_id":1},"name":"_id_","ns":"d.u"}}"#,
                Code(2),
            ),
            (
                r#"{"create":"t","timeseries":{"timeField":"t"}}"#,
                Code(40415),
            ),
            (r#"{"create":"t","capped":true}"#, Code(72)),
            (r#"{"create":"t","max":3}"#, Code(72)),
            (
                r#"{"create":"t","collation":{"locale":"de","version":"58.0"}}"#,
                Code(161),
            ),
            (r#"{"create":"v","viewOn":"c","pipeline":[]}"#, Reply("")),
            (r#"{"create":"v"}"#, Code(48)),
            (r#"{"insert":"v","documents":[{}]}"#, Code(166)),
            (
                r#"{"collMod":"v","viewOn":"d","pipeline":[{"$match":{}}]}"#,
                Reply(""),
            ),
            (
                r#"{"listCollections":1,"filter":{"type":"view"},"nameOnly":true}"#,
                Reply(r#"[{"name":"v","type":"view"}]"#),
            ),
            (
                r#"{"create":"cap","capped":true,"size":1000.0,"max":2}"#,
                Reply(""),
            ),
            (
                r#"{"listCollections":1,"filter":{"name":"cap"}}"#,
                Reply(r#""options":{"capped":true,"size":1024,"max":2}"#),
            ),
            (
                r#"{"insert":"cap","documents":[{"_id":3},{"_id":2},{"_id":1}]}"#,
                Reply(""),
            ),
            (r#"{"find":"cap"}"#, Reply(r#"[{"_id":2},{"_id":1}]"#)),
            (
                r#"{"delete":"cap","deletes":[{"q":{"_id":1},"limit":1}]}"#,
                Code(20),
            ),
            (
                r#"{"update":"cap","updates":[{"q":{"_id":1},"u":{"a":1}}]}"#,
                Code(10003),
            ),
            (r#"{"emptycapped":"cap"}"#, Reply("")),
            (r#"{"emptycapped":"c"}"#, Code(20)),
            (r#"{"convertToCapped":"none","size":4096}"#, Code(26)),
            (r#"{"convertToCapped":"c","size":4096}"#, Reply("")),
            (r#"{"create":"val","validator":{"n":{"$gt":0}}}"#, Reply("")),
            (r#"{"insert":"val","documents":[{"n":0}]}"#, Code(121)),
            (
                r#"{"insert":"val","documents":[{"n":0}],"bypassDocumentValidation":true}"#,
                Reply(""),
            ),
            (
                r#"{"collMod":"val","validator":{},"validationLevel":"off"}"#,
                Reply(""),
            ),
            (r#"{"insert":"val","documents":[{"n":0}]}"#, Reply("")),
            (r#"{"collMod":"val","uuid":1}"#, Code(40415)),
            (r#"{"collMod":"none"}"#, Code(26)),
            (r#"{"renameCollection":"d.v","to":"d.w"}"#, Code(166)),
            (r#"{"renameCollection":"d.none","to":"d.w"}"#, Code(26)),
            (r#"{"renameCollection":"d.c","to":"d.val"}"#, Code(48)),
            (r#"{"renameCollection":"d.c","to":"d.c"}"#, Code(48)),
            (
                r#"{"renameCollection":"d.c","to":"d.x","stayTemp":false}"#,
                Code(40415),
            ),
            (
                r#"{"renameCollection":"d.c","to":"d.val","dropTarget":true}"#,
                Reply(""),
            ),
            (r#"{"drop":"c"}"#, Code(26)),
            (r#"{"drop":"v"}"#, Reply("")),
            (r#"{"drop":"val"}"#, Reply(r#""nIndexesWas":1"#)),
        ],
    )?;
    let left: Vec<_> = model.state().into_keys().collect();
    assert_eq!(left, ["d.cap", "d.system.views"]);
    Ok(())
}

#[test]
fn indexes_are_made_and_dropped_as_by_a_server() -> Result<()> {
    let index = r#"{"createIndexes":"c","indexes":[{"key":{"a":1},"name":"a_1"}]}"#;
    check(
        Version::V4_4,
        &[
            (r#"{"listIndexes":"c"}"#, Code(26)),
            (
                index,
                Reply(
                    r#""createdCollectionAutomatically":true,"numIndexesBefore":1,"numIndexesAfter":2"#,
                ),
            ),
            (index, Reply(r#""note":"all indexes already exist""#)),
            (
                r#"{"createIndexes":"c","indexes":[{"key":{"_id":1},"name":"_id_"}]}"#,
                Reply("note"),
            ),
            (
                r#"{"createIndexes":"c","indexes":[{"key":{"a":1},"name":"b"}]}"#,
                Code(85),
            ),
            (
                r#"{"createIndexes":"c","indexes":[{"key":{"a":1},"name":"a_1","unique":true}]}"#,
                Code(85),
            ),
            (
                r#"{"createIndexes":"c","indexes":[{"key":{"b":1},"name":"a_1"}]}"#,
                Code(86),
            ),
            (
                r#"{"createIndexes":"c","indexes":[{"key":{"b":1},"name":"b","more":1}]}"#,
                Code(197),
            ),
            (
                r#"{"createIndexes":"c","indexes":[{"key":{"b":1},"name":"b","ns":"d.other"}]}"#,
                Code(2),
            ),
            (
                r#"{"createIndexes":"c","indexes":[{"key":{"b":1}}]}"#,
                Code(9),
            ),
            (
                r#"{"createIndexes":"c","indexes":[{"key":{"b":"many"},"name":"b"}]}"#,
                Code(67),
            ),
            (
                r#"{"createIndexes":"c","indexes":[{"key":{"b":1},"name":"b","sparse":true,"partialFilterExpression":{}}]}"#,
                Code(67),
            ),
            // All or none.
            (
                r#"{"createIndexes":"c","indexes":[{"key":{"b":1},"name":"b"},{"key":{"c":0},"name":"c"}]}"#,
                Code(67),
            ),
            (
                r#"{"createIndexes":"c","indexes":[{"key":{"b":1},"name":"b","ns":"d.c","background":true}]}"#,
                Reply(r#""numIndexesBefore":2"#),
            ),
            (
                r#"{"createIndexes":"c","indexes":[{"key":{"t":"text"},"name":"t"}]}"#,
                Reply(""),
            ),
            (
                r#"{"listIndexes":"c"}"#,
                Reply(r#"{"v":2,"key":{"_fts":"text","_ftsx":1},"name":"t","weights":{"t":1},"#),
            ),
            (r#"{"dropIndexes":"none","index":"a_1"}"#, Code(26)),
            (r#"{"dropIndexes":"c","index":"none"}"#, Code(27)),
            (r#"{"dropIndexes":"c","index":"_id_"}"#, Code(72)),
            (r#"{"dropIndexes":"c","index":{"a":-1}}"#, Code(27)),
            (
                r#"{"dropIndexes":"c","index":{"a":1}}"#,
                Reply(r#""nIndexesWas":4"#),
            ),
            (
                r#"{"dropIndexes":"c","index":"*"}"#,
                Reply(r#""nIndexesWas":3"#),
            ),
            (
                r#"{"createIndexes":"c","indexes":[{"key":{"at":1},"name":"at","expireAfterSeconds":5}]}"#,
                Reply(r#""numIndexesBefore":1"#),
            ),
            (
                r#"{"collMod":"c","index":{"name":"at","expireAfterSeconds":9}}"#,
                Reply(r#""expireAfterSeconds_old":5,"expireAfterSeconds_new":9"#),
            ),
            (
                r#"{"collMod":"c","index":{"name":"none","expireAfterSeconds":9}}"#,
                Code(27),
            ),
            (
                r#"{"collMod":"c","index":{"name":"at","prepareUnique":true}}"#,
                Code(40415),
            ),
        ],
    )?;
    Ok(())
}

#[test]
fn unique_indexes_refuse_what_a_servers_refuse() -> Result<()> {
    let insert = |text: &str| format!(r#"{{"insert":"c","documents":[{text}]}}"#);
    // An index, documents that it takes, documents of which it refuses the last.
    for (index, taken, refused) in [
        (
            r#""key":{"a":1}"#,
            r#"{"a":1},{"a":"1"},{},{"a":[2,2]}"#,
            r#"{"a":1.0}"#,
        ),
        (r#""key":{"a":1}"#, r#"{"a":null},{"a":1}"#, "{}"),
        (
            r#""key":{"a":1}"#,
            r#"{"a":[1,2]},{"a":[]}"#,
            r#"{"a":[3,2]}"#,
        ),
        (
            r#""key":{"a":1}"#,
            r#"{"a":{"x":1,"y":2}},{"a":{"y":2,"x":1}}"#,
            r#"{"a":{"x":1,"y":2}}"#,
        ),
        (
            r#""key":{"a.b":1}"#,
            r#"{"a":{"b":1}},{"a":[{"b":2},{"b":3}]}"#,
            r#"{"a":[{"b":3}]}"#,
        ),
        (
            r#""key":{"a.0":1}"#,
            r#"{"a":[1,2]},{"a":[2,1]}"#,
            r#"{"a":{"0":2}}"#,
        ),
        (
            r#""key":{"a":1,"b":-1}"#,
            r#"{"a":1,"b":1},{"a":1,"b":2},{"a":1}"#,
            r#"{"a":1,"b":null}"#,
        ),
        (
            r#""key":{"a.x":1,"a.y":1}"#,
            r#"{"a":[{"x":1,"y":1},{"x":2,"y":2}]},{"a":{"x":1,"y":2}}"#,
            r#"{"a":{"x":2,"y":2}}"#,
        ),
        (
            r#""key":{"a":1},"sparse":true"#,
            r#"{},{},{"a":null}"#,
            r#"{"a":null}"#,
        ),
        (
            r#""key":{"a":1,"b":1},"sparse":true"#,
            r#"{},{},{"b":1}"#,
            r#"{"b":1}"#,
        ),
        (
            r#""key":{"a":1},"partialFilterExpression":{"n":{"$gt":5},"a":{"$exists":true}}"#,
            r#"{"a":1,"n":5},{"a":1},{"a":1,"n":"x"},{"a":1,"n":6},{"n":6},{"n":6}"#,
            r#"{"a":1,"n":7}"#,
        ),
        (
            r#""key":{"a":1},"collation":{"locale":"en","strength":2}"#,
            r#"{"a":"x"},{"a":"é"},{"a":"e"}"#,
            r#"{"a":"X"}"#,
        ),
        (
            r#""key":{"a":1},"collation":{"locale":"de","strength":1}"#,
            r#"{"a":"x"}, {"a":"ä"}"#,
            r#"{"a":"A"}"#,
        ),
        (
            r#""key":{"a":1},"collation":{"locale":"de"}"#,
            r#"{"a":"x"}, {"a":"ä"}"#,
            r#"{"a":"x"}"#,
        ),
    ] {
        let create =
            format!(r#"{{"createIndexes":"c","indexes":[{{{index},"name":"i","unique":true}}]}}"#);
        let mut model = Model::default();
        assert_eq!(code(&run(&mut model, "d", &create)?), None, "{create}");
        let reply = run(&mut model, "d", &insert(taken))?;
        assert_eq!(code(&reply), None, "{index} {taken}: {reply}");
        let reply = run(&mut model, "d", &insert(refused))?;
        assert_eq!(code(&reply), Some(11000), "{index} {refused}: {reply}");

        // The same documents before the index.
        let mut model = Model::default();
        run(&mut model, "d", &insert(taken))?;
        assert_eq!(code(&run(&mut model, "d", &create)?), None, "{create}");
        run(&mut model, "d", r#"{"dropIndexes":"c","index":"i"}"#)?;
        run(&mut model, "d", &insert(refused))?;
        assert_eq!(
            code(&run(&mut model, "d", &create)?),
            Some(11000),
            "{create}"
        );
    }
    Ok(())
}

#[test]
fn a_duplicate_is_told_with_its_index_and_key() -> Result<()> {
    let mut model = check(
        Version::V6_0,
        &[
            (
                r#"{"createIndexes":"c","indexes":[{"key":{"a":1,"b.c":-1},"name":"i","unique":true}]}"#,
                Reply(""),
            ),
            (
                r#"{"insert":"c","documents":[{"_id":1,"a":"x"},{"_id":2,"a":"y"}]}"#,
                Reply(""),
            ),
            (
                r#"{"insert":"c","documents":[{"_id":3,"a":[1,2],"b":[3]}]}"#,
                Code(171),
            ),
            // A value that a document gives up is free at once.
            (
                r#"{"update":"c","updates":[{"q":{"_id":1},"u":{"a":"z"}},{"q":{"_id":2},"u":{"$set":{"a":"x"}}}]}"#,
                Reply(r#""n":2"#),
            ),
            (
                r#"{"delete":"c","deletes":[{"q":{"_id":1},"limit":1}]}"#,
                Reply(""),
            ),
            (
                r#"{"insert":"c","documents":[{"_id":3,"a":"z"}]}"#,
                Reply(""),
            ),
        ],
    )?;
    let update = r#"{"update":"c","updates":[{"q":{"_id":3},"u":{"a":"x"}}]}"#;
    let reply = run(&mut model, "d", update)?;
    let error = reply.get_array("writeErrors")?[0]
        .as_document()
        .context("an error")?;
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
fn versions_differ() -> Result<()> {
    let uuid = r#"{"$binary":{"base64":"AAAAAAAAAAAAAAAAAAAAAA==","subType":"04"}}"#;
    let drop = format!(r#"{{"drop":"c","collectionUUID":{uuid}}}"#);
    check(
        Version::V6_0,
        &[
            (r#"{"create":"cap","capped":true,"size":4096}"#, Reply("")),
            (r#"{"insert":"cap","documents":[{"_id":1}]}"#, Reply("")),
            (
                r#"{"update":"cap","updates":[{"q":{"_id":1},"u":{"a":1}}]}"#,
                Reply(""),
            ),
            (
                r#"{"delete":"cap","deletes":[{"q":{"_id":1},"limit":1}]}"#,
                Reply(""),
            ),
            (
                r#"{"insert":"c","documents":[{"_id":1,"$a":1,"a":1},{"_id":2,"a":1}]}"#,
                Reply(""),
            ),
            (&drop, Code(361)),
            (
                r#"{"createIndexes":"c","indexes":[{"key":{"a":1},"name":"a"}]}"#,
                Reply(""),
            ),
            (
                r#"{"createIndexes":"c","indexes":[{"key":{"a":1},"name":"s","sparse":true}]}"#,
                Reply(""),
            ),
            (
                r#"{"createIndexes":"c","indexes":[{"key":{"a":1},"name":"a","sparse":true}]}"#,
                Code(86),
            ),
            (
                r#"{"collMod":"c","index":{"name":"a","unique":true}}"#,
                Code(72),
            ),
            (
                r#"{"collMod":"c","index":{"name":"a","prepareUnique":true}}"#,
                Reply(""),
            ),
            (
                r#"{"insert":"c","documents":[{"_id":3,"a":1}]}"#,
                Code(11000),
            ),
            (
                r#"{"collMod":"c","index":{"name":"a","unique":true}}"#,
                Code(359),
            ),
            (
                r#"{"delete":"c","deletes":[{"q":{"_id":2},"limit":1}]}"#,
                Reply(""),
            ),
            (
                r#"{"collMod":"c","index":{"name":"a","unique":true}}"#,
                Reply(""),
            ),
            (
                r#"{"listIndexes":"c"}"#,
                Reply(r#"{"v":2,"key":{"a":1},"name":"a","unique":true}"#),
            ),
            (
                r#"{"create":"k","clusteredIndex":{"key":{"_id":1},"unique":true}}"#,
                Reply(""),
            ),
            (
                r#"{"insert":"k","documents":[{"_id":1},{"_id":1}]}"#,
                Code(11000),
            ),
            (
                r#"{"create":"ts","timeseries":{"timeField":"t"}}"#,
                Reply(""),
            ),
            (
                r#"{"listCollections":1,"filter":{"name":"ts"}}"#,
                Reply(r#""type":"timeseries""#),
            ),
            (r#"{"drop":"ts"}"#, Reply("")),
            (
                r#"{"listCollections":1,"filter":{"name":"system.buckets.ts"}}"#,
                Reply("[]"),
            ),
            (r#"{"drop":"none"}"#, Code(26)),
        ],
    )?;
    check(Version::V7_0, &[(r#"{"drop":"none"}"#, Reply(""))])?;
    check(
        Version::V4_2,
        &[(r#"{"create":"t","anything":true}"#, Code(72))],
    )?;
    Ok(())
}

#[test]
fn a_collections_collation_holds_for_its_ids_and_indexes() -> Result<()> {
    check(
        Version::V6_0,
        &[
            (
                r#"{"create":"c","collation":{"locale":"de","strength":1}}"#,
                Reply(""),
            ),
            (r#"{"insert":"c","documents":[{"_id":"a"}]}"#, Reply("")),
            (r#"{"insert":"c","documents":[{"_id":"A"}]}"#, Code(11000)),
            (
                r#"{"find":"c","filter":{"_id":"A"}}"#,
                Reply(r#"[{"_id":"a"}]"#),
            ),
            (
                r#"{"createIndexes":"c","indexes":[{"key":{"w":1},"name":"w"},{"key":{"w":1},"name":"s","collation":{"locale":"simple"}}]}"#,
                Reply(""),
            ),
            (
                r#"{"listIndexes":"c"}"#,
                Reply(r#"{"v":2,"key":{"w":1},"name":"s"}]"#),
            ),
            (
                r#"{"listIndexes":"c"}"#,
                Reply(r#""name":"w","collation":{"locale":"de","caseLevel":false"#),
            ),
            (
                r#"{"createIndexes":"c","indexes":[{"key":{"t":"text"},"name":"t"}]}"#,
                Code(67),
            ),
        ],
    )?;
    Ok(())
}

#[test]
fn queries_find_what_a_servers_find() -> Result<()> {
    let mut model = check(
        Version::V6_0,
        &[(
            r#"{"insert":"c","documents":[{"_id":1,"a":1,"d":{"x":1}},{"_id":2,"a":[1,"b"],"d":[{"x":2},{"x":3}]},
               {"_id":3,"a":null},{"_id":4,"a":2.5,"d":{"x":[3]}},{"_id":{"$minKey":1}}]}"#,
            Reply(""),
        )],
    )?;
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
