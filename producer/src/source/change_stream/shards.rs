//! The events of a sharded cluster that must not take effect as they are.
//!
//! **Commands.** Each shard on which a `drop`, `rename` or `dropDatabase` runs reports it, within
//! moments of the others. The first report is sent, and a later one is not if the collection had no
//! event in between. Otherwise a second `rename` with `dropTarget` would drop the renamed
//! collection, because no collection has the old name any more. Up to 100 commands of the last
//! minute are saved with the position, so a restart between two reports recognizes the second one.
//!
//! **Documents that move.** A document whose shard key changes is deleted on one shard and inserted
//! on another, in one transaction. Each shard commits at its own cluster time, and the stream orders
//! the two events by that time and then by their document keys, so the insert may come before the
//! delete. A target that is not sharded in the same way finds documents by their `_id`. There the
//! delete would remove the document that was just inserted. An insert replaces the document with the
//! same `_id` anyway, so a delete or an update is left out if the same transaction inserted the
//! document under another document key before: the delete or update concerns its former place.
//!
//! The documents that recent transactions inserted are kept in memory only. If the insert of a
//! deleted document is not among them, because it is long ago or before a restart, the caller asks
//! the source whether the document still exists ([`Verdict::Locate`]).

use std::collections::HashMap;
use std::hash::{DefaultHasher, Hash as _, Hasher as _};

use oplog_relay_core::document::Malformed;
use oplog_relay_core::position::{PositionError, Timestamp};
use oplog_relay_core::resume::RecentCommand;

use super::event::Event;

/// Number of seconds of the source's time for which a command is remembered.
const REMEMBERED_SECONDS: u32 = 60;

/// Maximum number of commands that are remembered. They are saved with each position.
const MOST_REMEMBERED: usize = 100;

/// Number of seconds of the source's time for which the inserts of transactions are kept at least.
const KEPT_SECONDS: u32 = 10;
/// Number of documents after which older ones are forgotten. They take about 10 MB.
const MOST_KEPT: usize = 50_000;

/// The decision about an event.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    /// The event is sent.
    Carry,
    /// Another shard has reported the same command.
    Repeated,
    /// The event concerns a document at a place from which it has moved away.
    MovedAway,
    /// The event is a delete, and only the source knows whether the document has moved away.
    Locate,
}

/// The events of a sharded cluster that later events depend on.
#[derive(Debug)]
pub struct Shards {
    commands: Vec<RecentCommand>,
    recent: Inserted,
    older: Inserted,
}

/// Documents that transactions inserted.
#[derive(Debug, Default)]
struct Inserted {
    since: Timestamp,
    /// The document keys under which a document was inserted and not deleted again, by the digest
    /// of the transaction and the document. Most documents have one such key.
    places: HashMap<Digest, Vec<Digest>>,
}

/// A hash that is long enough to identify a document among those that are kept.
type Digest = u128;

impl Shards {
    /// Creates the state of a stream that continues after these commands.
    ///
    /// # Errors
    /// [`PositionError`] if the time of a command cannot be read.
    pub fn new(commands: Vec<RecentCommand>) -> Result<Self, PositionError> {
        for command in &commands {
            command.time()?;
        }
        Ok(Self {
            commands,
            recent: Inserted::default(),
            older: Inserted::default(),
        })
    }

    /// Returns the commands that other shards may still report.
    #[must_use]
    pub fn commands(&self) -> &[RecentCommand] {
        &self.commands
    }

    /// Decides about an event, and notes it.
    ///
    /// # Errors
    /// [`Malformed`] if its document key is damaged.
    pub fn judge(&mut self, event: &Event<'_>) -> Result<Verdict, Malformed> {
        match event.operation {
            "insert" | "replace" | "update" | "delete" => {
                // The collection exists, so a later command is not a report of an earlier one.
                if !self.commands.is_empty() {
                    self.forget(event.db, event.collection);
                }
                self.judge_change(event)
            }
            "drop" | "rename" | "dropDatabase" => Ok(self.judge_command(event)),
            _ => {
                self.forget(event.db, event.collection);
                Ok(Verdict::Carry)
            }
        }
    }

    fn judge_change(&mut self, event: &Event<'_>) -> Result<Verdict, Malformed> {
        // A document moves only in a transaction.
        let (Some(key), Some(lsid)) = (event.key, event.lsid) else {
            return Ok(Verdict::Carry);
        };
        let id = key.get("_id")?.ok_or(Malformed::Missing("_id"))?;
        let document = digest(&[
            lsid.as_bytes(),
            &event.txn_number.unwrap_or_default().to_le_bytes(),
            event.db.as_bytes(),
            event.collection.as_bytes(),
            &[id.kind],
            id.value,
        ]);
        let place = digest(&[key.as_bytes()]);
        if event.operation == "insert" {
            self.insert(event.time, document, place);
            return Ok(Verdict::Carry);
        }
        let kept = [&mut self.recent, &mut self.older];
        let found = kept
            .into_iter()
            .find_map(|kept| kept.places.get_mut(&document));
        let is_delete = event.operation == "delete";
        let Some(places) = found.filter(|places| !places.is_empty()) else {
            // A document key that is the `_id` alone usually belongs to a collection without a
            // shard key, whose documents do not move. It may also belong to a document without the
            // fields of the shard key.
            let may_have_moved = is_delete && key.elements().nth(1).is_some();
            return Ok(match may_have_moved {
                true => Verdict::Locate,
                false => Verdict::Carry,
            });
        };
        let is_there = places.contains(&place);
        if is_delete && is_there {
            places.retain(|other| *other != place);
            // If a place is left, the document moved there and away again.
            return Ok(match places.is_empty() {
                true => Verdict::Carry,
                false => Verdict::MovedAway,
            });
        }
        Ok(match is_there {
            true => Verdict::Carry,
            false => Verdict::MovedAway,
        })
    }

    fn insert(&mut self, time: Timestamp, document: Digest, place: Digest) {
        let age = time.seconds.saturating_sub(self.recent.since.seconds);
        if age > KEPT_SECONDS || self.recent.places.len() >= MOST_KEPT {
            self.older = std::mem::take(&mut self.recent);
            self.recent.since = time;
        }
        // All places of a document are kept together.
        let before = self.older.places.remove(&document);
        let places = self.recent.places.entry(document);
        let places = places.or_insert_with(|| before.unwrap_or_else(|| Vec::with_capacity(1)));
        if !places.contains(&place) {
            places.push(place);
        }
    }

    fn judge_command(&mut self, event: &Event<'_>) -> Verdict {
        let earliest = event.time.seconds.saturating_sub(REMEMBERED_SECONDS);
        self.commands
            .retain(|command| command.time().is_ok_and(|time| time.seconds >= earliest));
        let reported = RecentCommand {
            ts: event.time.to_string(),
            op: event.operation.to_owned(),
            ns: event.ns(),
            to: event.to.map(|to| format!("{}.{}", to.db, to.collection)),
        };
        let is_same = |command: &RecentCommand| {
            let RecentCommand { ts: _, op, ns, to } = command;
            (op, ns, to) == (&reported.op, &reported.ns, &reported.to)
        };
        if self.commands.iter().any(is_same) {
            return Verdict::Repeated;
        }
        // Under the new name of a rename there is a collection again.
        if let Some(to) = event.to {
            self.forget(to.db, to.collection);
        }
        if self.commands.len() >= MOST_REMEMBERED {
            self.commands.remove(0);
        }
        self.commands.push(reported);
        Verdict::Carry
    }

    /// Forgets the commands on a collection, and the drop of its database.
    fn forget(&mut self, db: &str, collection: &str) {
        self.commands.retain(|command| {
            let is_of = command.ns.strip_prefix(db).is_some_and(|rest| {
                rest.is_empty()
                    || rest
                        .strip_prefix('.')
                        .is_some_and(|name| name == collection)
            });
            !is_of
        });
    }
}

fn digest(parts: &[&[u8]]) -> Digest {
    let half = |seed: u8| {
        let mut hasher = DefaultHasher::new();
        hasher.write_u8(seed);
        parts.hash(&mut hasher);
        Digest::from(hasher.finish())
    };
    half(0) << 64 | half(1)
}

#[cfg(test)]
mod tests {
    use bson::{Document as Bson, doc};
    use oplog_relay_core::document::Document;

    use super::*;

    fn judge(shards: &mut Shards, second: u32, event: &Bson) -> Verdict {
        let mut event = event.clone();
        event.insert("_id", doc! { "_data": "82" });
        let time = bson::Timestamp {
            time: second,
            increment: 1,
        };
        event.insert("clusterTime", time);
        let bytes = event.to_vec().unwrap();
        let event = Event::read(Document::new(&bytes).unwrap()).unwrap();
        shards.judge(&event).unwrap()
    }

    fn shards() -> Shards {
        Shards::new(Vec::new()).unwrap()
    }

    /// Returns a change of document 7 at the place `k` in a transaction.
    fn change(op: &str, k: i32) -> Bson {
        doc! {
            "operationType": op, "ns": { "db": "s", "coll": "a" },
            "lsid": { "id": 1 }, "txnNumber": 1_i64, "documentKey": { "k": k, "_id": 7 },
        }
    }

    #[test]
    fn a_document_that_moved_is_not_changed_at_its_former_place() {
        use Verdict::{Carry, Locate, MovedAway};
        let cases: &[&[(&str, i32, Verdict)]] = &[
            &[("insert", 2, Carry), ("delete", 1, MovedAway)],
            &[("delete", 1, Locate), ("insert", 2, Carry)],
            // An update from before the move may also come late; an update after the move is sent.
            &[
                ("insert", 2, Carry),
                ("update", 1, MovedAway),
                ("update", 2, Carry),
                ("delete", 1, MovedAway),
            ],
            // A document that is deleted where it moved to is gone.
            &[
                ("insert", 2, Carry),
                ("delete", 1, MovedAway),
                ("delete", 2, Carry),
            ],
            // It moves there and back.
            &[
                ("delete", 1, Locate),
                ("insert", 1, Carry),
                ("insert", 2, Carry),
                ("delete", 2, MovedAway),
            ],
        ];
        for case in cases {
            let mut shards = shards();
            // The shards of a transaction commit at different cluster times.
            for (second, (op, k, verdict)) in (9..).zip(*case) {
                let found = judge(&mut shards, second, &change(op, *k));
                assert_eq!(found, *verdict, "{op} {k} of {case:?}");
            }
            // Another transaction is independent.
            let mut other = change("delete", 3);
            other.insert("txnNumber", 2_i64);
            assert_eq!(judge(&mut shards, 14, &other), Locate);
        }
    }

    #[test]
    fn a_document_that_cannot_have_moved_is_carried() {
        let mut shards = shards();
        for (op, k) in [("insert", 2), ("delete", 1)] {
            let mut event = change(op, k);
            event.remove("lsid");
            assert_eq!(judge(&mut shards, 9, &event), Verdict::Carry);
            let mut event = change(op, k);
            event.insert("documentKey", doc! { "_id": k });
            assert_eq!(judge(&mut shards, 9, &event), Verdict::Carry);
        }
    }

    /// The document key of a document without the fields of the shard key is the `_id` alone.
    #[test]
    fn a_document_that_gets_its_shard_key_only_when_it_moves_is_kept() {
        use Verdict::{Carry, MovedAway};
        for (to, from) in [
            (doc! { "k": 2, "_id": 7 }, doc! { "_id": 7 }),
            (doc! { "_id": 7 }, doc! { "k": 2, "_id": 7 }),
        ] {
            let mut shards = shards();
            for (op, key, verdict) in [("insert", &to, Carry), ("delete", &from, MovedAway)] {
                let mut event = change(op, 0);
                event.insert("documentKey", key.clone());
                assert_eq!(judge(&mut shards, 9, &event), verdict, "{op} {key}");
            }
        }
    }

    #[test]
    fn inserts_are_forgotten_after_a_while() {
        let mut shards = shards();
        let mut other = change("insert", 5);
        other.insert("txnNumber", 2_i64);
        judge(&mut shards, 1000, &change("insert", 2));
        judge(&mut shards, 1000 + KEPT_SECONDS + 1, &other);
        let late = judge(&mut shards, 1012, &change("delete", 1));
        assert_eq!(late, Verdict::MovedAway);
        other.insert("txnNumber", 3_i64);
        judge(&mut shards, 1012 + KEPT_SECONDS + 1, &other);
        let later = judge(&mut shards, 1024, &change("delete", 1));
        assert_eq!(later, Verdict::Locate);
    }

    #[test]
    fn the_report_of_another_shard_is_recognized_until_the_collection_has_an_event() {
        let drop = doc! { "operationType": "drop", "ns": { "db": "s", "coll": "a" } };
        let database = doc! { "operationType": "dropDatabase", "ns": { "db": "s" } };
        let rename = doc! {
            "operationType": "rename", "ns": { "db": "s", "coll": "a" },
            "to": { "db": "s", "coll": "b" },
        };
        for event in [&drop, &database, &rename] {
            let mut shards = shards();
            assert_eq!(judge(&mut shards, 9, event), Verdict::Carry);
            assert_eq!(judge(&mut shards, 10, event), Verdict::Repeated);
            // A restart continues with the saved commands.
            let mut shards = Shards::new(shards.commands().to_vec()).unwrap();
            assert_eq!(judge(&mut shards, 11, event), Verdict::Repeated);
            assert_eq!(judge(&mut shards, 11, &change("insert", 1)), Verdict::Carry);
            assert_eq!(judge(&mut shards, 12, event), Verdict::Carry);
            // Long after the first report it is another command.
            let later = 12 + REMEMBERED_SECONDS + 1;
            assert_eq!(judge(&mut shards, later, event), Verdict::Carry);
        }
        let mut shards = shards();
        assert_eq!(judge(&mut shards, 9, &rename), Verdict::Carry);
        assert_eq!(judge(&mut shards, 9, &drop), Verdict::Carry);
    }
}
