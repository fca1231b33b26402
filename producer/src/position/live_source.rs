//! The source with which a position is checked.

use mongodb::Client;
use oplog_relay_core::position::{Position, Timestamp};
use oplog_relay_core::state::{SourceMode, SourceRecord};
use oplog_relay_runtime::config::Secret;
use oplog_relay_runtime::mongo::Hello;

use crate::config::WantedMode;
use crate::error::ProducerError;
use crate::oplog_window::OplogWindow;
use crate::position::change::is_after;
use crate::position::routed::SourceCollections;
use crate::saved::checkpoint::Checkpoint;
use crate::source::oplog::{Oplog, newest_of_majority};
use crate::source::origin::{Reached, replica_set_id};

/// A source to which the command has connected.
#[derive(Debug)]
pub(super) struct LiveSource {
    client: Client,
    hello: Hello,
    /// The identity of the source.
    pub(super) record: SourceRecord,
}

impl LiveSource {
    /// Connects to a source that is read in the given mode.
    ///
    /// # Errors
    /// The errors of [`Reached::of`].
    pub(super) async fn open(
        uri: &Secret,
        name: &str,
        mode: WantedMode,
    ) -> Result<Self, ProducerError> {
        let Reached {
            client,
            hello,
            reason,
        } = Reached::of(uri, mode).await?;
        let mode = match reason {
            Some(_) => SourceMode::ChangeStream,
            None => SourceMode::Oplog,
        };
        let replica_set_id = match mode {
            SourceMode::Oplog => replica_set_id(&client).await,
            SourceMode::ChangeStream => None,
        };
        let record = SourceRecord {
            set_name: hello.set_name.clone(),
            replica_set_id,
            ..SourceRecord::new(name.to_owned(), mode)
        };
        Ok(Self {
            client,
            hello,
            record,
        })
    }

    /// Returns the way in which the source is read.
    pub(super) const fn mode(&self) -> SourceMode {
        self.record.mode
    }

    /// Returns the oplog of the source.
    pub(super) fn oplog(&self) -> Oplog {
        Oplog::new(&self.client)
    }

    /// Returns the newest position of the source; `None` if its oplog is empty, or if it does not report
    /// its logical time.
    ///
    /// # Errors
    /// [`ProducerError::Source`].
    pub(super) async fn newest(&self) -> Result<Option<Position>, ProducerError> {
        match self.mode() {
            SourceMode::Oplog => newest_of_majority(&self.client).await,
            SourceMode::ChangeStream => {
                let ts = self.hello.operation_time.or(self.hello.cluster_time);
                Ok(ts.map(|ts| Position {
                    ts,
                    term: -1,
                    ord: 0,
                }))
            }
        }
    }

    /// Returns the oplog window; `None` if it cannot be known, as behind a mongos.
    ///
    /// # Errors
    /// [`ProducerError::Source`], if the source is read through its oplog.
    pub(super) async fn window(
        &self,
        position: Option<Timestamp>,
    ) -> Result<Option<OplogWindow>, ProducerError> {
        if self.hello.is_mongos {
            return Ok(None);
        }
        match (self.mode(), self.oplog().window(position).await) {
            // A user who reads a change stream need not have the right to read the oplog.
            (SourceMode::ChangeStream, Err(_)) => Ok(None),
            (_, window) => window,
        }
    }
}

/// Returns the collections of the source, if it is given and a change of the position from the saved to
/// the wanted one skips entries, among which collections may have ended.
///
/// # Errors
/// [`ProducerError::Source`].
pub(super) async fn collections_of_gap(
    source: Option<&LiveSource>,
    saved: &Checkpoint,
    wanted: Position,
) -> Result<Option<SourceCollections>, ProducerError> {
    let skips = saved.position.is_some_and(|saved| is_after(wanted, saved));
    let Some(source) = source.filter(|_| skips) else {
        return Ok(None);
    };
    let found = SourceCollections::read(&source.client, &saved.state.routes).await?;
    Ok(Some(found))
}
