//! `oplog-consumer verify`.

use anyhow::{Result, ensure};
use bson::{Document, doc};
use mongodb::Client;
use oplog_relay_kit::services::{FerretDb, FerretDbOptions, Program};

use crate::pipeline::scene::LIMIT;

fn verify(source: &FerretDb, target: &FerretDb) -> Result<(i32, String)> {
    let mut program = Program::consumer([
        "verify".to_owned(),
        format!("--source={}", source.uri()),
        format!("--target={}", target.uri()),
    ])?;
    let code = program.wait(LIMIT)?;
    Ok((code, program.stdout_text()?))
}

#[tokio::test(flavor = "multi_thread")]
async fn a_changed_a_missing_and_an_extra_document_are_each_found_and_named() -> Result<()> {
    let options = FerretDbOptions::target();
    let (source, target) = (FerretDb::start(&options)?, FerretDb::start(&options)?);
    let mut sides = Vec::new();
    for server in [&source, &target] {
        let client = Client::with_uri_str(server.uri()).await?;
        let collection = client.database("app").collection::<Document>("c");
        let documents = (0..5_000).map(|n| doc! { "_id": n, "text": format!("text {n}") });
        collection.insert_many(documents).await?;
        sides.push(collection);
    }
    let (code, said) = verify(&source, &target)?;
    ensure!(code == 0, "{said}");
    let target_side = &sides[1];
    target_side.delete_one(doc! { "_id": 77 }).await?;
    target_side.insert_one(doc! { "_id": "extra" }).await?;
    let change = doc! { "$set": { "text": "text 4712" } };
    target_side.update_one(doc! { "_id": 4711 }, change).await?;
    let (code, said) = verify(&source, &target)?;
    ensure!(code == 7, "{code}: {said}");
    for part in ["77", "extra", "4711", "text"] {
        ensure!(said.contains(part), "{part} is not named:\n{said}");
    }
    Ok(())
}
