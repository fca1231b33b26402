//! The comparison of documents between two fake mongods: ranges, types, samples, counts, repairs.

use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use bson::oid::ObjectId;
use bson::spec::BinarySubtype;
use bson::{Binary, Bson, DateTime, Document, RawDocumentBuf, Timestamp, doc};
use oplog_consumer::verify::Verdict;
use oplog_relay_core::document::{DocumentBuilder, kind};

use crate::verify::scene::{Scene, numbered};

const SMALL: &str = "--range-documents=100";
const LIMIT: Duration = Duration::from_secs(60);

#[tokio::test(flavor = "multi_thread")]
async fn a_changed_a_missing_and_an_extra_document_are_named_with_their_fields_and_repaired()
-> Result<()> {
    let scene = Scene::new()?;
    let [source, target] = scene.both().await?;
    for database in [&source, &target] {
        database.collection("c").insert_many(numbered(1000)).await?;
    }
    ensure!(scene.verify(&[SMALL]).await?.verdict == Verdict::Equal);

    let there = target.collection::<Document>("c");
    there.delete_one(doc! { "_id": 77 }).await?;
    there.insert_one(doc! { "_id": "extra" }).await?;
    let change = doc! { "$set": { "text": "text 471x", "part.a": 0 } };
    there.update_one(doc! { "_id": 471 }, change).await?;
    let outcome = scene.verify(&[SMALL]).await?;
    ensure!(outcome.verdict == Verdict::Different);
    ensure!(outcome.ids("missing") == [r#"{"$numberInt":"77"}"#]);
    ensure!(outcome.ids("extra") == [r#""extra""#]);
    ensure!(outcome.ids("different") == [r#"{"$numberInt":"471"}"#]);
    ensure!(outcome.of("different")[0]["paths"] == serde_json::json!(["text", "part.a"]));
    let ranges = outcome.of("range").len();
    ensure!(ranges > 10, "{ranges} ranges");

    let outcome = scene.verify(&[SMALL, "--repair"]).await?;
    ensure!(outcome.verdict == Verdict::Equal, "{:?}", outcome.lines);
    ensure!(
        outcome.of("repaired").len() == 3,
        "{:?}",
        outcome.of("repaired")
    );
    ensure!(scene.source.model().state() == scene.target.model().state());
    ensure!(scene.verify(&[SMALL]).await?.verdict == Verdict::Equal);
    Ok(())
}

/// Returns an `insert` of documents whose `_id`s are strings of bytes that are not UTF-8.
fn damaged(numbers: std::ops::Range<u16>) -> Result<RawDocumentBuf> {
    let mut out = Vec::new();
    let mut insert = DocumentBuilder::start(&mut out);
    insert.str("insert", "c");
    insert.nested("documents", kind::ARRAY, |list| {
        for (index, number) in numbers.enumerate() {
            let [high, low] = number.to_be_bytes();
            let value = [4, 0, 0, 0, 0xff, high | 0x80, low | 0x80, 0];
            list.nested(&index.to_string(), kind::DOCUMENT, |document| {
                document.raw("_id", kind::STRING, &value);
                document.int32("n", number.into());
            });
        }
    });
    insert.finish();
    Ok(RawDocumentBuf::from_bytes(out)?)
}

#[tokio::test(flavor = "multi_thread")]
async fn ranges_that_begin_at_an_id_that_is_not_utf_8_come_to_an_end() -> Result<()> {
    let scene = Scene::new()?;
    let [source, target] = scene.both().await?;
    // Only the lower seven bits of the last byte are used.
    source.run_raw_command(damaged(0..128)?).await?;
    target.run_raw_command(damaged(0..127)?).await?;
    let verified = tokio::time::timeout(LIMIT, scene.verify(&["--range-documents=10"]));
    let outcome = verified.await.context("verify does not end")??;
    ensure!(outcome.verdict == Verdict::Different);
    ensure!(outcome.of("missing").len() == 1, "{:?}", outcome.lines);
    let repaired = scene.verify(&["--range-documents=10", "--repair"]).await?;
    ensure!(repaired.verdict == Verdict::Equal, "{:?}", repaired.lines);
    Ok(())
}

/// Returns `_id`s of most of the types that an `_id` can have.
fn mixed() -> Vec<Bson> {
    let binary = |bytes: &[u8]| Binary {
        subtype: BinarySubtype::Generic,
        bytes: bytes.to_vec(),
    };
    vec![
        Bson::MinKey,
        Bson::Null,
        Bson::Double(f64::NAN),
        Bson::Double(f64::NEG_INFINITY),
        Bson::Int32(-7),
        Bson::Int64(7),
        Bson::Double(7.5),
        Bson::Double(f64::INFINITY),
        Bson::from(""),
        Bson::from("a"),
        Bson::Symbol("b".to_owned()),
        Bson::Document(doc! {}),
        Bson::Document(doc! { "a": 1 }),
        Bson::Binary(binary(b"")),
        Bson::Binary(binary(b"a")),
        Bson::ObjectId(ObjectId::from_bytes([0; 12])),
        Bson::ObjectId(ObjectId::from_bytes([7; 12])),
        Bson::Boolean(false),
        Bson::Boolean(true),
        Bson::DateTime(DateTime::from_millis(i64::MIN)),
        Bson::DateTime(DateTime::from_millis(7)),
        Bson::Timestamp(Timestamp {
            time: 7,
            increment: 7,
        }),
        Bson::JavaScriptCode("f".to_owned()),
        Bson::MaxKey,
    ]
}

#[tokio::test(flavor = "multi_thread")]
async fn extra_and_missing_ids_of_many_types_are_found_in_any_range() -> Result<()> {
    let (count, ids) = (mixed().len(), mixed());
    for (one_sided, kind) in [(0, "extra"), (1, "missing")] {
        let scene = Scene::new()?;
        let both = scene.both().await?;
        // The documents on both sides determine the ranges; those on only one side lie between and
        // beyond them.
        for database in &both {
            database.collection("c").insert_many(numbered(50)).await?;
        }
        let full = both[1 - one_sided].collection::<Document>("c");
        full.insert_many(
            ids.iter()
                .filter(|id| **id != Bson::Int64(7))
                .map(|id| doc! { "_id": id }),
        )
        .await?;
        for size in ["--range-documents=3", "--range-documents=1000"] {
            let outcome = scene.verify(&[size]).await?;
            let found = outcome.ids(kind);
            ensure!(found.len() == count - 1, "{kind}, {size}: {found:#?}");
            ensure!(outcome.verdict == Verdict::Different);
        }
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn the_order_of_fields_counts_unless_ignored_and_the_type_of_a_number_always() -> Result<()> {
    let scene = Scene::new()?;
    let [source, target] = scene.both().await?;
    source
        .collection("c")
        .insert_one(doc! { "_id": 1, "a": 1, "b": { "x": 1, "y": 2 } })
        .await?;
    target
        .collection("c")
        .insert_one(doc! { "_id": 1, "b": { "y": 2, "x": 1 }, "a": 1 })
        .await?;
    ensure!(scene.verify(&[]).await?.verdict == Verdict::Different);
    let any = "--ignore-field-order";
    ensure!(scene.verify(&[any]).await?.verdict == Verdict::Equal);
    source
        .collection("c")
        .insert_one(doc! { "_id": 2, "a": 1 })
        .await?;
    target
        .collection("c")
        .insert_one(doc! { "_id": 2, "a": 1_i64 })
        .await?;
    let outcome = scene.verify(&[any]).await?;
    ensure!(outcome.ids("different") == [r#"{"$numberInt":"2"}"#]);
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_sample_is_looked_for_in_both_directions_and_a_count_is_only_a_count() -> Result<()> {
    let scene = Scene::new()?;
    let [source, target] = scene.both().await?;
    for database in [&source, &target] {
        database.collection("c").insert_many(numbered(300)).await?;
    }
    target
        .collection("c")
        .insert_one(doc! { "_id": "extra" })
        .await?;
    source
        .collection("c")
        .insert_one(doc! { "_id": "missing" })
        .await?;
    let outcome = scene.verify(&["--mode=sample"]).await?;
    ensure!(outcome.ids("extra") == [r#""extra""#] && outcome.ids("missing") == [r#""missing""#]);
    let outcome = scene.verify(&["--mode=sample", "--sample=20"]).await?;
    let drawn = outcome.of("collection")[0]["equal"].as_u64().unwrap();
    ensure!((38..=40).contains(&drawn), "{drawn} documents");
    // The counts are equal although the documents differ.
    ensure!(scene.verify(&["--mode=count"]).await?.verdict == Verdict::Equal);
    source
        .collection("c")
        .insert_one(doc! { "_id": "another" })
        .await?;
    ensure!(scene.verify(&["--mode=count"]).await?.verdict == Verdict::Different);
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn namespaces_are_chosen_as_in_the_pipeline_and_internal_ones_are_left_out() -> Result<()> {
    let scene = Scene::new()?;
    let [source, target] = scene.both().await?;
    for name in ["a", "b", "tmp.agg_out.1"] {
        source
            .collection(name)
            .insert_one(doc! { "_id": 1 })
            .await?;
    }
    let client = target.client();
    let internal = client.database("oplog_relay").collection("held");
    internal.insert_one(doc! { "_id": 1 }).await?;
    let names = |outcome: &crate::verify::scene::Outcome| -> Vec<String> {
        let lines = outcome.of("collection").into_iter();
        lines
            .map(|line| line["ns"].as_str().unwrap().to_owned())
            .collect()
    };
    ensure!(names(&scene.verify(&[]).await?) == ["app.a", "app.b"]);
    for flags in [
        &["--namespaces=app.a"][..],
        &["--include-namespaces=app.a"],
        &["--exclude-namespaces=app.b"],
    ] {
        ensure!(names(&scene.verify(flags).await?) == ["app.a"]);
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_collection_with_a_collation_is_compared_under_the_simple_collation() -> Result<()> {
    let scene = Scene::new()?;
    scene
        .run(doc! { "create": "c", "collation": { "locale": "en", "strength": 2 } })
        .await?;
    let [source, target] = scene.both().await?;
    for id in ["b", "A", "C"] {
        source
            .collection("c")
            .insert_one(doc! { "_id": id })
            .await?;
    }
    for id in ["a", "b", "C"] {
        target
            .collection("c")
            .insert_one(doc! { "_id": id })
            .await?;
    }
    let outcome = scene.verify(&["--range-documents=1"]).await?;
    ensure!(outcome.ids("missing") == [r#""A""#], "{:?}", outcome.lines);
    ensure!(outcome.ids("extra") == [r#""a""#], "{:?}", outcome.lines);
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_read_that_fails_once_is_repeated() -> Result<()> {
    let scene = Scene::new()?;
    for database in scene.both().await? {
        database.collection("c").insert_many(numbered(500)).await?;
    }
    let equal =
        |outcome: &crate::verify::scene::Outcome| outcome.of("collection")[0]["equal"].as_u64();
    for code in [43, 11_600] {
        scene.target.fail_next("getMore", code);
        scene.source.fail_next("find", code);
        let found = scene.verify(&["--range-documents=100000"]).await?;
        ensure!(found.verdict == Verdict::Equal && equal(&found) == Some(500));
    }
    Ok(())
}
