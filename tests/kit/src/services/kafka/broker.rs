//! One broker: its directory, its configuration, its command line, and its readiness.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::Result;
use rdkafka::ClientConfig;
use rdkafka::config::RDKafkaLogLevel;
use rdkafka::consumer::{BaseConsumer, Consumer};

use crate::services::kafka::home::Home;
use crate::services::kafka::{KafkaLine, KafkaOptions};
use crate::services::process;
use crate::services::wait::wait_for;

/// Properties of a single broker that starts quickly and needs little memory.
///
/// Internal topics have one replica and few partitions. A group does not wait before its first
/// assignment, and session timeouts of half a second are permitted. Records may be many times as
/// large as the largest MongoDB document. The cleaner's map takes 128 MB of heap by default.
const PROPERTIES: &str = "\
auto.create.topics.enable=false
default.replication.factor=1
min.insync.replicas=1
offsets.topic.replication.factor=1
offsets.topic.num.partitions=5
transaction.state.log.replication.factor=1
transaction.state.log.min.isr=1
transaction.state.log.num.partitions=5
group.initial.rebalance.delay.ms=0
group.min.session.timeout.ms=500
message.max.bytes=115343360
replica.fetch.max.bytes=115343360
socket.request.max.bytes=134217728
log.cleaner.dedupe.buffer.size=8388608
num.network.threads=2
num.io.threads=4
";

/// Properties of a broker that is its own controller. A killed broker returns only when its
/// controller session has timed out, after 9 seconds by default.
const OWN_CONTROLLER: &str = "\
process.roles=broker,controller
node.id=1
controller.listener.names=CONTROLLER
inter.broker.listener.name=PLAINTEXT
listener.security.protocol.map=PLAINTEXT:PLAINTEXT,CONTROLLER:PLAINTEXT,SASL:SASL_PLAINTEXT
share.coordinator.state.topic.replication.factor=1
share.coordinator.state.topic.min.isr=1
share.coordinator.state.topic.num.partitions=1
broker.heartbeat.interval.ms=500
broker.session.timeout.ms=3000
";

/// Properties of a broker with users and rights; an anonymous client may do everything.
const RIGHTS: &str = "\
authorizer.class.name=org.apache.kafka.metadata.authorizer.StandardAuthorizer
super.users=User:ANONYMOUS
sasl.enabled.mechanisms=PLAIN
";

/// Properties of a broker that needs ZooKeeper.
const WITH_ZOOKEEPER: &str = "\
broker.id=1
zookeeper.session.timeout.ms=3000
create.topic.policy.class.name=OldBroker$CappedSizes
";

/// The directory and the options of a broker, which may or may not be running.
#[derive(Clone, Debug)]
pub(crate) struct Broker {
    home: Home,
    directory: PathBuf,
    port: u16,
    /// The port of its controller, or of its ZooKeeper.
    controller_port: u16,
    /// The port on which users authenticate.
    sasl_port: Option<u16>,
    options: KafkaOptions,
}

impl Broker {
    pub(crate) fn new(
        home: Home,
        directory: &Path,
        port: u16,
        controller_port: u16,
        options: KafkaOptions,
    ) -> Broker {
        Broker {
            home,
            directory: directory.to_owned(),
            port,
            controller_port,
            sasl_port: None,
            options,
        }
    }

    pub(crate) fn with_sasl(mut self, port: u16) -> Broker {
        self.sasl_port = Some(port);
        self
    }

    pub(crate) fn sasl_address(&self) -> Option<String> {
        self.sasl_port.map(|port| format!("127.0.0.1:{port}"))
    }

    pub(crate) fn address(&self) -> String {
        format!("127.0.0.1:{}", self.port)
    }

    /// Writes the configuration, formats an empty data directory, and returns the command.
    ///
    /// A `tied` broker dies with this process.
    pub(crate) fn prepare(&self, tied: bool) -> Result<Command> {
        let properties = self.write_properties()?;
        let data = self.data();
        let is_current = self.home.line() == KafkaLine::Current;
        if is_current && !data.join("meta.properties").exists() {
            self.home.copy_formatted(&data)?;
        }
        let java = self.home.java();
        let mut command = if tied {
            process::tied(java)
        } else {
            Command::new(java)
        };
        self.home.broker_args(&mut command, &self.options);
        if is_current {
            command.arg("kafka.Kafka");
        } else {
            let zookeeper = self.directory.join("zookeeper");
            command.args(["OldBroker", &self.controller_port.to_string()]);
            command.arg(zookeeper);
        }
        command.arg(properties);
        Ok(command)
    }

    pub(crate) fn data(&self) -> PathBuf {
        self.directory.join("data")
    }

    pub(crate) fn write_properties(&self) -> Result<PathBuf> {
        let (port, controller) = (self.port, self.controller_port);
        let mut text = PROPERTIES.to_owned();
        text += &format!("log.dirs={}\n", self.data().display());
        let mut listeners = format!("PLAINTEXT://127.0.0.1:{port}");
        if let Some(address) = self.sasl_address() {
            listeners += &format!(",SASL://{address}");
        }
        text += &format!("advertised.listeners={listeners}\n");
        match self.home.line() {
            KafkaLine::Current => {
                text += OWN_CONTROLLER;
                listeners += &format!(",CONTROLLER://127.0.0.1:{controller}");
                text += &format!("controller.quorum.voters=1@127.0.0.1:{controller}\n");
            }
            KafkaLine::Oldest => {
                text += WITH_ZOOKEEPER;
                text += &format!("zookeeper.connect=127.0.0.1:{controller}\n");
            }
        }
        text += &format!("listeners={listeners}\n");
        if self.sasl_port.is_some() {
            text += RIGHTS;
            text += &self.passwords();
        }
        for (name, value) in &self.options.properties {
            text += &format!("{name}={value}\n");
        }
        fs::create_dir_all(&self.directory)?;
        let path = self.directory.join("server.properties");
        fs::write(&path, text)?;
        Ok(path)
    }

    /// Returns the passwords: every user has its name as its password.
    fn passwords(&self) -> String {
        let module = "org.apache.kafka.common.security.plain.PlainLoginModule";
        let users = self.options.users.iter();
        let users: String = users
            .map(|user| format!(" user_{user}=\"{user}\""))
            .collect();
        format!("listener.name.sasl.plain.sasl.jaas.config={module} required{users};\n")
    }

    /// Waits until a client sees the broker and a leader for every partition.
    pub(crate) fn wait_until_ready(
        &self,
        limit: Duration,
        mut still_alive: impl FnMut() -> Result<()>,
    ) -> Result<()> {
        let client = self.client()?;
        wait_for("a Kafka broker that serves", limit, || {
            still_alive()?;
            Ok(serves(&client, Duration::from_millis(500)).then_some(()))
        })
    }

    /// Returns true if the broker answers now.
    pub(crate) fn is_ready(&self) -> Result<bool> {
        Ok(serves(&self.client()?, Duration::from_secs(2)))
    }

    fn client(&self) -> Result<BaseConsumer> {
        let client = ClientConfig::new()
            .set("bootstrap.servers", self.address())
            .set("reconnect.backoff.ms", "20")
            .set("reconnect.backoff.max.ms", "100")
            .set_log_level(RDKafkaLogLevel::Emerg)
            .create()?;
        Ok(client)
    }
}

fn serves(client: &BaseConsumer, limit: Duration) -> bool {
    let Ok(metadata) = client.fetch_metadata(None, limit) else {
        return false;
    };
    let led = metadata
        .topics()
        .iter()
        .flat_map(rdkafka::metadata::MetadataTopic::partitions)
        .all(|partition| partition.leader() >= 0);
    led && !metadata.brokers().is_empty()
}
