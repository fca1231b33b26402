//! Commands of an oplog as commands for a target.
//!
//! What a server logs is not what it takes: fields of its own have to go, and what would let the
//! target delete by itself (`expireAfterSeconds`) is withheld.

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

/// Error codes by which a server says that what a command does was done already.
pub mod done {
    /// `create`: the name is taken; by what has to be looked at.
    pub const TAKEN: i32 = 48;
    /// There is no such collection.
    pub const NO_COLLECTION: i32 = 26;
    /// There is no such index.
    pub const NO_INDEX: i32 = 27;
    /// `createIndexes`: an index of that name or key is there; what it is like has to be looked at.
    pub const INDEX_TAKEN: [i32; 2] = [85, 86];
}

/// An index's or a collection's `expireAfterSeconds` that the target does not get, because it would
/// delete documents that a replay still needs; or the end of it.
#[derive(Debug, Clone, PartialEq)]
pub struct Withheld {
    /// The index; `None` for a collection (time series, clustered).
    pub index: Option<String>,
    /// The true value; `None`: nothing expires by it any more, or its index is dropped.
    pub seconds: Option<i64>,
}

/// The `expireAfterSeconds` by which an index that the target has already is put off: the greatest that a
/// `collMod` takes on every server. Indexes that a replay makes have none, because servers up to
/// 6.0 refuse it at creation; targets of earlier versions of this program have it.
pub const PUT_OFF: i32 = i32::MAX;

/// Option of 4.4 and 5.0 for the change streams of the source alone; 6.0 refuses it.
const PRE_IMAGES: &[u8] = b"recordPreImages";

/// What a command comes to on a target.
#[derive(Debug, Clone, PartialEq)]
pub enum Action {
    /// Nothing, on purpose.
    Nothing,
    /// A command for the database of the collection.
    Run {
        /// The command.
        command: Vec<u8>,
        /// Codes that mean "done already".
        accept: &'static [i32],
        /// A command to try where the target refuses the first one's options.
        otherwise: Option<Vec<u8>>,
    },
    /// A collection ends.
    Drop {
        /// Its name.
        collection: String,
    },
    /// A time series ends.
    DropSeries {
        /// Its own name.
        series: String,
        /// The collection of its buckets.
        buckets: String,
    },
    /// A view ends, or the view before the buckets of a time series, which ends with its buckets.
    DropView {
        /// Its name.
        view: String,
    },
    /// All views of the database end.
    DropViews,
    /// The view before the buckets of a time series changes, by a command that changes the buckets
    /// as well.
    ChangeSeriesView {
        /// Its document in `system.views`.
        definition: Vec<u8>,
    },
    /// A collection gets another name, perhaps that of one that ends.
    Rename {
        /// `db.collection` of the new name.
        to: String,
        /// Whether a collection of that name ends.
        drop_target: bool,
    },
}

/// A command, translated.
#[derive(Debug, Clone, PartialEq)]
pub struct Translated {
    /// What to do.
    pub action: Action,
    /// What was withheld, and what ended of that.
    pub withheld: Vec<Withheld>,
    /// Whether a unique index was made a plain one.
    pub made_non_unique: bool,
    /// Indexes that it makes and that can refuse a document.
    pub limiting: Vec<String>,
    /// Options of old servers that were left out or written in another way.
    pub left_out: Vec<String>,
}

/// What to know beside the entry.
#[derive(Debug, Clone, Copy)]
pub struct Circumstances<'a> {
    /// Name of the collection on the target now.
    pub collection: &'a str,
    /// Whether all of the collection's later writes are in one partition: only then a unique index
    /// can hold on the target.
    pub ordered: bool,
}

/// Translates a command.
///
/// # Errors
/// [`PlanFault::Command`] for one that is unknown or that no replay can run.
pub fn translate(entry: &Entry<'_>, at: Circumstances<'_>) -> Result<Translated, PlanFault> {
    if is_view_entry(entry) {
        return Ok(plain(view(entry, at.collection)?));
    }
    let command = entry.command()?;
    match treatment(entry)? {
        Some(Treatment::PassOver) => return Ok(plain(Action::Nothing)),
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
        // The four names of dropIndexes.
        _ => drop_index(entry, collection)?,
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

/// `{<name>: <collection>, …}`
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

/// The command with its options that `keeps` says true of.
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

/// A collation names the version of the library that its server has; another server refuses it.
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

/// Whole seconds; `None` for what is no number, by which nothing expires (`"off"`).
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

fn create(entry: &Entry<'_>, collection: &str) -> Result<Translated, PlanFault> {
    if collection == VIEWS {
        // Every server makes its own when the first view is created.
        return Ok(plain(Action::Nothing));
    }
    let mut withheld = Vec::new();
    if let Some(expires) = entry.o.get("expireAfterSeconds")? {
        withheld.push(Withheld {
            index: None,
            seconds: seconds(expires),
        });
    }
    // Up to 8.x a time series is logged by the name of its buckets, later by its own.
    let is_series = entry.o.get("timeseries")?.is_some();
    let is_capped = entry.o.get("capped")?.is_some_and(is_truthy);
    let keeps = |option: Element<'_>| -> Result<bool, Malformed> {
        // Old servers keep the size of a collection that is not capped.
        let is_idle = !is_capped && matches!(option.name, b"size" | b"max");
        Ok(!is_idle && keeps_create_option(option, is_series)?)
    };
    let meaningless = old_options::without_meaning(entry.o)?;
    let series = time_series::of_buckets(collection).filter(|_| is_series);
    let name = series.unwrap_or(collection);
    let command = copy(entry.o, "create", name, keeps)?;
    // How documents are stored is not what they are: a target that cannot store them so may store
    // them in its own way.
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

fn keeps_create_option(option: Element<'_>, of_series: bool) -> Result<bool, Malformed> {
    Ok(match option.name {
        // Buckets get their validator and their order from the time series.
        b"validator" | b"clusteredIndex" | b"validationLevel" | b"validationAction" => !of_series,
        b"temp" | b"autoIndexId" | b"uuid" | b"recordIdsReplicated" | b"expireAfterSeconds" => {
            false
        }
        PRE_IMAGES => false,
        _ if old_options::is_without_meaning(option) => false,
        // The default one needs no word, and one with a collation follows the collection's.
        b"idIndex" => false,
        b"capped" => is_truthy(option),
        _ => true,
    })
}

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
        // A flag, or the UUID of the collection that ends.
        Some(flag) => is_truthy(flag),
    };
    Ok(Action::Rename {
        to: to.to_owned(),
        drop_target,
    })
}

#[cfg(test)]
mod tests;
