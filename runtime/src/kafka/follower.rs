//! Reading an internal topic again and again: the first time the whole of it, then what is new.

use std::time::{Duration, Instant};

use super::error::KafkaFailure;
use super::reader::{Newer, Reader};

/// A compacted topic keeps the record that deletes a key for a day (`delete.retention.ms`), unless
/// an operator has set less. A follower that has not read for longer than this reads the whole topic again.
const LONGEST_PAUSE: Duration = Duration::from_secs(3600);

/// Where the last read ended.
#[derive(Debug, Clone, Copy)]
struct Place {
    next: i64,
    at: Instant,
}

/// Follows one internal topic.
#[derive(Debug, Clone)]
pub struct Follower {
    reader: Reader,
    topic: String,
    place: Option<Place>,
}

impl Follower {
    /// Follows a topic of which nothing is read yet.
    #[must_use]
    pub const fn new(reader: Reader, topic: String) -> Self {
        Self {
            reader,
            topic,
            place: None,
        }
    }

    /// The topic.
    #[must_use]
    pub fn topic(&self) -> &str {
        &self.topic
    }

    /// What was committed since the last read. It is the whole topic at first, after a long pause,
    /// and where the topic no longer holds the place at which the last read ended.
    ///
    /// # Errors
    /// As [`Reader::read_all`]; the next read then begins at the same place again.
    pub async fn read(&mut self) -> Result<Newer, KafkaFailure> {
        let place = self.place.filter(|last| last.at.elapsed() < LONGEST_PAUSE);
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
