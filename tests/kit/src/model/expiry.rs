//! `expireAfterSeconds` of indexes and of collections: the values that each version accepts.

use std::time::{SystemTime, UNIX_EPOCH};

use bson::{Bson as Value, Document as Bson};

use super::failure::Failure;
use super::options::integer;
use super::version::Version;

pub(super) const EXPIRES: &str = "expireAfterSeconds";
const TOO_LARGE: &str = "TTL index 'expireAfterSeconds' option must be within an acceptable \
                         range, try a lower number";

/// Checks the expiry of an index that `createIndexes` creates.
pub(super) fn check_new_index(spec: &Bson, version: Version) -> Result<(), Failure> {
    if !spec.contains_key(EXPIRES) {
        return Ok(());
    }
    let key = spec.get_document("key").cloned().unwrap_or_default();
    if key.len() != 1 || key.contains_key("_id") {
        let message = "TTL indexes are single-field indexes, and not of _id";
        return Err(Failure::new(67, message));
    }
    let Some(seconds) = integer(spec, EXPIRES) else {
        let message = "TTL index 'expireAfterSeconds' option must be numeric";
        return Err(Failure::new(67, message));
    };
    let limit = if version < Version::V7_0 {
        now()
    } else {
        i32::MAX.into()
    };
    match seconds {
        ..0 => {
            let message = "TTL index 'expireAfterSeconds' option cannot be less than 0";
            Err(Failure::new(67, message))
        }
        _ if seconds > limit => Err(Failure::new(67, TOO_LARGE)),
        _ => Ok(()),
    }
}

/// Checks the expiry that `collMod` sets for an index.
pub(super) fn check_changed_index(
    spec: &Bson,
    change: &Bson,
    version: Version,
) -> Result<(), Failure> {
    if !change.contains_key(EXPIRES) {
        return Ok(());
    }
    if !spec.contains_key(EXPIRES) && version < Version::V6_0 {
        return Err(Failure::new(72, "no expireAfterSeconds field to update"));
    }
    let key = spec.get_document("key").cloned().unwrap_or_default();
    if key.len() != 1 || key.contains_key("_id") {
        let message = "TTL indexes are single-field indexes, compound indexes do not support TTL";
        return Err(Failure::new(67, message));
    }
    match integer(change, EXPIRES) {
        None => Err(Failure::new(14, "expireAfterSeconds has the wrong type")),
        Some(..0) => Err(Failure::new(
            72,
            "TTL index 'expireAfterSeconds' option cannot be less than 0",
        )),
        Some(seconds) if seconds > i32::MAX.into() => Err(Failure::new(72, TOO_LARGE)),
        Some(_) => Ok(()),
    }
}

/// Checks the expiry that `create` or `collMod` sets for a collection with these options. In every
/// version, the current epoch seconds are the upper limit.
pub(super) fn check_collection(
    options: &Bson,
    value: &Value,
    may_disable: bool,
) -> Result<(), Failure> {
    if !options.contains_key("timeseries") && !options.contains_key("clusteredIndex") {
        let message = "'expireAfterSeconds' is only supported on time-series collections or when \
                       the 'clusteredIndex' option is specified";
        return Err(Failure::new(72, message));
    }
    if may_disable && value.as_str() == Some("off") {
        return Ok(());
    }
    let expiry = Bson::from_iter([(EXPIRES.to_owned(), value.clone())]);
    match integer(&expiry, EXPIRES) {
        None => Err(Failure::new(14, "expireAfterSeconds has the wrong type")),
        Some(seconds) if seconds < 0 || seconds > now() => Err(Failure::new(72, TOO_LARGE)),
        Some(_) => Ok(()),
    }
}

/// Returns the current time in seconds since 1970.
fn now() -> i64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH);
    since.map_or(0, |since| since.as_secs().cast_signed())
}
