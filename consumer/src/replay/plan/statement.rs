//! Encodes writes as the server's `insert`, `update` and `delete` commands.

use oplog_relay_core::document::{Document, DocumentBuilder, Element, Malformed, kind};

use crate::replay::plan::rewrite::{is_literal, write_zeros};
use crate::replay::plan::{Action, BulkKind, PlanFault, Write};

/// The operators that servers write into their oplogs.
const OPERATORS: [&str; 2] = ["$set", "$unset"];
/// Maximum number of bytes of a statement in addition to its `_id` and document.
const STATEMENT_OVERHEAD: usize = 128;

/// Options of every command.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct CommandOptions {
    /// True if the validators of the target are bypassed, because the source has accepted the
    /// documents.
    pub bypass_validation: bool,
    /// True if an update that finds no document creates one with the fields that it sets.
    pub upsert_unmatched: bool,
    /// Time limit for the server, in milliseconds. It prevents a write of a member that was removed
    /// from the group from taking effect late.
    pub max_time_ms: i64,
    /// True if every document with zero timestamps that replaces another one is sent as a literal, which
    /// keeps them.
    pub literal_zeros: bool,
    /// True if the command is part of a transaction, whose commit has the write concern.
    pub in_transaction: bool,
}

/// Returns true if the modifiers set or remove any field.
///
/// # Errors
/// [`PlanFault::Operator`] for operators other than `$set` and `$unset`, which may not be
/// idempotent.
pub(crate) fn check_modifiers(modifiers: Document<'_>) -> Result<bool, PlanFault> {
    let mut any = false;
    for element in modifiers.elements() {
        let element = element?;
        match element.name {
            b"$v" => {}
            b"$set" | b"$unset" => any |= !element.document()?.is_empty(),
            name => {
                return Err(PlanFault::Operator(
                    String::from_utf8_lossy(name).into_owned(),
                ));
            }
        }
    }
    Ok(any)
}

/// Returns an upper bound for the bytes that a write adds to its command.
#[must_use]
pub fn statement_bytes(write: &Write<'_>) -> usize {
    let document = match write.action {
        Action::Insert(document) => return document.as_bytes().len() + STATEMENT_OVERHEAD,
        Action::Replace(document)
        | Action::Rewritten(document)
        | Action::Modify(document)
        | Action::Fields(document)
        | Action::Diff(document)
        | Action::AsIs {
            modifiers: document,
            ..
        }
        | Action::Zeros(document) => document.as_bytes().len(),
        Action::Delete => 0,
    };
    document
        + write.document_id.value.len()
        + write.routing.values.as_bytes().len()
        + STATEMENT_OVERHEAD
}

/// Appends the command for writes of one kind to a collection. Rewrites have no command: their
/// results are sent as updates ([`Action::Rewritten`]).
///
/// # Errors
/// [`Malformed`] if an entry is damaged; `out` then holds a part of the command.
pub fn write_command(
    collection: &str,
    kind: BulkKind,
    writes: &[Write<'_>],
    options: CommandOptions,
    out: &mut Vec<u8>,
) -> Result<(), Malformed> {
    let (name, list) = match kind {
        BulkKind::Insert => ("insert", "documents"),
        BulkKind::Delete => ("delete", "deletes"),
        BulkKind::Update | BulkKind::Rewrite => ("update", "updates"),
    };
    let mut outcome = Ok(());
    let mut command = DocumentBuilder::start(out);
    command.str(name, collection);
    command.boolean("ordered", kind == BulkKind::Update);
    if options.bypass_validation && kind != BulkKind::Delete {
        command.boolean("bypassDocumentValidation", true);
    }
    command.int64("maxTimeMS", options.max_time_ms);
    if !options.in_transaction {
        command.nested("writeConcern", kind::DOCUMENT, |concern| {
            concern.str("w", "majority");
        });
    }
    command.nested(list, kind::ARRAY, |list| {
        let mut digits = itoa::Buffer::new();
        for (index, write) in writes.iter().enumerate() {
            let index = digits.format(index);
            match write.action {
                Action::Insert(document) if kind == BulkKind::Insert => {
                    list.document(index, document);
                }
                _ => list.nested(index, kind::DOCUMENT, |statement| {
                    if let Err(error) = write_statement(write, options, statement) {
                        outcome = Err(error);
                    }
                }),
            }
        }
    });
    command.finish();
    outcome
}

fn write_statement(
    write: &Write<'_>,
    options: CommandOptions,
    statement: &mut DocumentBuilder<'_>,
) -> Result<(), Malformed> {
    write_filter(write, statement)?;
    match write.action {
        Action::Insert(document) | Action::Replace(document) => {
            write_whole(document, options, statement)?;
            statement.boolean("upsert", true);
        }
        Action::Rewritten(document) => write_whole(document, options, statement)?,
        Action::Modify(modifiers) => {
            let mut outcome = Ok(());
            statement.nested("u", kind::DOCUMENT, |update| {
                outcome = write_modifiers(modifiers, update);
            });
            if options.upsert_unmatched {
                statement.boolean("upsert", true);
            }
            return outcome;
        }
        Action::Fields(diff) => {
            let (set, unset) = (section(diff, "u")?, section(diff, "d")?);
            statement.nested("u", kind::DOCUMENT, |update| {
                for (operator, fields) in [("$set", set), ("$unset", unset)] {
                    if !fields.is_empty() {
                        update.document(operator, fields);
                    }
                }
            });
            if options.upsert_unmatched {
                statement.boolean("upsert", true);
            }
        }
        // This is the form of the oplog, which servers refuse from clients. A diff that is sent by
        // mistake is therefore refused, and never applied in part.
        Action::Diff(diff) => statement.nested("u", kind::DOCUMENT, |update| {
            update.int32("$v", 2).document("diff", diff);
        }),
        Action::Zeros(document) => {
            let mut outcome = Ok(());
            statement.nested("u", kind::DOCUMENT, |update| {
                outcome = write_zeros(document, update);
            });
            return outcome;
        }
        Action::AsIs { modifiers, upsert } => {
            let mut outcome = Ok(());
            statement.nested("u", kind::DOCUMENT, |update| {
                outcome = write_operators(modifiers, update);
            });
            if upsert || options.upsert_unmatched {
                statement.boolean("upsert", true);
            }
            return outcome;
        }
        Action::Delete => {
            statement.int32("limit", 1);
        }
    }
    Ok(())
}

/// Writes a whole document as an update: as a replacement, or as a literal if a replacement would
/// be refused or changed.
fn write_whole(
    document: Document<'_>,
    options: CommandOptions,
    statement: &mut DocumentBuilder<'_>,
) -> Result<(), Malformed> {
    if !is_literal(document, options.literal_zeros)? {
        statement.document("u", document);
        return Ok(());
    }
    statement.nested("u", kind::ARRAY, |stages| {
        stages.nested("0", kind::DOCUMENT, |stage| {
            stage.nested("$replaceWith", kind::DOCUMENT, |expression| {
                expression.document("$literal", document);
            });
        });
    });
    Ok(())
}

/// Writes the operators of an update, without the version (`$v`) of the entry.
fn write_operators(
    modifiers: Document<'_>,
    update: &mut DocumentBuilder<'_>,
) -> Result<(), Malformed> {
    for operator in modifiers.elements() {
        let operator = operator?;
        if operator.name != b"$v" {
            update.element(operator);
        }
    }
    Ok(())
}

/// Returns a section of a diff, or an empty one if it is missing.
fn section<'a>(diff: Document<'a>, name: &str) -> Result<Document<'a>, Malformed> {
    let section = diff.get(name)?.map(Element::document).transpose()?;
    Ok(section.unwrap_or(Document::EMPTY))
}

/// Writes the filter of a statement: `_id`, and the values of the shard key if the write has them.
fn write_filter(write: &Write<'_>, statement: &mut DocumentBuilder<'_>) -> Result<(), Malformed> {
    let mut outcome = Ok(());
    statement.nested("q", kind::DOCUMENT, |query| {
        let id = Element {
            name: b"_id",
            ..write.document_id
        };
        write_equality(id, query);
        for value in write.routing.values.elements() {
            match value {
                Ok(value) => write_equality(value, query),
                Err(error) => outcome = Err(error),
            }
        }
    });
    if write.routing.has_collation {
        statement.nested("collation", kind::DOCUMENT, |collation| {
            collation.str("locale", "simple");
        });
    }
    outcome
}

/// Writes a condition that matches by equality, even if the value could be read as an operator or as
/// a pattern.
pub(crate) fn write_equality(value: Element<'_>, query: &mut DocumentBuilder<'_>) {
    let operator = value.kind == kind::DOCUMENT
        && value.document().is_ok_and(|document| {
            document
                .elements()
                .any(|field| field.is_ok_and(|field| field.name.starts_with(b"$")))
        });
    if operator || value.kind == kind::REGEX {
        let mut equal = query.open(value.name, kind::DOCUMENT);
        equal.raw("$eq", value.kind, value.value);
        equal.finish();
    } else {
        query.element(value);
    }
}

/// Writes the modifiers without `$v` and without empty operators (which old servers refuse), each
/// operator once.
fn write_modifiers(
    modifiers: Document<'_>,
    update: &mut DocumentBuilder<'_>,
) -> Result<(), Malformed> {
    for operator in OPERATORS {
        let mut paths = Vec::new();
        for element in modifiers.elements() {
            let element = element?;
            if element.name == operator.as_bytes() {
                paths.push(element.document()?);
            }
        }
        if paths.iter().all(|paths| paths.is_empty()) {
            continue;
        }
        let mut outcome = Ok(());
        update.nested(operator, kind::DOCUMENT, |merged| {
            for path in paths.iter().flat_map(|paths| paths.elements()) {
                match path {
                    Ok(path) => drop(merged.element(path)),
                    Err(error) => outcome = Err(error),
                }
            }
        });
        outcome?;
    }
    Ok(())
}
