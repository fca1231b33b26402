//! The last step of a migration: sets the expiries that the replay withheld from the target.
//!
//! During a replay, the target never expires documents by itself. The `expireAfterSeconds` of indexes,
//! time series and clustered collections is stored in the catalog instead. When the target replaces the
//! source, [`cutover`] sets the real values. It can be run again at any time.
//!
//! MongoDB 5.1 and later convert a non-TTL index to a TTL index with `collMod`. On earlier versions
//! the index is dropped and built again: see the module `rebuild`.
//!
//! # Modules
//!
//! - `expiries` computes the expiries from the commands of the source
//! - `rebuild` builds TTL indexes again on targets that cannot convert an index
//! - `error` has the reasons why a cutover is not complete

pub mod error;
mod expiries;
mod rebuild;

use std::collections::BTreeMap;

use bson::{Document, doc};
use mongodb::Client;
use oplog_relay_core::namespace::Namespace;
use oplog_relay_runtime::mongo::{self, MongoError, error_code, error_text, is_transient};

use crate::config::CutoverConfig;
use crate::cutover::error::CutoverError;
use crate::cutover::error::Unfinished;
use crate::error::ConsumerError;
use crate::replay::catalog::{History, histories};
use crate::replay::directive::UNAUTHORIZED;
use crate::replay::plan::translation::done;
use crate::replay::suspended_indexes;
use crate::stdout::print_line;

pub use expiries::Expiries;

/// Sets the withheld expiries on the target and prints each change to standard output.
///
/// # Errors
/// Returns [`CutoverError::OtherGroups`] if the catalog has only other groups,
/// [`CutoverError::Unfinished`] if the target refuses a change or an index is still suspended (after
/// all other changes were made), or an error if the target cannot be reached.
pub async fn cutover(config: &CutoverConfig) -> Result<(), ConsumerError> {
    let target = mongo::connect(&config.target, "oplog-consumer cutover", |_| {}).await?;
    let groups = histories(&target).await.map_err(failed)?;
    let mut unfinished = Vec::new();
    let (mut restored, mut gone) = (0, 0);
    for (source, history) in of_group(groups, &config.group)? {
        tracing::debug!(source, commands = history.len(), "read from the catalog");
        for (ns, expiries) in Expiries::of(&history).0 {
            for (index, seconds) in expiries {
                let withheld = Withheld {
                    ns: &ns,
                    index: index.as_deref(),
                    seconds,
                };
                match restore(&target, withheld).await? {
                    Restored::Done => restored += 1,
                    Restored::Gone => gone += 1,
                    Restored::Refused(change) => unfinished.push(change),
                }
            }
        }
    }
    for name in suspended_indexes(&target, &config.group)
        .await
        .map_err(failed)?
    {
        unfinished.push(Unfinished::IndexSuspended { name });
    }
    print_line(&format!(
        "restored: {restored}, gone: {gone}, not restored: {}",
        unfinished.len()
    ))?;
    if unfinished.is_empty() {
        return Ok(());
    }
    Err(CutoverError::Unfinished { unfinished }.into())
}

/// Returns the histories of a group, by source. If the catalog is empty, so is the result; if it has
/// only other groups, an error is returned.
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
    Err(CutoverError::OtherGroups {
        group: group.to_owned(),
        others: groups.into_keys().collect(),
    }
    .into())
}

/// The result for one expiry.
#[derive(Debug)]
enum Restored {
    Done,
    /// The collection or index no longer exists.
    Gone,
    Refused(Unfinished),
}

/// An expiry that was withheld.
#[derive(Debug, Clone, Copy)]
struct Withheld<'a> {
    /// The namespace, `db.collection`.
    ns: &'a str,
    /// The index; `None` for the collection itself.
    index: Option<&'a str>,
    seconds: i64,
}

impl Withheld<'_> {
    fn namespace(&self) -> Namespace<'_> {
        Namespace::split(self.ns)
    }

    /// Returns the name of the collection or the index, for messages.
    fn name(&self) -> String {
        match self.index {
            Some(index) => format!("{} index {index}", self.ns),
            None => self.ns.to_owned(),
        }
    }

    fn refused(&self, error: &mongodb::error::Error) -> Restored {
        let is_unauthorized = error_code(error) == Some(UNAUTHORIZED);
        let database = is_unauthorized.then(|| self.namespace().db.to_owned());
        Restored::Refused(Unfinished::Expiry {
            seconds: self.seconds,
            name: self.name(),
            reason: error_text(error),
            database,
        })
    }
}

async fn restore(target: &Client, withheld: Withheld<'_>) -> Result<Restored, ConsumerError> {
    let Namespace { db, collection } = withheld.namespace();
    let command = change(collection, withheld.index, withheld.seconds);
    let Err(error) = target.database(db).run_command(command).await else {
        return report(withheld, Restored::Done);
    };
    let restored = match (error_code(&error), withheld.index) {
        (Some(done::NO_COLLECTION), _) => Restored::Gone,
        (Some(done::NO_INDEX), Some(index)) => rebuild::resume(target, withheld, index).await?,
        (Some(code), Some(index)) if rebuild::CANNOT_CONVERT.contains(&code) => {
            rebuild::rebuild(target, withheld, index).await?
        }
        (Some(_), _) if !is_transient(&error) => withheld.refused(&error),
        _ => return Err(failed(error)),
    };
    report(withheld, restored)
}

/// Prints the result for an expiry and returns it.
fn report(withheld: Withheld<'_>, restored: Restored) -> Result<Restored, ConsumerError> {
    let what = withheld.name();
    match &restored {
        Restored::Done => print_line(&format!("{what}: expireAfterSeconds {}", withheld.seconds))?,
        Restored::Gone => print_line(&format!("{what}: gone from the target"))?,
        Restored::Refused(_) => {}
    }
    Ok(restored)
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
