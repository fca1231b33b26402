//! A follower of an internal topic, which reads the whole topic first and then only new records.

use std::time::{Duration, Instant};

use super::error::KafkaFailure;
use super::reader::{Newer, Reader};

/// The longest pause between two reads of a follower that reads only new records. After a longer
/// pause it reads the whole topic again, because a compacted topic keeps tombstones only for a day
/// (`delete.retention.ms`), or for less if an operator has set less.
const LONGEST_PAUSE: Duration = Duration::from_secs(3600);

/// The offset at which the last read ended, and the time at which that read started.
#[derive(Debug, Clone, Copy)]
struct Place {
    next: i64,
    at: Instant,
}

/// A follower of one internal topic.
#[derive(Debug, Clone)]
pub struct Follower {
    reader: Reader,
    topic: String,
    place: Option<Place>,
}

impl Follower {
    /// Creates a follower that has not read anything yet.
    #[must_use]
    pub const fn new(reader: Reader, topic: String) -> Self {
        Self {
            reader,
            topic,
            place: None,
        }
    }

    /// Returns the name of the topic.
    #[must_use]
    pub fn topic(&self) -> &str {
        &self.topic
    }

    /// Returns the records committed since the last read. It returns the whole topic on the first
    /// read, after a long pause, and if the topic no longer has the offset at which the last read
    /// ended.
    ///
    /// # Errors
    /// [`KafkaFailure`] as in [`Reader::read_all`]. The next read then starts at the same place
    /// again.
    pub async fn read(&mut self) -> Result<Newer, KafkaFailure> {
        let place = self.place.filter(|last| last.at.elapsed() < LONGEST_PAUSE);
        // The time is taken before the read, so that a slow read counts towards the pause.
        let at = Instant::now();
        let from = place.map(|last| last.next);
        let newer = self.reader.read_from(&self.topic, from).await?;
        self.place = Some(Place {
            next: newer.next,
            at,
        });
        Ok(newer)
    }
}
