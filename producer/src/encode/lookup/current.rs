//! Lookups of the current documents of updates.

use std::ops::Range;

use oplog_relay_core::document::Document;
use oplog_relay_core::entry::{Entry, Operation, Update};
use oplog_relay_core::format::looked_up::{CurrentDocument, DocumentBefore, LookedUp};
use oplog_relay_core::format::{Format, LOOKUP_HEADER, is_for_readers};
use oplog_relay_core::position::Timestamp;

use crate::encode::Encoder;
use crate::encode::chunk::{Chunk, RecordHeader};
use crate::error::ProducerError;
use crate::prepare::lookup::{CurrentLookup, Wanted};
use crate::prepare::transaction::{Operations, build};
use crate::source::Documents;

impl Encoder {
    /// Adds the current document to each update, if a lookup is given.
    #[must_use]
    pub fn looking_up_current(mut self, lookup: Option<CurrentLookup>) -> Self {
        self.current = lookup;
        self
    }

    /// Looks up the document of an update, unless the update contains the whole document.
    #[inline]
    pub(in crate::encode) fn look_up(
        &mut self,
        entry: &Entry<'_>,
        chunk: &mut Chunk,
    ) -> Result<(), ProducerError> {
        let Some(lookup) = &mut self.current else {
            return Ok(());
        };
        if !needs_document(entry) {
            lookup.clear_current();
            return Ok(());
        }
        lookup.look_up(entry)?;
        let found = lookup.current();
        match found.is_some_and(|found| found.document.is_some()) {
            true => chunk.counts.looked_up += 1,
            false => chunk.counts.gone += 1,
        }
        Ok(())
    }

    /// Returns what was looked up for the entry that is being encoded.
    #[inline]
    pub(in crate::encode) fn looked_up(&self) -> Option<LookedUp<'_>> {
        let current: Option<CurrentDocument<'_>> =
            self.current.as_ref().and_then(CurrentLookup::current);
        let before = self.document_before();
        if current.is_none() && matches!(before, DocumentBefore::NotLookedUp) {
            return None;
        }
        Some(LookedUp { current, before })
    }

    /// Adds a header with the time of the lookup to the headers for routers, if the value has no
    /// field for that time. The headers for routers must be the last ones that were written.
    pub(in crate::encode) fn with_lookup_header(
        &self,
        entry: &Entry<'_>,
        router_headers: Range<usize>,
        chunk: &mut Chunk,
    ) -> Range<usize> {
        let has_place = !matches!(self.format, Format::Debezium(_) | Format::Snapshot(_));
        let Some(at) = entry.looked_up.and_then(|found| found.current?.at) else {
            return router_headers;
        };
        if has_place {
            return router_headers;
        }
        let start = chunk.arena.len();
        chunk.arena.extend_from_slice(at.to_string().as_bytes());
        let header = RecordHeader {
            name: LOOKUP_HEADER,
            value: start..chunk.arena.len(),
        };
        chunk.router_headers.push(header);
        let end = chunk.router_headers.len();
        end - 1 - router_headers.len()..end
    }

    /// Asks for the documents of this entry and the following ones, unless the document of this
    /// entry is known. `rest` begins with this entry.
    pub(in crate::encode) fn look_up_ahead(
        &mut self,
        entry: &Entry<'_>,
        rest: &Documents<'_>,
    ) -> Result<(), ProducerError> {
        if self.is_covered(entry) {
            return Ok(());
        }
        let Some(lookup) = &self.current else {
            return Ok(());
        };
        let (mut wanted, mut through) = (lookup.wanted(), entry.ts);
        // A damaged entry is reported when it is encoded.
        for document in rest.clone().map_while(Result::ok) {
            let Ok(entry) = Entry::parse(document) else {
                break;
            };
            through = through.max(entry.ts);
            self.want(&entry, &mut wanted);
            if wanted.is_full() {
                break;
            }
        }
        self.ask(&wanted, through)
    }

    /// Asks for the documents of the following operations of a transaction, unless the document of
    /// the first one is known.
    pub(in crate::encode) fn look_up_operations(
        &mut self,
        commit: &Entry<'_>,
        operations: &Operations<'_>,
    ) -> Result<(), ProducerError> {
        let mut is_first = true;
        let mut is_known = false;
        let mut wanted = self.current.as_ref().map(CurrentLookup::wanted);
        for_each_operation(commit, operations.clone(), |entry| {
            if std::mem::take(&mut is_first) && self.is_covered(entry) {
                is_known = true;
                return false;
            }
            match &mut wanted {
                Some(wanted) => {
                    self.want(entry, wanted);
                    !wanted.is_full()
                }
                None => false,
            }
        });
        match wanted.filter(|_| !is_known) {
            Some(wanted) => self.ask(&wanted, commit.ts),
            None => Ok(()),
        }
    }

    fn ask(&mut self, wanted: &Wanted, through: Timestamp) -> Result<(), ProducerError> {
        match &mut self.current {
            Some(lookup) => lookup.ask(wanted, through),
            None => Ok(()),
        }
    }

    /// Returns true if an entry needs no document, or if its document is known. For an entry with
    /// operations, the first operation that needs a document decides.
    fn is_covered(&mut self, entry: &Entry<'_>) -> bool {
        if entry.operation != Operation::Command {
            return !self.wants(entry) || self.knows(entry);
        }
        let mut is_covered = true;
        if let Some(operations) = operations_of(entry) {
            for_each_operation(entry, operations, |operation| {
                let wants = self.wants(operation);
                is_covered = !wants || self.knows(operation);
                !wants
            });
        }
        is_covered
    }

    /// Returns true if the document of an update is known. A damaged entry is reported when it is
    /// encoded.
    fn knows(&mut self, entry: &Entry<'_>) -> bool {
        let lookup = self.current.as_mut();
        lookup.is_none_or(|lookup| lookup.covers(entry).unwrap_or(true))
    }

    /// Returns true if the document of an entry is looked up.
    fn wants(&self, entry: &Entry<'_>) -> bool {
        needs_document(entry) && !self.router.leaves_out(entry.ns)
    }

    /// Adds the documents that an entry or its operations need. Damage is reported when the entry
    /// is encoded.
    fn want(&self, entry: &Entry<'_>, wanted: &mut Wanted) {
        if self.wants(entry) {
            drop(wanted.add(entry));
        }
        if let Some(operations) = operations_of(entry) {
            for_each_operation(entry, operations, |operation| {
                if self.wants(operation) {
                    drop(wanted.add(operation));
                }
                !wanted.is_full()
            });
        }
    }
}

/// Returns true for an update that does not contain the whole document. Documents of collections
/// that only replays need are not looked up.
#[inline]
fn needs_document(entry: &Entry<'_>) -> bool {
    entry.operation == Operation::Update
        && is_for_readers(entry)
        && matches!(entry.update(), Ok(Update::Modifiers(_) | Update::Diff(_)))
}

/// Returns the operations of an entry that also commits them.
pub(in crate::encode) fn operations_of<'e>(entry: &Entry<'e>) -> Option<Operations<'e>> {
    let is_open = |name| matches!(entry.o.get(name), Ok(Some(_)));
    if entry.operation != Operation::Command || is_open("partialTxn") || is_open("prepare") {
        return None;
    }
    Operations::of(entry.raw).ok()
}

/// Calls `each` with the entry of each operation until it returns false, or until a damaged
/// operation.
pub(in crate::encode) fn for_each_operation(
    commit: &Entry<'_>,
    operations: Operations<'_>,
    mut each: impl FnMut(&Entry<'_>) -> bool,
) {
    let mut built = Vec::new();
    for operation in operations.map_while(Result::ok) {
        built.clear();
        if build(commit, operation, None, &mut built).is_err() {
            return;
        }
        let entry = Document::new(&built).ok();
        match entry.and_then(|entry| Entry::parse(entry).ok()) {
            Some(entry) if each(&entry) => {}
            _ => return,
        }
    }
}
