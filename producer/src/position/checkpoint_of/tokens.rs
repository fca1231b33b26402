//! The source offsets of programs that read change streams.

use std::collections::BTreeMap;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use oplog_relay_core::document::Document;
use oplog_relay_core::position::Timestamp;
use serde_json::Value;

use super::Imported;
use crate::position::resolve::time_of_token;
use crate::source::change_stream::token::time_of;

/// Reads the offset of Debezium's connector.
pub(super) fn debezium(values: &[Value], name: Option<&str>) -> Result<Imported, String> {
    let offset = offset(values, &["resume_token", "sec"], name)?;
    let is_true = |name| matches!(offset.get(name), Some(Value::Bool(true)));
    if is_true("initsync") || is_true("snapshot") {
        return Err("the initial snapshot of the connector is not complete".to_owned());
    }
    if let Some(token) = offset.get("resume_token").and_then(Value::as_str) {
        return event_of(token).map(Imported::before);
    }
    let part = |name| {
        let part = offset.get(name).and_then(Value::as_i64);
        part.and_then(|part| u32::try_from(part).ok())
    };
    match (part("sec"), part("ord")) {
        (Some(seconds), Some(increment)) => {
            Ok(Imported::before(Timestamp::new(seconds, increment)))
        }
        _ => Err("it has neither a resume token nor sec and ord".to_owned()),
    }
}

/// Reads the offset of MongoDB's Kafka source connector.
pub(super) fn mongo_kafka(values: &[Value], name: Option<&str>) -> Result<Imported, String> {
    let offset = offset(values, &["_id"], name)?;
    let is_copying = offset.get("copy").is_some_and(|copy| match copy {
        Value::Bool(copy) => *copy,
        Value::String(copy) => copy == "true",
        _ => false,
    });
    if is_copying {
        return Err("the copy of the existing documents is not complete".to_owned());
    }
    let token = match offset.get("_id") {
        Some(Value::String(token)) => token.clone(),
        Some(token) => token.to_string(),
        None => return Err("it has no resume token".to_owned()),
    };
    event_of(&token).map(Imported::before)
}

/// Returns the last offset of a connector: an object that has one of the fields.
///
/// The records of Kafka Connect's topic have a key, which names the connector and the source, and an
/// offset or null. The values are arrays of the two, or keys and offsets one after the other. An offset
/// alone has no key. `name` is a part of the key.
fn offset<'v>(
    values: &'v [Value],
    fields: &[&str],
    name: Option<&str>,
) -> Result<&'v Value, String> {
    let is_offset = |value: &Value| fields.iter().any(|field| value.get(field).is_some());
    let mut found: BTreeMap<String, &Value> = BTreeMap::new();
    let mut key = String::new();
    for value in values {
        let (own_key, offset) = match value {
            Value::Array(items) => match items.as_slice() {
                [own_key, Value::Null] if !own_key.is_string() => {
                    found.remove(&own_key.to_string());
                    continue;
                }
                [own_key, offset] if is_offset(offset) => (own_key.to_string(), Some(offset)),
                _ => (String::new(), items.iter().rfind(|item| is_offset(item))),
            },
            value => (String::new(), Some(value).filter(|value| is_offset(value))),
        };
        let own_key = match own_key.is_empty() {
            true => std::mem::take(&mut key),
            false => own_key,
        };
        match (value, offset) {
            (_, Some(offset)) => drop(found.insert(own_key, offset)),
            (Value::Null, None) => drop(found.remove(&own_key)),
            // The offset or null follows its key.
            (other, None) => key = other.to_string(),
        }
    }
    found.retain(|key, _| name.is_none_or(|name| key.contains(name)));
    let keys: Vec<&str> = found.keys().map(String::as_str).collect();
    match (keys.as_slice(), found.values().next().copied()) {
        ([_], Some(offset)) => Ok(offset),
        ([], _) | (_, None) => Err(format!(
            "it has no object with {}, or none of this name",
            fields.join(" or ")
        )),
        (several, _) => Err(format!(
            "it has the offsets of several sources ({}): choose one with --checkpoint-name",
            several.join(", ")
        )),
    }
}

/// Returns the cluster time of a resume token: JSON, hexadecimal digits, or the base64 of its BSON.
fn event_of(token: &str) -> Result<Timestamp, String> {
    let is_text = token.starts_with('{') || token.bytes().all(|byte| byte.is_ascii_hexdigit());
    if is_text {
        return time_of_token(token).map_err(|error| error.to_string());
    }
    let bytes = STANDARD
        .decode(token)
        .map_err(|_| "its resume token is neither JSON nor base64".to_owned())?;
    let document = Document::new(&bytes);
    let time = document.ok().and_then(time_of);
    time.ok_or_else(|| "its resume token does not begin with a cluster time".to_owned())
}
