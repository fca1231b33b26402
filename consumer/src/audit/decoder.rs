//! Decoding of records into entries, with reused buffers.

use oplog_relay_core::barrier::BARRIER_ORD;
use oplog_relay_core::command::is_command;
use oplog_relay_core::document::{Document, Element, Malformed};
use oplog_relay_core::entry::Entry;
use oplog_relay_core::format::fragment::{Part, Run};
use oplog_relay_core::format::{Decoded, FormatError, decode};
use oplog_relay_core::key::write_id_identity;
use oplog_relay_core::position::EntryId;
use sha2::{Digest as _, Sha256};

use super::order::{KeyDigest, Kind, Suspect};
use super::reading::Record;
use super::tally::Numbers;
use crate::worker::topics::Topic;

/// The `op` of documents that a full sync read.
const SNAPSHOT: &str = "r";

/// An entry that was read back.
#[derive(Debug, Clone, Copy)]
pub(super) struct Seen<'e> {
    pub(super) id: EntryId,
    pub(super) kind: Kind,
    /// The name for counts.
    name: &'static str,
    ns: &'e str,
    document_id: Option<Element<'e>>,
}

impl<'e> Seen<'e> {
    fn new(id: EntryId, document: Document<'e>) -> Result<Self, FormatError> {
        let entry = Entry::parse_whole(document)?;
        let op = document.get("op")?.map(Element::str).transpose()?;
        if op == Some(SNAPSHOT) {
            return Ok(Self::snapshot(id, document)?);
        }
        let kind = if is_command(&entry) {
            Kind::Command
        } else {
            Kind::Change
        };
        Ok(Self {
            id,
            kind,
            name: entry.operation.name(),
            ns: entry.ns,
            // An entry whose `_id` is damaged gets the key that all commands have.
            document_id: entry.document_id().ok(),
        })
    }

    fn snapshot(id: EntryId, document: Document<'e>) -> Result<Self, Malformed> {
        let ns = document.get("ns")?.ok_or(Malformed::Missing("ns"))?;
        let read = document.get("o")?.ok_or(Malformed::Missing("o"))?;
        let document_id = read.document()?.get("_id")?;
        Ok(Self {
            id,
            kind: Kind::Snapshot,
            name: "snapshot",
            ns: ns.str()?,
            document_id: Some(document_id.ok_or(Malformed::Missing("_id"))?),
        })
    }

    /// Counts the entry. Returns false for a barrier, which has no position in the order of entries.
    pub(super) fn count(&self, numbers: &mut Numbers) -> bool {
        let is_barrier = self.id.ord == BARRIER_ORD;
        if is_barrier {
            numbers.barriers += 1;
        } else {
            numbers.count(self.name);
        }
        !is_barrier
    }

    /// Returns what the audit stores of an entry that may be out of order.
    pub(super) fn suspect(&self, offset: i64) -> Suspect {
        Suspect {
            id: self.id,
            offset,
            key: self.key(),
            kind: self.kind,
        }
    }

    /// Returns the digest of the namespace and the `_id`. All commands have the same key.
    fn key(&self) -> KeyDigest {
        let mut identity = Vec::new();
        if self.kind != Kind::Command
            && let Some(id) = self.document_id
        {
            identity.extend_from_slice(self.ns.as_bytes());
            identity.push(0);
            drop(write_id_identity(id, &mut identity));
        }
        let mut key = KeyDigest::default();
        for (byte, digest) in key.iter_mut().zip(Sha256::digest(&identity)) {
            *byte = digest;
        }
        key
    }
}

/// An incomplete fragmented record.
#[derive(Debug, Clone, Copy)]
struct Begun {
    run: Run,
    /// The offset of its first fragment.
    first: i64,
}

/// A record that cannot be decoded.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct DecodingFault {
    /// The offset at which the record starts.
    pub(super) offset: i64,
    /// The reason.
    pub(super) fault: FormatError,
}

/// Decodes the records of one partition of a topic, one after the other.
#[derive(Debug)]
pub(super) struct Decoder<'t> {
    topic: &'t Topic,
    /// The value of a record, or those of its fragments that have been read.
    arena: Vec<u8>,
    found: Vec<Decoded>,
    begun: Option<Begun>,
    /// True while the next fragments may belong to a record that was already reported.
    reported: bool,
}

impl<'t> Decoder<'t> {
    pub(super) const fn new(topic: &'t Topic) -> Self {
        Self {
            topic,
            arena: Vec::new(),
            found: Vec::new(),
            begun: None,
            reported: false,
        }
    }

    /// Takes the next record and passes the entries that it completes to `each`, up to the first damaged
    /// one. Returns the faults of this record and of the incomplete one before it.
    pub(super) fn entries(
        &mut self,
        record: Record<'_>,
        each: impl FnMut(Seen<'_>),
    ) -> Vec<DecodingFault> {
        let mut faults = Vec::new();
        let mut part = record.part(self.begun.map(|begun| begun.run));
        if matches!(part, Ok(Part::Again) | Err(_)) {
            faults.extend(self.finish());
            part = record.part(None);
        }
        let first = self.begun.map_or(record.offset, |begun| begun.first);
        if self.begun.is_none() {
            self.arena.clear();
        }
        self.arena
            .extend_from_slice(record.value.unwrap_or_default());
        let already_reported = self.reported && matches!(part, Err(FormatError::Headless(_)));
        self.begun = match part {
            Ok(Part::Begins(run) | Part::Continues(run)) => Some(Begun { run, first }),
            Ok(Part::Whole | Part::Ends | Part::Again) | Err(_) => None,
        };
        let outcome = match part {
            Ok(Part::Whole | Part::Ends) if record.value.is_some() => self.decode(&record, each),
            part => part.map(drop),
        };
        self.reported = already_reported;
        if let Err(fault) = outcome
            && !already_reported
        {
            self.reported = record.fragment.is_some();
            let offset = first;
            faults.push(DecodingFault { offset, fault });
        }
        faults
    }

    /// Ends an incomplete record, at the end of the partition or before a record that does not
    /// continue it. Returns its fault.
    pub(super) fn finish(&mut self) -> Option<DecodingFault> {
        let Begun { first, .. } = self.begun.take()?;
        self.reported = true;
        let fault = FormatError::Fragment("the rest of it is missing");
        let offset = first;
        Some(DecodingFault { offset, fault })
    }

    fn decode(
        &mut self,
        record: &Record<'_>,
        mut each: impl FnMut(Seen<'_>),
    ) -> Result<(), FormatError> {
        let has_id = record.oplog_id.is_some();
        let format = self.topic.formats_of(&self.arena, has_id).next();
        let format = format.unwrap_or(self.topic.format);
        let whole = 0..self.arena.len();
        self.found.clear();
        decode(
            format,
            whole,
            record.oplog_id,
            &mut self.arena,
            &mut self.found,
        )?;
        for found in &self.found {
            each(Seen::new(found.id, found.document(&self.arena)?)?);
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests;
