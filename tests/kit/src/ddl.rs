//! A source on which collections are created and dropped: rounds of `create`, `insert`,
//! `createIndexes` and `drop`, spread over some time.

use std::time::Duration;

use anyhow::Result;
use bson::spec::BinarySubtype;
use bson::{Binary, Bson, DateTime, Document, Timestamp, doc};

use crate::model::Model;

/// The database of all collections.
const DB: &str = "ddl";
/// One in this many of the last rounds does not drop its collection.
const KEPT_EACH: u32 = 10;
const PER_ROUND: u32 = 4;

/// The rounds on a source.
#[derive(Debug, Clone, Copy)]
pub struct Rounds {
    /// Number of rounds.
    pub rounds: u32,
    /// Number of names that the rounds use in turn.
    pub names: u32,
    /// Start of the first round, in milliseconds since 1970.
    pub begin: i64,
    /// Duration of all rounds.
    pub span: Duration,
}

impl Rounds {
    /// Returns the oplog. Each entry has the time at which the source would write it.
    ///
    /// # Errors
    /// An entry cannot be written.
    pub fn oplog(&self) -> Result<Vec<u8>> {
        let before = Timestamp {
            time: (self.begin / 1000 - 60) as u32,
            increment: 1,
        };
        // A live source must have an entry when it is first queried.
        let noop = doc! { "ts": before, "t": 1_i64, "v": 2, "op": "n", "ns": "", "o": {} };
        let (mut bytes, mut number) = (noop.to_vec()?, 0);
        for round in 0..self.rounds {
            let name = self.name(round);
            let key = doc! { "k": 1 };
            let mut index = doc! { "createIndexes": &name, "v": 2, "key": key, "name": "k_1" };
            // Only the build of a unique index waits for barriers.
            if round % 2 == 0 {
                index.insert("unique", true);
            }
            let mut entries = vec![
                ("c", doc! { "create": &name }),
                ("i", document(round)),
                ("c", index),
            ];
            if !self.is_kept(round) {
                entries.push(("c", doc! { "drop": &name }));
            }
            for (op, o) in entries {
                bytes.extend(self.entry(number, round, op, o).to_vec()?);
                number += 1;
            }
        }
        Ok(bytes)
    }

    /// Returns the time of the last entry, in milliseconds since 1970.
    #[must_use]
    pub fn end(&self) -> i64 {
        self.begin + i64::try_from(self.span.as_millis()).unwrap_or(i64::MAX)
    }

    /// Returns the number of commands among the entries.
    #[must_use]
    pub fn commands(&self) -> u32 {
        self.rounds * (PER_ROUND - 1) - self.kept().count() as u32
    }

    /// Returns true if an initially empty target has the source's collections, and the catalog
    /// notes show that every drop has run.
    #[must_use]
    pub fn are_applied(&self, target: &Model) -> bool {
        let mut state = target.state();
        let notes = state.remove("oplog_relay.catalog").unwrap_or_default();
        let dropped = notes.iter().filter(|note| {
            let note = Document::from_reader(note.as_slice()).unwrap_or_default();
            note.get_str("change")
                .is_ok_and(|change| change == "dropped")
                && note.get_bool("done").is_ok_and(|done| done)
        });
        let kept = self.kept().count();
        let whole = self.kept().all(|round| {
            let documents = state.get(&format!("{DB}.{}", self.name(round)));
            let expected = document(round).to_vec().ok();
            documents.and_then(|documents| documents.first()) == expected.as_ref()
        });
        let collections = target.collections();
        let indexed = |collection: &&Document| collection.to_string().contains("k_1");
        let collections = collections.get(DB);
        let count = |all: &Vec<Document>| (all.len(), all.iter().filter(indexed).count());
        dropped.count() + kept == self.rounds as usize
            && whole
            && collections.map(count).unwrap_or_default() == (kept, kept)
    }

    fn kept(&self) -> impl Iterator<Item = u32> {
        let rounds = *self;
        (0..self.rounds).filter(move |round| rounds.is_kept(*round))
    }

    /// Returns true for the rounds that keep their collections: some of the last ones, whose names
    /// no later round uses.
    fn is_kept(&self, round: u32) -> bool {
        round % KEPT_EACH == 7 && round + self.names >= self.rounds
    }

    fn name(&self, round: u32) -> String {
        format!("c{}", round % self.names)
    }

    fn entry(&self, number: u32, round: u32, op: &str, o: Document) -> Document {
        let all = i64::from(self.rounds * PER_ROUND - self.kept().count() as u32);
        let span = self.end() - self.begin;
        let millis = self.begin + span * (i64::from(number) + 1) / all;
        let ts = Timestamp {
            time: (millis / 1000) as u32,
            // The increment is unique, although several entries may share a millisecond.
            increment: number + 1,
        };
        let ui = Bson::Binary(Binary {
            subtype: BinarySubtype::Uuid,
            bytes: [&[9; 12][..], &round.to_be_bytes()].concat(),
        });
        let collection = if op == "c" {
            "$cmd".to_owned()
        } else {
            self.name(round)
        };
        doc! {
            "ts": ts, "t": 1_i64, "v": 2, "op": op, "ns": format!("{DB}.{collection}"), "ui": ui,
            "wall": DateTime::from_millis(millis), "o": o,
        }
    }
}

fn document(round: u32) -> Document {
    doc! { "_id": round as i32, "k": "v" }
}

#[cfg(test)]
mod tests {
    use super::*;
    use oplog_consumer::replay::plan::Planner;
    use oplog_relay_core::entry::{Entry, Operation};
    use oplog_relay_core::position::EntryId;

    #[test]
    fn rounds_result_in_the_expected_collections() -> Result<()> {
        let rounds = Rounds {
            rounds: 40,
            names: 7,
            begin: 1_700_000_000_000,
            span: Duration::from_secs(3),
        };
        let oplog = rounds.oplog()?;
        let (planner, mut model, mut rest) = (Planner::new(1), Model::default(), &oplog[..]);
        let mut last = None;
        while !rest.is_empty() {
            let (document, after) = oplog_relay_core::document::Document::split(rest)?;
            let entry = Entry::parse(document)?;
            rest = after;
            assert!(last < Some(entry.ts));
            last = Some(entry.ts);
            if entry.operation == Operation::Noop {
                continue;
            }
            let id = EntryId {
                ts: entry.ts,
                ord: 0,
            };
            model.replay(&planner, &[(id, document.as_bytes().to_vec())])?;
        }
        assert_eq!(model.collections()[DB].len(), rounds.kept().count());
        assert!(rounds.kept().count() > 0 && rounds.commands() > 100);
        // The catalog notes of a replay are missing.
        assert!(!rounds.are_applied(&model));
        Ok(())
    }
}
