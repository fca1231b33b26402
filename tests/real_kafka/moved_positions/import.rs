//! First positions from the checkpoints of other programs.

use super::*;

#[test]
fn the_end_of_a_dump_is_the_first_position_of_a_source() -> Result<()> {
    let topics = Topics::none("imported")?;
    let folder = tempfile::tempdir()?;
    let path = folder.path().join("oplog.bson");
    let mut made = Made::default();
    made.create("s.a", 1)?;
    for id in 0..20 {
        made.insert("s.a", 1, id)?;
    }
    std::fs::write(&path, made.oplog()?)?;
    let path = path.to_str().context("the path is not UTF-8")?;
    let import = ["--from=mongodump", "--file", path];
    position(
        &topics,
        "golden",
        "import",
        &import,
        (0, "the first position is saved"),
    )?;
    for id in 20..30 {
        made.insert("s.a", 1, id)?;
    }
    let again = (2, "has the saved position");
    position(&topics, "golden", "import", &import, again)?;
    topics.produce_to_code(&made.oplog()?, &[], (0, "--start is ignored"))?;
    let counts = counts(&topics)?;
    let first = Timestamp::new(BEGIN + 21, 1);
    ensure!(
        counts.len() == 10 && counts.keys().next() == Some(&first),
        "{counts:?}"
    );
    let shown = show(&topics, "golden", &[])?;
    ensure!(shown["began"] == format!("{}:1", BEGIN + 20), "{shown}");
    let replace = [&import[..], &["--replace", "--fence"]].concat();
    position(&topics, "golden", "import", &replace, (0, "sent again")).map(drop)
}

#[test]
fn checkpoints_of_other_programs_are_looked_up_on_the_source() -> Result<()> {
    let server = Server::start(Oplog::generate(3_000, Shape::Inserts))?;
    let (uri, folder) = (server.uri(), tempfile::tempdir()?);
    let at = |number| server.oplog().time(number);
    let as_number = |ts: Timestamp| (u64::from(ts.seconds) << 32) + u64::from(ts.increment);
    let token = |ts: Timestamp| format!("82{:08X}{:08X}2B0229296E04", ts.seconds, ts.increment);
    let shake = format!(r#"{{"name":"rs0","ckpt":{}}}"#, as_number(at(1_500)));
    let connector = format!(r#"["local.oplog.rs", {}]"#, as_number(at(1_500)));
    let kafka = format!(r#"{{"_id":"{{\"_data\": \"{}\"}}"}}"#, token(at(1_500)));
    let debezium = format!(
        r#"{{"sec":-1,"ord":-1,"resume_token":"{}"}}"#,
        token(at(1_500))
    );
    for (program, text, expected) in [
        ("mongoshake", &shake, 1_500),
        ("mongo-connector", &connector, 1_500),
        // The other events with the cluster time of a token may not have been delivered.
        ("mongo-kafka", &kafka, 1_499),
        ("debezium", &debezium, 1_499),
    ] {
        let topics = Topics::none(&format!("from-{program}"))?;
        let path = folder.path().join(program);
        std::fs::write(&path, text)?;
        let path = path.to_str().context("the path is not UTF-8")?;
        let import = ["--from", program, "--file", path, "--source", &uri];
        position(
            &topics,
            "rs0",
            "import",
            &import,
            (0, "the first position is saved"),
        )?;
        finish(&topics, &server, &[], (0, ""))?;
        let counts = counts(&topics)?;
        ensure!(counts.keys().next() == Some(&at(expected + 1)), "{program}");
        ensure!(counts.len() as u64 == 2_999 - expected, "{program}");
    }
    // The source name may be mistyped.
    let topics = Topics::none("from-mistyped")?;
    let path = folder.path().join("mongoshake");
    let path = path.to_str().context("the path is not UTF-8")?;
    let import = ["--from=mongoshake", "--file", path, "--source", &uri];
    let warning = (0, "another name than its replica set");
    position(&topics, "rs", "import", &import, warning)?;
    // The oplog does not reach back to the first time, and has not reached the second one.
    let topics = Topics::none("from-elsewhere")?;
    for (ts, refusal) in [
        (Timestamp::new(5, 1), (3, "position lost")),
        (Timestamp::new(u32::MAX, 1), (2, "after the newest entry")),
    ] {
        let path = folder.path().join("elsewhere");
        std::fs::write(&path, as_number(ts).to_string())?;
        let path = path.to_str().context("the path is not UTF-8")?;
        let import = ["--from=mongo-connector", "--file", path, "--source", &uri];
        position(&topics, "rs0", "import", &import, refusal)?;
    }
    Ok(())
}

#[test]
fn a_position_in_a_change_stream_is_a_mode_of_its_own() -> Result<()> {
    let topics = Topics::none("imported-events")?;
    let server = Server::start(Oplog::generate(3_000, Shape::Inserts))?;
    let folder = tempfile::tempdir()?;
    let path = folder.path().join("offset");
    let at = server.oplog().time(1_500);
    std::fs::write(
        &path,
        format!(r#"{{"sec":{},"ord":{}}}"#, at.seconds, at.increment),
    )?;
    let path = path.to_str().context("the path is not UTF-8")?;
    // Without the source, the mode is that in which the other program reads it.
    let import = ["--from=debezium", "--file", path];
    position(
        &topics,
        "rs0",
        "import",
        &import,
        (0, "the first position is saved"),
    )?;
    let shown = show(&topics, "rs0", &[])?;
    ensure!(shown["mode"] == "change-stream", "{shown}");
    ensure!(
        shown["position"]["ts"] == at.before().to_string(),
        "{shown}"
    );
    let refused = (2, "was read with --source-mode change-stream");
    finish(&topics, &server, &["--source-mode=oplog"], refused)?;
    // A resume token is a position too.
    let token = format!("82{:08X}{:08X}2B0229296E04", at.seconds, at.increment - 1);
    let set = ["--to", &token, "--fence"];
    position(&topics, "rs0", "set", &set, (2, "--allow-before-start"))?;
    let set = [&set[..], &["--allow-before-start"]].concat();
    position(&topics, "rs0", "set", &set, (0, "sent again"))?;
    let shown = show(&topics, "rs0", &[])?;
    let expected = at.before().before().to_string();
    ensure!(shown["position"]["ts"] == expected, "{shown}");
    Ok(())
}
