//! The entry of a routing table change that an operator requested (`--change-routing`). It is a
//! noop that acts as the command of its own [`barrier`](crate::barrier). It is between the last
//! entry under the old rules and the first entry under the new ones.
//!
//! ```text
//! {ts, t, v: 2, op: "n", ns, o: {relayRouting: {version, spread: [{ns, ui?}]}}, relayBarrier: {…, partitions}}
//! ```
//!
//! `ts` and `t` are those of the last entry before it. Its ordinal is greater than that of any
//! operation at that time, and each change has its own ordinal.

use crate::collection_uuid::CollectionUuid;
use crate::document::{Document, DocumentBuilder, Malformed, kind};
use crate::entry::{Entry, Operation};
use crate::filter::CATALOG_DB;
use crate::position::{EntryId, Position, Timestamp};

/// The field of `o` that marks a noop as a change of the routing table.
pub const FIELD: &str = "relayRouting";
/// The number of changes that can have distinct ordinals at one timestamp.
const ORDINALS: u32 = 1 << 16;
/// The first ordinal of a change. The ordinals of the source's operations are below it. Above the
/// ordinals of all changes are [`crate::barrier::BARRIER_ORD`] and the ordinal before that, which
/// represents the end of a timestamp.
pub const FIRST_ORD: u32 = u32::MAX - 1 - ORDINALS;

/// A change of the routing table.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct RoutingChange {
    /// The version of the table after the change.
    pub version: u32,
    /// The collections that move from one partition to all partitions.
    pub spread: Vec<SpreadCollection>,
}

/// A collection that moves from one partition to all partitions.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SpreadCollection {
    /// `db.collection`
    pub ns: String,
    /// The UUID, if the source provides one.
    pub ui: Option<CollectionUuid>,
}

impl RoutingChange {
    /// Returns the identity of the change, which is greater than those of the entries at `ts`.
    #[must_use]
    pub const fn id(&self, ts: Timestamp) -> EntryId {
        let ord = FIRST_ORD + self.version % ORDINALS;
        EntryId { ts, ord }
    }

    /// Appends the entry of the change, which follows everything up to the position `after`.
    pub fn write(&self, after: Position, out: &mut Vec<u8>) {
        let mut entry = DocumentBuilder::start(out);
        // The namespace is in a database that is never carried, so no entry of the source has it.
        entry
            .raw("ts", kind::TIMESTAMP, &after.ts.to_le_bytes())
            .int64("t", after.term)
            .int32("v", 2)
            .str("op", "n")
            .str("ns", &format!("{CATALOG_DB}.$cmd"));
        entry.nested("o", kind::DOCUMENT, |o| {
            o.nested(FIELD, kind::DOCUMENT, |change| {
                change.int64("version", self.version.into());
                change.nested("spread", kind::ARRAY, |list| self.write_spread(list));
            });
        });
        entry.finish();
    }

    fn write_spread(&self, list: &mut DocumentBuilder<'_>) {
        for (index, SpreadCollection { ns, ui }) in self.spread.iter().enumerate() {
            list.nested(&index.to_string(), kind::DOCUMENT, |item| {
                item.str("ns", ns);
                if let Some(ui) = ui {
                    item.raw("ui", kind::BINARY, &ui.binary());
                }
            });
        }
    }

    /// Reads the change of an entry. Returns `None` if the entry is not a change of the routing
    /// table.
    ///
    /// # Errors
    /// [`Malformed`] if the field does not have the expected shape.
    pub fn read(entry: &Entry<'_>) -> Result<Option<Self>, Malformed> {
        if entry.operation != Operation::Noop {
            return Ok(None);
        }
        let Some(field) = entry.o.get(FIELD)? else {
            return Ok(None);
        };
        let field = field.document()?;
        let version = field.get("version")?.ok_or(Malformed::Missing("version"))?;
        let list = field.get("spread")?.ok_or(Malformed::Missing("spread"))?;
        let spread: Result<_, Malformed> = list
            .document()?
            .elements()
            .map(|item| read_spread(item?.document()?))
            .collect();
        Ok(Some(Self {
            version: u32::try_from(version.integer()?).map_err(|_| version.wrong_type())?,
            spread: spread?,
        }))
    }
}

fn read_spread(item: Document<'_>) -> Result<SpreadCollection, Malformed> {
    let ns = item.get("ns")?.ok_or(Malformed::Missing("ns"))?;
    let ui = item.get("ui")?;
    let ui = ui.and_then(|ui| ui.value.get(5..)?.try_into().ok().map(CollectionUuid));
    Ok(SpreadCollection {
        ns: ns.str()?.to_owned(),
        ui,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::barrier::{BARRIER_ORD, Barrier};

    #[test]
    fn a_change_round_trips_with_and_without_its_barrier() {
        let change = RoutingChange {
            version: 3,
            spread: vec![
                SpreadCollection {
                    ns: "shop.a".to_owned(),
                    ui: Some(CollectionUuid([7; 16])),
                },
                SpreadCollection {
                    ns: "shop.b".to_owned(),
                    ui: None,
                },
            ],
        };
        let after = Position {
            ts: Timestamp::new(9, 2),
            term: 4,
            ord: 0,
        };
        let mut bytes = Vec::new();
        change.write(after, &mut bytes);
        let entry = Entry::parse(Document::new(&bytes).unwrap()).unwrap();
        assert_eq!((entry.ts, entry.term), (after.ts, 4));
        assert_eq!(RoutingChange::read(&entry), Ok(Some(change.clone())));

        let id = change.id(after.ts);
        let barrier = Barrier {
            command: id,
            ordered: false,
            passable: false,
            leader_topic: "cdc.shop.a".into(),
            leader_offset: 11,
            namespaces: Some(Vec::new()),
            partitions: vec![crate::barrier::TopicBarriers {
                topic: "cdc.shop.a".into(),
                offsets: vec![11, 5],
            }],
        };
        let mut with = Vec::new();
        barrier.write_command(&entry, &mut with).unwrap();
        let with = Entry::parse(Document::new(&with).unwrap()).unwrap();
        assert_eq!(Barrier::read(&with), Ok(Some(barrier)));
        assert_eq!(RoutingChange::read(&with), Ok(Some(change)));
    }

    #[test]
    fn every_change_has_its_own_identity_before_the_end_of_its_timestamp() {
        let ts = Timestamp::new(9, 2);
        let id = |version| {
            let spread = Vec::new();
            RoutingChange { version, spread }.id(ts)
        };
        assert_eq!(id(2).ord, 4_294_901_760);
        assert!(id(2) < id(3) && id(3) > EntryId { ts, ord: 16 << 20 });
        for version in [0, 1, ORDINALS - 1, ORDINALS, u32::MAX] {
            assert!(id(version).ord < BARRIER_ORD - 1, "{version}");
        }
    }
}
