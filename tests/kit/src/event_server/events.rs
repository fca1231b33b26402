//! The events of a change stream, in their order.

use anyhow::{Context as _, Result};
use bson::{Document as Bson, Timestamp, doc};
use oplog_relay_core::document::{Document, Element};

/// Recorded or handmade events.
#[derive(Debug, Clone, Default)]
pub struct Events {
    all: Vec<Event>,
}

/// An event, as it is sent.
#[derive(Debug, Clone)]
pub(super) struct Event {
    pub(super) bytes: Vec<u8>,
    pub(super) token: Bson,
    /// The cluster time; a fragment has that of the event before it.
    time: Timestamp,
    pub(super) is_invalidate: bool,
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
    /// Returns the events with these bytes.
    ///
    /// # Errors
    /// An event has no token.
    pub fn new(all: Vec<Vec<u8>>) -> Result<Events> {
        let mut events = Events::default();
        for bytes in all {
            let event = Document::new(&bytes)?;
            let token = event.get("_id")?.context("no token")?.document()?;
            let time = event.get("clusterTime")?.map(Element::timestamp);
            let time = time.transpose()?.map(|time| Timestamp {
                time: time.seconds,
                increment: time.increment,
            });
            let operation = event.get("operationType")?.map(Element::string_bytes);
            events.all.push(Event {
                token: Bson::from_reader(token.as_bytes())?,
                time: time.unwrap_or_else(|| events.newest()),
                is_invalidate: operation.transpose()? == Some(b"invalidate"),
                bytes,
            });
        }
        Ok(events)
    }

    /// Returns handmade events.
    ///
    /// # Errors
    /// An event cannot be encoded, or has no token.
    pub fn made(all: &[Bson]) -> Result<Events> {
        let all: Result<_, _> = all.iter().map(Bson::to_vec).collect();
        Events::new(all?)
    }

    pub(super) fn all(&self) -> &[Event] {
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

    /// Returns the cluster time of an event.
    #[must_use]
    pub fn time(&self, number: usize) -> Timestamp {
        self.all.get(number).map_or(START, |event| event.time)
    }

    /// Returns the time of the last event.
    #[must_use]
    pub fn newest(&self) -> Timestamp {
        self.all.last().map_or(START, |event| event.time)
    }

    /// Returns the place of the first event at or after a time.
    pub(super) fn at_time(&self, time: Timestamp) -> Place {
        let is_earlier = |event: &Event| order(event.time) < order(time);
        Place::At(self.all.partition_point(is_earlier))
    }

    /// Returns the place after a token.
    pub(super) fn after(&self, token: &Bson) -> Place {
        // Two shards may report a command with the same token. A server continues after both.
        let found = self.all.iter().rposition(|event| &event.token == token);
        match (found, time_of_high_water(token)) {
            (Some(number), _) => Place::At(number + 1),
            (None, Some(time)) => self.at_time(time),
            (None, None) => Place::Unknown,
        }
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
