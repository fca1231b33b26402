//! `oplog-producer position`: shows, lists, sets and imports the saved positions of sources.
//!
//! A change is written with the transactional id of the source. Opening the transactional producer
//! fences a running producer, so it can no longer write the position that it has reached. What is saved
//! is final only then, so it is read again, and the change is decided again. The position, and the record
//! of the source if it changes, are in one Kafka transaction: if a producer starts in between, it fences
//! this command in turn, and nothing has changed.
//!
//! # What a change of the position means
//!
//! - **Entries are sent again** after a move back, with the same identities. They follow those that are
//!   in the topics already, in each partition, as after a rewind of a consumer group: a replay knows by
//!   its catalog which commands have run, and skips the writes of collections that were dropped.
//! - **Routes.** The routing table stays as it is. The routes of collections that exist are the same
//!   for entries that are sent again. A route that has ended is not restored: if the position moves back
//!   before the end of a collection, the collection gets a new route, possibly to other partitions.
//!   That is harmless, because a barrier in all partitions of the topic, that of the command that
//!   ended the collection, lies between the two routes. The command is then sent again and ends the new
//!   route.
//! - **Before the stream began** there are commands that no replay has run. Their names may belong to
//!   other collections now, so such a position has to be accepted explicitly. The beginning is saved in
//!   the source's record.
//! - **Gaps.** After a move forward the skipped entries are recorded in the source's record. A
//!   transaction that began in the gap counts as incomplete if its first entries are gone.
//! - **A full sync** that is not complete has sent documents that rely on the entries after the saved
//!   position, so its position cannot be changed.
//!
//! # Modules
//!
//! - `show` and `list` print positions
//! - `live_source` is the source with which a position is checked, and `resolve` finds positions there
//! - `routed` finds collections that have ended, because a move forward must not skip their ends
//! - `change` decides what a change means and what is saved, and `write` writes it
//! - `set` and `import` are the commands that change a position
//! - `checkpoint_of` reads the checkpoints of other programs
//! - `error` has the reasons why a position cannot be changed

mod change;
mod checkpoint_of;
pub mod error;
mod import;
mod list;
mod live_source;
mod resolve;
mod routed;
mod set;
mod show;
mod write;

use crate::config::position::{PositionAction, PositionConfig};
use crate::error::ProducerError;

/// Runs a command of `oplog-producer position`.
///
/// # Errors
/// [`error::PositionChangeError`]; the errors of Kafka and of the source; [`ProducerError::Output`].
pub async fn run(config: &PositionConfig) -> Result<(), ProducerError> {
    let kafka = &config.kafka;
    match &config.action {
        PositionAction::Show(config) => Box::pin(show::show(kafka, config)).await,
        PositionAction::List(config) => Box::pin(list::list(kafka, config)).await,
        PositionAction::Set(config) => Box::pin(set::set(kafka, config)).await,
        PositionAction::Import(config) => Box::pin(import::import(kafka, config)).await,
    }
}
