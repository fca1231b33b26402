//! Positions that are set forward, and the gaps that they leave.

use super::*;

/// Sends everything that the source has, and sets the position back. Returns the new position.
fn send_and_set_back(topics: &Topics, server: &Server) -> Result<String> {
    finish(topics, server, &[], (0, ""))?;
    let (uri, to) = (server.uri(), server.oplog().time(100).to_string());
    let set = ["--source", &uri, "--to", &to, "--fence"];
    position(topics, "rs0", "set", &set, (0, "sent again"))?;
    Ok(to)
}

#[test]
fn a_position_that_is_set_forward_leaves_a_gap_that_readers_see() -> Result<()> {
    let topics = Topics::none("set-forward")?;
    let mut made = Made::default();
    made.create("s.a", 1)?;
    for id in 0..20 {
        made.insert("s.a", 1, id)?;
    }
    let first = made.oplog()?;
    topics.produce(&first, &[])?;
    for id in 20..40 {
        made.insert("s.a", 1, id)?;
    }
    let (from, to) = (format!("{}:1", BEGIN + 20), format!("{}:1", BEGIN + 30));
    let set = ["--to", &to, "--term=1", "--fence"];
    position(&topics, "golden", "set", &set, (2, "give --allow-gap"))?;
    let accepted = [&set[..], &["--allow-gap"]].concat();
    position(&topics, "golden", "set", &accepted, (0, "never sent"))?;
    topics.produce(&made.oplog()?, &[])?;
    let counts = counts(&topics)?;
    ensure!(counts.len() == 31, "{counts:?}");
    let shown = show(&topics, "golden", &[])?;
    let gap = &shown["gaps"][0];
    ensure!(gap["after"] == from && gap["through"] == to, "{shown}");
    ensure!(gap["reason"] == "operator", "{shown}");
    let told = format!("the entries after {from} through {to} were never sent");
    let brokers = topics.brokers();
    let mut audit = Program::consumer([
        "audit",
        "--brokers",
        &brokers,
        "--topic-prefix",
        topics.prefix(),
    ])?;
    let code = audit.wait(LIMIT)?;
    let printed = audit.stdout_text()?;
    ensure!(code == 0 && printed.contains(&told), "{code}: {printed}");
    let target = ModelServer::start(Model::default())?;
    let log = topics.replay(&target, "forward", 1, &[])?;
    ensure!(
        log.contains("the producer never sent the entries between these two times"),
        "{log}"
    );

    // Entries of the gap that are sent now follow later entries, so the gap stays recorded.
    let back = ["--to", &from, "--term=1", "--fence"];
    let refused = (2, "before the end of a recorded gap");
    position(&topics, "golden", "set", &back, refused)?;
    let back = [&back[..], &["--allow-before-start"]].concat();
    position(&topics, "golden", "set", &back, (0, "sent again"))?;
    topics.produce(&made.oplog()?, &[])?;
    let shown = show(&topics, "golden", &[])?;
    let gap = &shown["gaps"][0];
    ensure!(
        gap["through"] == to && gap["resent_after"] == from,
        "{shown}"
    );
    topics.replay(&target, "forward", 2, &[])?;
    let expected = state(&made.expected()?);
    ensure!(state(&target.model()) == expected, "the gap is not filled");
    Ok(())
}

#[test]
fn a_lost_position_stops_and_an_operator_may_skip_the_gap() -> Result<()> {
    let topics = Topics::none("skipped")?;
    let oplog = Oplog::generate(3_000, Shape::Inserts);
    let contents = Contents {
        documents: 10,
        large_every: 0,
    };
    let server = Server::start_with(oplog, contents)?;
    let (uri, from) = (server.uri(), send_and_set_back(&topics, &server)?);
    server.truncate(2_000);
    let shown = show(&topics, "rs0", &["--source", &uri])?;
    ensure!(shown["oplog"]["holds_position"] == false, "{shown}");
    let text = position(&topics, "rs0", "show", &["--source", &uri], (0, ""))?;
    ensure!(
        text.contains("THE POSITION IS LOST: the oplog begins 2 s after"),
        "{text}"
    );
    finish(&topics, &server, &[], (3, "position lost"))?;
    let to = server.oplog().time(2_000).to_string();
    let skip = ["--source", &uri, "--to", &to, "--fence", "--allow-gap"];
    position(&topics, "rs0", "set", &skip, (0, "never sent"))?;
    finish(&topics, &server, &[], (0, ""))?;
    let counts = counts(&topics)?;
    // The first run has sent everything once.
    expect_counts(&server, &counts, (100, 2_000), 1)?;
    expect_counts(&server, &counts, (2_000, 2_999), 2)?;
    let shown = show(&topics, "rs0", &["--source", &uri])?;
    let gap = &shown["gaps"][0];
    ensure!(gap["after"] == from && gap["through"] == to, "{shown}");
    ensure!(shown["oplog"]["holds_position"] == true, "{shown}");
    Ok(())
}

#[test]
fn a_position_is_not_set_forward_over_the_end_of_a_collection() -> Result<()> {
    let topics = Topics::none("ended")?;
    // The server has no collections, as if they had been dropped.
    let server = Server::start(Oplog::generate(3_000, Shape::Inserts))?;
    let (uri, from) = (server.uri(), send_and_set_back(&topics, &server)?);
    let skip = ["--source", &uri, "--to=now", "--fence", "--allow-gap"];
    let refused = (2, "bench.orders no longer exists");
    position(&topics, "rs0", "set", &skip, refused)?;
    ensure!(show(&topics, "rs0", &[])?["position"]["ts"] == from);
    Ok(())
}
