//! Options of Kafka clients: the program's, the operator's, and those that the guarantees need.

use std::fmt;

use rdkafka::ClientConfig;
use rdkafka::error::KafkaError;

use crate::config::{Faults, resolve_secret};

/// The flag that passes options to librdkafka.
const FLAG: &str = "--kafka-option";

/// An option of librdkafka that an operator cannot set.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct OwnedOption {
    /// The name of the option.
    pub name: &'static str,
    /// The reason.
    pub reason: &'static str,
}

impl OwnedOption {
    /// Creates the description of an option.
    #[must_use]
    pub const fn new(name: &'static str, reason: &'static str) -> Self {
        Self { name, reason }
    }
}

/// Options that the operator cannot set for any client, with the reason.
const OWNED_BY_ALL: &[OwnedOption] = &[
    OwnedOption::new("bootstrap.servers", "use --brokers"),
    OwnedOption::new("log.queue", "client logs go to the program's log"),
    OwnedOption::new(
        "allow.auto.create.topics",
        "topics are created with the settings that the data needs",
    ),
];

/// Producer options on which ordered exactly-once delivery depends, with the reason.
pub const PRODUCER_OWNED: &[OwnedOption] = &[
    OwnedOption::new(
        "enable.idempotence",
        "without it, a retry can duplicate or reorder records",
    ),
    OwnedOption::new(
        "acks",
        "a record that is not on all in-sync replicas can be lost",
    ),
    OwnedOption::new(
        "max.in.flight",
        "values above the idempotent producer's limit can reorder records",
    ),
    OwnedOption::new("retries", "giving up on a record would lose it"),
    OwnedOption::new(
        "message.timeout.ms",
        "a record that times out would be lost; it is set to the transaction timeout",
    ),
    OwnedOption::new(
        "transactional.id",
        "it fences the previous instance and is derived from the source",
    ),
    OwnedOption::new(
        "enable.gapless.guarantee",
        "it makes every failed record fatal",
    ),
    OwnedOption::new(
        "partitioner",
        "the program computes each record's partition from its key",
    ),
    OwnedOption::new(
        "message.max.bytes",
        "it is set to the size of the largest possible record",
    ),
];

/// Consumer options on which the offsets depend, with the reason.
pub const CONSUMER_OWNED: &[OwnedOption] = &[
    OwnedOption::new("group.id", "use --group"),
    OwnedOption::new(
        "enable.auto.commit",
        "offsets are committed only after the records before them have been processed",
    ),
    OwnedOption::new(
        "enable.auto.offset.store",
        "offsets are committed only after the records before them have been processed",
    ),
    OwnedOption::new(
        "auto.offset.reset",
        "a lost offset must end the program, not skip or repeat data",
    ),
    OwnedOption::new(
        "isolation.level",
        "records of aborted transactions must not be replayed",
    ),
    OwnedOption::new(
        "partition.assignment.strategy",
        "all members of a group must use the same strategy",
    ),
    OwnedOption::new(
        "group.protocol",
        "all members of a group must use the same protocol",
    ),
    OwnedOption::new(
        "group.remote.assignor",
        "all members of a group must use the same assignor",
    ),
    OwnedOption::new(
        "enable.partition.eof",
        "it shows when the end of a partition is reached",
    ),
    OwnedOption::new("check.crcs", "damaged records must not be replayed"),
];

/// Alternative option names that librdkafka accepts.
const ALIASES: &[(&str, &str)] = &[
    ("metadata.broker.list", "bootstrap.servers"),
    ("request.required.acks", "acks"),
    ("max.in.flight.requests.per.connection", "max.in.flight"),
    ("message.send.max.retries", "retries"),
    ("delivery.timeout.ms", "message.timeout.ms"),
    ("auto.commit.enable", "enable.auto.commit"),
    ("max.partition.fetch.bytes", "fetch.message.max.bytes"),
];

/// The options that all clients of a program share.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct KafkaOptions {
    /// The brokers as `host:port,host:port`.
    pub brokers: String,
    /// The operator's options for librdkafka, by name.
    pub options: Vec<KafkaOption>,
}

/// An option for librdkafka.
#[derive(Clone, PartialEq, Eq)]
pub struct KafkaOption {
    /// Its name.
    pub name: String,
    /// Its value, which may be a secret.
    pub value: String,
}

impl fmt::Debug for KafkaOption {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { name, value } = self;
        let shown = if is_secret(name) { "***" } else { value };
        write!(f, "{name}={shown}")
    }
}

impl fmt::Debug for KafkaOptions {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("KafkaOptions")
            .field("brokers", &self.brokers)
            .field("options", &self.options)
            .finish()
    }
}

/// Parses `name=value`. The value of a secret may be `file:<path>`.
///
/// # Errors
/// A message if the text has no `=`, or the file cannot be read.
fn parse_option(text: &str) -> Result<KafkaOption, String> {
    let Some((name, value)) = text.split_once('=') else {
        return Err("expected name=value".to_owned());
    };
    let (name, value) = (name.trim(), value.trim());
    if name.is_empty() {
        return Err("expected name=value".to_owned());
    }
    let value = match is_secret(name) {
        false => value.to_owned(),
        true => {
            let secret = resolve_secret(value).map_err(|error| error.to_string())?;
            secret.expose().to_owned()
        }
    };
    let name = name.to_owned();
    Ok(KafkaOption { name, value })
}

/// Returns the configuration that every client starts from. Callers add the options that they own.
#[must_use]
pub fn client_config(options: &KafkaOptions) -> ClientConfig {
    let mut config = ClientConfig::new();
    config
        .set("client.id", "oplog-relay")
        // Firewalls and load balancers drop idle connections silently.
        .set("socket.keepalive.enable", "true")
        .set("socket.connection.setup.timeout.ms", "10000")
        .set("reconnect.backoff.ms", "100")
        .set("reconnect.backoff.max.ms", "5000")
        // Brokers routinely close idle connections.
        .set("log.connection.close", "false");
    for KafkaOption { name, value } in &options.options {
        config.set(name, value);
    }
    config.set("bootstrap.servers", &options.brokers);
    config
}

/// The fetch size of a client that reads one partition at a time. Records that compress by a
/// factor of a thousand then take 32 MiB of memory.
pub const SMALL_FETCH: usize = 32 << 10;

/// Limits the bytes that a consumer requests in one fetch, and the share of one partition. Both
/// count bytes as the broker stores them: the reply may be many times larger after decompression. A
/// single batch is always returned whole, whatever its size.
pub fn limit_fetch(config: &mut ClientConfig, bytes: usize, of_partition: usize) {
    config
        // librdkafka refuses a fetch limit below this option, although only producers need the
        // option.
        .set("message.max.bytes", bytes.to_string())
        .set("fetch.max.bytes", bytes.to_string())
        .set("fetch.message.max.bytes", of_partition.to_string());
}

/// Parses the options that an operator gives as `name=value`. Options in `owned` belong to the
/// program and are refused with their reasons.
pub fn parse_options(
    given: &[String],
    owned: &[&[OwnedOption]],
    faults: &mut Faults,
) -> Vec<KafkaOption> {
    let options: Vec<_> = given
        .iter()
        .filter_map(|option| faults.take_or(FLAG, parse_option(option)))
        .collect();
    check_options(&options, &owned.concat(), faults);
    options
}

/// Refuses options that the program owns, and options whose name or value librdkafka does not
/// accept.
fn check_options(options: &[KafkaOption], owned: &[OwnedOption], faults: &mut Faults) {
    for KafkaOption { name, value } in options {
        let place = format!("{FLAG} {name}");
        let canonical = canonical(name);
        let owner = OWNED_BY_ALL
            .iter()
            .chain(owned)
            .find(|owned| owned.name == canonical);
        if let Some(owned) = owner {
            faults.add(place, format!("cannot be set: {}", owned.reason));
        } else if let Err(error) = ClientConfig::new().set(name, value).create_native_config() {
            faults.add(place, refusal(name, &error));
        }
    }
}

fn refusal(name: &str, error: &KafkaError) -> String {
    match error {
        // The error description may quote the value.
        KafkaError::ClientConfig(_, _, _, _) if is_secret(name) => {
            "librdkafka does not accept the value".to_owned()
        }
        KafkaError::ClientConfig(_, description, _, _) => description.trim().to_owned(),
        other => other.to_string(),
    }
}

fn canonical(name: &str) -> &str {
    ALIASES
        .iter()
        .find(|(alias, _)| *alias == name)
        .map_or(name, |(_, canonical)| canonical)
}

fn is_secret(name: &str) -> bool {
    let parts = [
        "password",
        "secret",
        "key.pem",
        "sasl.oauthbearer.config",
        "assertion.private",
    ];
    parts.iter().any(|part| name.contains(part))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn faults(options: &[(&str, &str)], owned: &[OwnedOption]) -> Vec<String> {
        let mut faults = Faults::new();
        let options: Vec<_> = options
            .iter()
            .map(|(name, value)| KafkaOption {
                name: (*name).to_owned(),
                value: (*value).to_owned(),
            })
            .collect();
        check_options(&options, owned, &mut faults);
        faults.found().iter().map(ToString::to_string).collect()
    }

    #[test]
    fn owned_options_are_refused_with_the_reason_under_both_names() {
        for name in ["acks", "request.required.acks"] {
            let found = faults(&[(name, "1"), ("linger.ms", "5")], PRODUCER_OWNED);
            let reason = "cannot be set: a record that is not on all in-sync replicas can be lost";
            assert_eq!(found, [format!("--kafka-option {name}: {reason}")]);
        }
        assert_eq!(
            faults(&[("acks", "1")], CONSUMER_OWNED),
            Vec::<String>::new()
        );
        assert_eq!(faults(&[("metadata.broker.list", "x")], &[]).len(), 1);
    }

    #[test]
    fn unknown_options_and_bad_values_are_refused_without_secrets() {
        let found = faults(&[("linger.mss", "5"), ("linger.ms", "soon")], &[]);
        assert_eq!(found.len(), 2, "{found:?}");
        assert!(found[0].contains("linger.mss"), "{found:?}");
        let found = faults(&[("ssl.secret.nonsense", "hunter2")], &[]);
        assert!(
            found.len() == 1 && !found[0].contains("hunter2"),
            "{found:?}"
        );
    }

    #[test]
    fn every_owned_option_is_one_that_librdkafka_knows() {
        for OwnedOption { name, .. } in OWNED_BY_ALL
            .iter()
            .chain(PRODUCER_OWNED)
            .chain(CONSUMER_OWNED)
        {
            let outcome = ClientConfig::new().set(*name, "1").create_native_config();
            let error = outcome
                .err()
                .map(|error| error.to_string())
                .unwrap_or_default();
            assert!(
                !error.contains("No such configuration property"),
                "{name}: {error}"
            );
        }
        let outcome = ClientConfig::new()
            .set("no.such.option", "1")
            .create_native_config();
        assert!(
            outcome
                .err()
                .unwrap()
                .to_string()
                .contains("No such configuration property")
        );
    }

    #[test]
    fn options_are_passed_through_and_secrets_not_shown() {
        let options = KafkaOptions {
            brokers: "k1:9092".to_owned(),
            options: vec![
                parse_option("sasl.password=hunter2=").unwrap(),
                parse_option("linger.ms = 7").unwrap(),
            ],
        };
        let config = client_config(&options);
        assert_eq!(config.get("sasl.password"), Some("hunter2="));
        assert_eq!(config.get("linger.ms"), Some("7"));
        assert_eq!(config.get("bootstrap.servers"), Some("k1:9092"));
        let shown = format!("{options:?}");
        assert!(
            shown.contains("linger.ms") && !shown.contains("hunter2"),
            "{shown}"
        );
        assert!(parse_option("novalue").is_err() && parse_option("=x").is_err());
        assert!(parse_option("ssl.key.password=file:/nowhere").is_err());
    }
}
