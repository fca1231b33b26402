//! The events of a change stream, in their order.

use bson::{Document as Bson, Timestamp, doc};

/// Recorded or made events.
#[derive(Debug, Clone, Default)]
pub struct Events {
    all: Vec<Bson>,
}

/// A place in the stream that a client asks for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Place {
    /// Before the event with this number.
    At(usize),
    /// The token is not in the stream.
    Unknown,
}

impl Events {
    /// Returns these events.
    #[must_use]
    pub fn new(all: Vec<Bson>) -> Events {
        Events { all }
    }

    /// Returns the events.
    #[must_use]
    pub fn all(&self) -> &[Bson] {
        &self.all
    }

    /// Returns the number of events.
    #[must_use]
    pub const fn len(&self) -> usize {
        self.all.len()
    }

    /// Returns true if there is no event.
    #[must_use]
    pub const fn is_empty(&self) -> bool {
        self.all.is_empty()
    }

    /// Returns the cluster time of an event; a fragment has that of the event before it.
    #[must_use]
    pub fn time(&self, number: usize) -> Timestamp {
        let until = self.all.get(..=number).unwrap_or_default().iter().rev();
        let mut times = until.filter_map(|event| event.get_timestamp("clusterTime").ok());
        times.next().unwrap_or(START)
    }

    /// Returns the time of the last event.
    #[must_use]
    pub fn newest(&self) -> Timestamp {
        self.len()
            .checked_sub(1)
            .map_or(START, |last| self.time(last))
    }

    /// Returns the place of the first event with a time or a later one.
    pub(super) fn at_time(&self, time: Timestamp) -> Place {
        let earlier = (0..self.len()).take_while(|number| order(self.time(*number)) < order(time));
        Place::At(earlier.count())
    }

    /// Returns the place after a token.
    pub(super) fn after(&self, token: &Bson) -> Place {
        // Two shards may report a command with the same token. A server continues after both.
        let found = self
            .all
            .iter()
            .rposition(|event| event.get_document("_id").is_ok_and(|id| id == token));
        match (found, time_of_high_water(token)) {
            (Some(number), _) => Place::At(number + 1),
            (None, Some(time)) => self.at_time(time),
            (None, None) => Place::Unknown,
        }
    }

    /// Returns the token of an event.
    pub(super) fn token(&self, number: usize) -> Option<Bson> {
        let event = self.all.get(number)?;
        event.get_document("_id").ok().cloned()
    }
}

/// The time of a stream without events.
const START: Timestamp = Timestamp {
    time: 1_700_000_000,
    increment: 1,
};
/// The end of the token of a high-water mark.
const HIGH_WATER: &str = "2B0229296E04";

/// Returns the token of a high-water mark.
pub(super) fn high_water(time: Timestamp) -> Bson {
    let Timestamp { time, increment } = time;
    doc! { "_data": format!("82{time:08X}{increment:08X}{HIGH_WATER}") }
}

fn time_of_high_water(token: &Bson) -> Option<Timestamp> {
    let data = token.get_str("_data").ok()?.strip_suffix(HIGH_WATER)?;
    let time = u64::from_str_radix(data.strip_prefix("82")?, 16).ok()?;
    Some(Timestamp {
        time: u32::try_from(time >> 32).ok()?,
        increment: u32::try_from(time & u64::from(u32::MAX)).ok()?,
    })
}

/// Returns a number that orders timestamps.
pub(super) fn order(time: Timestamp) -> u64 {
    u64::from(time.time) << 32 | u64::from(time.increment)
}

/// Returns the next timestamp.
pub(super) fn next(time: Timestamp) -> Timestamp {
    Timestamp {
        increment: time.increment + 1,
        ..time
    }
}
