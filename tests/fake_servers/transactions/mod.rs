//! Transactions of a live source: the stub server's oplog through the producer's tail and encoder,
//! compared with the records of the same entries as a dump, and resumed at the end of every chunk.

mod gone;
mod made;
mod restart;
mod resume;

use anyhow::{Result, ensure};
use oplog_relay_kit::model::Scenario;
use oplog_relay_kit::stream::{Begin, Stream};
use oplog_relay_kit::stub::{Oplog, Server};

#[tokio::test(flavor = "multi_thread")]
async fn golden_oplogs_give_the_same_records_live_and_as_a_dump() -> Result<()> {
    for (name, committed, aborted, operations, parts) in [
        ("transactions", 26, 0, 3655, 2),
        ("transactions-prepared", 6, 1, 24, 6),
    ] {
        let oplog = Scenario::new(name).oplog()?;
        let server = Server::start(Oplog::given(&oplog)?)?;
        let live = Stream::live(&server, Begin::oldest()).await?;
        let dump = Stream::dump(&oplog, Begin::oldest()).await?;
        ensure!(live.records == dump.records, "{name}");
        ensure!(live.counts == dump.counts, "{name}");
        let counts = live.counts;
        let found = (counts.committed, counts.aborted, counts.operations);
        ensure!(
            found == (committed, aborted, operations),
            "{name} {counts:?}"
        );
        // The tail received every part, so each is read once and no chained entry is queried.
        ensure!(server.points() == (0, parts), "{:?}", server.points());
    }
    Ok(())
}
