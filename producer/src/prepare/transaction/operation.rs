//! The operations inside an `applyOps`, and the entries that are built from them.

use oplog_relay_core::document::{Document, DocumentBuilder, Element, Elements, Malformed, kind};
use oplog_relay_core::entry::{Entry, TxnPlace};

/// The operations of an entry in order, including those of nested `applyOps`.
#[derive(Debug, Clone)]
pub struct Operations<'a> {
    /// The open arrays, the innermost last.
    open: Vec<Elements<'a>>,
}

impl<'a> Operations<'a> {
    /// Returns the operations of an `applyOps` entry.
    ///
    /// # Errors
    /// Fails if the entry has no array of operations.
    pub fn of(entry: Document<'a>) -> Result<Self, Malformed> {
        let o = entry.get("o")?.ok_or(Malformed::Missing("o"))?.document()?;
        let operations = apply_ops(o)?.ok_or(Malformed::Missing("o.applyOps"))?;
        Ok(Self {
            open: vec![operations.elements()],
        })
    }

    /// Opens the array of a nested `applyOps`. Returns false for any other operation.
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

/// Returns the array of an `applyOps`; `None` for another command.
fn apply_ops(o: Document<'_>) -> Result<Option<Document<'_>>, Malformed> {
    let command = o.first()?.filter(|command| command.name == b"applyOps");
    match command {
        Some(command) if command.kind != kind::ARRAY => Err(command.wrong_type()),
        command => command.map(Element::document).transpose(),
    }
}

/// Writes the entry of an operation: time, term and session of the commit, the fields of the
/// operation, and its place in the transaction. `b`, `fromMigrate` and `isTimeseries` are kept if
/// an operation has them. A replacement without `_id`, which a user's `applyOps` may contain, gets
/// the `_id` of `o2`, with which the server stored the document.
///
/// # Errors
/// Fails if the operation is damaged.
pub fn build(
    commit: &Entry<'_>,
    operation: Document<'_>,
    place: Option<TxnPlace>,
    out: &mut Vec<u8>,
) -> Result<(), Malformed> {
    let id = replaced_id(operation)?;
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
        match (operation.get(name)?, id) {
            (Some(field), Some(id)) if name == "o" => {
                let mut outcome = Ok(());
                entry.nested("o", kind::DOCUMENT, |o| {
                    o.element(id);
                    outcome = copy(field, o);
                });
                outcome?;
            }
            (Some(field), _) => {
                entry.element(field);
            }
            (None, _) => {}
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

/// Returns the `_id` that is missing from a replacement; `None` for every other operation.
fn replaced_id(operation: Document<'_>) -> Result<Option<Element<'_>>, Malformed> {
    let op = operation.get("op")?.map(Element::string_bytes);
    let (Some(b"u"), Some(o), Some(o2)) =
        (op.transpose()?, operation.get("o")?, operation.get("o2")?)
    else {
        return Ok(None);
    };
    let first = o.document()?.first()?;
    let is_whole = first.is_none_or(|first| !first.name.starts_with(b"$"));
    if !is_whole || o.document()?.get("_id")?.is_some() || o2.kind != kind::DOCUMENT {
        return Ok(None);
    }
    o2.document()?.get("_id")
}

fn copy(field: Element<'_>, out: &mut DocumentBuilder<'_>) -> Result<(), Malformed> {
    for inner in field.document()?.elements() {
        out.element(inner?);
    }
    Ok(())
}

/// Writes a number in the smallest type that holds it, as a parser of JSON would choose.
fn integer(out: &mut DocumentBuilder<'_>, name: &str, number: u32) {
    match i32::try_from(number) {
        Ok(number) => out.int32(name, number),
        Err(_) => out.int64(name, number.into()),
    };
}

#[cfg(test)]
mod tests {
    use super::*;
    use oplog_relay_core::json::{Exactness, Mode, parse_document, write_document};

    fn bson(text: &str) -> Vec<u8> {
        let mut out = Vec::new();
        parse_document(text.as_bytes(), &mut out).unwrap();
        out
    }

    /// Returns `o` of the entry that is built from an operation.
    fn o_of(operation: &str) -> String {
        let commit = r#"{"ts":{"$timestamp":{"t":7,"i":1}},"op":"c","ns":"admin.$cmd","o":{}}"#;
        let (commit, operation) = (bson(commit), bson(operation));
        let commit = Entry::parse(Document::new(&commit).unwrap()).unwrap();
        let (mut out, mut text) = (Vec::new(), Vec::new());
        build(&commit, Document::new(&operation).unwrap(), None, &mut out).unwrap();
        let o = Entry::parse(Document::new(&out).unwrap()).unwrap().o;
        assert_eq!(
            write_document(o, Mode::Relaxed, &mut text).unwrap(),
            Exactness::Exact
        );
        String::from_utf8(text).unwrap()
    }

    #[test]
    fn a_replacement_without_id_gets_that_of_its_query() {
        for (o, expected) in [
            (r#"{"a":1}"#, r#"{"_id":5,"a":1}"#),
            ("{}", r#"{"_id":5}"#),
            (r#"{"_id":5,"a":1}"#, r#"{"_id":5,"a":1}"#),
            (r#"{"$set":{"a":1}}"#, r#"{"$set":{"a":1}}"#),
            (r#"{"$v":2,"diff":{}}"#, r#"{"$v":2,"diff":{}}"#),
        ] {
            let operation = format!(r#"{{"op":"u","ns":"s.a","o":{o},"o2":{{"_id":5}}}}"#);
            assert_eq!(o_of(&operation), expected, "{o}");
        }
        assert_eq!(
            o_of(r#"{"op":"i","ns":"s.a","o":{"a":1},"o2":{"_id":5}}"#),
            r#"{"a":1}"#
        );
    }
}
