//! The operations inside an `applyOps`, and the entries that are built of them.

use oplog_relay_core::document::{Document, DocumentBuilder, Element, Elements, Malformed, kind};
use oplog_relay_core::entry::{Entry, TxnPlace};

/// The operations of an entry in order. An `applyOps` inside is gone into.
#[derive(Debug, Clone)]
pub struct Operations<'a> {
    /// The arrays that are open, the innermost last.
    open: Vec<Elements<'a>>,
}

impl<'a> Operations<'a> {
    /// Those of an `applyOps` entry.
    ///
    /// # Errors
    /// When it has no array of operations.
    pub fn of(entry: Document<'a>) -> Result<Self, Malformed> {
        let o = entry.get("o")?.ok_or(Malformed::Missing("o"))?.document()?;
        let operations = apply_ops(o)?.ok_or(Malformed::Missing("o.applyOps"))?;
        Ok(Self {
            open: vec![operations.elements()],
        })
    }

    fn enter(&mut self, operation: Document<'a>) -> Result<bool, Malformed> {
        let op = operation.get("op")?.map(Element::string_bytes);
        if op.transpose()? != Some(b"c") {
            return Ok(false);
        }
        let Some(o) = operation.get("o")? else {
            return Ok(false);
        };
        let inner = apply_ops(o.document()?)?;
        self.open.extend(inner.map(Document::elements));
        Ok(inner.is_some())
    }
}

impl<'a> Iterator for Operations<'a> {
    type Item = Result<Document<'a>, Malformed>;

    fn next(&mut self) -> Option<Self::Item> {
        loop {
            let Some(element) = self.open.last_mut()?.next() else {
                self.open.pop();
                continue;
            };
            let operation = element.and_then(Element::document);
            let entered = operation.and_then(|operation| Ok((self.enter(operation)?, operation)));
            match entered {
                Ok((true, _)) => {}
                Ok((false, operation)) => return Some(Ok(operation)),
                Err(error) => {
                    self.open.clear();
                    return Some(Err(error));
                }
            }
        }
    }
}

/// The array of an `applyOps`; `None` for another command.
fn apply_ops(o: Document<'_>) -> Result<Option<Document<'_>>, Malformed> {
    let command = o.first()?.filter(|command| command.name == b"applyOps");
    match command {
        Some(command) if command.kind != kind::ARRAY => Err(command.wrong_type()),
        command => command.map(Element::document).transpose(),
    }
}

/// Writes the entry of an operation as CONTRACT has it: time, term and session of the commit, the
/// fields that the operation has, and its place. `b`, `fromMigrate` and `isTimeseries` are kept
/// where an operation has them.
///
/// # Errors
/// When the operation is damaged.
pub fn build(
    commit: &Entry<'_>,
    operation: Document<'_>,
    place: Option<TxnPlace>,
    out: &mut Vec<u8>,
) -> Result<(), Malformed> {
    let mut entry = DocumentBuilder::start(out);
    entry.raw("ts", kind::TIMESTAMP, &commit.ts.to_le_bytes());
    if commit.term >= 0 {
        entry.int64("t", commit.term);
    }
    entry.int32("v", 2);
    for name in [
        "op",
        "ns",
        "ui",
        "o",
        "o2",
        "b",
        "fromMigrate",
        "isTimeseries",
    ] {
        if let Some(field) = operation.get(name)? {
            entry.element(field);
        }
    }
    if let Some(wall) = commit.wall {
        entry.date("wall", wall);
    }
    if let Some(lsid) = commit.lsid {
        entry.document("lsid", lsid);
    }
    if let Some(number) = commit.txn_number {
        entry.int64("txnNumber", number);
    }
    if let Some(TxnPlace { index, count }) = place {
        entry.nested("txn", kind::DOCUMENT, |txn| {
            integer(txn, "index", index);
            integer(txn, "count", count);
        });
    }
    entry.finish();
    Ok(())
}

/// The smallest type that holds it, as a reader of JSON would choose.
fn integer(out: &mut DocumentBuilder<'_>, name: &str, number: u32) {
    match i32::try_from(number) {
        Ok(number) => out.int32(name, number),
        Err(_) => out.int64(name, number.into()),
    };
}
