//! Values that a command needs.

use oplog_relay_core::topic::{check_prefix, check_source_name};
use oplog_relay_runtime::config::Faults;

/// The fault of a flag that is missing.
pub(super) const IS_REQUIRED: &str = "is required";

pub(super) fn required(flag: &str, value: Option<&str>, faults: &mut Faults) -> Option<String> {
    match value.map(str::trim) {
        Some(value) if !value.is_empty() => Some(value.to_owned()),
        _ => {
            faults.add(flag, IS_REQUIRED);
            None
        }
    }
}

pub(super) fn required_prefix(given: Option<&str>, faults: &mut Faults) -> Option<String> {
    let prefix = required("--topic-prefix", given, faults)?;
    faults.take_or("--topic-prefix", check_prefix(&prefix).map(|()| prefix))
}

pub(super) fn required_name(given: Option<&str>, faults: &mut Faults) -> Option<String> {
    let name = required("--source-name", given, faults)?;
    faults.take_or("--source-name", check_source_name(&name).map(|()| name))
}
