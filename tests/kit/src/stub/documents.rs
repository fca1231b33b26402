//! The first collection of the entries, with any number of documents. The content of a document
//! depends only on its number. It is copied from one of a few prepared documents when it is read, so
//! nothing is stored, and generating a document costs little more than sending it.

use std::ops::Range;

use oplog_relay_core::document::kind;

use super::entry::{INSERT_BYTES, LARGE_BYTES, object_id, write_document};

/// Number of prepared documents. Their total size is far larger than lz4's window.
const PREPARED: u64 = 1000;
/// The size limit of a server's reply: 16 MB.
const REPLY_BYTES: usize = 16 * 1024 * 1024;
/// The position of the `_id` in each document, after the document's length and the element's type
/// and name.
const ID: Range<usize> = 9..21;
/// The position of `number`, after the `_id`.
const NUMBER: Range<usize> = 29..37;

/// The content of a collection.
#[derive(Debug, Clone, Copy, Default)]
pub struct Contents {
    /// Number of documents.
    pub documents: u64,
    /// Every n-th document has 16 MB, where n is this number; the others have 466 bytes. 0 disables
    /// large documents.
    pub large_every: u64,
}

/// Documents that are generated when they are read.
#[derive(Debug)]
pub(super) struct Documents {
    contents: Contents,
    small: Vec<Vec<u8>>,
    large: Vec<u8>,
}

impl Documents {
    pub(super) fn new(contents: Contents) -> Documents {
        let prepared = |number, bytes| {
            let mut document = Vec::new();
            write_document(number, bytes, &mut document);
            document
        };
        let large = match contents.large_every {
            0 => Vec::new(),
            _ => prepared(0, LARGE_BYTES),
        };
        let count = PREPARED.min(contents.documents);
        let small = (0..count).map(|number| prepared(number, INSERT_BYTES));
        Documents {
            contents,
            small: small.collect(),
            large,
        }
    }

    /// Returns the number of documents.
    pub(super) const fn len(&self) -> u64 {
        self.contents.documents
    }

    /// Returns true if there is no collection.
    pub(super) const fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Returns the total size of all documents in bytes.
    pub(super) fn bytes(&self) -> u64 {
        let large = self.len().checked_div(self.contents.large_every);
        let large = large.unwrap_or(0);
        large * LARGE_BYTES as u64 + (self.len() - large) * INSERT_BYTES as u64
    }

    fn prepared(&self, number: u64) -> &[u8] {
        let every = self.contents.large_every;
        if every > 0 && number % every == every - 1 {
            return &self.large;
        }
        &self.small[usize::try_from(number % PREPARED).unwrap_or(0)]
    }

    /// Returns the document number that an `_id` contains, if it is an `_id` of this collection.
    pub(super) fn number(id: &[u8]) -> Option<u64> {
        let number = u64::from_be_bytes(id.get(4..12)?.try_into().ok()?);
        (object_id(number)[..4] == id[..4]).then_some(number)
    }

    /// Appends these documents as elements of an array, as many as fit into a reply. Returns the
    /// number that follows the last appended document.
    pub(super) fn write(&self, numbers: Range<u64>, out: &mut Vec<u8>) -> u64 {
        let start = out.len();
        for (place, number) in numbers.clone().enumerate() {
            let document = self.prepared(number);
            let used = out.len() - start;
            if used > 0 && used + document.len() > REPLY_BYTES {
                return number;
            }
            write_name(place, out);
            let begin = out.len();
            out.extend_from_slice(document);
            if let Some(document) = out.get_mut(begin..) {
                document[ID].copy_from_slice(&object_id(number));
                document[NUMBER].copy_from_slice(&number.to_le_bytes());
            }
        }
        numbers.end
    }

    /// Appends array elements that contain only the `_id` of each document.
    pub(super) fn write_ids(numbers: impl IntoIterator<Item = u64>, out: &mut Vec<u8>) {
        for (place, number) in numbers.into_iter().enumerate() {
            write_name(place, out);
            out.extend_from_slice(&22_i32.to_le_bytes());
            out.push(kind::OBJECT_ID);
            out.extend_from_slice(b"_id\0");
            out.extend_from_slice(&object_id(number));
            out.push(0);
        }
    }
}

/// Appends the type and name of an array's element.
fn write_name(place: usize, out: &mut Vec<u8>) {
    out.push(kind::DOCUMENT);
    out.extend_from_slice(place.to_string().as_bytes());
    out.push(0);
}

#[cfg(test)]
mod tests {
    use oplog_relay_core::document::{Document, Element};

    use super::*;

    #[test]
    fn documents_are_valid_and_contain_their_numbers() {
        let documents = Documents::new(Contents {
            documents: 5000,
            large_every: 2003,
        });
        let mut array = vec![0; 4];
        assert_eq!(documents.write(1998..2010, &mut array), 2010);
        array.push(0);
        let length = i32::try_from(array.len()).unwrap();
        array[..4].copy_from_slice(&length.to_le_bytes());
        let found = Document::new(&array).unwrap().elements();
        let found: Vec<Document<'_>> = found
            .map(|element| element.and_then(Element::document).unwrap())
            .collect();
        assert_eq!(found.len(), 12);
        for (number, document) in (1998_i64..).zip(&found) {
            document.validate().unwrap();
            let field = |name| document.get(name).unwrap().unwrap();
            assert_eq!(field("number").integer(), Ok(number));
            let id = Documents::number(field("_id").value);
            assert_eq!(id, Some(number.cast_unsigned()));
            let large = number == 2002;
            let bytes = if large { LARGE_BYTES } else { INSERT_BYTES };
            assert_eq!(document.as_bytes().len(), bytes);
        }
        // A large document does not fit after so many small ones. It fits after two, followed by
        // some more small ones.
        assert_eq!(documents.write(0..4100, &mut Vec::new()), 2002);
        let end = documents.write(2000..4100, &mut Vec::new());
        assert!((3000..4005).contains(&end), "{end}");
    }
}
