//! Error texts and fields for a key that another document has.

use bson::{Bson as Value, Document as Bson};
use oplog_relay_core::document::{Document, DocumentBuilder, Element, kind};
use oplog_relay_core::json::{Mode, write_value};

use super::collation::Collation;
use super::failure::Failure;
use super::version::Version;

/// A duplicate key.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct DuplicateKey {
    /// The fields of the index.
    pattern: Bson,
    /// The key's values under the names of the fields. An index with a collation has sort keys in
    /// place of strings, and those are bytes, not text.
    value: Vec<u8>,
    collation: Option<Bson>,
}

impl DuplicateKey {
    /// Describes a key by its values in the index's order.
    pub(super) fn new(pattern: Bson, key: &[Element<'_>], collation: &Collation) -> DuplicateKey {
        let mut value = Vec::new();
        let mut builder = DocumentBuilder::start(&mut value);
        for (name, element) in pattern.keys().zip(key) {
            let sorted = collation.sort_key(*element);
            let bytes = sorted.as_deref().unwrap_or(element.value);
            builder.element(Element {
                name: name.as_bytes(),
                kind: element.kind,
                value: bytes,
            });
        }
        builder.finish();
        DuplicateKey {
            pattern,
            value,
            collation: collation.spec().cloned(),
        }
    }

    /// Returns the error text, in the form of versions from 4.4 on: a value that may not be valid text
    /// is written in hexadecimal.
    pub(super) fn message(&self, ns: &str, index: &str) -> Result<String, Failure> {
        let mut fields = Vec::new();
        for element in Document::new(&self.value)?.elements() {
            let element = element?;
            let shown = match self.hex(element) {
                Some(hex) => format!("\"0x{hex}\""),
                None => {
                    let mut json = Vec::new();
                    drop(write_value(element, Mode::Relaxed, &mut json));
                    String::from_utf8_lossy(&json).into_owned()
                }
            };
            fields.push(format!(
                "{}: {shown}",
                String::from_utf8_lossy(element.name)
            ));
        }
        let collation = match &self.collation {
            Some(collation) => format!(" collation: {collation}"),
            None => String::new(),
        };
        Ok(format!(
            "E11000 duplicate key error collection: {ns} index: {index}{collation} dup key: {{ {} }}",
            fields.join(", ")
        ))
    }

    /// Appends the fields of a reply. Up to 5.0 `keyValue` contains the bytes of the index, even if
    /// they are not UTF-8. Later versions write these in hexadecimal and mark them.
    pub(super) fn write(
        &self,
        version: Version,
        reply: &mut DocumentBuilder<'_>,
    ) -> Result<(), Failure> {
        let pattern = self.pattern.to_vec()?;
        reply.document("keyPattern", Document::new(&pattern)?);
        let value = Document::new(&self.value)?;
        if version < Version::V6_0 {
            reply.document("keyValue", value);
            return Ok(());
        }
        let mut encoded = Vec::new();
        let mut shown = Bson::new();
        for (name, element) in self.pattern.keys().zip(value.elements()) {
            let element = element?;
            let hex = self.hex(element);
            encoded.push(Value::Boolean(hex.is_some()));
            let value = match hex {
                Some(hex) => Value::String(hex),
                None => super::index::value_of(element)?,
            };
            shown.insert(name, value);
        }
        let mut more = Bson::from_iter([("keyValue".to_owned(), Value::Document(shown))]);
        if encoded.contains(&Value::Boolean(true)) {
            more.insert("hexEncoded", encoded);
        }
        if let Some(collation) = &self.collation {
            more.insert("collation", collation.clone());
        }
        let more = more.to_vec()?;
        for element in Document::new(&more)?.elements() {
            reply.element(element?);
        }
        Ok(())
    }

    /// Returns a string in hexadecimal if it may not be valid text.
    fn hex(&self, element: Element<'_>) -> Option<String> {
        let bytes = (element.kind == kind::STRING).then(|| element.string_bytes().ok())??;
        let is_text = self.collation.is_none() && std::str::from_utf8(bytes).is_ok();
        let hex = || bytes.iter().map(|byte| format!("{byte:02x}")).collect();
        (!is_text).then(hex)
    }
}
