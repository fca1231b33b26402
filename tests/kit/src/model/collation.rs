//! Collations: which strings are equal. The model has no order of strings under a collation.

use bson::{Bson as Value, Document as Bson, doc};
use oplog_relay_core::document::{Document, DocumentBuilder, Element, kind};
use oplog_relay_core::key::write_id_identity;

use super::failure::Failure;

/// The version of the collation library in every server from 3.4 to 8.0.
const VERSION: &str = "57.1";
/// Fields with their defaults, in the order in which a server keeps them, after `locale`.
const FIELDS: [&str; 9] = [
    "caseLevel",
    "caseFirst",
    "strength",
    "numericOrdering",
    "alternate",
    "maxVariable",
    "normalization",
    "backwards",
    "version",
];
/// Letters with their base letter, which is what strength 1 compares.
const BASES: [(&str, char); 6] = [
    ("àáâãäå", 'a'),
    ("èéêë", 'e'),
    ("ìíîï", 'i'),
    ("òóôõö", 'o'),
    ("ùúûü", 'u'),
    ("ç", 'c'),
];

/// A collation: the rule for the equality of strings.
#[derive(Debug, Clone, Default, PartialEq)]
pub(super) struct Collation {
    /// All fields of the collation; `None` for the simple collation.
    spec: Option<Bson>,
}

impl Collation {
    /// Reads the collation of a command and completes it as a server does.
    pub(super) fn parse(given: &Bson) -> Result<Collation, Failure> {
        let locale = given.get_str("locale");
        let locale = locale.map_err(|_| Failure::missing_field("collation.locale"))?;
        if locale == "simple" {
            return Ok(Collation::default());
        }
        let mut spec = doc! {
            "locale": locale, "caseLevel": false, "caseFirst": "off", "strength": 3,
            "numericOrdering": false, "alternate": "non-ignorable", "maxVariable": "punct",
            "normalization": false, "backwards": locale == "fr_CA", "version": VERSION,
        };
        for (name, value) in given {
            match name.as_str() {
                "locale" => {}
                "version" if value.as_str() != Some(VERSION) => {
                    return Err(Failure::new(
                        161,
                        format!("Requested collation version {value}, available is {VERSION}"),
                    ));
                }
                name if FIELDS.contains(&name) => drop(spec.insert(name, value.clone())),
                name => return Err(Failure::unknown_field("collation", name)),
            }
        }
        Ok(Collation { spec: Some(spec) })
    }

    /// Returns the collation among the fields of an index or a collection.
    pub(super) fn of(fields: &Bson) -> Result<Collation, Failure> {
        match fields.get("collation") {
            None => Ok(Collation::default()),
            Some(Value::Document(given)) => Collation::parse(given),
            Some(_) => Err(Failure::new(14, "'collation' has to be a document")),
        }
    }

    /// Returns all fields; `None` for the simple collation.
    pub(super) const fn spec(&self) -> Option<&Bson> {
        self.spec.as_ref()
    }

    /// Appends bytes that are the same for two values exactly if the values are equal.
    pub(super) fn write_identity(
        &self,
        value: Element<'_>,
        out: &mut Vec<u8>,
    ) -> Result<(), Failure> {
        match self.folded(value) {
            None => write_id_identity(value, out)?,
            Some(folded) => write_id_identity(
                Element {
                    value: &folded,
                    ..value
                },
                out,
            )?,
        }
        Ok(())
    }

    /// Returns the content of an index in place of a string: weights, a separator and further
    /// weights, which are not valid UTF-8. `None` if the index contains the value itself.
    pub(super) fn sort_key(&self, value: Element<'_>) -> Option<Vec<u8>> {
        self.spec.as_ref()?;
        let folded = self.folded(value);
        let compared = Element {
            value: folded.as_deref().unwrap_or(value.value),
            ..value
        };
        let text = (value.kind == kind::STRING).then(|| compared.string_bytes().ok())??;
        let weights = text.iter().map(|byte| byte.saturating_sub(0x38).max(1));
        Some(string_value(
            &weights.chain([0x01, 0xdc, 0x08]).collect::<Vec<_>>(),
        ))
    }

    /// Returns the value with its strings in the form that is compared; `None` if nothing changes.
    pub(super) fn folded(&self, value: Element<'_>) -> Option<Vec<u8>> {
        let strength = self.spec.as_ref()?.get_i32("strength").unwrap_or(3);
        (strength <= 2).then(|| fold(value, strength))
    }
}

/// Encodes the text of a string as a BSON value.
fn string_value(text: &[u8]) -> Vec<u8> {
    let length = i32::try_from(text.len() + 1).unwrap_or(-1);
    let mut out = length.to_le_bytes().to_vec();
    out.extend_from_slice(text);
    out.push(0);
    out
}

fn fold(value: Element<'_>, strength: i32) -> Vec<u8> {
    match value.kind {
        kind::STRING | kind::SYMBOL => {
            let text = value.string_bytes().unwrap_or_default();
            let text = String::from_utf8_lossy(text).to_lowercase();
            let text: String = text.chars().map(|letter| base(letter, strength)).collect();
            string_value(text.as_bytes())
        }
        kind::DOCUMENT | kind::ARRAY => {
            let document = value.document().unwrap_or(Document::EMPTY);
            let mut out = Vec::new();
            let mut builder = DocumentBuilder::start(&mut out);
            for element in document.elements().map_while(Result::ok) {
                let value = &fold(element, strength);
                builder.element(Element { value, ..element });
            }
            builder.finish();
            out
        }
        _ => value.value.to_vec(),
    }
}

fn base(letter: char, strength: i32) -> char {
    let found = BASES.iter().find(|(letters, _)| letters.contains(letter));
    match found {
        Some((_, base)) if strength == 1 => *base,
        _ => letter,
    }
}
