//! The writes that reached a target.

use anyhow::{Context, Result, ensure};
use bson::{Document, doc};
use mongodb::Client;

use super::case::{Case, Group, Place};
use oplog_relay_kit::stub::{Shape, TimedInsert};

fn with_client<T>(uri: &str, work: impl AsyncFnOnce(Client) -> Result<T>) -> Result<T> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    runtime.block_on(async { work(Client::with_uri_str(uri).await?).await })
}

/// Returns the number of statements that a stub has acknowledged so far.
pub(super) fn acknowledged(uri: &str) -> Result<u64> {
    with_client(uri, async |client| {
        let status = doc! { "serverStatus": 1 };
        let status = client.database("admin").run_command(status).await?;
        let counters = status.get_document("opcounters")?;
        let counts = counters
            .values()
            .map(|count| count.as_i64().context("no count"));
        let sum = counts.sum::<Result<i64>>()?;
        Ok(u64::try_from(sum)?)
    })
}

/// Returns the inserts into a stub that measures latencies.
pub(super) fn timed_inserts(uri: &str) -> Result<Vec<TimedInsert>> {
    with_client(uri, async |client| {
        let status = doc! { "serverStatus": 1 };
        let status = client.database("admin").run_command(status).await?;
        let timing = status.get_document("timing")?;
        let inserts = timing.get_binary_generic("inserts")?;
        Ok(TimedInsert::parse_all(inserts))
    })
}

/// Empties a FerretDB, so that every round inserts into an empty collection.
pub(super) fn clear(uri: &str) -> Result<()> {
    with_client(uri, async |client| {
        Ok(client.database("bench").drop().await?)
    })
}

/// Checks that all entries of a case reached the target, whose count was `before`.
pub(super) fn check(case: Case, place: &Place<'_>, before: u64) -> Result<()> {
    let (found, least) = match (case.group(), case.shape()) {
        (Group::Ferretdb, _) => (documents(place.target)?, place.entries),
        // Of ten entries, two are deletes of documents that two earlier ones insert. In the same
        // batch these are folded, so that fewer statements are sent.
        (_, Shape::Mixed) => (acknowledged(place.target)? - before, place.entries * 8 / 10),
        _ => (acknowledged(place.target)? - before, place.entries),
    };
    ensure!(
        found >= least,
        "{}: {found} of {least} writes reached the target",
        case.name()
    );
    Ok(())
}

fn documents(uri: &str) -> Result<u64> {
    with_client(uri, async |client| {
        let orders = client.database("bench").collection::<Document>("orders");
        Ok(orders.count_documents(doc! {}).await?)
    })
}
