//! Commands that a replay can run.

use oplog_relay_core::document::{Document, Element, Malformed, kind};
use oplog_relay_core::entry::Entry;

use crate::plan::PlanFault;

/// Database and name of the collection that a `create` without options creates.
///
/// # Errors
/// [`PlanFault`] for every other command.
pub(super) fn created<'a>(entry: &Entry<'a>) -> Result<(&'a str, &'a str), PlanFault> {
    let command = entry.command()?;
    if command.name != b"create" {
        return Err(PlanFault::Command(lossy(command.name)));
    }
    for option in entry.o.elements().skip(1) {
        let option = option?;
        if !is_default(option)? {
            return Err(PlanFault::CreateOption(lossy(option.name)));
        }
    }
    Ok((entry.namespace().0, command.str()?))
}

/// Whether an option says what holds without it. Servers log the `_id` index of every collection.
fn is_default(option: Element<'_>) -> Result<bool, Malformed> {
    match option.name {
        b"idIndex" => is_default_id_index(option.document()?),
        b"autoIndexId" => Ok(option.kind == kind::BOOLEAN && option.boolean()?),
        b"capped" => Ok(option.kind == kind::BOOLEAN && !option.boolean()?),
        _ => Ok(false),
    }
}

/// `{v, key: {_id: 1}, name: "_id_", ns}`; a collation in it would be the collection's.
fn is_default_id_index(index: Document<'_>) -> Result<bool, Malformed> {
    for field in index.elements() {
        let field = field?;
        let known = match field.name {
            b"v" | b"ns" => true,
            b"name" => field.string_bytes()? == b"_id_",
            b"key" => {
                let mut keys = field.document()?.elements();
                let first = keys.next().transpose()?;
                let is_id = first.is_some_and(|key| key.name == b"_id" && key.integer() == Ok(1));
                is_id && keys.next().is_none()
            }
            _ => false,
        };
        if !known {
            return Ok(false);
        }
    }
    Ok(true)
}

fn lossy(name: &[u8]) -> String {
    String::from_utf8_lossy(name).into_owned()
}
