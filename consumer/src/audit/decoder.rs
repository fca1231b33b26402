//! Records to entries, with buffers that are reused.

use oplog_relay_core::barrier::BARRIER_ORD;
use oplog_relay_core::command::is_command;
use oplog_relay_core::entry::Entry;
use oplog_relay_core::format::{Decoded, FormatError, decode};
use oplog_relay_core::key::write_id_identity;
use oplog_relay_core::position::EntryId;
use sha2::{Digest as _, Sha256};

use super::order::{KeyDigest, Suspect};
use super::reading::Record;
use super::tally::Numbers;
use crate::topics::Topic;

/// `op` of what a full sync read.
const SNAPSHOT: &str = "r";

/// An entry that was read back.
#[derive(Debug, Clone, Copy)]
pub(super) struct Seen<'e> {
    pub(super) id: EntryId,
    /// Whether it is a command, of which other partitions may have copies.
    pub(super) command: bool,
    entry: Entry<'e>,
}

impl Seen<'_> {
    /// Counts it. Whether it has a place in the order of entries: barriers and snapshot records
    /// have not.
    pub(super) fn count(&self, numbers: &mut Numbers) -> bool {
        if self.id.ord == BARRIER_ORD {
            numbers.barriers += 1;
            return false;
        }
        let op = self.entry.raw.get("op").ok().flatten();
        let is_snapshot = op.is_some_and(|op| op.str() == Ok(SNAPSHOT));
        let operation = self.entry.operation.name();
        numbers.count(if is_snapshot { "snapshot" } else { operation });
        !is_snapshot
    }

    /// What to remember of it.
    pub(super) fn suspect(&self, offset: i64) -> Suspect {
        Suspect {
            id: self.id,
            offset,
            key: self.key(),
            command: self.command,
        }
    }

    /// Collection and `_id`; commands have one key in common.
    fn key(&self) -> KeyDigest {
        let mut identity = Vec::new();
        if !self.command
            && let Ok(id) = self.entry.document_id()
        {
            identity.extend_from_slice(self.entry.ns.as_bytes());
            identity.push(0);
            // What is damaged has the key of its collection.
            drop(write_id_identity(id, &mut identity));
        }
        let mut key = KeyDigest::default();
        for (byte, digest) in key.iter_mut().zip(Sha256::digest(&identity)) {
            *byte = digest;
        }
        key
    }
}

/// Decodes the records of one topic.
#[derive(Debug)]
pub(super) struct Decoder<'t> {
    topic: &'t Topic,
    arena: Vec<u8>,
    found: Vec<Decoded>,
}

impl<'t> Decoder<'t> {
    pub(super) const fn new(topic: &'t Topic) -> Self {
        Self {
            topic,
            arena: Vec::new(),
            found: Vec::new(),
        }
    }

    /// Hands over the entries of a record, up to one that is damaged.
    ///
    /// # Errors
    /// [`FormatError`].
    pub(super) fn entries(
        &mut self,
        record: Record<'_>,
        mut each: impl FnMut(Seen<'_>),
    ) -> Result<(), FormatError> {
        let Some(value) = record.value else {
            return Ok(());
        };
        self.arena.clear();
        self.arena.extend_from_slice(value);
        self.found.clear();
        let (format, whole) = (self.topic.format, 0..value.len());
        decode(
            format,
            whole,
            record.oplog_id,
            &mut self.arena,
            &mut self.found,
        )?;
        for found in &self.found {
            let entry = Entry::parse(found.document(&self.arena)?)?;
            each(Seen {
                id: found.id,
                command: is_command(&entry),
                entry,
            });
        }
        Ok(())
    }
}
