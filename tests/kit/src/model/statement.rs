//! One statement of an `update`: modifiers, a whole document, or a pipeline that contains one.

use oplog_relay_core::compare::compare_values;
use oplog_relay_core::document::{Document, DocumentBuilder, Element, kind};

use super::failure::Failure;
use super::fields::stored;
use super::filter::operators;
use super::update::{apply, check_names};
use super::version::Version;
use super::write::{MOST_BYTES, NO_ID, check_fields, check_id, new_id, required};

/// Bytes by which an update may exceed the size limit of a document.
const MARGIN: usize = 16 << 10;

/// The forms of an update.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Form {
    Modifiers,
    Replacement,
    /// The pipeline `[{$replaceWith: {$literal: <document>}}]`, the only one that the model supports.
    Literal,
}

/// The circumstances of a write: options of its command, the time, and the server version.
#[derive(Debug, Clone, Copy)]
pub(super) struct Circumstances {
    /// True if zero timestamps are kept instead of replaced with the time
    /// (`bypassEmptyTsReplacement`).
    pub(super) keep_ts: bool,
    /// The time, as the bytes of a timestamp.
    pub(super) now: [u8; 8],
    pub(super) version: Version,
}

/// A statement of an `update`.
#[derive(Debug, Clone, Copy)]
pub(super) struct Update<'a> {
    pub(super) query: Document<'a>,
    pub(super) upsert: bool,
    pub(super) multi: bool,
    change: Document<'a>,
    form: Form,
}

impl<'a> Update<'a> {
    pub(super) fn read(statement: Document<'a>, version: Version) -> Result<Update<'a>, Failure> {
        check_fields(
            "update.updates",
            statement,
            &["q", "u", "upsert", "multi", "hint", "collation"],
        )?;
        let flag = |name| -> Result<bool, Failure> {
            let flag = statement.get(name)?.map(Element::boolean).transpose()?;
            Ok(flag.unwrap_or_default())
        };
        let element = required(statement, "u")?;
        let given = element.document()?;
        let first = given.first()?;
        let (change, form) = match first {
            _ if element.kind == kind::ARRAY => (literal(given)?, Form::Literal),
            Some(first) if first.name.starts_with(b"$") => (given, Form::Modifiers),
            _ => (given, Form::Replacement),
        };
        let update = Update {
            query: required(statement, "q")?.document()?,
            change,
            form,
            upsert: flag("upsert")?,
            multi: flag("multi")?,
        };
        if form == Form::Replacement && update.multi {
            let message = "multi update is not supported for replacement-style update";
            return Err(Failure::new(9, message));
        }
        if form != Form::Modifiers {
            change.validate()?;
            check_names(whole(change), version)?;
        }
        if form == Form::Replacement {
            check_replacement(change)?;
        }
        Ok(update)
    }

    /// Returns the whole document that replaces the found one.
    pub(super) fn replacement(&self) -> Option<Document<'a>> {
        (self.form == Form::Replacement).then_some(self.change)
    }

    /// Returns the document after the update.
    pub(super) fn applied(&self, old: Document<'_>, at: Circumstances) -> Result<Vec<u8>, Failure> {
        let old_id = old.get("_id")?.unwrap_or(NO_ID);
        let new = match self.form {
            Form::Modifiers => apply(old, self.change, at.version)?,
            Form::Replacement | Form::Literal => {
                let id = self.change.get("_id")?.unwrap_or(old_id);
                stored(self.change, id, self.keeps_zeros(at), at.now)?
            }
        };
        if new.len() > MOST_BYTES + MARGIN {
            let message = "Resulting document after update is larger than 16777216";
            return Err(Failure::new(17419, message));
        }
        let id = Document::new(&new)?.get("_id")?;
        if id.is_none_or(|id| compare_values(id, old_id).is_ne()) {
            return Err(altered_id());
        }
        Ok(new)
    }

    /// Returns the document that an upsert creates.
    pub(super) fn made(&self, at: Circumstances) -> Result<Vec<u8>, Failure> {
        let made = new_id();
        let mut base = Vec::new();
        let mut builder = DocumentBuilder::start(&mut base);
        for element in self.query.elements() {
            let element = element?;
            let equal = operators(element).map_or(Ok(Some(element)), |inner| inner.get("$eq"))?;
            if let Some(equal) = equal
                && !element.name.starts_with(b"$")
                && (self.form == Form::Modifiers || element.name == b"_id")
            {
                builder.element(Element {
                    name: element.name,
                    ..equal
                });
            }
        }
        builder.finish();
        let base = Document::new(&base)?;
        let selected = base.get("_id")?;
        let is_whole = self.form != Form::Modifiers;
        let own = self.change.get("_id")?.filter(|_| is_whole);
        if let (Some(selected), Some(own)) = (selected, own)
            && compare_values(selected, own).is_ne()
        {
            return Err(altered_id());
        }
        let new = if is_whole {
            self.change.as_bytes().to_vec()
        } else {
            apply(base, self.change, at.version)?
        };
        let new = Document::new(&new)?;
        let id = match new.get("_id")?.or(selected) {
            Some(id) => id,
            None => Document::new(&made)?.first()?.unwrap_or(NO_ID),
        };
        check_id(id)?;
        stored(new, id, self.keeps_zeros(at), at.now)
    }

    /// Returns true if zero timestamps are kept. Only a replacement by a document replaces them with the
    /// time.
    fn keeps_zeros(&self, at: Circumstances) -> bool {
        at.keep_ts || self.form != Form::Replacement
    }
}

fn whole(document: Document<'_>) -> Element<'_> {
    Element {
        name: b"u",
        kind: kind::DOCUMENT,
        value: document.as_bytes(),
    }
}

fn altered_id() -> Failure {
    let message = "After applying the update, the (immutable) field '_id' was found to have been \
                   altered";
    Failure::new(66, message)
}

/// Checks the names of a replacement. No version accepts a top-level name that begins with a dollar sign
/// in a replacement; versions from 5.0 on accept it in a pipeline.
fn check_replacement(document: Document<'_>) -> Result<(), Failure> {
    for element in document.elements() {
        let name = element?.name;
        if name.starts_with(b"$") {
            let name = String::from_utf8_lossy(name);
            let message = format!(
                "The dollar ($) prefixed field '{name}' in '{name}' is not allowed in the context of \
                 an update's replacement document. Consider using an aggregation pipeline with \
                 $replaceWith."
            );
            return Err(Failure::new(52, message));
        }
    }
    Ok(())
}

/// Returns the document that a pipeline results in.
fn literal(stages: Document<'_>) -> Result<Document<'_>, Failure> {
    let mut all = stages.elements();
    let stage = all.next().transpose()?.map(Element::document).transpose()?;
    let stage = stage.unwrap_or(Document::EMPTY).first()?;
    let name = stage.map_or_else(String::new, |stage| {
        String::from_utf8_lossy(stage.name).into_owned()
    });
    let expression = match stage {
        Some(stage) if name == "$replaceWith" && all.next().is_none() => {
            stage.document()?.get("$literal")?
        }
        _ => None,
    };
    match expression {
        Some(literal) if literal.kind == kind::DOCUMENT => Ok(literal.document()?),
        _ => {
            let message = format!("the model has no pipeline of this kind, '{name}'");
            Err(Failure::new(40324, message))
        }
    }
}
