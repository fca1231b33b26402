//! `$set` and `$unset` as a server applies them.

use anyhow::{Context, Result, bail, ensure};
use oplog_relay_core::document::{Document, DocumentBuilder, Element, kind};

/// A field or an array's element, its value as bytes.
#[derive(Debug, Clone)]
struct Field {
    name: Vec<u8>,
    kind: u8,
    value: Vec<u8>,
}

/// Error 28: a path leads through a value that has no such place.
#[derive(Debug)]
pub(super) struct NotViable(String);

impl std::fmt::Display for NotViable {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.0)
    }
}

/// Applies an update of modifiers to a document. A server appends new fields in the order of
/// their names.
pub(super) fn apply(document: Document<'_>, update: Document<'_>) -> Result<Vec<u8>> {
    let mut fields = split(document)?;
    for operator in update.elements() {
        let operator = operator?;
        let changes = operator.document()?.elements();
        let mut changes: Vec<Element<'_>> = changes.collect::<Result<_, _>>()?;
        changes.sort_by(|one, other| parts(one.name).cmp(parts(other.name)));
        ensure!(!changes.is_empty(), "an empty operator");
        for change in changes {
            let path: Vec<&[u8]> = parts(change.name).collect();
            let strange = |part: &&[u8]| part.is_empty() || part.starts_with(b"$");
            ensure!(!path.iter().any(strange), "a path that servers refuse");
            let outcome = match operator.name {
                b"$set" => set(&mut fields, false, &path, change),
                b"$unset" => unset(&mut fields, false, &path),
                name => bail!("unknown operator {}", String::from_utf8_lossy(name)),
            };
            outcome.with_context(|| String::from_utf8_lossy(change.name).into_owned())?;
        }
    }
    Ok(join(&fields))
}

fn parts(path: &[u8]) -> impl Iterator<Item = &[u8]> {
    path.split(|byte| *byte == b'.')
}

/// In an array a path's part is an index, in a document a name.
fn find(fields: &[Field], in_array: bool, part: &[u8]) -> Result<Option<usize>> {
    if in_array {
        let index = index(part)?;
        return Ok((index < fields.len()).then_some(index));
    }
    Ok(fields.iter().position(|field| field.name == part))
}

fn index(part: &[u8]) -> Result<usize> {
    let text = std::str::from_utf8(part)?;
    if !text.bytes().all(|byte| byte.is_ascii_digit()) {
        bail!(NotViable(format!("an array has no field {text:?}")));
    }
    Ok(text.parse()?)
}

fn set(fields: &mut Vec<Field>, in_array: bool, path: &[&[u8]], to: Element<'_>) -> Result<()> {
    let (part, rest) = path.split_first().context("an empty path")?;
    let found = find(fields, in_array, part)?;
    let mut inner = Vec::new();
    let mut kind = kind::DOCUMENT;
    if let (Some(found), false) = (found, rest.is_empty()) {
        kind = fields[found].kind;
        inner = split(container(&fields[found])?)?;
    }
    let value = if rest.is_empty() {
        kind = to.kind;
        to.value.to_vec()
    } else {
        set(&mut inner, kind == kind::ARRAY, rest, to)?;
        join(&inner)
    };
    if let Some(found) = found {
        fields[found].kind = kind;
        fields[found].value = value;
        return Ok(());
    }
    let mut name = part.to_vec();
    if in_array {
        let index = index(part)?;
        for missing in fields.len()..index {
            fields.push(Field {
                name: missing.to_string().into_bytes(),
                kind: kind::NULL,
                value: Vec::new(),
            });
        }
        name = index.to_string().into_bytes();
    }
    fields.push(Field { name, kind, value });
    Ok(())
}

/// An array keeps the place of a removed element as null.
fn unset(fields: &mut Vec<Field>, in_array: bool, path: &[&[u8]]) -> Result<()> {
    let (part, rest) = path.split_first().context("an empty path")?;
    let Some(found) = find(fields, in_array, part)? else {
        return Ok(());
    };
    let field = &mut fields[found];
    if !rest.is_empty() {
        if let Ok(document) = container(field) {
            let mut inner = split(document)?;
            unset(&mut inner, field.kind == kind::ARRAY, rest)?;
            field.value = join(&inner);
        }
    } else if in_array {
        field.kind = kind::NULL;
        field.value.clear();
    } else {
        fields.remove(found);
    }
    Ok(())
}

fn container(field: &Field) -> Result<Document<'_>> {
    if field.kind != kind::DOCUMENT && field.kind != kind::ARRAY {
        let text = format!("no field fits into a value of type {:#x}", field.kind);
        bail!(NotViable(text));
    }
    Ok(Document::new(&field.value)?)
}

fn split(document: Document<'_>) -> Result<Vec<Field>> {
    let fields = document.elements().map(|element| {
        let element = element?;
        Ok(Field {
            name: element.name.to_vec(),
            kind: element.kind,
            value: element.value.to_vec(),
        })
    });
    fields.collect()
}

fn join(fields: &[Field]) -> Vec<u8> {
    let mut out = Vec::new();
    let mut builder = DocumentBuilder::start(&mut out);
    for field in fields {
        builder.element(Element {
            name: &field.name,
            kind: field.kind,
            value: &field.value,
        });
    }
    builder.finish();
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use oplog_relay_core::json::{Mode, parse_document, write_document};

    fn updated(document: &str, update: &str) -> Result<String> {
        let (mut stored, mut change, mut text) = (Vec::new(), Vec::new(), Vec::new());
        parse_document(document.as_bytes(), &mut stored)?;
        parse_document(update.as_bytes(), &mut change)?;
        let result = apply(Document::new(&stored)?, Document::new(&change)?)?;
        assert!(write_document(Document::new(&result)?, Mode::Relaxed, &mut text)?.is_exact());
        Ok(String::from_utf8(text)?)
    }

    #[test]
    fn paths_lead_where_a_server_takes_them() {
        let document = r#"{"_id":1,"a":[1,{"x":2}],"d":{"0":3}}"#;
        for (update, result) in [
            (r#"{"$set":{"a.1.x":9}}"#, r#""a":[1,{"x":9}],"d":{"0":3}"#),
            (r#"{"$set":{"a.00":9}}"#, r#""a":[9,{"x":2}],"d":{"0":3}"#),
            (
                r#"{"$set":{"a.3":9}}"#,
                r#""a":[1,{"x":2},null,9],"d":{"0":3}"#,
            ),
            (r#"{"$set":{"d.0":9}}"#, r#""a":[1,{"x":2}],"d":{"0":9}"#),
            (
                r#"{"$set":{"n.1":9}}"#,
                r#""a":[1,{"x":2}],"d":{"0":3},"n":{"1":9}"#,
            ),
            (
                r#"{"$unset":{"a.0":true}}"#,
                r#""a":[null,{"x":2}],"d":{"0":3}"#,
            ),
            (
                r#"{"$unset":{"d.0":true,"q.r":true}}"#,
                r#""a":[1,{"x":2}],"d":{}"#,
            ),
        ] {
            let result = format!("{{\"_id\":1,{result}}}");
            assert_eq!(updated(document, update).unwrap(), result, "{update}");
        }
        assert!(updated(document, r#"{"$set":{"a.x":1}}"#).is_err());
        assert!(updated(document, r#"{"$set":{"_id.x":1}}"#).is_err());
    }
}
