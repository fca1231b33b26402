//! Reads the checkpoints of other programs.
//!
//! | program | checkpoint |
//! | --- | --- |
//! | MongoShake | documents `{name, ckpt, fetch_method}`; `ckpt` is the timestamp of the last entry as a 64-bit number, up to 2.6 as a BSON timestamp; with `fetch_method: "change_stream"`, and for a mongos, that of the last event |
//! | mongo-connector | `[[<name of the shard>, <number>], …]`, or one such pair; the number is a timestamp in 64 bits |
//! | Debezium | `{sec, ord, resume_token}`; `sec` and `ord` are -1 after a heartbeat; the token is the base64 of its BSON, or its `_data` |
//! | mongo-kafka | `{_id}` with the resume token as JSON |
//! | mongodump | the last entry of `oplog.bson` |

mod mongodump;
mod tokens;

use oplog_relay_core::position::Timestamp;
use serde_json::Value;

use crate::config::position::OtherProgram;
use tokens::{debezium, mongo_kafka};

pub(super) use mongodump::last_entry;

/// The time in milliseconds by which the clock of a source may be ahead.
const FAST_CLOCK_MS: i64 = 3_600_000;

/// A checkpoint of another program.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Imported {
    /// The timestamp up to which the other program has read everything.
    pub(super) through: Timestamp,
    /// The term of the entry at this time, if it is known.
    pub(super) term: Option<i64>,
    /// True if the checkpoint names an entry, so that an entry with exactly this time exists.
    pub(super) is_entry: bool,
}

impl Imported {
    /// Creates a checkpoint that names an entry whose term is not known.
    const fn entry(through: Timestamp) -> Self {
        Self {
            through,
            term: None,
            is_entry: true,
        }
    }

    /// Creates a checkpoint that names an event. Other events with its cluster time may not have been
    /// read, so only what is before this time counts as read.
    const fn before(event: Timestamp) -> Self {
        Self {
            through: event.before(),
            term: None,
            is_entry: false,
        }
    }

    /// Checks that the checkpoint is not in the future. A number that is not a timestamp often is.
    ///
    /// # Errors
    /// The reason why it cannot be used, as a clause.
    pub(super) fn check_past(self, now_ms: i64) -> Result<(), String> {
        let ts = self.through;
        match i64::from(ts.seconds) * 1000 > now_ms.saturating_add(FAST_CLOCK_MS) {
            true => Err(format!("its time {ts} is after the present")),
            false => Ok(()),
        }
    }
}

/// Reads a checkpoint from the text of its file.
///
/// # Errors
/// The reason why it cannot be used, as a clause.
pub(super) fn other(
    program: OtherProgram,
    text: &str,
    name: Option<&str>,
) -> Result<Imported, String> {
    let values = values(text)?;
    match program {
        OtherProgram::MongoShake => mongoshake(&values, name),
        OtherProgram::MongoConnector => mongo_connector(&values, name),
        OtherProgram::Debezium => debezium(&values, name),
        OtherProgram::MongoKafka => mongo_kafka(&values, name),
        OtherProgram::Mongodump => Err("it is not a dump".to_owned()),
    }
}

/// Returns the JSON values of a text, one after the other.
fn values(text: &str) -> Result<Vec<Value>, String> {
    let values = serde_json::Deserializer::from_str(text).into_iter::<Value>();
    let values: Result<Vec<Value>, _> = values.collect();
    values.map_err(|error| format!("it is not JSON: {error}"))
}

/// Reads the documents of MongoShake's checkpoint collection.
///
/// # Errors
/// The reason why no checkpoint can be used, as a clause.
pub(super) fn mongoshake(values: &[Value], name: Option<&str>) -> Result<Imported, String> {
    let documents = values.iter().flat_map(|value| match value {
        Value::Array(documents) => documents.iter().collect(),
        other => vec![other],
    });
    let named = |document: &Value| {
        document
            .get("name")
            .and_then(Value::as_str)
            .map(str::to_owned)
    };
    let found: Vec<&Value> = documents
        .filter(|document| document.get("ckpt").is_some())
        .filter(|document| name.is_none_or(|name| named(document).as_deref() == Some(name)))
        .collect();
    match found.as_slice() {
        [one] => {
            let ckpt = one.get("ckpt").and_then(timestamp);
            let imported = match reads_events(one) {
                true => Imported::before,
                false => Imported::entry,
            };
            ckpt.map(imported)
                .ok_or_else(|| "its ckpt is not a timestamp".to_owned())
        }
        [] => Err("it has no document with ckpt, or none of this name".to_owned()),
        several => {
            let names: Vec<String> = several
                .iter()
                .filter_map(|document| named(document))
                .collect();
            Err(format!(
                "it has several checkpoints ({}): choose one with --checkpoint-name",
                names.join(", ")
            ))
        }
    }
}

/// Returns true if MongoShake has read a change stream, whose events may share a cluster time.
fn reads_events(document: &Value) -> bool {
    let is = |field: &str, value: &str| document.get(field).and_then(Value::as_str) == Some(value);
    is("fetch_method", "change_stream") || is("name", "mongos")
}

/// Reads mongo-connector's `oplog.timestamp`.
fn mongo_connector(values: &[Value], name: Option<&str>) -> Result<Imported, String> {
    let mut found = Vec::new();
    for value in values {
        collect_pairs(value, &mut found);
    }
    found.retain(|(shard, _)| name.is_none_or(|name| shard.contains(name)));
    match found.as_slice() {
        [(_, number)] => Ok(Imported::entry(from_number(*number))),
        [] => Err("it has no number, or none of this name".to_owned()),
        several => {
            let names: Vec<&str> = several.iter().map(|(shard, _)| shard.as_str()).collect();
            Err(format!(
                "it has several shards ({}): choose one with --checkpoint-name",
                names.join(", ")
            ))
        }
    }
}

/// Collects the pairs of a name and a number in nested arrays; a number alone has no name.
fn collect_pairs(value: &Value, found: &mut Vec<(String, u64)>) {
    match value {
        Value::Number(number) => {
            found.extend(number.as_u64().map(|number| (String::new(), number)));
        }
        Value::Array(items) => match items.as_slice() {
            [Value::String(name), Value::Number(number)] => {
                found.extend(number.as_u64().map(|number| (name.clone(), number)));
            }
            items => {
                for item in items {
                    collect_pairs(item, found);
                }
            }
        },
        _ => {}
    }
}

/// Returns a timestamp that is written as a 64-bit number, or as Extended JSON of one or of a BSON
/// timestamp.
fn timestamp(value: &Value) -> Option<Timestamp> {
    if let Some(number) = value.as_u64() {
        return Some(from_number(number));
    }
    let part = |value: &Value, name| u32::try_from(value.get(name)?.as_u64()?).ok();
    if let Some(timestamp) = value.get("$timestamp") {
        return Some(Timestamp::new(part(timestamp, "t")?, part(timestamp, "i")?));
    }
    let number = value.get("$numberLong")?.as_str()?;
    number.parse().ok().map(from_number)
}

/// Returns the timestamp of a 64-bit number, which has the seconds in its upper half.
fn from_number(number: u64) -> Timestamp {
    let [s0, s1, s2, s3, i0, i1, i2, i3] = number.to_be_bytes();
    Timestamp::new(
        u32::from_be_bytes([s0, s1, s2, s3]),
        u32::from_be_bytes([i0, i1, i2, i3]),
    )
}

#[cfg(test)]
mod tests;
