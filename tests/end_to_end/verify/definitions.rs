//! The comparison of options, indexes and views, between two fake mongods.

use anyhow::{Result, ensure};
use bson::doc;
use oplog_consumer::verify::Verdict;

use crate::verify::scene::{Outcome, Scene};

/// Returns the differences of definitions, as `ns: what`.
fn parts(outcome: &Outcome) -> Vec<String> {
    let lines = outcome.of("definition").into_iter();
    lines
        .map(|line| {
            format!(
                "{}: {}",
                line["ns"].as_str().unwrap(),
                line["what"].as_str().unwrap()
            )
        })
        .collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn missing_collections_views_and_indexes_are_named_and_created() -> Result<()> {
    let scene = Scene::new()?;
    let [source, _] = scene.both().await?;
    scene.run(doc! { "create": "both" }).await?;
    let indexes =
        doc! { "createIndexes": "both", "indexes": [{ "key": { "a": 1 }, "name": "a_1" }] };
    source.run_command(indexes).await?;
    source
        .run_command(doc! { "create": "empty", "capped": true, "size": 4096 })
        .await?;
    source
        .run_command(doc! { "create": "view", "viewOn": "both", "pipeline": [] })
        .await?;
    let outcome = scene.verify(&[]).await?;
    ensure!(outcome.verdict == Verdict::Different);
    let expected = [
        "app.both: index a_1",
        "app.empty: the collection",
        "app.view: the collection",
    ];
    ensure!(parts(&outcome) == expected, "{:?}", parts(&outcome));

    let outcome = scene.verify(&["--repair"]).await?;
    ensure!(outcome.verdict == Verdict::Equal, "{:?}", outcome.lines);
    ensure!(outcome.of("repaired").len() == 3);
    let (one, other) = (
        scene.source.model().collections(),
        scene.target.model().collections(),
    );
    ensure!(one.get("app") == other.get("app"));
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn options_and_views_that_differ_are_named_and_left_to_the_operator() -> Result<()> {
    let scene = Scene::new()?;
    let [source, target] = scene.both().await?;
    source
        .run_command(doc! { "create": "c", "validator": { "a": 1 } })
        .await?;
    target
        .run_command(doc! { "create": "c", "validator": { "a": 2 } })
        .await?;
    source
        .run_command(doc! { "create": "v", "viewOn": "c", "pipeline": [] })
        .await?;
    target
        .run_command(doc! { "create": "v", "viewOn": "d", "pipeline": [] })
        .await?;
    let index = |size: i32| {
        let index = doc! { "key": { "a": 1 }, "name": "a_1", "expireAfterSeconds": size };
        doc! { "createIndexes": "c", "indexes": [index] }
    };
    source.run_command(index(60)).await?;
    target.run_command(index(i32::MAX)).await?;
    target
        .run_command(
            doc! { "createIndexes": "c", "indexes": [{ "key": { "b": 1 }, "name": "b_1" }] },
        )
        .await?;
    let expected = [
        "app.c: option validator",
        "app.c: index a_1, expireAfterSeconds",
        "app.c: index b_1",
        "app.v: option viewOn",
    ];
    for flags in [&[][..], &["--repair"]] {
        let outcome = scene.verify(flags).await?;
        ensure!(
            outcome.verdict == Verdict::Different && parts(&outcome) == expected,
            "{:?}",
            parts(&outcome)
        );
    }
    // The options that the replay withheld are in its catalog.
    let catalog = target
        .client()
        .database("oplog_relay")
        .collection("catalog");
    catalog
        .insert_one(doc! {
            "_id": "g/s/1:1/0", "group": "g", "source": "s", "ts": "1:1", "ord": 0_i64,
            "change": "other", "ns": "app.c", "existed": false, "done": true,
            "withheld": [{ "index": "a_1", "seconds": 60_i64 }],
        })
        .await?;
    let outcome = scene.verify(&[]).await?;
    let left = [expected[0], expected[2], expected[3]];
    ensure!(parts(&outcome) == left, "{:?}", parts(&outcome));
    Ok(())
}
