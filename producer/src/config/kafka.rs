//! Checks the connection settings of Kafka, and the settings of topics.

use oplog_relay_runtime::config::Faults;
use oplog_relay_runtime::kafka::{
    KafkaOption, KafkaOptions, OwnedOption, PRODUCER_OWNED, TopicSetting, parse_options,
};
use oplog_relay_runtime::telemetry::LogOptions;

use crate::config::arguments::KafkaArguments;
use crate::config::required::required;
use crate::prepare::topics::parse_topic_setting;
use crate::publish::TRANSACTION_TIMEOUT_OPTION;

/// Options of the Kafka client that this program sets itself, besides those that every producer sets.
pub(super) const OWNED: &[OwnedOption] = &[
    OwnedOption::new(
        "queue.buffering.max.kbytes",
        "it bounds memory and must hold the largest record",
    ),
    OwnedOption::new(
        "delivery.report.only.error",
        "the program expects reports of failed deliveries only",
    ),
];

/// Checks the settings of Kafka and of the log.
pub(super) fn check_kafka(
    given: &KafkaArguments,
    faults: &mut Faults,
) -> Option<(KafkaOptions, LogOptions)> {
    let log = given.log.check(faults);
    let brokers = required("--brokers", given.brokers.as_deref(), faults);
    let options = parse_options(&given.kafka_option, &[PRODUCER_OWNED, OWNED], faults);
    let brokers = brokers?;
    Some((KafkaOptions { brokers, options }, log?))
}

/// Refuses timeouts that leave no time for a commit, and those above the default limit of a broker
/// (transaction.max.timeout.ms).
pub(super) fn check_transaction_timeout(options: &[KafkaOption], faults: &mut Faults) {
    for KafkaOption { name, value } in options {
        let is_fit = value
            .parse()
            .is_ok_and(|millis: u32| (5_000..=900_000).contains(&millis));
        if name == TRANSACTION_TIMEOUT_OPTION && !is_fit {
            faults.add(
                format!("--kafka-option {name}"),
                "must be from 5000 to 900000 (15 minutes)",
            );
        }
    }
}

pub(super) fn parse_replication_factor(text: &str) -> Result<i32, &'static str> {
    match text.parse() {
        Ok(factor) if factor == -1 || factor > 0 => Ok(factor),
        _ => Err("must be -1 (the broker's default) or a positive number"),
    }
}

pub(super) fn check_topic_config(given: &[String], faults: &mut Faults) -> Vec<TopicSetting> {
    let given = given.iter();
    given
        .filter_map(|setting| faults.take_or("--topic-config", parse_topic_setting(setting)))
        .collect()
}
