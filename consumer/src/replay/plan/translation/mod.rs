//! Translates the commands of oplog entries into commands for a target.
//!
//! The command in an oplog entry cannot be run as it is, because it has internal fields of the server.
//! `expireAfterSeconds` is withheld, because the target would delete documents by itself.
//!
//! # Modules
//!
//! - `indexes` translates index builds, drops and changes
//! - `views` translates writes to `system.views`
//! - `old_options` replaces options that only old servers accept
//! - `done` has the error codes that mean that a command has nothing left to do

mod indexes;
mod old_options;
mod views;

use oplog_relay_core::command::{Treatment, is_view_entry, treatment};
use oplog_relay_core::compare::is_truthy;
use oplog_relay_core::document::{Document, DocumentBuilder, Element, Malformed, kind};
use oplog_relay_core::entry::{Entry, EntryError};
use oplog_relay_core::time_series::{self, VIEWS};

use self::indexes::{create_indexes, drop_index, index_change};
use self::views::view;
use crate::replay::plan::PlanFault;

/// Error codes that mean that a command has nothing left to do.
pub mod done {
    /// `create`: the name is in use; the existing collection must be checked.
    pub const TAKEN: i32 = 48;
    /// The collection does not exist.
    pub const NO_COLLECTION: i32 = 26;
    /// The index does not exist.
    pub const NO_INDEX: i32 = 27;
    /// `createIndexes`: an index with that name or key exists; its definition must be checked.
    pub const INDEX_TAKEN: [i32; 2] = [85, 86];
    /// `dropIndexes`, `CannotDropShardKeyIndex`: a cluster keeps the index that serves the shard key of
    /// a collection.
    pub const SHARD_KEY_INDEX: i32 = 370;
}

/// A change of the `expireAfterSeconds` of an index or a collection. It is withheld from the target,
/// because the target would delete documents that the replay still needs.
#[derive(Debug, Clone, PartialEq)]
pub struct Withheld {
    /// Name of the index; `None` for a collection (time series, clustered).
    pub index: Option<String>,
    /// The source's value; `None` if the expiry was removed or its index dropped.
    pub seconds: Option<i64>,
}

/// The `expireAfterSeconds` that postpones the expiry of an existing index: the largest value that
/// `collMod` accepts on every server. Indexes that a replay creates have no `expireAfterSeconds`,
/// because servers up to 6.0 refuse this value at creation. Indexes that earlier versions of this
/// program created may have it.
pub const POSTPONED_EXPIRY: i32 = i32::MAX;

/// An option of MongoDB 4.4 and 5.0 that affects only change streams of the source. MongoDB 6.0
/// refuses it.
const PRE_IMAGES: &[u8] = b"recordPreImages";

/// The action for a command on a target. The change of a document is
/// [`plan::Action`](crate::replay::plan::Action).
#[derive(Debug, Clone, PartialEq)]
pub enum Action {
    /// Intentionally no action.
    Nothing,
    /// Runs a command on the collection's database.
    Run {
        /// The command.
        command: Vec<u8>,
        /// Error codes that count as success, see [`done`].
        accept: &'static [i32],
        /// The command to try if the target refuses the first one.
        otherwise: Option<Vec<u8>>,
    },
    /// Drops a collection.
    Drop {
        /// The collection's name.
        collection: String,
    },
    /// Drops a time series.
    DropSeries {
        /// Name of the time series.
        series: String,
        /// Name of its buckets collection.
        buckets: String,
    },
    /// Drops a view. The view of a time series is not dropped separately: it is dropped together with
    /// the buckets.
    DropView {
        /// The view's name.
        view: String,
    },
    /// Drops all views of the database.
    DropViews,
    /// Changes the bucket span in the view of a time series. The buckets are changed by another
    /// command.
    ChangeSeriesView {
        /// The view's document in `system.views`.
        definition: Vec<u8>,
    },
    /// Renames a collection. An existing collection with the new name may be dropped.
    Rename {
        /// `db.collection` of the new name.
        to: String,
        /// True if an existing collection with the new name is dropped.
        drop_target: bool,
    },
}

/// A translated command.
#[derive(Debug, Clone, PartialEq)]
pub struct Translated {
    /// The action on the target.
    pub action: Action,
    /// Changes of `expireAfterSeconds` that are withheld from the target.
    pub withheld: Vec<Withheld>,
    /// True if an index is created or stays non-unique on the target, although the command makes it
    /// unique.
    pub made_non_unique: bool,
    /// Names of the indexes that the command creates or makes unique, and that can refuse a
    /// document.
    pub limiting: Vec<String>,
    /// Options of old servers that were left out or replaced.
    pub left_out: Vec<String>,
}

/// The context of a command's translation.
#[derive(Debug, Clone, Copy)]
pub struct Circumstances<'a> {
    /// Current name of the collection on the target.
    pub collection: &'a str,
    /// True if all later writes of the collection are in one partition. Only then can a unique
    /// index be kept on the target.
    pub ordered: bool,
}

/// Translates a command.
///
/// # Errors
/// [`PlanFault::Command`] if the command is unknown or cannot be replayed; other faults if the
/// entry is damaged.
pub fn translate(entry: &Entry<'_>, at: Circumstances<'_>) -> Result<Translated, PlanFault> {
    if is_view_entry(entry) {
        return Ok(plain(view(entry, at.collection)?));
    }
    let command = entry.command()?;
    match treatment(entry)? {
        Some(Treatment::Ignore) => return Ok(plain(Action::Nothing)),
        Some(Treatment::Stop) | None => {
            return Err(PlanFault::Command(
                String::from_utf8_lossy(command.name).into_owned(),
            ));
        }
        Some(Treatment::Barrier | Treatment::Build | Treatment::Inline) => {}
    }
    let collection = at.collection;
    Ok(match command.name {
        b"create" => create(entry, collection)?,
        b"createIndexes" | b"commitIndexBuild" => create_indexes(entry, at)?,
        b"collMod" => coll_mod(entry, at)?,
        b"renameCollection" => plain(rename(entry)?),
        b"drop" => plain(drop_collection(collection)),
        b"convertToCapped" => plain(run(
            copy(entry.o, "convertToCapped", collection, |_| Ok(true))?,
            &[done::NO_COLLECTION],
        )),
        b"emptycapped" => {
            let all = with_name("delete", collection, |delete| {
                delete.nested("deletes", kind::ARRAY, |list| {
                    list.nested("0", kind::DOCUMENT, |statement| {
                        statement.document("q", Document::EMPTY).int32("limit", 0);
                    });
                });
                Ok(())
            })?;
            plain(Action::Run {
                command: with_name("emptycapped", collection, |_| Ok(()))?,
                accept: &[done::NO_COLLECTION],
                otherwise: Some(all),
            })
        }
        b"dropIndexes" | b"deleteIndexes" | b"dropIndex" | b"deleteIndex" => {
            drop_index(entry, collection)?
        }
        // A command that core's table contains but this function does not handle.
        name => {
            return Err(PlanFault::Command(
                String::from_utf8_lossy(name).into_owned(),
            ));
        }
    })
}

const fn plain(action: Action) -> Translated {
    Translated {
        action,
        withheld: Vec::new(),
        made_non_unique: false,
        limiting: Vec::new(),
        left_out: Vec::new(),
    }
}

const fn run(command: Vec<u8>, accept: &'static [i32]) -> Action {
    Action::Run {
        command,
        accept,
        otherwise: None,
    }
}

fn drop_collection(collection: &str) -> Action {
    let name = collection.to_owned();
    match time_series::of_buckets(collection) {
        Some(series) => Action::DropSeries {
            series: series.to_owned(),
            buckets: name,
        },
        None if collection == VIEWS => Action::DropViews,
        None => Action::Drop { collection: name },
    }
}

/// Builds the command `{<name>: <collection>, …}`.
fn with_name(
    name: &str,
    collection: &str,
    more: impl FnOnce(&mut DocumentBuilder<'_>) -> Result<(), Malformed>,
) -> Result<Vec<u8>, Malformed> {
    let mut out = Vec::new();
    let mut command = DocumentBuilder::start(&mut out);
    command.str(name, collection);
    more(&mut command)?;
    command.finish();
    Ok(out)
}

/// Returns a copy of the command with the options for which `keeps` returns true.
fn copy(
    o: Document<'_>,
    name: &str,
    collection: &str,
    mut keeps: impl FnMut(Element<'_>) -> Result<bool, Malformed>,
) -> Result<Vec<u8>, Malformed> {
    with_name(name, collection, |command| {
        for option in o.elements().skip(1) {
            let option = option?;
            if option.name == b"collation" && option.kind == kind::DOCUMENT {
                command.document("collation", Document::new(&without_version(option)?)?);
            } else if keeps(option)? {
                command.element(option);
            }
        }
        Ok(())
    })
}

/// Removes the version from a collation: it is the version of the server's ICU library, and other
/// servers refuse it.
fn without_version(collation: Element<'_>) -> Result<Vec<u8>, Malformed> {
    let mut out = Vec::new();
    let mut kept = DocumentBuilder::start(&mut out);
    for field in collation.document()?.elements() {
        let field = field?;
        if field.name != b"version" {
            kept.element(field);
        }
    }
    kept.finish();
    Ok(out)
}

/// Returns an expiry in whole seconds; `None` if the value is not a number (`"off"`), which
/// disables the expiry.
fn seconds(option: Element<'_>) -> Option<i64> {
    #[expect(clippy::cast_possible_truncation, reason = "whole seconds")]
    match option.kind {
        kind::DOUBLE => {
            let value = f64::from_le_bytes(option.fixed().ok()?);
            (!value.is_nan()).then_some(value as i64)
        }
        _ => option.integer().ok(),
    }
}

/// Translates `create`.
fn create(entry: &Entry<'_>, collection: &str) -> Result<Translated, PlanFault> {
    if collection == VIEWS {
        // A server creates `system.views` itself with the first view.
        return Ok(plain(Action::Nothing));
    }
    let mut withheld = Vec::new();
    if let Some(expires) = entry.o.get("expireAfterSeconds")? {
        withheld.push(Withheld {
            index: None,
            seconds: seconds(expires),
        });
    }
    // Servers up to 8.x log a time series under the name of its buckets, later ones under its own name.
    let is_series = entry.o.get("timeseries")?.is_some();
    let is_capped = entry.o.get("capped")?.is_some_and(is_truthy);
    let keeps = |option: Element<'_>| -> Result<bool, Malformed> {
        // Old servers also log `size` and `max` for a collection that is not capped.
        let is_ignored = !is_capped && matches!(option.name, b"size" | b"max");
        Ok(!is_ignored && keeps_create_option(option, is_series)?)
    };
    let meaningless = old_options::without_meaning(entry.o)?;
    let series = time_series::of_buckets(collection).filter(|_| is_series);
    let name = series.unwrap_or(collection);
    let command = copy(entry.o, "create", name, keeps)?;
    // Storage options do not change the documents. A target that refuses them may use its defaults.
    let storage = |name: &[u8]| matches!(name, b"storageEngine" | b"clusteredIndex");
    let mut options = entry.o.elements().filter_map(Result::ok);
    let otherwise = options
        .any(|option| storage(option.name))
        .then(|| {
            copy(entry.o, "create", name, |option| {
                Ok(!storage(option.name) && keeps(option)?)
            })
        })
        .transpose()?;
    Ok(Translated {
        action: Action::Run {
            command,
            accept: &[done::TAKEN],
            otherwise,
        },
        withheld,
        left_out: meaningless,
        ..plain(Action::Nothing)
    })
}

/// Returns true for an option of `create` that is sent to the target.
fn keeps_create_option(option: Element<'_>, of_series: bool) -> Result<bool, Malformed> {
    Ok(match option.name {
        // The buckets get their validator and clustering from the time series.
        b"validator" | b"clusteredIndex" | b"validationLevel" | b"validationAction" => !of_series,
        b"temp" | b"autoIndexId" | b"uuid" | b"recordIdsReplicated" | b"expireAfterSeconds" => {
            false
        }
        PRE_IMAGES => false,
        _ if old_options::is_without_meaning(option) => false,
        // The default index needs no option, and its collation follows the collection's.
        b"idIndex" => false,
        b"capped" => is_truthy(option),
        _ => true,
    })
}

/// Translates `collMod`. Without the withheld parts, nothing may be left to change.
fn coll_mod(entry: &Entry<'_>, at: Circumstances<'_>) -> Result<Translated, PlanFault> {
    let mut translated = plain(Action::Nothing);
    translated.left_out = old_options::without_meaning(entry.o)?;
    let index = entry.o.get("index")?.map(Element::document).transpose()?;
    let name = time_series::of_buckets(at.collection).unwrap_or(at.collection);
    let index = index
        .map(|index| index_change(index, at.ordered, &mut translated))
        .transpose()?
        .flatten();
    if let Some(expires) = entry.o.get("expireAfterSeconds")? {
        translated.withheld.push(Withheld {
            index: None,
            seconds: seconds(expires),
        });
    }
    let mut changes = index.is_some();
    let command = with_name("collMod", name, |command| {
        for option in entry.o.elements().skip(1) {
            let option = option?;
            if !matches!(
                option.name,
                b"uuid" | b"expireAfterSeconds" | b"index" | PRE_IMAGES
            ) && !old_options::is_without_meaning(option)
            {
                changes = true;
                command.element(option);
            }
        }
        if let Some(index) = &index {
            command.raw("index", kind::DOCUMENT, index);
        }
        Ok(())
    })?;
    if changes {
        translated.action = run(command, &[done::NO_COLLECTION, done::NO_INDEX]);
    }
    Ok(translated)
}

fn rename(entry: &Entry<'_>) -> Result<Action, EntryError> {
    let to = entry.o.get("to")?.ok_or(Malformed::Missing("to"))?.str()?;
    let drop_target = match entry.o.get("dropTarget")? {
        None => false,
        // Either a flag, or the UUID of the collection that is dropped.
        Some(flag) => is_truthy(flag),
    };
    Ok(Action::Rename {
        to: to.to_owned(),
        drop_target,
    })
}

#[cfg(test)]
mod tests;
