//! Documents in the topics of other programs.

use anyhow::{Context, Result, ensure};
use bson::doc;
use serde_json::Value;

use super::{
    Foreign, ID, ORDERS, Written, documents, expected, fixture, histories, sorted, target,
};

#[test]
fn every_program_leads_to_the_same_documents() -> Result<()> {
    let foreign = Foreign::new()?;
    for partitions in [1, 3] {
        for (index, (input, records)) in histories()?.into_iter().enumerate() {
            let topic = format!("replayed-{partitions}-{index}.{ORDERS}");
            foreign.write(&topic, partitions, &records)?;
            let target = target()?;
            let ended = foreign.replay(&target, input, &topic, &[])?;
            ended.expect(0, &["reading the topics of another program"])?;
            let found = sorted(documents(&target)?);
            ensure!(found == expected()?, "{input} {partitions}: {found:?}");
            // Another group replays the topic from its start into the target, which is ahead of it.
            let again = format!("again-{topic}");
            let flags = [
                format!("--target={}", target.uri()),
                format!("--input={input}"),
                format!("--topics={topic}"),
            ];
            let flags: Vec<&str> = flags.iter().map(String::as_str).collect();
            foreign.run("replay", &again, &flags)?.expect(0, &[])?;
            let found = sorted(documents(&target)?);
            ensure!(found == expected()?, "{input} {partitions}: {found:?}");
        }
    }
    Ok(())
}

#[test]
fn every_program_is_emitted_as_change_events() -> Result<()> {
    let foreign = Foreign::new()?;
    for (index, (input, records)) in histories()?.into_iter().enumerate() {
        let topic = format!("emitted-{index}.{ORDERS}");
        foreign.write(&topic, 1, &records)?;
        let flags = [
            format!("--input={input}"),
            format!("--topics=emitted-{index}.*"),
        ];
        let flags: Vec<&str> = flags.iter().map(String::as_str).collect();
        let ended = foreign.run("emit", &topic, &flags)?.expect(0, &[])?;
        let lines = ended.stdout.lines().map(serde_json::from_str);
        let lines: Vec<Value> = lines.collect::<Result<_, _>>()?;
        let of =
            |field: &str| -> Vec<Value> { lines.iter().map(|line| line[field].clone()).collect() };
        let types = ["insert", "insert", "insert", "update", "replace", "delete"];
        ensure!(of("operationType") == types, "{input}: {lines:?}");
        let id = serde_json::json!({ "source": topic, "ts": "1700000001:1", "ord": 3 });
        ensure!(lines[3]["_id"] == id, "{input}: {}", lines[3]);
        ensure!(lines[3]["documentKey"]["_id"]["$oid"] == ID, "{}", lines[3]);
        let described = &lines[3]["updateDescription"];
        ensure!(described["removedFields"][0] == "c", "{input}: {described}");
        ensure!(
            described["truncatedArrays"][0]["newSize"] == 2,
            "{input}: {described}"
        );
        ensure!(
            described["updatedFields"]["a.b"] == 2,
            "{input}: {described}"
        );
        ensure!(lines[5]["documentKey"]["_id"] == 3, "{input}: {}", lines[5]);
    }
    Ok(())
}

#[test]
fn debeziums_envelope_is_emitted_from_a_change_event() -> Result<()> {
    let foreign = Foreign::new()?;
    foreign.write("converted", 1, &fixture("mongo-kafka.txt")?)?;
    let flags = [
        "--input=mongo-kafka-json",
        "--topics=converted",
        "--envelope=debezium",
    ];
    let ended = foreign.run("emit", "converted", &flags)?.expect(0, &[])?;
    let last = ended.stdout.lines().last().context("no line")?;
    let line: Value = serde_json::from_str(last)?;
    ensure!(
        line["key"]["id"] == "3" && line["value"]["op"] == "d",
        "{line}"
    );
    ensure!(
        line["value"]["source"]["ts_ms"] == 1_700_000_002_250_i64,
        "{line}"
    );
    Ok(())
}

#[test]
fn records_without_order_per_document_need_consent() -> Result<()> {
    let foreign = Foreign::new()?;
    let by_token = |record: Written| Written {
        key: Some(br#"{"_id": {"_data": "82"}}"#.to_vec()),
        ..record
    };
    let records: Vec<Written> = fixture("mongo-kafka.txt")?
        .into_iter()
        .map(by_token)
        .collect();
    foreign.write("tokens", 3, &records)?;
    let target = target()?;
    let parts = ["topic tokens", "resume token", "--allow-unordered"];
    let dead_letter = ["--dead-letter=undecodable"];
    let ended = foreign.replay(&target, "mongo-kafka-json", "tokens", &dead_letter)?;
    ended.expect(6, &parts)?;
    ensure!(documents(&target)?.is_empty());
    let consent = ["--allow-unordered"];
    let ended = foreign.replay(&target, "mongo-kafka-json", "tokens", &consent)?;
    ended.expect(0, &["the keys of the records are not checked"])?;
    ensure!(sorted(documents(&target)?) == expected()?);
    Ok(())
}

#[test]
fn gos_own_json_needs_consent() -> Result<()> {
    let foreign = Foreign::new()?;
    let text = format!(
        r#"{{"ts":{{"T":7,"I":1}},"t":1,"h":null,"v":2,"op":"i","ns":"s.a","o":[{{"Key":"_id","Value":"{ID}"}},{{"Key":"n","Value":5}}],"o2":null,"PrevOpTime":null}}"#
    );
    foreign.write("go", 1, &[Written::new("17d", text)])?;
    let target = target()?;
    let ended = foreign.replay(&target, "mongoshake-json", "go", &[])?;
    ended.expect(6, &["canonical_extended_json", "--allow-lossy"])?;
    let ended = foreign.replay(&target, "mongoshake-json", "go", &["--allow-lossy"])?;
    ended.expect(0, &[])?;
    let found = documents(&target)?;
    let expected = [("s.a".to_owned(), vec![doc! { "_id": ID, "n": 5 }])].into();
    ensure!(found == expected, "{found:?}");
    Ok(())
}

#[test]
fn a_record_of_another_kind_is_an_error_or_a_dead_letter() -> Result<()> {
    let foreign = Foreign::new()?;
    let mut records = fixture("debezium.txt")?;
    records.insert(2, Written::new("x", "no document"));
    foreign.write("mixed", 1, &records)?;
    let target = target()?;
    let ended = foreign.replay(&target, "debezium", "mixed", &[])?;
    ended.expect(6, &["topic mixed, partition 0, offset 2", "not JSON"])?;
    // The error names the input that fits.
    for other in ["mongo-kafka-json", "mongoshake-bson", "mongoshake-raw"] {
        let input = format!("--input={other}");
        let flags = [input.as_str(), "--topics=mixed"];
        let ended = foreign.run("emit", other, &flags)?;
        ended.expect(
            6,
            &["topic mixed, partition 0, offset 0", "--input debezium"],
        )?;
    }
    let kept = ["--dead-letter=undecodable"];
    let ended = foreign.replay(&target, "debezium", "mixed", &kept)?;
    ended.expect(0, &[])?;
    ensure!(sorted(documents(&target)?) == expected()?);
    Ok(())
}

#[test]
fn the_default_input_names_the_one_that_fits() -> Result<()> {
    let foreign = Foreign::new()?;
    foreign.write("fulfillment.shop.orders", 1, &fixture("debezium.txt")?)?;
    let ended = foreign.run("emit", "default", &["--topic-prefix=fulfillment"])?;
    ended.expect(6, &["no state topic", "--input debezium --topics"])?;
    let target = target()?;
    let ended = foreign.replay(&target, "debezium", "fulfillment.shop.ordres", &[])?;
    ended.expect(2, &["topic fulfillment.shop.ordres does not exist"])?;
    let ended = foreign.replay(&target, "debezium", "fulfilment.*", &[])?;
    ended.expect(2, &["topic fulfilment.* does not exist"])?;
    Ok(())
}
