//! Digests of documents and of sets of documents. Performs no I/O.
//!
//! A document's digest is the SHA-256 of its bytes. If the order of fields is ignored, the fields
//! of every document are sorted by name first. A set's digest is the sum of its documents' digests,
//! modulo 2^256, together with their number. It does not depend on the order of the documents, so
//! neither side has to sort. Servers have a `dbHash` command, but managed servers refuse it, and it
//! covers whole collections only.

use oplog_relay_core::document::{Document, DocumentBuilder, MAX_DEPTH, Malformed, kind};
use sha2::{Digest as _, Sha256};

/// The digest of one document.
pub(super) type DocumentDigest = [u8; 32];

/// Computes the digests of documents.
#[derive(Debug, Clone, Default)]
pub(super) struct Digester {
    ignore_field_order: bool,
    sorted: Vec<u8>,
}

impl Digester {
    pub(super) const fn new(ignore_field_order: bool) -> Self {
        let sorted = Vec::new();
        Self {
            ignore_field_order,
            sorted,
        }
    }

    /// Returns the digest of a document. The digest of a damaged document is that of its bytes.
    pub(super) fn document(&mut self, document: Document<'_>) -> DocumentDigest {
        if self.ignore_field_order {
            self.sorted.clear();
            let mut builder = DocumentBuilder::start(&mut self.sorted);
            let written = write_sorted(document, true, 0, &mut builder);
            builder.finish();
            if written.is_ok() {
                return Sha256::digest(&self.sorted).into();
            }
        }
        Sha256::digest(document.as_bytes()).into()
    }
}

fn write_sorted(
    document: Document<'_>,
    by_name: bool,
    depth: usize,
    out: &mut DocumentBuilder<'_>,
) -> Result<(), Malformed> {
    if depth > MAX_DEPTH {
        return Err(Malformed::TooDeep);
    }
    let mut fields = document.elements().collect::<Result<Vec<_>, _>>()?;
    if by_name {
        // The sort is stable: fields of the same name keep their order.
        fields.sort_by_key(|field| field.name);
    }
    for field in fields {
        match field.kind {
            kind::DOCUMENT | kind::ARRAY => {
                let by_name = field.kind == kind::DOCUMENT;
                let mut nested = out.open(field.name, field.kind);
                let written = write_sorted(field.document()?, by_name, depth + 1, &mut nested);
                nested.finish();
                written?;
            }
            _ => {
                out.element(field);
            }
        }
    }
    Ok(())
}

/// The digest of a set of documents.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct SetDigest {
    /// Number of documents.
    pub(super) documents: u64,
    sum: [u64; 4],
}

impl SetDigest {
    /// Adds a document.
    pub(super) fn add(&mut self, digest: &DocumentDigest) {
        self.documents += 1;
        let mut carry = false;
        for (sum, part) in self.sum.iter_mut().zip(digest.as_chunks::<8>().0) {
            let (once, over) = sum.overflowing_add(u64::from_le_bytes(*part));
            let (twice, again) = once.overflowing_add(u64::from(carry));
            (*sum, carry) = (twice, over || again);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use oplog_relay_core::json::parse_document;

    fn digest(text: &str, ignore_field_order: bool) -> DocumentDigest {
        let mut bytes = Vec::new();
        parse_document(text.as_bytes(), &mut bytes).unwrap();
        Digester::new(ignore_field_order).document(Document::new(&bytes).unwrap())
    }

    #[test]
    fn field_order_counts_unless_ignored_and_array_order_always_counts() {
        let (one, other) = (
            r#"{"a":1,"b":{"c":1,"d":[1,2]}}"#,
            r#"{"b":{"d":[1,2],"c":1},"a":1}"#,
        );
        assert_ne!(digest(one, false), digest(other, false));
        assert_eq!(digest(one, true), digest(other, true));
        let other = r#"{"a":1,"b":{"c":1,"d":[2,1]}}"#;
        assert_ne!(digest(one, true), digest(other, true));
    }

    #[test]
    fn a_set_is_the_same_in_any_order_and_counts_repetitions() {
        let all = [digest(r#"{"a":1}"#, false), digest(r#"{"a":2}"#, false)];
        let set = |order: &[usize]| {
            let mut set = SetDigest::default();
            for index in order {
                set.add(&all[*index]);
            }
            set
        };
        assert_eq!(set(&[0, 1]), set(&[1, 0]));
        assert_ne!(set(&[0, 1]), set(&[0]));
        assert_ne!(set(&[0, 1, 1]), set(&[0, 1]));
        let most = [u8::MAX; 32];
        let mut carried = SetDigest::default();
        carried.add(&most);
        carried.add(&most);
        assert_eq!(carried.sum, [u64::MAX - 1, u64::MAX, u64::MAX, u64::MAX]);
    }
}
