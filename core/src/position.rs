//! Timestamps, positions in a source, and the identity of an entry.

use std::fmt;
use std::str::FromStr;

/// A MongoDB timestamp: seconds since 1970 and the increment within the second. It is unique in one
/// oplog and is written `<seconds>:<increment>`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Timestamp {
    /// The seconds since 1970.
    pub seconds: u32,
    /// The increment within the second.
    pub increment: u32,
}

impl Timestamp {
    /// Creates a timestamp from its two parts.
    #[must_use]
    pub const fn new(seconds: u32, increment: u32) -> Self {
        Self { seconds, increment }
    }

    /// Reads the eight bytes of a BSON timestamp.
    #[must_use]
    pub const fn from_le_bytes(bytes: [u8; 8]) -> Self {
        let [i0, i1, i2, i3, s0, s1, s2, s3] = bytes;
        Self {
            seconds: u32::from_le_bytes([s0, s1, s2, s3]),
            increment: u32::from_le_bytes([i0, i1, i2, i3]),
        }
    }

    /// Returns the eight bytes of a BSON timestamp.
    #[must_use]
    pub const fn to_le_bytes(self) -> [u8; 8] {
        let [i0, i1, i2, i3] = self.increment.to_le_bytes();
        let [s0, s1, s2, s3] = self.seconds.to_le_bytes();
        [i0, i1, i2, i3, s0, s1, s2, s3]
    }

    /// Returns the timestamp directly before this one.
    #[must_use]
    pub const fn before(self) -> Self {
        match (self.seconds, self.increment) {
            (0, 0) => self,
            (seconds, 0) => Self::new(seconds - 1, u32::MAX),
            (seconds, increment) => Self::new(seconds, increment - 1),
        }
    }

    /// Returns the timestamp directly after this one.
    #[must_use]
    pub const fn after(self) -> Self {
        match (self.seconds, self.increment) {
            (u32::MAX, u32::MAX) => self,
            (seconds, u32::MAX) => Self::new(seconds + 1, 0),
            (seconds, increment) => Self::new(seconds, increment + 1),
        }
    }

    /// Returns the source time of an entry in milliseconds: `wall`, limited to the second of `ts`,
    /// or the start of that second if there is no `wall`. A cut at a whole second therefore cuts
    /// all partitions at the same source time.
    #[must_use]
    pub fn clamp_wall(self, wall_millis: Option<i64>) -> i64 {
        let first = i64::from(self.seconds) * 1000;
        wall_millis.unwrap_or(first).clamp(first, first + 999)
    }
}

impl fmt::Display for Timestamp {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.seconds, self.increment)
    }
}

/// A text that is not a position, timestamp or entry id.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{text:?} does not have the form {form}")]
pub struct PositionError {
    text: String,
    form: &'static str,
}

impl FromStr for Timestamp {
    type Err = PositionError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        text.split_once(':')
            .and_then(|(seconds, increment)| {
                Some(Self {
                    seconds: plain(seconds)?,
                    increment: plain(increment)?,
                })
            })
            .ok_or_else(|| PositionError {
                text: text.to_owned(),
                form: "<seconds>:<increment>",
            })
    }
}

/// Parses plain decimal digits. Unlike `u32::from_str`, it refuses `+1`.
fn plain(text: &str) -> Option<u32> {
    text.bytes()
        .all(|byte| byte.is_ascii_digit())
        .then(|| text.parse().ok())
        .flatten()
}

/// The place of an entry in the history of a replica set.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct OpTime {
    /// The entry's timestamp.
    pub ts: Timestamp,
    /// The election term; -1 if the server reports none.
    pub term: i64,
}

/// The progress in a source: everything up to `ts` in election term `term` has been read.
///
/// With `ord` = 0 the entry at `ts` is complete. With `ord` = n > 0 the entry is the commit point
/// of a transaction, or another `applyOps`, of which the first n operations are complete (counted
/// before filtering). One MongoDB transaction may therefore span several Kafka transactions.
///
/// In a source that is read through a change stream, `ts` is a cluster time. With `ord` = n > 0 the
/// first n events with that cluster time are complete, and more may follow; with `ord` = 0 no further
/// event has that cluster time.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Position {
    /// The entry's timestamp.
    pub ts: Timestamp,
    /// The entry's election term; -1 if the entry has none.
    pub term: i64,
    /// The number of completed operations of the transaction at `ts`; 0 means all of them.
    pub ord: u32,
}

impl fmt::Display for Position {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} (term {}", self.ts, self.term)?;
        if self.ord > 0 {
            write!(f, ", {} operations of its transaction", self.ord)?;
        }
        f.write_str(")")
    }
}

/// The identity of an entry within its source. It defines the order of replay and is, with the
/// source's name, the deduplication key for every downstream reader.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct EntryId {
    /// The timestamp of the entry, or of the commit of its transaction.
    pub ts: Timestamp,
    /// The operation's index in its transaction, or in an `applyOps` outside a transaction; 0 for a
    /// plain entry. In a source that is read through a change stream, the index of the event among
    /// the events with its cluster time. The entries of a full sync, changes of the routing table and
    /// barriers have ordinals above those of all operations. For the entries of other programs see
    /// [`crate::foreign`].
    pub ord: u32,
}

/// The content of the record header `oplog-id`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct IdHeader<'a> {
    /// The name of the source.
    pub source: &'a str,
    /// The identity of the entry.
    pub id: EntryId,
}

impl EntryId {
    /// Parses the record header `oplog-id`: `<source>/<seconds>:<increment>/<ord>`.
    ///
    /// # Errors
    /// [`PositionError`] if the text does not have this form.
    pub fn parse_header(text: &str) -> Result<IdHeader<'_>, PositionError> {
        let parse = || {
            let (rest, ord) = text.rsplit_once('/')?;
            let (source, ts) = rest.rsplit_once('/')?;
            let (ts, ord) = (ts.parse().ok()?, plain(ord)?);
            let id = Self { ts, ord };
            Some(IdHeader { source, id })
        };
        parse().ok_or_else(|| PositionError {
            text: text.to_owned(),
            form: "<source>/<seconds>:<increment>/<ord>",
        })
    }

    /// Writes the record header `oplog-id`.
    pub fn write_header(self, source: &str, out: &mut Vec<u8>) {
        out.extend_from_slice(source.as_bytes());
        out.push(b'/');
        self.write_ts(out);
        out.push(b'/');
        out.extend_from_slice(itoa::Buffer::new().format(self.ord).as_bytes());
    }

    /// Writes `<seconds>:<increment>`.
    pub fn write_ts(self, out: &mut Vec<u8>) {
        let mut digits = itoa::Buffer::new();
        out.extend_from_slice(digits.format(self.ts.seconds).as_bytes());
        out.push(b':');
        out.extend_from_slice(digits.format(self.ts.increment).as_bytes());
    }
}

impl fmt::Display for EntryId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.ts, self.ord)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_forms_round_trip() {
        let ts = Timestamp::new(1_700_000_000, 3);
        assert_eq!(ts.to_string(), "1700000000:3");
        assert_eq!("1700000000:3".parse(), Ok(ts));
        for bad in [
            "",
            "1",
            "1:",
            ":1",
            "+1:2",
            "1:2:3",
            "1:-2",
            "4294967296:1",
            "a:b",
        ] {
            assert!(bad.parse::<Timestamp>().is_err(), "{bad}");
        }
        let id = EntryId { ts, ord: 12 };
        let mut header = Vec::new();
        id.write_header("rs/0", &mut header);
        let header = String::from_utf8(header).unwrap();
        assert_eq!(header, "rs/0/1700000000:3/12");
        assert_eq!(
            EntryId::parse_header(&header),
            Ok(IdHeader { source: "rs/0", id })
        );
    }

    #[test]
    fn bytes_are_those_of_bson_and_order_is_seconds_first() {
        let ts = Timestamp::new(2, 1);
        assert_eq!(ts.to_le_bytes(), [1, 0, 0, 0, 2, 0, 0, 0]);
        assert_eq!(Timestamp::from_le_bytes(ts.to_le_bytes()), ts);
        assert!(Timestamp::new(1, 9) < ts);
        assert!(EntryId { ts, ord: 1 } > EntryId { ts, ord: 0 });
    }

    #[test]
    fn wall_is_clamped_into_the_second_of_ts() {
        let ts = Timestamp::new(10, 1);
        assert_eq!(ts.clamp_wall(Some(10_500)), 10_500);
        assert_eq!(ts.clamp_wall(Some(9_000)), 10_000);
        assert_eq!(ts.clamp_wall(Some(99_000)), 10_999);
        assert_eq!(ts.clamp_wall(None), 10_000);
    }
}
