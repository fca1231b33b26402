//! The identities of the documents before changes, in `config.system.preimages`.

use oplog_relay_core::collection_uuid::CollectionUuid;
use oplog_relay_core::document::{Document, DocumentBuilder, Malformed, kind};
use oplog_relay_core::position::Timestamp;

/// The `_id` of a document in `config.system.preimages`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct PreImageId {
    /// The UUID of the collection (`nsUUID`).
    pub ui: CollectionUuid,
    /// The timestamp of the oplog entry that contains the change.
    pub ts: Timestamp,
    /// The index of the change in the `applyOps` of that entry (`applyOpsIndex`), otherwise 0.
    pub index: u32,
}

impl PreImageId {
    /// Appends the `_id` as an element.
    pub(super) fn write(self, name: &str, out: &mut DocumentBuilder<'_>) {
        out.nested(name, kind::DOCUMENT, |id| {
            id.raw("nsUUID", kind::BINARY, &self.ui.binary())
                .raw("ts", kind::TIMESTAMP, &self.ts.to_le_bytes())
                .int64("applyOpsIndex", self.index.into());
        });
    }

    pub(super) fn read(id: Document<'_>) -> Result<Self, Malformed> {
        let field = |name| id.get(name)?.ok_or(Malformed::Missing("_id"));
        let ui = field("nsUUID")?;
        let index = field("applyOpsIndex")?;
        Ok(Self {
            ui: ui
                .binary()?
                .bytes
                .try_into()
                .map(CollectionUuid)
                .map_err(|_| ui.wrong_type())?,
            ts: field("ts")?.timestamp()?,
            index: u32::try_from(index.integer()?).map_err(|_| index.wrong_type())?,
        })
    }
}

/// Appends `{_id: {$in: [...]}}` with these `_id`s to a command.
pub fn write_filter(ids: &[PreImageId], command: &mut DocumentBuilder<'_>) {
    command.nested("filter", kind::DOCUMENT, |filter| {
        filter.nested("_id", kind::DOCUMENT, |id| {
            id.nested("$in", kind::ARRAY, |list| {
                for (index, id) in ids.iter().enumerate() {
                    id.write(&index.to_string(), list);
                }
            });
        });
    });
}
