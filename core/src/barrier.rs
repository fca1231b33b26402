//! Barriers: records that make a consumer group run a command after all earlier and before all
//! later writes of the collections that the command concerns.
//!
//! Partition 0 of each topic concerned gets a *leader barrier*, and every other partition a
//! *follower barrier*. The *command* is the record directly after the leader barrier of the first
//! topic. All of them are entries with one additional field, [`FIELD`]: a barrier is a noop entry,
//! and the command is its own entry. They are therefore valid in every format, and other readers
//! skip the noops.
//!
//! ```text
//! {ts, t, v: 2, op: "n", ns, wall, o: {}, relayBarrier: {ord, ordered, leader: {topic, offset}, namespaces: [ns, …]}}
//! {…the command's entry…, relayBarrier: {ord, ordered, leader, namespaces, partitions: [{topic, offsets: […]}]}}
//! ```
//!
//! A barrier with `passable: true` holds the command back until all partitions have reached it, but
//! only the partition with the command waits for it. A reader that does not know the field waits in
//! all partitions.
//!
//! `namespaces` lists the collections that the command concerns. A group that excludes some
//! collections uses it to decide at a barrier whether the command concerns the group. Earlier
//! producers did not write this field, and earlier consumers ignore it.
//!
//! `ord` is the ordinal of the command. The identity of a barrier has the ordinal [`BARRIER_ORD`],
//! so that deduplication by identity never drops a command as a copy of its barrier.

use crate::command::is_set;
use crate::document::{Document, DocumentBuilder, Malformed, kind};
use crate::entry::{Entry, Operation};
use crate::position::EntryId;

/// The field that marks an entry as a barrier, or as a command that waits for barriers.
pub const FIELD: &str = "relayBarrier";
/// The ordinal in the identity of barriers. No operation has it.
pub const BARRIER_ORD: u32 = u32::MAX;

/// The content of the field [`FIELD`] in a barrier or in its command.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Barrier {
    /// The identity of the command.
    pub command: EntryId,
    /// The topic whose partition 0 contains the command.
    pub leader_topic: String,
    /// The offset of the leader barrier in that partition. The command is the next record.
    pub leader_offset: i64,
    /// True if all later writes of the collection go to one partition. Only then can the target
    /// keep a unique index.
    pub ordered: bool,
    /// True if the other partitions continue without waiting for the command. This is the case for
    /// an index build, which may take hours and cannot fail because of later writes.
    pub passable: bool,
    /// The collections that the command concerns: one, or both names of a rename. The list is empty
    /// if the command does not name any, and `None` if the producer did not write the field.
    pub namespaces: Option<Vec<String>>,
    /// The offset of the barrier in each partition, by topic. Only the command has it.
    pub partitions: Vec<TopicBarriers>,
}

/// The barriers of a topic.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TopicBarriers {
    /// The name of the topic.
    pub topic: String,
    /// The offset of the barrier in each partition.
    pub offsets: Vec<i64>,
}

impl TopicBarriers {
    /// Creates the barriers of a topic, in the order of its partitions.
    pub fn new(topic: impl Into<String>, offsets: Vec<i64>) -> Self {
        let topic = topic.into();
        Self { topic, offsets }
    }
}

impl Barrier {
    /// Returns true if the record is the command and not one of the barriers.
    #[must_use]
    pub const fn is_command(&self) -> bool {
        !self.partitions.is_empty()
    }

    /// Reads the barrier of an entry. Returns `None` if the entry has no barrier.
    ///
    /// # Errors
    /// [`Malformed`] if the field does not have the expected shape.
    pub fn read(entry: &Entry<'_>) -> Result<Option<Self>, Malformed> {
        if !may_have_barrier(entry) {
            return Ok(None);
        }
        let Some(field) = entry.raw.get(FIELD)? else {
            return Ok(None);
        };
        let field = field.document()?;
        let get = |name: &'static str| field.get(name)?.ok_or(Malformed::Missing(name));
        let ord = get("ord")?;
        let leader = get("leader")?.document()?;
        let topic = leader.get("topic")?.ok_or(Malformed::Missing("topic"))?;
        let offset = leader.get("offset")?.ok_or(Malformed::Missing("offset"))?;
        let namespaces = match field.get("namespaces")? {
            Some(list) => Some(texts(list.document()?)?),
            None => None,
        };
        let mut partitions = Vec::new();
        if let Some(list) = field.get("partitions")? {
            for element in list.document()?.elements() {
                partitions.push(topic_offsets(element?.document()?)?);
            }
        }
        Ok(Some(Self {
            command: EntryId {
                ts: entry.ts,
                ord: u32::try_from(ord.integer()?).map_err(|_| ord.wrong_type())?,
            },
            ordered: get("ordered")?.boolean()?,
            passable: is_set(field, "passable")?,
            leader_topic: topic.str()?.to_owned(),
            leader_offset: offset.integer()?,
            namespaces,
            partitions,
        }))
    }

    /// Appends the noop entry of the barrier to `out`, with the time and the namespace of the
    /// command's `entry`.
    pub fn write_noop(&self, entry: &Entry<'_>, out: &mut Vec<u8>) {
        let mut noop = DocumentBuilder::start(out);
        noop.raw("ts", kind::TIMESTAMP, &entry.ts.to_le_bytes())
            .int64("t", entry.term)
            .int32("v", 2)
            .str("op", "n")
            .str("ns", entry.ns);
        if let Some(wall) = entry.wall {
            noop.date("wall", wall);
        }
        noop.document("o", Document::EMPTY);
        self.write_field(&mut noop, false);
        noop.finish();
    }

    /// Appends the command's entry with the barrier to `out`.
    ///
    /// # Errors
    /// [`Malformed`] if the entry is damaged.
    pub fn write_command(&self, entry: &Entry<'_>, out: &mut Vec<u8>) -> Result<(), Malformed> {
        let mut command = DocumentBuilder::start(out);
        for element in entry.raw.elements() {
            command.element(element?);
        }
        self.write_field(&mut command, true);
        command.finish();
        Ok(())
    }

    fn write_field(&self, out: &mut DocumentBuilder<'_>, with_partitions: bool) {
        out.nested(FIELD, kind::DOCUMENT, |field| {
            field.int64("ord", self.command.ord.into());
            field.boolean("ordered", self.ordered);
            if self.passable {
                field.boolean("passable", true);
            }
            field.nested("leader", kind::DOCUMENT, |leader| {
                leader
                    .str("topic", &self.leader_topic)
                    .int64("offset", self.leader_offset);
            });
            if let Some(namespaces) = &self.namespaces {
                field.nested("namespaces", kind::ARRAY, |list| {
                    for (index, ns) in namespaces.iter().enumerate() {
                        list.str(&index.to_string(), ns);
                    }
                });
            }
            if with_partitions {
                field.nested("partitions", kind::ARRAY, |list| {
                    for (index, barriers) in self.partitions.iter().enumerate() {
                        list.nested(&index.to_string(), kind::DOCUMENT, |item| {
                            item.str("topic", &barriers.topic);
                            item.nested("offsets", kind::ARRAY, |numbers| {
                                for (index, offset) in barriers.offsets.iter().enumerate() {
                                    numbers.int64(&index.to_string(), *offset);
                                }
                            });
                        });
                    }
                });
            }
        });
    }
}

fn may_have_barrier(entry: &Entry<'_>) -> bool {
    matches!(entry.operation, Operation::Noop | Operation::Command)
        || crate::command::is_view_entry(entry)
}

fn texts(list: Document<'_>) -> Result<Vec<String>, Malformed> {
    list.elements()
        .map(|element| Ok(element?.str()?.to_owned()))
        .collect()
}

fn topic_offsets(item: Document<'_>) -> Result<TopicBarriers, Malformed> {
    let topic = item.get("topic")?.ok_or(Malformed::Missing("topic"))?;
    let offsets = item.get("offsets")?.ok_or(Malformed::Missing("offsets"))?;
    let offsets: Result<Vec<i64>, Malformed> = offsets
        .document()?
        .elements()
        .map(|element| element?.integer())
        .collect();
    Ok(TopicBarriers {
        topic: topic.str()?.to_owned(),
        offsets: offsets?,
    })
}

/// Copies an entry to `out` without its barrier. Returns false, and copies nothing, if it has no
/// barrier.
///
/// # Errors
/// [`Malformed`] if the entry is damaged.
pub fn strip(entry: Document<'_>, out: &mut Vec<u8>) -> Result<bool, Malformed> {
    if entry.get(FIELD)?.is_none() {
        return Ok(false);
    }
    let mut stripped = DocumentBuilder::start(out);
    for element in entry.elements() {
        let element = element?;
        if element.name != FIELD.as_bytes() {
            stripped.element(element);
        }
    }
    stripped.finish();
    Ok(true)
}

#[cfg(test)]
mod tests {
    use super::*;
    use bson::doc;

    fn drop_entry() -> Vec<u8> {
        let ts = bson::Timestamp {
            time: 9,
            increment: 2,
        };
        let entry = doc! { "ts": ts, "t": 3_i64, "v": 2, "op": "c", "ns": "shop.$cmd", "o": { "drop": "c" } };
        entry.to_vec().unwrap()
    }

    fn parse(bytes: &[u8]) -> Entry<'_> {
        Entry::parse(Document::new(bytes).unwrap()).unwrap()
    }

    #[test]
    fn barrier_and_command_have_the_same_fields_except_partitions() {
        let bytes = drop_entry();
        let entry = parse(&bytes);
        let barrier = Barrier {
            command: EntryId {
                ts: entry.ts,
                ord: 7,
            },
            ordered: true,
            passable: true,
            leader_topic: "cdc.shop.c".into(),
            leader_offset: 11,
            namespaces: Some(vec!["shop.c".into()]),
            partitions: vec![TopicBarriers {
                topic: "cdc.shop.c".into(),
                offsets: vec![11, 5, 0],
            }],
        };
        assert_eq!(Barrier::read(&entry), Ok(None));
        let mut noop = Vec::new();
        barrier.write_noop(&entry, &mut noop);
        let noop = parse(&noop);
        assert_eq!((noop.operation, noop.ns), (Operation::Noop, "shop.$cmd"));
        let read_back = Barrier::read(&noop).unwrap().unwrap();
        let without = Barrier {
            partitions: Vec::new(),
            ..barrier.clone()
        };
        assert_eq!(read_back, without);

        let mut command = Vec::new();
        barrier.write_command(&entry, &mut command).unwrap();
        assert_eq!(Barrier::read(&parse(&command)), Ok(Some(barrier)));
        let mut stripped = Vec::new();
        assert_eq!(
            strip(Document::new(&command).unwrap(), &mut stripped),
            Ok(true)
        );
        assert_eq!(stripped, bytes);
        assert_eq!(
            strip(Document::new(&bytes).unwrap(), &mut Vec::new()),
            Ok(false)
        );
    }

    /// The bytes are a contract: consumers of other versions read them.
    #[test]
    fn the_field_has_its_frozen_form() {
        let bytes = drop_entry();
        let entry = parse(&bytes);
        let barrier = |namespaces| Barrier {
            command: EntryId {
                ts: entry.ts,
                ord: 7,
            },
            ordered: true,
            passable: false,
            leader_topic: "cdc.shop.c".into(),
            leader_offset: 11,
            namespaces,
            partitions: Vec::new(),
        };
        let names = vec!["shop.c".to_owned(), "shop.d".to_owned()];
        let leader = doc! { "topic": "cdc.shop.c", "offset": 11_i64 };
        let without = doc! { "ord": 7_i64, "ordered": true, "leader": leader };
        let mut with = without.clone();
        with.insert("namespaces", names.clone());
        for (namespaces, expected) in [(None, without), (Some(names), with)] {
            let barrier = barrier(namespaces);
            let mut noop = Vec::new();
            barrier.write_noop(&entry, &mut noop);
            let written = bson::Document::from_reader(noop.as_slice()).unwrap();
            assert_eq!(written.get_document(FIELD).unwrap(), &expected);
            assert_eq!(Barrier::read(&parse(&noop)), Ok(Some(barrier)));
        }
    }
}
