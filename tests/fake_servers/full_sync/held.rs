//! A copy whose first read of `shop.c` the server has executed, but whose reply it holds back.

use anyhow::Result;
use oplog_relay_core::position::EntryId;
use oplog_relay_kit::copying::{Copying, Saved};
use oplog_relay_kit::model::{Model, ModelServer};
use oplog_relay_kit::services::wait_until;

use crate::full_sync::{LIMIT, at, expect_equal, replayed};

pub(crate) fn wait(what: &str, is_so: impl FnMut() -> bool) -> Result<()> {
    tokio::task::block_in_place(|| wait_until(what, LIMIT, is_so))
}

/// Starts a copy and waits until the reply to that read is held back.
pub(crate) async fn begin(model: Model, readers: usize) -> Result<(ModelServer, Copying)> {
    let server = ModelServer::start(model)?;
    server.hold("find", "c");
    let copying = Copying::start(&server.uri(), Saved::default(), readers).await?;
    wait("the read", || server.held() > 0)?;
    Ok((server, copying))
}

/// Releases the reply when the tail has read the oplog to its end. Waits until the copy is done and
/// the tail has reached `last`, checks that source and target are equal, and returns the ids of all
/// entries.
pub(crate) async fn go_on(
    server: &ModelServer,
    copying: Copying,
    last: u32,
) -> Result<Vec<EntryId>> {
    wait("the tail", || server.model().is_tailed())?;
    server.resume();
    wait("the copy", || {
        copying.is_done() && copying.has_reached(at(last))
    })?;
    let (entries, _) = copying.stop().await?;
    expect_equal(&server.model(), &replayed(&entries)?)?;
    Ok(entries.into_iter().map(|(id, _)| id).collect())
}
