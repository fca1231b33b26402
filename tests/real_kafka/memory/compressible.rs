//! Records that compress by a factor of several thousand: a fetch returns far more bytes than it
//! requests.

use std::io::Write as _;

use anyhow::{Result, ensure};
use bson::spec::BinarySubtype;
use bson::{Binary, DateTime, Document, Timestamp, doc};
use flate2::Compression;
use flate2::write::GzEncoder;
use oplog_relay_core::key::partition_for;
use oplog_relay_kit::model::{Model, ModelServer};
use oplog_relay_kit::services::{Program, wait_until};

use super::PARTITIONS;
use crate::made::BEGIN;
use crate::oversize::noise;
use crate::topics::{LIMIT, Topics};

/// The largest permitted memory of a consumer, in MiB.
pub(super) const MOST: u64 = 256;
const MB: usize = 1_000_000;
const ZSTD: &str = "--kafka-option=compression.type=zstd";

/// A dump of inserts into one partition, compressed one by one.
#[derive(Default)]
struct Dump {
    out: Vec<u8>,
    count: u32,
    last_id: i32,
}

impl Dump {
    /// Appends the insert of a document whose text has `noisy` random bytes and then `equal` equal
    /// ones.
    fn insert(&mut self, noisy: usize, equal: usize) -> Result<()> {
        self.count += 1;
        let is_in_first_partition = |id: &i32| {
            let key = format!("{{\"_id\":{id}}}");
            partition_for(key.as_bytes(), PARTITIONS) == 0
        };
        self.last_id = (self.last_id + 1..)
            .find(is_in_first_partition)
            .unwrap_or_default();
        let time = BEGIN + self.count;
        let ui = Binary {
            subtype: BinarySubtype::Uuid,
            bytes: vec![1; 16],
        };
        let text = noise(noisy, self.count.into()) + &"x".repeat(equal);
        let entry: Document = doc! {
            "ts": Timestamp { time, increment: 1 }, "t": 1_i64, "v": 2, "op": "i", "ns": "s.a",
            "ui": ui, "wall": DateTime::from_millis(i64::from(time) * 1000),
            "o": { "_id": self.last_id, "text": text },
        };
        // Concatenated gzip members form one valid gzip file.
        let mut member = GzEncoder::new(&mut self.out, Compression::fast());
        member.write_all(&entry.to_vec()?)?;
        member.finish()?;
        Ok(())
    }
}

fn has_logged(member: &Program, part: &str) -> bool {
    member.stderr_text().is_ok_and(|log| log.contains(part))
}

/// On the broker, the whole topic has fewer bytes than one fetch usually requests.
#[test]
fn highly_compressed_records_do_not_fill_the_memory() -> Result<()> {
    let mut dump = Dump::default();
    for _ in 0..500 {
        dump.insert(200, MB)?;
    }
    let topics = Topics::none("compressible")?;
    topics.produce(&dump.out, &[ZSTD])?;
    let target = ModelServer::start(Model::default())?;
    target.hold("insert", "a");
    let mut member = topics.start(&target, "compressible", &["--log-level=debug"])?;
    wait_until("a full queue", LIMIT, || {
        has_logged(&member, "the sink is slower than Kafka")
    })?;
    let peak = member.peak_mib()?;
    member.kill_9()?;
    ensure!(peak < MOST, "the replay took {peak} MiB");

    let audit = [
        "audit",
        &format!("--brokers={}", topics.brokers()),
        &format!("--topic-prefix={}", topics.prefix()),
    ];
    let mut audit = Program::consumer(audit)?;
    let (code, peak) = audit.wait_measured(LIMIT)?;
    let peak = peak / 1024;
    ensure!(code == 0, "{}", audit.stderr_text()?);
    ensure!(peak < MOST, "the audit took {peak} MiB");
    Ok(())
}

/// The compression ratio of the first records does not predict that of later ones.
#[test]
fn fetches_shrink_when_later_records_compress_better() -> Result<()> {
    let (noisy, compressible) = (100, 100);
    let mut dump = Dump::default();
    for _ in 0..noisy {
        dump.insert(100_000, 0)?;
    }
    let topics = Topics::none("further")?;
    topics.produce(&dump.out, &[ZSTD])?;
    let target = ModelServer::start(Model::default())?;
    let count = || target.model().state().get("s.a").map_or(0, Vec::len);
    let mut member = topics.start(&target, "further", &[])?;
    wait_until("the first documents", LIMIT, || count() == noisy)?;
    let part = "joining the group again with smaller fetches";
    ensure!(!has_logged(&member, part));

    for _ in 0..compressible {
        dump.insert(200, MB)?;
    }
    topics.produce(&dump.out, &[ZSTD])?;
    wait_until("smaller fetches", LIMIT, || has_logged(&member, part))?;
    wait_until("all documents", LIMIT, || count() == noisy + compressible)?;
    member.stop(LIMIT)
}
