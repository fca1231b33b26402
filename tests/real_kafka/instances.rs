//! Instances of oplog-producer that share their sources.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use anyhow::{Result, ensure};
use oplog_relay_core::format::Format;
use oplog_relay_kit::http_status::{probe, status};
use oplog_relay_kit::services::{Kafka, Port, Program, wait_until};
use oplog_relay_kit::stub::{Oplog, Recipe, Server, Shape};
use oplog_relay_kit::topic_reader::{count_keys, read_topics};
use serde_json::Value;

use crate::topics::LIMIT;

/// The number of entries of each source in a second.
const RATE: u64 = 300;

/// Sources whose entries appear while the test runs, each with topics of its own.
struct Sources {
    group: &'static str,
    servers: BTreeMap<String, Server>,
    entries: u64,
    brokers: String,
    _kafka: Arc<Kafka>,
}

impl Sources {
    fn start(group: &'static str, names: &[&str], seconds: u64) -> Result<Sources> {
        let now = SystemTime::now().duration_since(UNIX_EPOCH)?;
        let recipe = Recipe {
            per_second: RATE,
            first_second: u32::try_from(now.as_secs())?,
            ..Recipe::new(RATE * seconds, Shape::Inserts)
        };
        let servers: Result<BTreeMap<String, Server>> = names
            .iter()
            .map(|name| Ok(((*name).to_owned(), Server::start_live(Oplog::make(recipe))?)))
            .collect();
        let kafka = Kafka::shared()?;
        Ok(Sources {
            group,
            servers: servers?,
            entries: recipe.entries,
            brokers: kafka.brokers(),
            _kafka: kafka,
        })
    }

    fn prefix(&self, name: &str) -> String {
        format!("{}-{name}", self.group)
    }

    fn start_instance(&self) -> Result<Instance> {
        self.start_instance_reading(&[], |_, server| server.uri())
    }

    /// Starts an instance with more flags and with other addresses of the sources.
    fn start_instance_reading(
        &self,
        more: &[&str],
        uri: impl Fn(&str, &Server) -> String,
    ) -> Result<Instance> {
        let port = Port::lease()?;
        let mut flags = vec![
            "run".to_owned(),
            format!("--http=127.0.0.1:{}", port.number()),
            format!("--brokers={}", self.brokers),
            format!("--topic-prefix={}", self.group),
            "--start=oldest".to_owned(),
            "--high-availability".to_owned(),
            // The shortest session timeout that a broker accepts by default.
            "--takeover-after=6s".to_owned(),
        ];
        for (name, server) in &self.servers {
            let prefix = self.prefix(name);
            let source = serde_json::json!({
                "name": name, "uri": uri(name, server), "topic_prefix": prefix,
            });
            flags.push(format!("--source={source}"));
        }
        let flags = flags.iter().map(String::as_str);
        let program = Program::producer(flags.chain(more.iter().copied()))?;
        Ok(Instance { program, port })
    }

    /// Waits until Kafka has all entries, and checks that each is there once and in order.
    fn expect_all_once(&self) -> Result<()> {
        for name in self.servers.keys() {
            let prefix = self.prefix(name);
            wait_until("all entries", LIMIT, || {
                count_keys(&self.brokers, &prefix).is_ok_and(|count| count >= self.entries)
            })?;
            let mut count = 0;
            for (place, records) in read_topics(&self.brokers, &prefix, Format::Bson)? {
                let ids = records.iter().flat_map(|record| &record.entries);
                let ids: Vec<_> = ids.map(|entry| entry.id).collect();
                ensure!(
                    ids.is_sorted_by(|a, b| a < b),
                    "{place:?}: doubled or out of order"
                );
                count += ids.len() as u64;
            }
            ensure!(count == self.entries, "{name}: {count} of {}", self.entries);
        }
        Ok(())
    }
}

/// A running instance.
struct Instance {
    program: Program,
    port: Port,
}

impl Instance {
    /// Returns its role for each source. There are none while the instance does not answer.
    fn roles(&self) -> BTreeMap<String, String> {
        let Some(shown) = status(self.port.number()) else {
            return BTreeMap::new();
        };
        let several = shown["sources"].as_array().cloned();
        let sources: Vec<Value> = several.unwrap_or_else(|| vec![shown]);
        let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
        let roles = sources.iter();
        roles
            .map(|it| (text(&it["source"]), text(&it["role"])))
            .collect()
    }

    fn is(&self, role: &str) -> bool {
        let roles = self.roles();
        !roles.is_empty() && roles.values().all(|found| found == role)
    }

    fn active(&self) -> usize {
        self.roles()
            .values()
            .filter(|role| *role == "active")
            .count()
    }

    fn commits(&self) -> f64 {
        let shown = status(self.port.number()).unwrap_or_default();
        shown["commits"].as_f64().unwrap_or(0.0)
    }

    fn is_ready(&self) -> bool {
        probe(self.port.number(), "/readyz").is_some_and(|probe| probe.passes)
    }

    fn terminate(mut self) -> Result<()> {
        self.program.stop(LIMIT)
    }
}

#[test]
fn a_standby_takes_over_after_a_stop_a_crash_and_a_suspension() -> Result<()> {
    let sources = Sources::start("ha-one", &["eu"], 45)?;
    let first = sources.start_instance()?;
    wait_until("the first instance", LIMIT, || {
        first.is("active") && first.is_ready()
    })?;
    let second = sources.start_instance()?;
    wait_until("the standby", LIMIT, || {
        second.is("standby") && second.is_ready()
    })?;
    ensure!(first.is("active"), "a new instance took the source");
    let takes_over = |instance: &Instance| {
        wait_until("the takeover", LIMIT, || {
            instance.is("active") && instance.commits() > 0.0
        })
    };
    first.terminate()?;
    takes_over(&second)?;

    let mut third = sources.start_instance()?;
    wait_until("the standby", LIMIT, || third.is("standby"))?;
    let mut second = second;
    second.program.kill_9()?;
    takes_over(&third)?;

    let fourth = sources.start_instance()?;
    wait_until("the standby", LIMIT, || fourth.is("standby"))?;
    third.program.signal("STOP")?;
    takes_over(&fourth)?;
    third.program.signal("CONT")?;
    // The suspended instance learns that it has lost the source, and does not take it back.
    wait_until("the end of the suspended session", LIMIT, || {
        third.is("standby")
    })?;
    ensure!(fourth.is("active"), "{}", third.program.stderr_text()?);
    sources.expect_all_once()?;
    third.terminate()?;
    fourth.terminate()
}

#[test]
fn an_instance_that_cannot_reach_a_source_leaves_it_to_another() -> Result<()> {
    let sources = Sources::start("ha-blind", &["eu"], 5)?;
    let blind = sources.start_instance_reading(&["--stalled-after=5s"], |_, _| {
        "mongodb://127.0.0.1:1/?serverSelectionTimeoutMS=300".to_owned()
    })?;
    wait_until("the first instance", LIMIT, || blind.is("active"))?;
    let other = sources.start_instance()?;
    wait_until("the other instance to follow the source", LIMIT, || {
        other.is("active") && blind.is("standby")
    })?;
    sources.expect_all_once()?;
    blind.terminate()?;
    other.terminate()
}

#[test]
fn four_sources_are_carried_once_while_three_instances_come_and_go() -> Result<()> {
    let seconds: u64 = match std::env::var("OPLOG_RELAY_CHAOS_SECONDS") {
        Ok(seconds) => seconds.parse()?,
        Err(_) => 18,
    };
    let sources = Sources::start("ha-many", &["a", "b", "c", "d"], seconds + 22)?;
    let mut instances = Vec::new();
    for _ in 0..3 {
        instances.push(sources.start_instance()?);
    }
    // Two of three instances follow one source each, and the third follows two.
    wait_until("an even spread", LIMIT, || {
        let active: Vec<usize> = instances.iter().map(Instance::active).collect();
        active.iter().sum::<usize>() == 4 && active.iter().all(|count| (1..=2).contains(count))
    })?;
    let mut suspended: Option<Instance> = None;
    // An event happens every one and a half seconds.
    for event in 0..seconds * 2 / 3 {
        let begun = Instant::now();
        let life = Duration::from_millis(900 + 311 * (event * 7 % 5));
        wait_until("the next event", LIMIT, || begun.elapsed() >= life)?;
        let mut instance = instances.remove(0);
        match event % 3 {
            0 => {
                instance.program.kill_9()?;
                instances.push(sources.start_instance()?);
            }
            1 => {
                instance.program.signal("STOP")?;
                // The instance that was suspended earlier wakes up; it has lost its sources.
                if let Some(mut woken) = suspended.replace(instance) {
                    woken.program.signal("CONT")?;
                    instances.push(woken);
                } else {
                    instances.push(sources.start_instance()?);
                }
            }
            _ => {
                instance.terminate()?;
                instances.push(sources.start_instance()?);
            }
        }
    }
    if let Some(mut woken) = suspended {
        woken.program.signal("CONT")?;
        instances.push(woken);
    }
    wait_until("one instance for each source", LIMIT, || {
        instances.iter().map(Instance::active).sum::<usize>() == 4
    })?;
    sources.expect_all_once()?;
    instances.into_iter().try_for_each(Instance::terminate)
}
