//! The end of a replay: the target gets what was withheld from it.
//!
//! A replay never lets its target delete by itself: `expireAfterSeconds` of indexes, time series
//! and clustered collections is kept in the catalog instead. When the target takes the source's
//! place, [`cutover`] sets the true values. It may run again at any time.

mod expiries;

use std::collections::BTreeMap;

use bson::{Document, doc};
use mongodb::Client;
use oplog_relay_core::runtime::mongo::{self, MongoError, error_code, is_transient};

use crate::catalog::{History, histories};
use crate::config::CutoverConfig;
use crate::directive::UNAUTHORIZED;
use crate::error::ConsumerError;
use crate::plan::command::done;
use crate::sink::mongo::suspended_indexes;
use crate::stdout::tell;

pub use expiries::Expiries;

/// Sets on the target what was withheld from it, and tells each change on standard output.
///
/// # Errors
/// [`ConsumerError::Usage`] if the catalog knows other groups only; [`ConsumerError::Refused`] if
/// the target refuses a change, after all others; when the target cannot be reached.
pub async fn cutover(config: &CutoverConfig) -> Result<(), ConsumerError> {
    let target = mongo::connect(&config.target, "oplog-consumer cutover", |_| {}).await?;
    let groups = histories(&target).await.map_err(failed)?;
    let mut refused = Vec::new();
    let (mut restored, mut gone) = (0, 0);
    for (source, history) in of_group(groups, &config.group)? {
        tracing::debug!(source, commands = history.len(), "read from the catalog");
        for (ns, expiries) in Expiries::of(&history).0 {
            for (index, seconds) in expiries {
                let index = index.as_deref();
                match restore(&target, &ns, index, seconds).await? {
                    Restored::Done => restored += 1,
                    Restored::Gone => gone += 1,
                    Restored::Refused(reason) => refused.push(reason),
                }
            }
        }
    }
    for index in suspended_indexes(&target, &config.group)
        .await
        .map_err(failed)?
    {
        refused.push(format!(
            "{index} is not on the target: the replay dropped it while a stretch of the log was \
             applied again. Run replay --until-caught-up, which builds it"
        ));
    }
    tell(&format!(
        "restored: {restored}, gone: {gone}, refused: {}",
        refused.len()
    ))?;
    if refused.is_empty() {
        return Ok(());
    }
    Err(ConsumerError::Refused(format!(
        "{}. All others are restored; cutover may run again",
        refused.join("; ")
    )))
}

/// The histories of a group, by source. A group that ran no command has none.
fn of_group(
    mut groups: BTreeMap<String, BTreeMap<String, History>>,
    group: &str,
) -> Result<BTreeMap<String, History>, ConsumerError> {
    if let Some(sources) = groups.remove(group) {
        return Ok(sources);
    }
    if groups.is_empty() {
        return Ok(BTreeMap::new());
    }
    let others: Vec<&str> = groups.keys().map(String::as_str).collect();
    Err(ConsumerError::Usage(format!(
        "--group: no command of group {group:?} ran on this target, but of {}",
        others.join(", ")
    )))
}

/// What became of one value.
enum Restored {
    Done,
    /// Its collection or index is not there any more.
    Gone,
    Refused(String),
}

async fn restore(
    target: &Client,
    ns: &str,
    index: Option<&str>,
    seconds: i64,
) -> Result<Restored, ConsumerError> {
    let (db, collection) = ns.split_once('.').unwrap_or((ns, ""));
    let what = index.map_or_else(|| ns.to_owned(), |index| format!("{ns} index {index}"));
    let command = change(collection, index, seconds);
    let Err(error) = target.database(db).run_command(command).await else {
        tell(&format!("{what}: expireAfterSeconds {seconds}"))?;
        return Ok(Restored::Done);
    };
    match error_code(&error) {
        Some(done::NO_COLLECTION | done::NO_INDEX) => {
            tell(&format!("{what}: gone from the target"))?;
            Ok(Restored::Gone)
        }
        Some(code) if !is_transient(&error) => {
            let reason = match code {
                UNAUTHORIZED => format!(": its user needs dbAdmin on {db}"),
                _ => String::new(),
            };
            Ok(Restored::Refused(format!(
                "the target refuses expireAfterSeconds {seconds} of {what}: {}{reason}",
                error.kind
            )))
        }
        _ => Err(failed(error)),
    }
}

fn change(collection: &str, index: Option<&str>, seconds: i64) -> Document {
    match index {
        Some(index) => {
            let index = doc! { "name": index, "expireAfterSeconds": seconds };
            doc! { "collMod": collection, "index": index }
        }
        None => doc! { "collMod": collection, "expireAfterSeconds": seconds },
    }
}

#[expect(clippy::needless_pass_by_value, reason = "it is passed to map_err")]
fn failed(error: mongodb::error::Error) -> ConsumerError {
    MongoError::from_driver("the target", &error).into()
}
