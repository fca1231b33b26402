//! Documents that a unique index refuses while entries are applied again.

use super::*;

/// Returns a scene with a unique index, of which the shard key is a prefix, as a cluster requires.
async fn indexed(transactions: bool) -> Result<Scene> {
    let scene = sharded(Version::V6_0, r#"{"k":1}"#, &[]).await?;
    if !transactions {
        scene.server.model().refuse_transactions();
    }
    scene.on_target(
        r#"{"createIndexes":"c","indexes":[{"name":"k_1_u_1","key":{"k":1,"u":1},"unique":true}]}"#,
    )?;
    Ok(scene)
}

/// Two documents exchange their values; one of them has another shard key in between.
const EXCHANGE: &[(&str, i32, &str)] = &[
    ("i", 1, r#"{"_id":1,"k":1,"u":"a"}"#),
    ("i", 2, r#"{"_id":2,"k":2,"u":"b"}"#),
    ("u", 1, r#"{"$v":1,"$set":{"k":3}}"#),
    ("u", 2, r#"{"$v":1,"$set":{"k":1,"u":"a"}}"#),
    ("u", 1, r#"{"$v":1,"$set":{"k":2,"u":"b"}}"#),
];

#[tokio::test]
async fn documents_that_an_index_refuses_are_held_until_their_place_is_free() -> Result<()> {
    let expected = [r#"{"_id":1,"k":2,"u":"b"}"#, r#"{"_id":2,"k":1,"u":"a"}"#];
    for transactions in [true, false] {
        for at_once in [1, 2, EXCHANGE.len()] {
            let scene = indexed(transactions).await?;
            for round in 0..2 {
                scene.rewind(0);
                for batch in EXCHANGE.chunks(at_once) {
                    scene.done(batch).await?;
                    assert_unique(&scene)?;
                }
                let found = scene.documents()?;
                assert_eq!(found, expected, "round {round}, {at_once} at once");
            }
            assert_eq!(
                scene.metrics.held_documents.get(),
                scene.metrics.released_documents.get()
            );
        }
    }
    Ok(())
}
