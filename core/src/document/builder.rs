//! A builder of BSON documents.

use super::{Document, Element, kind};

/// A builder that writes a document into a reused buffer. The document is complete after
/// [`DocumentBuilder::finish`].
#[derive(Debug)]
pub struct DocumentBuilder<'b> {
    out: &'b mut Vec<u8>,
    start: usize,
}

impl<'b> DocumentBuilder<'b> {
    /// Starts a document at the end of `out`.
    pub fn start(out: &'b mut Vec<u8>) -> Self {
        let start = out.len();
        out.extend_from_slice(&[0; 4]);
        Self { out, start }
    }

    /// Appends an element whose value is already encoded as BSON.
    pub fn raw(&mut self, name: &str, kind: u8, value: &[u8]) -> &mut Self {
        self.out.push(kind);
        self.out.extend_from_slice(name.as_bytes());
        self.out.push(0);
        self.out.extend_from_slice(value);
        self
    }

    /// Appends an element under its own name.
    pub fn element(&mut self, element: Element<'_>) -> &mut Self {
        self.out.push(element.kind);
        self.out.extend_from_slice(element.name);
        self.out.push(0);
        self.out.extend_from_slice(element.value);
        self
    }

    /// Appends a document.
    pub fn document(&mut self, name: &str, document: Document<'_>) -> &mut Self {
        self.raw(name, kind::DOCUMENT, document.as_bytes())
    }

    /// Appends a string.
    pub fn str(&mut self, name: &str, text: &str) -> &mut Self {
        self.raw(name, kind::STRING, &length_prefix(text.len() + 1));
        self.out.extend_from_slice(text.as_bytes());
        self.out.push(0);
        self
    }

    /// Appends an int32.
    pub fn int32(&mut self, name: &str, value: i32) -> &mut Self {
        self.raw(name, kind::INT32, &value.to_le_bytes())
    }

    /// Appends an int64.
    pub fn int64(&mut self, name: &str, value: i64) -> &mut Self {
        self.raw(name, kind::INT64, &value.to_le_bytes())
    }

    /// Appends a boolean.
    pub fn boolean(&mut self, name: &str, value: bool) -> &mut Self {
        self.raw(name, kind::BOOLEAN, &[u8::from(value)])
    }

    /// Appends a date in milliseconds since 1970.
    pub fn date(&mut self, name: &str, millis: i64) -> &mut Self {
        self.raw(name, kind::DATE, &millis.to_le_bytes())
    }

    /// Appends a nested document (or array) that `build` fills.
    pub fn nested(&mut self, name: &str, kind: u8, build: impl FnOnce(&mut DocumentBuilder<'_>)) {
        self.raw(name, kind, &[]);
        let mut inner = DocumentBuilder::start(self.out);
        build(&mut inner);
        inner.finish();
    }

    /// Starts a nested document (or array), whose name need not be UTF-8. It must be finished
    /// before another element is appended to `self`.
    pub fn open(&mut self, name: &[u8], kind: u8) -> DocumentBuilder<'_> {
        self.element(Element {
            name,
            kind,
            value: &[],
        });
        DocumentBuilder::start(self.out)
    }

    /// Writes the final zero and the length.
    pub fn finish(self) {
        self.out.push(0);
        let length = length_prefix(self.out.len() - self.start);
        if let Some(prefix) = self.out.get_mut(self.start..self.start + 4) {
            prefix.copy_from_slice(&length);
        }
    }
}

/// Encodes a BSON length. Lengths come from buffers far below 2 GiB; a greater one is written as a
/// length that no reader accepts.
fn length_prefix(length: usize) -> [u8; 4] {
    i32::try_from(length).unwrap_or(-1).to_le_bytes()
}
