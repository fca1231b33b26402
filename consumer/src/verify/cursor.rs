//! Reads the documents of a collection in raw batches. If they are read sorted by `_id`, their order is
//! checked.

use std::cmp::Ordering;
use std::collections::VecDeque;
use std::ops::Range;

use futures_util::StreamExt as _;
use mongodb::raw_batch_cursor::RawBatchCursor;
use oplog_relay_core::document::{Document, Element, Malformed};
use oplog_relay_core::json::{Mode, write_value};
use oplog_relay_runtime::mongo::{READ, error_text, in_time};

use super::range::{OwnedId, id_of};
use super::side::Side;

/// The reason why a side cannot be compared.
#[derive(Debug, thiserror::Error)]
pub(super) enum CursorError {
    /// The server failed.
    #[error("reading the {side} failed (last _id read: {after}): {reason}")]
    Failed {
        /// The side that failed.
        side: Side,
        /// The last `_id` that was read.
        after: String,
        /// The error text of the server or the driver.
        reason: String,
    },
    /// A document does not have an `_id`, or the bytes of a document or a reply are damaged.
    #[error("the {side} returned a damaged document (last _id read: {after})")]
    Damaged {
        /// The side that returned it.
        side: Side,
        /// The last `_id` that was read.
        after: String,
    },
    /// Two documents are not in MongoDB's order.
    #[error(
        "the {side} does not return documents in MongoDB's order of _id: {id} comes after {after}. \
         The collection may have a collation, or the server may sort differently"
    )]
    Order {
        /// The side that is not in order.
        side: Side,
        /// The `_id` of the earlier document.
        after: String,
        /// The `_id` of the later document.
        id: String,
    },
}

/// A reader of documents, one after the other. It holds one batch.
pub(super) struct Documents {
    side: Side,
    batches: RawBatchCursor,
    /// The documents of the current batch, one after the other.
    arena: Vec<u8>,
    /// The places in `arena` of the documents after the current one.
    waiting: VecDeque<Range<usize>>,
    current: Option<Range<usize>>,
    /// True if each `_id` has to come after the previous one.
    sorted: bool,
    /// The `_id` before the current one. If the documents are not sorted, the last one of the previous
    /// batch.
    last: Option<OwnedId>,
}

impl Documents {
    pub(super) const fn new(side: Side, batches: RawBatchCursor, sorted: bool) -> Self {
        Self {
            side,
            batches,
            arena: Vec::new(),
            waiting: VecDeque::new(),
            current: None,
            sorted,
            last: None,
        }
    }

    /// Returns the current document; empty at the end.
    pub(super) fn document(&self) -> &[u8] {
        let range = self.current.clone().unwrap_or_default();
        self.arena.get(range).unwrap_or_default()
    }

    /// Returns the `_id` of the current document; `None` at the end.
    pub(super) fn id(&self) -> Option<Element<'_>> {
        self.current.as_ref()?;
        Document::new(self.document()).ok().and_then(id_of)
    }

    /// Advances to the next document and returns it; `None` at the end.
    pub(super) async fn next(&mut self) -> Result<Option<Document<'_>>, CursorError> {
        self.advance().await?;
        if self.current.is_none() {
            return Ok(None);
        }
        let damaged = |_| CursorError::Damaged {
            side: self.side,
            after: self.place(),
        };
        Document::new(self.document()).map(Some).map_err(damaged)
    }

    /// Advances to the next document.
    pub(super) async fn advance(&mut self) -> Result<(), CursorError> {
        if (self.sorted || self.waiting.is_empty())
            && let Some(id) = self.id()
        {
            self.last = Some(OwnedId::of(id));
        }
        while self.waiting.is_empty() {
            let next = async { self.batches.next().await.transpose() };
            match in_time(READ, next).await {
                Ok(None) => {
                    self.current = None;
                    return Ok(());
                }
                Ok(Some(batch)) => self.fill(batch.as_raw_document().as_bytes())?,
                Err(error) => {
                    let (side, after) = (self.side, self.place());
                    return Err(CursorError::Failed {
                        side,
                        after,
                        reason: error_text(&error),
                    });
                }
            }
        }
        self.current = self.waiting.pop_front();
        let Some(id) = self.id() else {
            return Err(CursorError::Damaged {
                side: self.side,
                after: self.place(),
            });
        };
        match &self.last {
            Some(last) if self.sorted && last.cmp(id) != Ordering::Less => {
                let (side, after) = (self.side, self.place());
                Err(CursorError::Order {
                    side,
                    after,
                    id: shown(id),
                })
            }
            _ => Ok(()),
        }
    }

    /// Takes the documents from a reply.
    fn fill(&mut self, reply: &[u8]) -> Result<(), CursorError> {
        self.arena.clear();
        let filled = documents(reply, |document| {
            let start = self.arena.len();
            self.arena.extend_from_slice(document.as_bytes());
            self.waiting.push_back(start..self.arena.len());
        });
        filled.map_err(|_| CursorError::Damaged {
            side: self.side,
            after: self.place(),
        })
    }

    fn place(&self) -> String {
        match &self.last {
            None => "none".to_owned(),
            Some(last) => shown(last.element()),
        }
    }
}

fn documents(reply: &[u8], mut each: impl FnMut(Document<'_>)) -> Result<(), Malformed> {
    let Some(cursor) = Document::new(reply)?.get("cursor")? else {
        return Ok(());
    };
    let cursor = cursor.document()?;
    let batch = match cursor.get("firstBatch")? {
        Some(batch) => Some(batch),
        None => cursor.get("nextBatch")?,
    };
    let Some(batch) = batch else {
        return Err(Malformed::Missing("nextBatch"));
    };
    for document in batch.document()?.elements() {
        each(document?.document()?);
    }
    Ok(())
}

/// Returns an `_id` as canonical JSON.
pub(super) fn shown(id: Element<'_>) -> String {
    let mut text = Vec::new();
    match write_value(id, Mode::Canonical, &mut text) {
        Ok(_) => String::from_utf8_lossy(&text).into_owned(),
        Err(error) => format!("\"({error})\""),
    }
}
