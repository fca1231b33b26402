//! The time from the commit of an entry at the source until its document is inserted.

use std::io;
use std::sync::{Mutex, PoisonError};
use std::time::{SystemTime, UNIX_EPOCH};

use bson::spec::BinarySubtype;
use bson::{Binary, Document as Bson, doc};
use oplog_relay_core::document::Document;

use crate::model::Model;
use crate::wire::Request;

/// A document that was inserted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TimedInsert {
    /// Its field `number`: the number of the entry.
    pub number: u32,
    /// Its field `ordered`: the commit time at the source, in milliseconds since 1970.
    pub ordered: i64,
    /// Microseconds from then until the insert.
    pub micros: u32,
}

/// The database of the catalog of a replay.
const CATALOG: &str = "oplog_relay";

/// The inserts so far.
#[derive(Debug, Default)]
pub(super) struct Timing {
    inserts: Mutex<Vec<TimedInsert>>,
    /// The members of a group learn from the catalog that a command has run, so it is stored.
    catalog: Mutex<Model>,
}

/// Bytes of an insert in a report.
const BYTES: usize = 16;

impl TimedInsert {
    /// Parses the field `inserts` of a report. The parts of an insert are little-endian, in the order
    /// of the fields.
    #[must_use]
    pub fn parse_all(bytes: &[u8]) -> Vec<TimedInsert> {
        let (inserts, _) = bytes.as_chunks::<BYTES>();
        inserts.iter().map(TimedInsert::parse).collect()
    }

    fn parse(bytes: &[u8; BYTES]) -> TimedInsert {
        let whole = u128::from_le_bytes(*bytes);
        TimedInsert {
            number: whole as u32,
            ordered: (whole >> 32) as i64,
            micros: (whole >> 96) as u32,
        }
    }

    fn write(self, out: &mut Vec<u8>) {
        out.extend_from_slice(&self.number.to_le_bytes());
        out.extend_from_slice(&self.ordered.to_le_bytes());
        out.extend_from_slice(&self.micros.to_le_bytes());
    }

    /// Returns the insert, at `now` in microseconds since 1970, of a document; `None` if it does not
    /// have the fields.
    fn of(document: Document<'_>, now: i64) -> Option<TimedInsert> {
        let field = |name| document.get(name).ok().flatten();
        let ordered = field("ordered")?.date().ok()?;
        Some(TimedInsert {
            number: u32::try_from(field("number")?.integer().ok()?).ok()?,
            ordered,
            micros: u32::try_from(now - ordered * 1000).ok()?,
        })
    }
}

impl Timing {
    /// Answers a command on the catalog; `None` if it concerns another database.
    pub(super) fn catalog(&self, request: &Request<'_>) -> Option<io::Result<Vec<u8>>> {
        let db = request.body.get("$db").ok().flatten()?.str().ok()?;
        let run = || {
            let command = request.whole()?;
            let command = Document::new(&command).map_err(io::Error::other)?;
            let mut model = self.catalog.lock().unwrap_or_else(PoisonError::into_inner);
            model.command(db, command).map_err(io::Error::other)
        };
        (db == CATALOG).then(run)
    }

    /// Notes documents that are inserted now. Those without the fields are ignored.
    pub(super) fn note<'d>(&self, documents: impl Iterator<Item = Document<'d>>) {
        let now = SystemTime::now().duration_since(UNIX_EPOCH);
        let now = now.map_or(0, |now| now.as_micros());
        let now = i64::try_from(now).unwrap_or(i64::MAX);
        let timed = documents.filter_map(|document| TimedInsert::of(document, now));
        let mut inserts = self.inserts.lock().unwrap_or_else(PoisonError::into_inner);
        inserts.extend(timed);
    }

    /// Returns all inserts.
    pub(super) fn report(&self) -> Bson {
        let inserts = self.inserts.lock().unwrap_or_else(PoisonError::into_inner);
        let mut bytes = Vec::with_capacity(inserts.len() * BYTES);
        for insert in inserts.iter() {
            insert.write(&mut bytes);
        }
        let subtype = BinarySubtype::Generic;
        doc! { "inserts": Binary { subtype, bytes } }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_insert_is_parsed_as_it_was_written() {
        let insert = TimedInsert {
            number: 7,
            ordered: 1_700_000_000_123,
            micros: u32::MAX,
        };
        let mut bytes = Vec::new();
        insert.write(&mut bytes);
        insert.write(&mut bytes);
        assert_eq!(TimedInsert::parse_all(&bytes), [insert, insert]);
    }
}
