//! Commit points of the source, split into one entry per operation.

use oplog_relay_core::document::{Document, Malformed};
use oplog_relay_core::entry::{Entry, TxnPlace};
use oplog_relay_core::position::EntryId;

use super::lookup::first_place;
use super::{Encoder, HandOn};
use crate::encode::chunk::Chunk;
use crate::error::ProducerError;
use crate::prepare::transaction::{Chain, Commit, Operations, broken, build};

/// A commit that is being split.
struct SplitCommit<'e> {
    commit: &'e Entry<'e>,
    /// Number of operations of the whole chain; `None` if its operations get no `txn` field.
    count: Option<u32>,
    /// Number of operations that an earlier session has sent.
    done: u32,
    /// Ordinal of the next operation.
    ord: u32,
    /// Buffer in which entries are built.
    built: Vec<u8>,
}

impl Encoder {
    /// Encodes every operation of a commit's chain. A chunk may end between two of them; its position
    /// then has an ordinal.
    pub(crate) fn encode_commit(
        &mut self,
        entry: &Entry<'_>,
        commit: &Commit,
        done: u32,
        chunk: &mut Chunk,
        hand_on: &mut HandOn<'_>,
    ) -> Result<(), ProducerError> {
        let Some(chain) = self.transactions.chain(entry, commit)? else {
            chunk.counts.transactions.incomplete += 1;
            return Ok(());
        };
        let mut oldest = None;
        let count = match commit.transaction {
            true => Some(self.count(entry, commit, &chain, &mut oldest)?),
            false => None,
        };
        let mut split = SplitCommit {
            commit: entry,
            count,
            done,
            ord: 0,
            built: Vec::new(),
        };
        for at in chain.parts.iter().rev() {
            let part = match oldest.take() {
                Some(oldest) => oldest,
                None => self.transactions.read(entry, *at)?,
            };
            let part = Document::new(&part).map_err(ProducerError::undecodable)?;
            self.encode_operations(&mut split, part, chunk, hand_on)?;
        }
        if !commit.prepared {
            self.encode_operations(&mut split, entry.raw, chunk, hand_on)?;
        }
        split.check()?;
        self.transactions.forget(&chain);
        chunk.counts.transactions.committed += u64::from(commit.transaction);
        Ok(())
    }

    /// Returns the number of operations of the chain: as reported by the server, otherwise counted.
    /// Counting leaves the bytes of the oldest entry in `oldest`.
    fn count(
        &mut self,
        entry: &Entry<'_>,
        commit: &Commit,
        chain: &Chain,
        oldest: &mut Option<Vec<u8>>,
    ) -> Result<u32, ProducerError> {
        if let Some(count) = chain.count {
            return Ok(count);
        }
        let damaged = |error: Malformed| broken(entry, &error.to_string());
        let mut count = 0;
        if !commit.prepared {
            count += length(entry.raw).map_err(damaged)?;
        }
        for at in &chain.parts {
            let part = oldest.insert(self.transactions.read(entry, *at)?);
            let part = Document::new(part).map_err(ProducerError::undecodable)?;
            count += length(part).map_err(damaged)?;
        }
        u32::try_from(count).map_err(|_| broken(entry, "it has too many operations"))
    }

    fn encode_operations(
        &mut self,
        split: &mut SplitCommit<'_>,
        part: Document<'_>,
        chunk: &mut Chunk,
        hand_on: &mut HandOn<'_>,
    ) -> Result<(), ProducerError> {
        let commit = split.commit;
        let damaged = |error: Malformed| broken(commit, &error.to_string());
        let mut operations = Operations::of(part).map_err(damaged)?;
        let mut place = first_place(part, commit);
        loop {
            let is_new = split.ord >= split.done;
            if is_new && self.current.is_some() {
                self.look_up_operations(commit, &operations)?;
            }
            if is_new && self.before.is_some() {
                self.look_up_before_operations(commit, &operations, place)?;
            }
            let Some(operation) = operations.next() else {
                return Ok(());
            };
            let at = place;
            place.index = place.index.saturating_add(1);
            let operation = operation.map_err(damaged)?;
            let ord = split.ord;
            let next = ord.checked_add(1);
            split.ord = next.ok_or_else(|| broken(commit, "it has too many operations"))?;
            if ord < split.done {
                continue;
            }
            let place = split.count.map(|count| TxnPlace { index: ord, count });
            split.built.clear();
            build(commit, operation, place, &mut split.built).map_err(damaged)?;
            let built = Document::new(&split.built).map_err(ProducerError::undecodable)?;
            let entry = self.read_entry(built)?;
            self.set_operation(Some(at));
            let encoded =
                self.encode_operation(&entry, EntryId { ts: commit.ts, ord }, true, chunk);
            self.set_operation(None);
            encoded?;
            chunk.counts.transactions.operations += 1;
            self.reach(commit, split.ord, chunk);
            self.hand_on_full(chunk, hand_on)?;
        }
    }
}

impl SplitCommit<'_> {
    /// Checks that the operations that were found are as many as the server reports, and no fewer
    /// than an earlier session has sent; otherwise a part is missing.
    fn check(&self) -> Result<(), ProducerError> {
        let found = self.ord;
        if let Some(count) = self.count.filter(|count| *count != found) {
            let reason = format!("the server reports {count} operations, but {found} were found");
            return Err(broken(self.commit, &reason));
        }
        if found < self.done {
            let done = self.done;
            let reason =
                format!("the saved position counts {done} operations, but only {found} were found");
            return Err(broken(self.commit, &reason));
        }
        Ok(())
    }
}

/// Returns the number of operations in an entry.
fn length(entry: Document<'_>) -> Result<usize, Malformed> {
    Operations::of(entry)?.try_fold(0, |count, operation| operation.map(|_| count + 1))
}
