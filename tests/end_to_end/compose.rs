//! The services of the compose file, run as processes of this machine, with the arguments and the
//! environment of the file. Only the host names and the HTTP port differ.

use std::path::Path;

use anyhow::{Context, Result, ensure};
use bson::{Document, doc};
use mongodb::Client;
use oplog_relay_kit::services::{
    FerretDb, FerretDbOptions, Kafka, Port, Program, compose_services, wait_until, wait_until_async,
};
use oplog_relay_tests::schema::EventSchema;
use serde_json::Value;

use crate::support::{Ended, LIMIT, source};

/// A service of the compose file, run as a process of this machine.
struct Service {
    program: Program,
    /// The name of the program.
    name: String,
    /// The arguments of its health check.
    health: Vec<String>,
}

impl Service {
    fn start(model: &Value, service: &str, hosts: &[(&str, String)]) -> Result<Service> {
        let port = Port::lease()?;
        let model = &model[service];
        let address = |text: &str| text.replace("0.0.0.0:9100", "127.0.0.1:9100");
        let address = |text: &str| {
            address(text).replace("127.0.0.1:9100", &format!("127.0.0.1:{}", port.number()))
        };
        let mut variables = Vec::new();
        for (name, value) in model["environment"].as_object().context("variables")? {
            let mut value = value.as_str().context("no value")?.to_owned();
            for (host, here) in hosts {
                value = value.replace(host, here);
            }
            variables.push((name.clone(), address(&value)));
        }
        let words = |list: &Value| -> Result<Vec<String>> {
            let list = list.as_array().context("not a list")?.iter();
            list.map(|word| Ok(word.as_str().context("not a string")?.to_owned()))
                .collect()
        };
        let entrypoint = words(&model["entrypoint"])?;
        let name = Path::new(&entrypoint[0])
            .file_name()
            .and_then(|name| name.to_str());
        let name = name.context("no program")?.to_owned();
        let variables: Vec<_> = variables
            .iter()
            .map(|(name, value)| (name.as_str(), value.as_str()))
            .collect();
        let program = Program::start(&name, words(&model["command"])?, &variables)?;
        let test = words(&model["healthcheck"]["test"])?;
        let health = test[2..].iter().map(|word| address(word)).collect();
        Ok(Service {
            program,
            name,
            health,
        })
    }

    /// Waits for the health check that Docker Compose awaits before it starts dependent services.
    fn wait_until_healthy(&mut self) -> Result<()> {
        wait_until("a healthy service", LIMIT, || {
            let healthy = Program::start(&self.name, &self.health, &[]);
            let healthy = healthy
                .and_then(|mut healthy| healthy.wait(LIMIT))
                .is_ok_and(|code| code == 0);
            healthy || !self.program.is_running().unwrap_or(false)
        })?;
        ensure!(
            self.program.is_running()?,
            "{}",
            self.program.stderr_text()?
        );
        Ok(())
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn compose_services_carry_writes_to_the_target_and_to_standard_output() -> Result<()> {
    let model =
        compose_services(&Path::new(env!("CARGO_MANIFEST_DIR")).join("../docker-compose.yml"))?;
    let (kafka, source) = (Kafka::shared()?, source()?);
    let target = FerretDb::start(&FerretDbOptions::target())?;
    let hosts = [
        ("mongodb://mongo:27017/?replicaSet=rs0", source.uri()),
        ("mongodb://target:27017", target.uri()),
        ("kafka:9092", kafka.brokers()),
    ];
    let things = Client::with_uri_str(source.uri())
        .await?
        .database("shop")
        .collection("things");
    things.insert_one(doc! { "_id": 1, "name": "one" }).await?;
    let mut services = Vec::new();
    for name in ["producer", "consumer-replay", "consumer-emit"] {
        let mut service = Service::start(&model, name, &hosts)?;
        service
            .wait_until_healthy()
            .with_context(|| name.to_owned())?;
        services.push(service);
    }
    things.insert_one(doc! { "_id": 2, "name": "two" }).await?;
    things
        .update_one(doc! { "_id": 1 }, doc! { "$set": { "name": "first" } })
        .await?;

    let replayed = Client::with_uri_str(target.uri()).await?.database("shop");
    let replayed = replayed.collection::<Document>("things");
    wait_until_async("the target", LIMIT, async || {
        let first = replayed.find_one(doc! { "_id": 1, "name": "first" }).await;
        let second = replayed.find_one(doc! { "_id": 2, "name": "two" }).await;
        matches!((first, second), (Ok(Some(_)), Ok(Some(_))))
    })
    .await?;
    let emit = &services[2].program;
    wait_until("the lines", LIMIT, || {
        emit.stdout_text()
            .is_ok_and(|text| text.lines().count() == 3)
    })?;
    let schema = EventSchema::of_change_events()?;
    for line in emit.stdout_text()?.lines() {
        schema.check(&serde_json::from_str(line)?)?;
    }
    for mut service in services.into_iter().rev() {
        service.program.terminate()?;
        Ended::wait(service.program)?.with_code(143)?;
    }
    Ok(())
}
