//! The format of record values, from the arguments that describe it.

use oplog_relay_core::format::Format;
use oplog_relay_core::format::debezium::Debezium;
use oplog_relay_core::format::envelope::Envelope;
use oplog_relay_core::state::OrderRule;
use oplog_relay_runtime::config::Faults;

use crate::config::arguments::StreamArguments;
use crate::config::lookup::{self, TopicMode};
use crate::encode::router_headers::RouterHeaders;

/// Returns the format, or adds the faults of its arguments.
pub(super) fn check_format(arguments: &StreamArguments, faults: &mut Faults) -> Option<Format> {
    let mode = faults.take_or("--json", arguments.json.parse());
    let envelope = faults.take_or("--envelope", arguments.envelope.parse());
    let (mode, envelope) = mode.zip(envelope)?;
    let binary = match arguments.format.as_str() {
        "raw" => Some(Format::Raw),
        "bson" => Some(Format::Bson),
        "avro" => Some(match arguments.replayable {
            Some(false) => Format::ReaderAvro(mode),
            _ => Format::Avro(mode),
        }),
        "json" => None,
        _ => {
            faults.add("--format", "must be raw, bson, json or avro");
            return None;
        }
    };
    check_combination(arguments, binary, envelope, faults);
    let topic_mode: TopicMode = faults.take_or("--topic-mode", arguments.topic_mode.parse())?;
    if topic_mode == TopicMode::Snapshot {
        lookup::check_snapshot(arguments, binary.is_none(), envelope, faults);
        return Some(Format::Snapshot(mode));
    }
    Some(binary.unwrap_or(match (envelope, arguments.replayable) {
        (Envelope::ChangeEvent, Some(false)) => Format::ReaderJson(mode),
        (Envelope::ChangeEvent, _) => Format::Json(mode),
        (Envelope::Oplog, _) => Format::Oplog(mode),
        (Envelope::Debezium, _) => Format::Debezium(Debezium {
            mode,
            with_schema: arguments.envelope_schema,
        }),
    }))
}

/// Returns the headers for routers, or adds the faults of their argument.
pub(super) fn check_headers(
    arguments: &StreamArguments,
    faults: &mut Faults,
) -> Option<RouterHeaders> {
    let headers = faults.take_or("--headers", arguments.headers.parse())?;
    if headers != RouterHeaders::None && arguments.format == "raw" {
        faults.add(
            "--headers",
            "cannot be used with --format raw, whose records have several entries",
        );
    }
    Some(headers)
}

/// Returns the rule by which collections are spread. Without barriers, a document must never move to
/// another partition, so topics for readers are spread only by `_id`.
pub(super) fn check_order(
    order: OrderRule,
    format: Format,
    faults: &mut Faults,
) -> Option<OrderRule> {
    match order {
        _ if format.is_replayable() => Some(order),
        OrderRule::Auto | OrderRule::Id => Some(OrderRule::Id),
        OrderRule::Collection => {
            faults.add(
                "--order",
                "cannot be collection for topics that are for readers only, which have no barriers",
            );
            None
        }
    }
}

fn check_combination(
    arguments: &StreamArguments,
    binary: Option<Format>,
    envelope: Envelope,
    faults: &mut Faults,
) {
    let is_json = binary.is_none();
    let has_events = is_json || binary.is_some_and(Format::has_schemas);
    if !is_json && envelope != Envelope::ChangeEvent {
        faults.add("--envelope", "must be change-event unless --format is json");
    }
    if envelope != Envelope::Debezium && arguments.envelope_schema {
        faults.add("--envelope-schema", "needs --envelope debezium");
    }
    match (arguments.replayable, envelope) {
        (Some(true), Envelope::Debezium) => faults.add(
            "--replayable",
            "cannot be true with --envelope debezium, which has no place for commands and barriers",
        ),
        (Some(false), Envelope::Oplog) => faults.add(
            "--replayable",
            "cannot be false with --envelope oplog, which carries every entry as it is",
        ),
        (Some(false), Envelope::ChangeEvent) if !has_events => {
            faults.add(
                "--replayable",
                "can only be false with --format json or avro",
            );
        }
        _ => {}
    }
}
