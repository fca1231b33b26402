//! Links between the entries of a chain.

use oplog_relay_core::document::{Document, Element, Malformed};
use oplog_relay_core::position::{OpTime, Timestamp};

/// The fields of an entry that are needed to follow its chain backwards.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Link {
    /// Optime of the entry.
    pub at: OpTime,
    /// `o.partialTxn`: more operations follow.
    pub partial: bool,
    /// `o.prepare`: a later entry commits or aborts.
    pub prepare: bool,
    /// `o.count`: number of operations of the whole chain. Only its last `applyOps` has it.
    pub count: Option<u32>,
    /// `prevOpTime`; `None` for the first entry of a chain.
    pub previous: Option<OpTime>,
}

impl Link {
    /// Reads the link of an entry, or of its projection to [`Link::FIELDS`].
    ///
    /// # Errors
    /// Fails if `ts` is missing or a field has the wrong type.
    pub fn read(entry: Document<'_>) -> Result<Self, Malformed> {
        let op = entry.get("op")?.map(Element::string_bytes).transpose()?;
        let o = entry.get("o")?.filter(|_| op == Some(b"c"));
        let o = o.map(Element::document).transpose()?;
        let o = o.unwrap_or(Document::EMPTY);
        let flag = |name| -> Result<bool, Malformed> {
            let flag = o.get(name)?.map(Element::boolean).transpose()?;
            Ok(flag == Some(true))
        };
        let count = o.get("count")?.map(Element::integer).transpose()?;
        Ok(Self {
            at: optime(entry)?,
            partial: flag("partialTxn")?,
            prepare: flag("prepare")?,
            count: count.and_then(|count| u32::try_from(count).ok()),
            previous: previous(entry)?,
        })
    }

    /// The fields of an entry that a link is read from.
    pub const FIELDS: [&'static str; 7] = [
        "ts",
        "t",
        "op",
        "prevOpTime",
        "o.partialTxn",
        "o.prepare",
        "o.count",
    ];
}

/// Returns `ts` and `t` of a document; the term is -1 if it has none.
pub(super) fn optime(document: Document<'_>) -> Result<OpTime, Malformed> {
    let ts = document.get("ts")?.ok_or(Malformed::Missing("ts"))?;
    let ts = ts.timestamp()?;
    let term = document.get("t")?.map(Element::integer).transpose()?;
    Ok(OpTime {
        ts,
        term: term.unwrap_or(-1),
    })
}

/// Returns `prevOpTime`; `None` if it is missing or null, which the server writes as 0:0.
pub(crate) fn previous(entry: Document<'_>) -> Result<Option<OpTime>, Malformed> {
    let Some(previous) = entry.get("prevOpTime")? else {
        return Ok(None);
    };
    let previous = optime(previous.document()?)?;
    Ok((previous.ts != Timestamp::default()).then_some(previous))
}
