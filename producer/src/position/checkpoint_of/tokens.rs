//! The source offsets of programs that read change streams.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use oplog_relay_core::document::Document;
use oplog_relay_core::position::Timestamp;
use serde_json::Value;

use super::Imported;
use crate::position::resolve::time_of_token;
use crate::source::change_stream::token::time_of;

/// Reads the offset of Debezium's connector.
pub(super) fn debezium(values: &[Value]) -> Result<Imported, String> {
    let offset = offset(values, &["resume_token", "sec"])?;
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
pub(super) fn mongo_kafka(values: &[Value]) -> Result<Imported, String> {
    let offset = offset(values, &["_id"])?;
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

/// Returns the offset: the last object, in or outside of arrays, that has one of the fields. The
/// records of Kafka Connect's topic are pairs of a key and an offset.
fn offset<'v>(values: &'v [Value], fields: &[&str]) -> Result<&'v Value, String> {
    let found = values.iter().rev().find_map(|value| match value {
        Value::Array(items) => items
            .iter()
            .rev()
            .find(|item| fields.iter().any(|field| item.get(field).is_some())),
        item => fields
            .iter()
            .any(|field| item.get(field).is_some())
            .then_some(item),
    });
    found.ok_or_else(|| format!("it has no object with {}", fields.join(" or ")))
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
