//! The baseline of the consumer: librdkafka's consumer, which only reads topics.

use anyhow::{Result, ensure};

use super::MARK;
use crate::comparison::topic::read_whole;

pub(super) fn run(brokers: &str, topics: Vec<String>, partitions: u32, entries: u64) -> Result<()> {
    let (mut count, mut bytes) = (0, 0);
    let partitions = i32::try_from(partitions)?;
    let topics: Vec<_> = topics
        .into_iter()
        .map(|topic| (topic, partitions))
        .collect();
    read_whole(brokers, &topics, |message| {
        if count == 0 {
            eprintln!("{MARK}");
        }
        count += 1;
        bytes += rdkafka::Message::payload(message).map_or(0, <[u8]>::len);
        Ok(())
    })?;
    ensure!(count == entries, "{count} of {entries} records arrived");
    println!("{bytes} bytes");
    Ok(())
}
