//! Finds entries that occur twice, in the same or in different partitions. The ids of each partition are
//! sorted, so that merging the partitions brings equal ids together.
//!
//! The ids are stored in an unnamed file in the system's directory for temporary files, at 20 bytes
//! each. Only one small buffer for each run is in memory.

use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::fs::File;
use std::io::{self, BufWriter, Write as _};
use std::os::unix::fs::FileExt as _;
use std::sync::Arc;

use oplog_relay_core::position::{EntryId, Timestamp};

/// Size of an id and an offset, in bytes.
const ITEM: usize = 20;
/// Number of items in a buffer.
const BUFFER: usize = 256;

/// The place of an entry in the topics.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Place {
    /// The number of its partition among those that are audited.
    pub(super) partition: usize,
    /// The offset of its record.
    pub(super) offset: i64,
}

/// A writer of ids, partition by partition.
#[derive(Debug)]
pub(super) struct Runs {
    file: Arc<File>,
    writer: BufWriter<Arc<File>>,
    written: u64,
    runs: Vec<Run>,
}

/// Ids of one partition, in order. A partition with entries that are out of order has a second run for
/// them.
#[derive(Debug, Clone)]
struct Run {
    partition: usize,
    next: u64,
    end: u64,
    /// Items that were read ahead, the next one last.
    buffer: Vec<Item>,
}

/// An id and the offset at which it occurs.
#[derive(Debug, Clone, Copy)]
struct Item {
    id: EntryId,
    offset: i64,
}

impl Runs {
    /// Creates the file.
    pub(super) fn create() -> io::Result<Self> {
        // The file has no name, so it disappears with the process even after a crash.
        let file = tempfile::tempfile()?;
        let file = Arc::new(file);
        Ok(Self {
            writer: BufWriter::new(Arc::clone(&file)),
            file,
            written: 0,
            runs: Vec::new(),
        })
    }

    /// Starts a run. The ids that are pushed next are those of this partition, in order.
    pub(super) fn begin(&mut self, partition: usize) {
        self.runs.push(Run {
            partition,
            next: self.written,
            end: self.written,
            buffer: Vec::new(),
        });
    }

    /// Adds the next id to the run that was started last.
    pub(super) fn push(&mut self, id: EntryId, offset: i64) -> io::Result<()> {
        let mut item = Vec::with_capacity(ITEM);
        for part in [id.ts.seconds, id.ts.increment, id.ord] {
            item.extend_from_slice(&part.to_le_bytes());
        }
        item.extend_from_slice(&offset.to_le_bytes());
        self.writer.write_all(&item)?;
        self.written += 1;
        if let Some(run) = self.runs.last_mut() {
            run.end = self.written;
        }
        Ok(())
    }

    /// Passes each repetition of an id to `each`, with the first place of the id and the place of
    /// the repetition.
    pub(super) fn merge(
        mut self,
        mut each: impl FnMut(EntryId, Place, Place) -> io::Result<()>,
    ) -> io::Result<()> {
        self.writer.flush()?;
        let mut heads = BinaryHeap::new();
        for (index, run) in self.runs.iter_mut().enumerate() {
            if let Some(Item { id, offset }) = run.next(&self.file)? {
                heads.push(Reverse((id, run.partition, offset, index)));
            }
        }
        let mut last: Option<(EntryId, Place)> = None;
        while let Some(Reverse((id, partition, offset, index))) = heads.pop() {
            let place = Place { partition, offset };
            match last {
                Some((before, first)) if before == id => each(id, first, place)?,
                _ => last = Some((id, place)),
            }
            if let Some(run) = self.runs.get_mut(index)
                && let Some(Item { id, offset }) = run.next(&self.file)?
            {
                heads.push(Reverse((id, run.partition, offset, index)));
            }
        }
        Ok(())
    }
}

impl Run {
    fn next(&mut self, file: &File) -> io::Result<Option<Item>> {
        if self.buffer.is_empty() {
            self.fill(file)?;
        }
        Ok(self.buffer.pop())
    }

    fn fill(&mut self, file: &File) -> io::Result<()> {
        let left = usize::try_from(self.end - self.next).expect("usize has 64 bits");
        let count = left.min(BUFFER);
        let mut bytes = vec![0; count * ITEM];
        file.read_exact_at(&mut bytes, self.next * 20)?;
        self.next += u64::try_from(count).expect("a count has at most 64 bits");
        let items = bytes.as_chunks::<ITEM>().0.iter().rev();
        self.buffer.extend(items.map(|item| {
            let [a, b, c, d, e, f, g, h, i, j, k, l, offset @ ..] = *item;
            let part = u32::from_le_bytes;
            let ts = Timestamp::new(part([a, b, c, d]), part([e, f, g, h]));
            let ord = part([i, j, k, l]);
            Item {
                id: EntryId { ts, ord },
                offset: i64::from_le_bytes(offset),
            }
        }));
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_that_occur_twice_are_found_across_partitions() {
        let id = |increment| EntryId {
            ts: Timestamp::new(1, increment),
            ord: 0,
        };
        let mut runs = Runs::create().unwrap();
        for partition in 0..3_u32 {
            runs.begin(usize::try_from(partition).unwrap());
            for number in 0..1000 {
                runs.push(id(number * 3 + partition), i64::from(number))
                    .unwrap();
            }
        }
        runs.begin(7);
        runs.push(id(1501), 9).unwrap();
        let mut found = Vec::new();
        let merged = runs.merge(|id, one, other| {
            found.push((id.ts.increment, one, other));
            Ok(())
        });
        merged.unwrap();
        let place = |partition, offset| Place { partition, offset };
        assert_eq!(found, [(1501, place(1, 500), place(7, 9))]);
    }
}
