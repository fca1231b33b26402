//! Lookups of the documents before changes.

use oplog_relay_core::document::Document;
use oplog_relay_core::entry::{Entry, Operation};
use oplog_relay_core::format::is_for_readers;
use oplog_relay_core::format::looked_up::DocumentBefore;

use super::current::{for_each_operation, operations_of};
use crate::encode::Encoder;
use crate::encode::chunk::Chunk;
use crate::error::ProducerError;
use crate::prepare::lookup::{BeforeLookup, OperationPlace, PreImageId};
use crate::prepare::transaction::Operations;
use crate::source::Documents;

impl Encoder {
    /// Adds the document before the change to each update and delete, if a lookup is given.
    #[must_use]
    pub fn looking_up_before(mut self, before: Option<Box<BeforeLookup>>) -> Self {
        self.before = before;
        self
    }

    /// Looks up the document before an update or delete.
    #[inline]
    pub(in crate::encode) fn look_up_before(
        &mut self,
        entry: &Entry<'_>,
        chunk: &mut Chunk,
    ) -> Result<(), ProducerError> {
        let Some(before) = &mut self.before else {
            return Ok(());
        };
        let Some(id) = before.id_of(entry).filter(|_| changes_document(entry)) else {
            before.clear_current();
            return Ok(());
        };
        before.look_up(id, entry.ts)?;
        match before.current().document() {
            Some(_) => chunk.counts.found_before += 1,
            None => chunk.counts.missing_before += 1,
        }
        Ok(())
    }

    /// Returns the document before the change that is being encoded.
    #[inline]
    pub(in crate::encode) fn document_before(&self) -> DocumentBefore<'_> {
        self.before
            .as_ref()
            .map_or(DocumentBefore::NotLookedUp, |before| before.current())
    }

    /// Sets the place of the operation of an `applyOps` that is encoded next; `None` if entries follow.
    pub(in crate::encode) fn set_operation(&mut self, operation: Option<OperationPlace>) {
        if let Some(before) = &mut self.before {
            before.set_operation(operation);
        }
    }

    /// Asks for the documents before the changes of this entry and the following ones, unless the
    /// first of these documents is known. `rest` begins with this entry.
    pub(in crate::encode) fn look_up_before_ahead(
        &mut self,
        entry: &Entry<'_>,
        rest: &Documents<'_>,
    ) -> Result<(), ProducerError> {
        let Some(before) = &self.before else {
            return Ok(());
        };
        let mut wanted = Vec::new();
        self.add_changes(entry, 1, &mut wanted);
        if wanted.first().is_none_or(|first| before.covers(*first)) {
            return Ok(());
        }
        wanted.clear();
        let mut through = entry.ts;
        // A damaged entry is reported when it is encoded.
        for document in rest.clone().map_while(Result::ok) {
            let Ok(entry) = Entry::parse(document) else {
                break;
            };
            through = through.max(entry.ts);
            self.add_changes(&entry, before.at_once(), &mut wanted);
            if wanted.len() >= before.at_once() {
                break;
            }
        }
        match &mut self.before {
            Some(before) => before.ask(&wanted, through),
            None => Ok(()),
        }
    }

    /// Asks for the documents before the following operations of an `applyOps`, unless the first of
    /// these documents is known. `first` is the place of the first operation.
    pub(in crate::encode) fn look_up_before_operations(
        &mut self,
        commit: &Entry<'_>,
        operations: &Operations<'_>,
        first: OperationPlace,
    ) -> Result<(), ProducerError> {
        let Some(before) = &self.before else {
            return Ok(());
        };
        let mut wanted: Vec<PreImageId> = Vec::new();
        let mut place = first;
        let mut is_first = true;
        for_each_operation(commit, operations.clone(), |operation| {
            self.add_change(operation, place, &mut wanted);
            place.index = place.index.saturating_add(1);
            // This runs before each operation, so it must not go through all of them each time.
            if std::mem::take(&mut is_first) && wanted.first().is_none_or(|it| before.covers(*it)) {
                wanted.clear();
                return false;
            }
            wanted.len() < before.at_once()
        });
        match &mut self.before {
            Some(before) => before.ask(&wanted, commit.ts),
            None => Ok(()),
        }
    }

    /// Adds the changes of an entry, or those of its operations, until the list has `most` of them.
    fn add_changes(&self, entry: &Entry<'_>, most: usize, wanted: &mut Vec<PreImageId>) {
        let mut place = OperationPlace {
            ts: entry.ts,
            index: 0,
        };
        match operations_of(entry) {
            Some(operations) => for_each_operation(entry, operations, |operation| {
                self.add_change(operation, place, wanted);
                place.index = place.index.saturating_add(1);
                wanted.len() < most
            }),
            None => self.add_change(entry, place, wanted),
        }
    }

    /// Adds a change, unless its collection differs from that of the first change in the list: each
    /// request is for one collection.
    fn add_change(&self, entry: &Entry<'_>, place: OperationPlace, wanted: &mut Vec<PreImageId>) {
        if let Some(ui) = entry.ui
            && changes_document(entry)
            && !self.router.leaves_out(entry.ns)
            && wanted.first().is_none_or(|first| first.ui == ui)
        {
            let OperationPlace { ts, index } = place;
            wanted.push(PreImageId { ui, ts, index });
        }
    }
}

/// Returns true for an update or delete that topics for readers contain.
#[inline]
fn changes_document(entry: &Entry<'_>) -> bool {
    matches!(entry.operation, Operation::Update | Operation::Delete) && is_for_readers(entry)
}

/// Returns the place of the first operation of a part.
pub(in crate::encode) fn first_place(part: Document<'_>, commit: &Entry<'_>) -> OperationPlace {
    let ts = part.get("ts").ok().flatten();
    let ts = ts.and_then(|ts| ts.timestamp().ok());
    OperationPlace {
        ts: ts.unwrap_or(commit.ts),
        index: 0,
    }
}
