//! Reads a change stream of a replica set, or of a sharded cluster through mongos.
//!
//! Each event is converted to the oplog entry of the same effect ([`convert`]), so every later stage
//! works as it does for an oplog. A reply of the server becomes an [`EventBatch`]: entries with
//! their identities, and the resume token after each.
//!
//! | file | contents |
//! | --- | --- |
//! | `scope` | the whole deployment or one database |
//! | `tail` | the cursor, which is opened again after network faults and elections |
//! | `reader` | the state between events, such as ordinals |
//! | `event`, `convert` | an event, and its conversion to an entry |
//! | `fragments` | large events that the server has split |
//! | `shards` | events of a sharded cluster that must not take effect as they are |
//! | `documents` | lookups for updates whose description is ambiguous, and of documents that move |
//! | `token` | the cluster time in a resume token |
//! | `fault` | the table of errors |
//! | `batch` | the entries of a reply |
//!
//! # Positions
//!
//! A position is a cluster time and the number of events with it that were sent; the number is 0
//! if no further event has that cluster time. The resume token is saved with it. A stream whose
//! events are all excluded still advances, because each reply has a token: this token is a
//! high-water mark, before which everything was read.
//!
//! A stream continues after its token.

pub mod batch;
pub mod convert;
pub mod documents;
pub mod event;
pub mod fault;
pub mod fragments;
pub mod reader;
pub mod scope;
pub mod shards;
mod tail;
pub mod token;

use std::time::Duration;

use bson::{RawDocumentBuf, doc};
use mongodb::Client;
use mongodb::options::CursorType;
use mongodb::raw_batch_cursor::RawBatchCursor;
use oplog_relay_core::document::{Document, DocumentBuilder, kind};
use oplog_relay_core::filter::NamespaceFilter;
use oplog_relay_core::position::{Position, Timestamp};
use oplog_relay_runtime::mongo::{self, REPLY_LIMIT, in_time};

pub use batch::EventBatch;
pub use tail::EventTail;

use crate::error::ProducerError;
use crate::source::full_sync::SourceReader;
use scope::Scope;

/// Time that a `getMore` waits at the server for the next event.
const AWAIT: Duration = Duration::from_secs(1);
/// Maximum number of events per reply; a reply ends at 16 MB in any case.
const BATCH_EVENTS: u32 = 5_000;
/// Time limit for opening a stream. A server scans its oplog from the start position on.
const OPENING: Duration = Duration::from_secs(600);

/// The change stream of one deployment.
#[derive(Debug, Clone)]
pub struct ChangeStream {
    source: SourceReader,
    scope: Scope,
    abilities: Abilities,
    is_sharded: bool,
}

/// The options of a change stream that depend on the version of the server.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Abilities {
    /// `showExpandedEvents`: commands on collections and indexes, UUIDs, unambiguous paths (6.0).
    pub expanded_events: bool,
    /// `$changeStreamSplitLargeEvent` (6.0.9).
    pub splits_events: bool,
}

impl Abilities {
    /// Returns the abilities of a version.
    #[must_use]
    pub const fn of(major: i32, minor: i32, patch: i32) -> Self {
        let is_first = major == 6 && minor == 0;
        Self {
            expanded_events: major >= 6,
            splits_events: major >= 6 && (!is_first || patch >= 9),
        }
    }
}

/// The point at which a stream is opened.
#[derive(Debug, Clone, PartialEq, Eq)]
enum OpenAt {
    /// After the event of a resume token.
    Token(Vec<u8>),
    /// At the first event with this cluster time or a later one.
    Time(Timestamp),
}

impl ChangeStream {
    /// Determines the options of a stream of the namespaces that a filter selects.
    ///
    /// # Errors
    /// [`ProducerError::Source`].
    pub async fn new(
        client: &Client,
        filter: &NamespaceFilter,
        is_sharded: bool,
    ) -> Result<Self, ProducerError> {
        let database = client.database("admin");
        let info = in_time(REPLY_LIMIT, database.run_command(doc! { "buildInfo": 1 })).await;
        let info = info.map_err(ProducerError::Source)?;
        let version = info.get_array("versionArray").ok();
        let part = |place: usize| {
            let part = version.and_then(|version| version.get(place));
            part.and_then(bson::Bson::as_i32).unwrap_or_default()
        };
        Ok(Self {
            source: SourceReader::causal(client.clone()),
            scope: Scope::of(filter),
            abilities: Abilities::of(part(0), part(1), part(2)),
            is_sharded,
        })
    }

    /// Returns the scope of the stream.
    #[must_use]
    pub const fn scope(&self) -> &Scope {
        &self.scope
    }

    /// Returns true if the source is a sharded cluster, which is read through mongos.
    #[must_use]
    pub const fn is_sharded(&self) -> bool {
        self.is_sharded
    }

    /// Returns the options that the server supports.
    #[must_use]
    pub const fn abilities(&self) -> Abilities {
        self.abilities
    }

    /// Returns the logical time of the source: no later event has an earlier cluster time. `None` if
    /// the server does not report it.
    ///
    /// # Errors
    /// [`ProducerError::Source`].
    pub async fn newest(&self) -> Result<Option<Position>, ProducerError> {
        let hello = mongo::hello(self.source.client()).await;
        let hello = hello.map_err(ProducerError::Source)?;
        let ts = hello.operation_time.or(hello.cluster_time);
        Ok(ts.map(|ts| Position {
            ts,
            term: -1,
            ord: 0,
        }))
    }

    async fn open(&self, at: &OpenAt) -> mongodb::error::Result<RawBatchCursor> {
        let command = RawDocumentBuf::from_bytes(self.write_aggregate(at))?;
        let client = self.source.client();
        let database = client.database(self.scope.database());
        let mut run = database
            .run_raw_cursor_command(command)
            .cursor_type(CursorType::TailableAwait)
            .batch_size(BATCH_EVENTS)
            .max_time(AWAIT);
        if let Some(criteria) = client.selection_criteria() {
            run = run.selection_criteria(criteria.clone());
        }
        in_time(OPENING, run.batch()).await
    }

    fn write_aggregate(&self, at: &OpenAt) -> Vec<u8> {
        let mut command = Vec::new();
        let mut aggregate = DocumentBuilder::start(&mut command);
        aggregate.int32("aggregate", 1);
        aggregate.nested("pipeline", kind::ARRAY, |pipeline| {
            pipeline.nested("0", kind::DOCUMENT, |stage| {
                stage.nested("$changeStream", kind::DOCUMENT, |options| {
                    if self.scope == Scope::Deployment {
                        options.boolean("allChangesForCluster", true);
                    }
                    if self.abilities.expanded_events {
                        options.boolean("showExpandedEvents", true);
                    }
                    match at {
                        // `resumeAfter` would not accept the token of an `invalidate`.
                        OpenAt::Token(token) => options.raw("startAfter", kind::DOCUMENT, token),
                        OpenAt::Time(ts) => {
                            options.raw("startAtOperationTime", kind::TIMESTAMP, &ts.to_le_bytes())
                        }
                    };
                });
            });
            if self.abilities.splits_events {
                pipeline.nested("1", kind::DOCUMENT, |stage| {
                    stage.document("$changeStreamSplitLargeEvent", Document::EMPTY);
                });
            }
        });
        // An empty first batch returns at once, with the token of the starting point.
        aggregate.nested("cursor", kind::DOCUMENT, |cursor| {
            cursor.int32("batchSize", 0);
        });
        aggregate.nested("readConcern", kind::DOCUMENT, |concern| {
            concern.str("level", "majority");
        });
        aggregate.finish();
        command
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn options_are_used_from_the_version_that_introduced_them() {
        for (version, expanded_events, splits_events) in [
            ((4, 4, 29), false, false),
            ((5, 0, 7), false, false),
            ((6, 0, 8), true, false),
            ((6, 0, 9), true, true),
            ((7, 0, 0), true, true),
            ((8, 0, 1), true, true),
        ] {
            let (major, minor, patch) = version;
            let expected = Abilities {
                expanded_events,
                splits_events,
            };
            assert_eq!(Abilities::of(major, minor, patch), expected, "{version:?}");
        }
    }
}
