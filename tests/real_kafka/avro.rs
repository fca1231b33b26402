//! Topics in Avro, with their schemas in a real registry and in fake ones that fail.

use std::io::{Read, Write};
use std::net::TcpStream;

use anyhow::{Context, Result, ensure};
use oplog_relay_kit::fake_registry::FakeRegistry;
use oplog_relay_kit::http_status::probe;
use oplog_relay_kit::model::{Model, ModelServer};
use oplog_relay_kit::services::{Apicurio, Port, registry_url, wait_until};

use crate::made::mixed;
use crate::topics::{LIMIT, Topics};

const AVRO: [&str; 2] = ["--format=avro", "--json=canonical"];

/// Sends a request to a registry, which must accept it.
fn send(registry: &Apicurio, method: &str, path: &str, body: &str) -> Result<()> {
    let url = format!("{}{path}", registry.url());
    let rest = url.strip_prefix("http://").context("not an http URL")?;
    let (host, path) = rest.split_once('/').context("no path")?;
    let mut stream = TcpStream::connect(host)?;
    let content = "content-type: application/json\r\nconnection: close";
    let length = body.len();
    write!(
        stream,
        "{method} /{path} HTTP/1.1\r\nhost: {host}\r\n{content}\r\ncontent-length: {length}\r\n\r\n{body}"
    )?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer)?;
    ensure!(answer.starts_with("HTTP/1.1 200"), "{answer}");
    Ok(())
}

#[test]
fn a_topic_in_avro_is_read_by_a_foreign_deserializer_and_replayed_exactly() -> Result<()> {
    let registry = Apicurio::start()?;
    let url = format!("--registry-url={}", registry.url());
    let topics = Topics::none("avro")?;
    let made = mixed()?;
    topics.produce(&made.oplog()?, &[&AVRO[..], &[&url]].concat())?;

    let printed = registry.print_topics(&topics.brokers(), &["avro.s.a"])?;
    let of = |operation: &str| {
        let operation = format!("\"operationType\": \"{operation}\"");
        printed
            .lines()
            .filter(move |line| line.contains(&operation))
    };
    ensure!(of("insert").count() == 20, "{printed}");
    ensure!(of("update").count() == 20 && of("delete").count() == 5);
    let insert = of("insert").find(|line| line.contains(r#"{"_id": "7"}"#));
    let insert = insert.context("the insert of 7 is missing")?;
    let document = r#""fullDocument": "{\"_id\":{\"$numberInt\":\"7\"}"#;
    ensure!(insert.contains(document), "{insert}");

    for (group, processes) in [("avro-one", 1), ("avro-three", 3)] {
        let target = ModelServer::start(Model::default())?;
        topics.replay(&target, group, processes, &[])?;
        let state = target.model().state();
        ensure!(state.get("s.a") == made.expected()?.state().get("s.a"));
    }
    let lines = topics.emit("avro-emit")?;
    ensure!(lines.lines().count() == 47, "{lines}");
    Ok(())
}

#[test]
fn an_avro_topic_for_readers_is_emitted_and_not_replayed() -> Result<()> {
    let registry = FakeRegistry::start("200 OK", r#"{"id":9}"#)?;
    let url = format!("--registry-url={}", registry.url());
    let topics = Topics::none("avro-readers")?;
    let flags = ["--format=avro", "--replayable=false", &url];
    topics.produce(&mixed()?.oplog()?, &flags)?;
    ensure!(topics.records()?.len() == 45);
    ensure!(topics.emit("avro-readers-emit")?.lines().count() == 45);
    let target = ModelServer::start(Model::default())?;
    let refusal = (2, "is for readers only");
    topics.refused(&target, "avro-readers", &["--allow-lossy"], refusal)
}

#[test]
fn a_producer_waits_for_its_registry_and_says_so() -> Result<()> {
    let topics = Topics::none("avro-down")?;
    let (of_registry, of_status) = (Port::lease()?, Port::lease()?);
    let folder = tempfile::tempdir()?;
    let url = format!("--registry-url={}", registry_url(&of_registry));
    let made = mixed()?;
    let http = format!("--http=127.0.0.1:{}", of_status.number());
    let flags = [&AVRO[..], &[&url]].concat();
    let mut producer =
        topics.start_producer_serving(folder.path(), &made.oplog()?, &http, &flags)?;
    let mut last = None;
    wait_until("the reason", LIMIT, || {
        last = probe(of_status.number(), "/readyz");
        let unready = last.as_ref().filter(|ready| !ready.passes);
        unready.is_some_and(|unready| {
            unready
                .text
                .contains("the schema registry cannot be reached")
        })
    })
    .with_context(|| format!("{last:?}"))?;
    let registry = Apicurio::start_on(of_registry)?;
    let code = producer.wait(LIMIT)?;
    ensure!(code == 0, "{}", producer.stderr_text()?);
    drop(registry);
    // A replay needs no registry.
    let target = ModelServer::start(Model::default())?;
    topics.replay(&target, "avro-down", 1, &[])?;
    let state = target.model().state();
    ensure!(state.get("s.a") == made.expected()?.state().get("s.a"));
    Ok(())
}

#[test]
fn schemas_that_are_missing_or_incompatible_stop_the_producer_before_the_first_record() -> Result<()>
{
    let registry = Apicurio::start()?;
    let url = format!("--registry-url={}", registry.url());
    let oplog = mixed()?.oplog()?;
    let topics = Topics::none("avro-strict")?;
    let flags = [&AVRO[..], &[&url]].concat();
    let strict = [&flags[..], &["--registry-auto-register=false"]].concat();
    let missing = (2, "Register schemas/document-key.avsc");
    topics.produce_to_code(&oplog, &strict, missing)?;

    let other = r#"{"type":"record","name":"Other","fields":[{"name":"n","type":"int"}]}"#;
    let schema = serde_json::json!({ "schema": other, "schemaType": "AVRO" }).to_string();
    let subject = "/subjects/avro-strict.s.a-value";
    send(&registry, "POST", &format!("{subject}/versions"), &schema)?;
    let rule = r#"{"compatibility":"FULL"}"#;
    send(&registry, "PUT", "/config/avro-strict.s.a-value", rule)?;
    let refusal = (
        2,
        "refuses this version's schema: subject avro-strict.s.a-value",
    );
    topics.produce_to_code(&oplog, &flags, refusal)?;
    ensure!(topics.records()?.is_empty(), "records were written");

    let by_record = [&flags[..], &["--registry-subjects=record"]].concat();
    topics.produce(&oplog, &by_record)?;
    // The schemas are registered now, under the names of their records.
    let strict = [&by_record[..], &["--registry-auto-register=false"]].concat();
    topics.produce(&oplog, &strict)
}

#[test]
fn a_registry_is_asked_once_for_each_subject_with_the_login_and_at_the_next_address() -> Result<()>
{
    let registry = FakeRegistry::start("200 OK", r#"{"id":1025}"#)?;
    let closed = Port::lease()?;
    let topics = Topics::none("avro-login")?;
    let secrets = tempfile::tempdir()?;
    let login = secrets.path().join("login");
    std::fs::write(&login, "relay:secret\n")?;
    let flags = [
        "--format=avro".to_owned(),
        format!(
            "--registry-url=http://127.0.0.1:{},{}",
            closed.number(),
            registry.url()
        ),
        format!("--registry-login=file:{}", login.display()),
    ];
    let flags: Vec<&str> = flags.iter().map(String::as_str).collect();
    topics.produce(&mixed()?.oplog()?, &flags)?;
    let requests: Vec<String> = registry.requests();
    ensure!(requests.len() == 2, "{requests:?}");
    for (request, part) in requests.iter().zip(["key", "value"]) {
        let path = format!("POST /registry/subjects/avro-login.s.a-{part}/versions ");
        ensure!(request.starts_with(&path), "{request}");
        let basic = "authorization: basic cmvsyxk6c2vjcmv0";
        ensure!(request.to_ascii_lowercase().contains(basic), "{request}");
    }
    for record in topics.records()? {
        ensure!(record.value.starts_with(&[0, 0, 0, 4, 1]), "{record:?}");
        let key = record.key.as_deref();
        ensure!(key.is_none_or(|key| key.starts_with(&[0, 0, 0, 4, 1])));
    }
    Ok(())
}

#[test]
fn a_registry_with_a_certificate_of_a_private_authority_is_reached_over_tls() -> Result<()> {
    let (registry, authority) = FakeRegistry::start_with_tls("200 OK", r#"{"id":1025}"#)?;
    let topics = Topics::none("avro-tls")?;
    let folder = tempfile::tempdir()?;
    let path = folder.path().join("authority.pem");
    std::fs::write(&path, authority)?;
    let url = format!("--registry-url={}", registry.url());
    let trust = format!("--registry-ca={}", path.display());
    let oplog = mixed()?.oplog()?;

    // Without the authority, the certificate is refused, and the reason is in the log.
    let flags = ["--format=avro", &url];
    let mut producer = topics.start_producer(folder.path(), &oplog, &flags)?;
    wait_until("the reason", LIMIT, || {
        let log = producer.stderr_text().unwrap_or_default();
        log.contains("the schema registry cannot be reached") && log.contains("UnknownIssuer")
    })
    .with_context(|| producer.stderr_text().unwrap_or_default())?;
    producer.kill_9()?;
    ensure!(registry.requests().is_empty());
    ensure!(topics.records()?.is_empty());

    topics.produce(&oplog, &["--format=avro", &url, &trust])?;
    ensure!(registry.requests().len() == 2);
    ensure!(topics.emit("avro-tls")?.lines().count() == 47);
    Ok(())
}

#[test]
fn answers_that_are_not_those_of_a_registry_stop_the_producer_and_show_no_secret() -> Result<()> {
    let oplog = mixed()?.oplog()?;
    for (number, (status, body, reason)) in [
        ("200 OK", "<html>a page</html>", "is not a schema registry"),
        ("200 OK", "{}", "is not a schema registry"),
        ("401 Unauthorized", "{}", "refuses access for subject"),
        ("400 Bad Request", "{}", "is not a schema registry"),
        ("404 Not Found", "{}", "is not a schema registry"),
        ("409 Conflict", "{}", "refuses this version's schema"),
    ]
    .into_iter()
    .enumerate()
    {
        let registry = FakeRegistry::start(status, body)?;
        let topics = Topics::none(&format!("avro-nonsense-{number}"))?;
        // Any answer is final: the second address is used only if the first one does not answer.
        let unused = Port::lease()?.number();
        let url = format!(
            "--registry-url={},http://127.0.0.1:{unused}",
            registry.url()
        );
        let flags = ["--format=avro", &url, "--registry-token=hidden-token"];
        topics.produce_to_code(&oplog, &flags, (2, reason))?;
        let folder = tempfile::tempdir()?;
        let mut producer = topics.start_producer(folder.path(), &oplog, &flags)?;
        producer.wait(LIMIT)?;
        ensure!(!producer.stderr_text()?.contains("hidden-token"));
    }
    Ok(())
}
