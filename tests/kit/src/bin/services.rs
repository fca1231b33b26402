//! Starts and stops the standing servers for the demo and for manual work: `services up|down|status
//! [--kafka-port N] [--source-port N] [--target-port N] [--registry-port N]`.
//!
//! The ports also come from `KAFKA_PORT`, `SOURCE_PORT`, `TARGET_PORT` and `REGISTRY_PORT`. Data
//! and logs are in `.cache/services/`; `down` keeps them, except for the schemas of the registry,
//! which keeps them in memory.
#![allow(
    clippy::print_stdout,
    reason = "a command for a terminal prints its results"
)]

use anyhow::{Context, Result, bail};
use oplog_relay_kit::services::{Standing, StandingPorts, StandingState};

const USAGE: &str = "usage: services up|down|status [--kafka-port N] [--source-port N] [--target-port N] \
                     [--registry-port N]";

fn main() -> Result<()> {
    let mut args = std::env::args().skip(1);
    let action = args.next().context(USAGE)?;
    let mut ports = ports_from_env()?;
    while let Some(flag) = args.next() {
        let value = args.next().context(USAGE)?;
        let port = port_number(&flag, &value)?;
        match flag.as_str() {
            "--kafka-port" => ports.kafka = port,
            "--source-port" => ports.source = port,
            "--target-port" => ports.target = port,
            "--registry-port" => ports.registry = port,
            _ => bail!("unknown option {flag}; {USAGE}"),
        }
    }
    match action.as_str() {
        "up" => {
            let states = Standing::open(ports)?.up()?;
            print_states(&states);
            print_examples(&states);
        }
        "down" => {
            for state in Standing::open(ports)?.down()? {
                let was = state.id.map_or("was not running", |_| "stopped");
                println!("{:8} {was}", state.name);
            }
        }
        "status" => print_states(&Standing::open(ports)?.state()?),
        _ => bail!("unknown action {action}; {USAGE}"),
    }
    Ok(())
}

fn ports_from_env() -> Result<StandingPorts> {
    let mut ports = StandingPorts::default();
    for (variable, port) in [
        ("KAFKA_PORT", &mut ports.kafka),
        ("SOURCE_PORT", &mut ports.source),
        ("TARGET_PORT", &mut ports.target),
        ("REGISTRY_PORT", &mut ports.registry),
    ] {
        if let Ok(value) = std::env::var(variable) {
            *port = port_number(variable, &value)?;
        }
    }
    Ok(ports)
}

fn port_number(name: &str, value: &str) -> Result<u16> {
    value
        .parse()
        .with_context(|| format!("{name}: {value:?} is not a port"))
}

fn print_states(states: &[StandingState]) {
    for state in states {
        let condition = match (state.id, state.ready) {
            (Some(id), true) => format!("runs, process {id}"),
            (Some(id), false) => format!("does not answer, process {id}"),
            (None, _) => "stopped".to_owned(),
        };
        println!("{:8} {:50} {condition}", state.name, state.address);
    }
}

fn print_examples(states: &[StandingState]) {
    let [kafka, source, target, registry] = states else {
        return;
    };
    let (kafka, source, target) = (&kafka.address, &source.address, &target.address);
    let registry = &registry.address;
    println!(
        "
Copy the source's oplog into Kafka, and from Kafka into the target:

  oplog-producer run --source '{source}' --brokers {kafka} \\
    --topic-prefix cdc --start oldest
  oplog-consumer replay --brokers {kafka} --topic-prefix cdc --group replay \\
    --target '{target}'
  oplog-consumer emit --brokers {kafka} --topic-prefix cdc --group emit --to stdout

Topics in Avro, with their schemas in the registry:

  oplog-producer run --source '{source}' --brokers {kafka} \\
    --topic-prefix avro --start oldest --format avro --registry-url {registry}"
    );
}
