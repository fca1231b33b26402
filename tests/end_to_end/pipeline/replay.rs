//! `oplog-consumer replay`.

use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use bson::doc;
use mongodb::Client;
use oplog_relay_kit::services::wait_until;
use rdkafka::ClientConfig;
use rdkafka::producer::{BaseProducer, BaseRecord, Producer};

use crate::pipeline::history::History;
use crate::pipeline::scene::{LIMIT, Scene};

const KILLS: u32 = 20;
const KILLED_INSERTS: u32 = 40_000;
/// The duration of the outage of a target.
const TARGET_DOWN: Duration = Duration::from_secs(5);

#[tokio::test(flavor = "multi_thread")]
async fn every_exact_format_leads_to_the_same_documents() -> Result<()> {
    let history = History::mixed(1, 3_000, 3);
    for (name, format) in [
        ("raw", &["--format=raw"][..]),
        ("bson", &["--format=bson"]),
        ("canonical", &["--format=json", "--json=canonical"]),
    ] {
        let scene = Scene::new(&format!("formats-{name}"))?;
        scene.produce(&history, format)?;
        scene.replay_all(&format!("formats-{name}"))?;
        scene.expect(&history.state).await?;
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn relaxed_json_is_refused_unless_loss_is_allowed() -> Result<()> {
    let history = History::mixed(2, 200, 1);
    let scene = Scene::new("relaxed")?;
    scene.produce(&history, &["--format=json"])?;
    let (code, said) = scene.replay("relaxed", &[])?;
    ensure!(
        code == 2 && said.contains("--allow-lossy"),
        "{code}: {said}"
    );
    let (code, said) = scene.replay("relaxed", &["--allow-lossy"])?;
    ensure!(code == 0, "{said}");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_reset_to_the_beginning_or_to_a_time_ends_in_the_same_state() -> Result<()> {
    let history = History::mixed(3, 4_000, 3);
    let scene = Scene::new("reset")?;
    scene.produce(&history, &[])?;
    scene.replay_all("reset")?;
    scene.expect(&history.state).await?;
    let middle = jiff::Timestamp::from_second(history.middle().into())?;
    let middle = middle.strftime("%Y-%m-%dT%H:%M:%S.000").to_string();
    for to in [&["--to-earliest"][..], &["--to-datetime", &middle]] {
        let reset = [
            "--group",
            "reset",
            "--reset-offsets",
            "--all-topics",
            "--execute",
        ];
        scene.groups(&[&reset, to].concat())?;
        let lags = scene.lags("reset")?;
        ensure!(lags.iter().any(|lag| lag != "0"), "the reset moved nothing");
        scene.replay_all("reset")?;
        scene.expect(&history.state).await?;
        let lags = scene.lags("reset")?;
        ensure!(
            !lags.is_empty() && lags.iter().all(|lag| lag == "0"),
            "{lags:?}"
        );
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn the_consumer_killed_twenty_times_leaves_the_target_equal() -> Result<()> {
    let history = History::mixed(4, KILLED_INSERTS, 40);
    let scene = Scene::new("killed")?;
    scene.produce(&history, &["--format=raw", "--partitions=2"])?;
    for kill in 0..KILLS {
        // The partitions of a killed member are assigned again when its session times out.
        let session = [
            "--kafka-option=session.timeout.ms=1500",
            "--kafka-option=heartbeat.interval.ms=300",
        ];
        let mut program = scene.start_replay("killed", &session)?;
        wait_until("partitions", LIMIT, || {
            let said = program.stderr_text();
            said.is_ok_and(|said| said.contains("partitions assigned"))
        })?;
        // Each kill happens at a different moment of the first second of work.
        let life = Duration::from_millis(u64::from(kill * 379 % 1000));
        let begun = Instant::now();
        wait_until("the moment", LIMIT, || begun.elapsed() >= life)?;
        ensure!(program.is_running()?, "{}", program.stderr_text()?);
        program.kill_9()?;
    }
    scene.replay_all("killed")?;
    scene.expect(&history.state).await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_target_that_is_down_for_a_while_receives_everything() -> Result<()> {
    let history = History::mixed(5, 20_000, 20);
    let mut scene = Scene::new("down")?;
    scene.produce(&history, &[])?;
    let mut program = scene.start_replay("down", &["--until-caught-up"])?;
    wait_until("partitions", LIMIT, || {
        let said = program.stderr_text();
        said.is_ok_and(|said| said.contains("partitions assigned"))
    })?;
    scene.target.kill()?;
    let begun = Instant::now();
    wait_until("the end of the outage", LIMIT, || {
        begun.elapsed() >= TARGET_DOWN
    })?;
    ensure!(
        program.is_running()?,
        "the replay gave up: {}",
        program.stderr_text()?
    );
    scene.target.restart()?;
    let code = program.wait(LIMIT)?;
    ensure!(code == 0, "{}", program.stderr_text()?);
    scene.expect(&history.state).await
}

#[tokio::test(flavor = "multi_thread")]
async fn members_that_join_and_leave_share_the_work() -> Result<()> {
    let history = History::mixed(6, 30_000, 20);
    let scene = Scene::new("members")?;
    scene.produce(&history, &[])?;
    let mut first = scene.start_replay("members", &[])?;
    let mut second = scene.start_replay("members", &[])?;
    wait_until("partitions of both", LIMIT, || {
        let assigned =
            |said: Result<String>| said.is_ok_and(|said| said.contains("partitions assigned"));
        assigned(first.stderr_text()) && assigned(second.stderr_text())
    })?;
    first.stop(LIMIT)?;
    scene.replay_all("members")?;
    second.terminate()?;
    second.wait(LIMIT)?;
    scene.expect(&history.state).await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_record_that_cannot_be_decoded_stops_the_replay_and_is_named() -> Result<()> {
    let mut history = History::new(7);
    history.insert("app.a", doc! { "_id": "x" });
    let scene = Scene::new("garbage")?;
    scene.produce(&history, &["--partitions=1"])?;
    let mut client = ClientConfig::new();
    let producer: BaseProducer = client
        .set("bootstrap.servers", scene.kafka.brokers())
        .create()?;
    let record = BaseRecord::<[u8], [u8]>::to("garbage.app.a")
        .partition(0)
        .payload(b"no bson");
    producer.send(record).map_err(|(error, _)| error)?;
    producer.flush(LIMIT)?;
    let (code, said) = scene.replay("garbage", &[])?;
    ensure!(code == 6, "{code}: {said}");
    // One record lies before it, and possibly the commit marker of that record's transaction.
    let place = |offset| format!("topic garbage.app.a, partition 0, offset {offset}: ");
    ensure!(
        [1, 2].iter().any(|offset| said.contains(&place(offset))),
        "{said}"
    );
    scene.expect(&history.state).await
}

#[tokio::test(flavor = "multi_thread")]
async fn commands_run_on_the_target_and_an_unknown_one_stops_the_replay() -> Result<()> {
    let mut history = History::new(8);
    history.insert("app.a", doc! { "_id": "x" });
    history.insert("app.b", doc! { "_id": "y" });
    let scene = Scene::new("commands")?;
    let mut command = history.entries[0].clone();
    let mut next = |increment: u32, o: bson::Document| {
        let ts = bson::Timestamp {
            time: 1_700_000_100,
            increment,
        };
        command.extend(doc! { "op": "c", "ns": "app.$cmd", "o": o, "ts": ts });
        command.clone()
    };
    history.entries.push(next(1, doc! { "create": "c" }));
    history.entries.push(next(2, doc! { "drop": "b" }));
    history.state.remove("app.b");
    scene.produce(&history, &[])?;
    scene.replay_all("commands")?;
    scene.expect(&history.state).await?;
    let database = Client::with_uri_str(scene.target.uri())
        .await?
        .database("app");
    let mut names = database.list_collection_names().await?;
    names.sort();
    ensure!(names == ["a", "c"], "{names:?}");

    history.entries.push(next(3, doc! { "fly": "a" }));
    scene.produce(&history, &[])?;
    let (code, said) = scene.replay("commands", &[])?;
    ensure!(code == 6 && said.contains("fly"), "{code}: {said}");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_document_of_nearly_16_mb_passes_in_every_format() -> Result<()> {
    let mut history = History::new(9);
    let text = "x".repeat(15_900_000);
    history.insert("app.large", doc! { "_id": "large", "text": text });
    for (name, format) in [
        ("raw", &["--format=raw"][..]),
        ("bson", &["--format=bson"]),
        ("canonical", &["--format=json", "--json=canonical"]),
        ("relaxed", &["--format=json"]),
    ] {
        let scene = Scene::new(&format!("large-{name}"))?;
        scene.produce(&history, format)?;
        let (code, said) = scene.replay("large", &["--allow-lossy"])?;
        ensure!(code == 0, "{name}: {said}");
        scene.expect(&history.state).await?;
    }
    Ok(())
}
