//! Queries: equality and the operators that a partial index may use.

use std::cmp::Ordering;

use oplog_relay_core::compare::compare_values;
use oplog_relay_core::document::{Document, Element, kind};

use super::collation::Collation;
use super::failure::Failure;
use super::path::{found, parts};

/// The type numbers of `$type` by name.
const TYPES: [(&str, u8); 20] = [
    ("double", kind::DOUBLE),
    ("string", kind::STRING),
    ("object", kind::DOCUMENT),
    ("array", kind::ARRAY),
    ("binData", kind::BINARY),
    ("objectId", kind::OBJECT_ID),
    ("bool", kind::BOOLEAN),
    ("date", kind::DATE),
    ("null", kind::NULL),
    ("int", kind::INT32),
    ("timestamp", kind::TIMESTAMP),
    ("long", kind::INT64),
    ("decimal", kind::DECIMAL128),
    ("minKey", kind::MIN_KEY),
    ("maxKey", kind::MAX_KEY),
    ("undefined", kind::UNDEFINED),
    ("symbol", kind::SYMBOL),
    ("dbPointer", kind::DB_POINTER),
    ("javascript", kind::CODE),
    ("javascriptWithScope", kind::CODE_WITH_SCOPE),
];
const NUMBERS: [u8; 4] = [kind::DOUBLE, kind::INT32, kind::INT64, kind::DECIMAL128];

/// The values at a path of a document.
type Found<'a> = [Option<Element<'a>>];

/// Returns true if a document matches a filter.
///
/// Fails with 2 for an operator that the model does not know.
pub(super) fn matches(
    document: Document<'_>,
    filter: Document<'_>,
    collation: &Collation,
) -> Result<bool, Failure> {
    for element in filter.elements() {
        let element = element?;
        let fits = match element.name {
            b"$and" => all_and_any(document, element, collation)?.0,
            b"$or" => all_and_any(document, element, collation)?.1,
            b"$nor" => !all_and_any(document, element, collation)?.1,
            b"$comment" => true,
            b"$expr" => is_literally(document, element)?,
            name if name.starts_with(b"$") => {
                return Err(unknown("top level operator", element.name));
            }
            _ => field_fits(document, element, collation)?,
        };
        if !fits {
            return Ok(false);
        }
    }
    Ok(true)
}

/// Applies the filters of a list. Returns whether all match, and whether any matches.
fn all_and_any(
    document: Document<'_>,
    list: Element<'_>,
    collation: &Collation,
) -> Result<(bool, bool), Failure> {
    let (mut all, mut any) = (true, false);
    for filter in list.document()?.elements() {
        let fits = matches(document, filter?.document()?, collation)?;
        (all, any) = (all && fits, any || fits);
    }
    Ok((all, any))
}

/// Evaluates `{$eq: ["$$ROOT", {$literal: …}]}`, which compares the whole document, including the order
/// of its fields. The model supports no other expression.
fn is_literally(document: Document<'_>, expression: Element<'_>) -> Result<bool, Failure> {
    let other = || unknown("expression in", expression.name);
    let sides = expression.document()?.get("$eq")?.ok_or_else(other)?;
    let sides = sides.document()?;
    let root = sides.get("0")?.ok_or_else(other)?;
    let literal = sides.get("1")?.ok_or_else(other)?;
    let literal = literal.document()?.get("$literal")?.ok_or_else(other)?;
    if root.str()? != "$$ROOT" {
        return Err(other());
    }
    let whole = Element {
        name: literal.name,
        kind: kind::DOCUMENT,
        value: document.as_bytes(),
    };
    Ok(compare_values(whole, literal).is_eq())
}

/// Returns the operators of an expression such as `{$gt: 1}`; `None` if it is a value.
pub(super) fn operators(expression: Element<'_>) -> Option<Document<'_>> {
    let inner = expression.document().ok()?;
    let first = inner.first().ok()??;
    let is_reference = [b"$ref".as_slice(), b"$id", b"$db"].contains(&first.name);
    let is_operator = expression.kind == kind::DOCUMENT && first.name.starts_with(b"$");
    (is_operator && !is_reference).then_some(inner)
}

fn field_fits(
    document: Document<'_>,
    expression: Element<'_>,
    collation: &Collation,
) -> Result<bool, Failure> {
    let path = String::from_utf8_lossy(expression.name);
    let mut values = Vec::new();
    found(document, &parts(&path), &mut values);
    let Some(operators) = operators(expression) else {
        if expression.kind == kind::REGEX {
            return Err(Failure::new(
                2,
                "the model does not support regular expressions",
            ));
        }
        return Ok(equal(&values, expression, collation));
    };
    for operator in operators.elements() {
        if !operator_fits(&values, operator?, collation)? {
            return Ok(false);
        }
    }
    Ok(true)
}

fn operator_fits(
    values: &Found<'_>,
    operator: Element<'_>,
    collation: &Collation,
) -> Result<bool, Failure> {
    let is = |wanted: &[Ordering]| {
        let mut values = values.iter().flatten();
        values.any(|value| {
            same_bracket(value.kind, operator.kind)
                && wanted.contains(&compare(*value, operator, collation))
        })
    };
    Ok(match operator.name {
        b"$eq" => equal(values, operator, collation),
        b"$ne" => !equal(values, operator, collation),
        b"$in" => {
            let list = operator.document()?.elements();
            let mut list = list.map_while(Result::ok);
            list.any(|wanted| equal(values, wanted, collation))
        }
        b"$gt" => is(&[Ordering::Greater]),
        b"$gte" => is(&[Ordering::Greater, Ordering::Equal]),
        b"$lt" => is(&[Ordering::Less]),
        b"$lte" => is(&[Ordering::Less, Ordering::Equal]),
        b"$exists" => {
            let wanted = operator.boolean().or(operator.integer().map(|n| n != 0))?;
            values.iter().any(Option::is_some) == wanted
        }
        b"$type" => {
            let wanted = operator.str()?;
            if wanted == "number" {
                return Ok(values
                    .iter()
                    .flatten()
                    .any(|value| NUMBERS.contains(&value.kind)));
            }
            let known = TYPES.iter().find(|(name, _)| *name == wanted);
            let (_, wanted) = known.ok_or_else(|| unknown("type name", wanted.as_bytes()))?;
            values.iter().flatten().any(|value| value.kind == *wanted)
        }
        name => return Err(unknown("operator", name)),
    })
}

fn unknown(what: &str, name: &[u8]) -> Failure {
    Failure::new(
        2,
        format!("unknown {what}: {}", String::from_utf8_lossy(name)),
    )
}

/// Returns true if one of the values equals `wanted`. Null equals a missing field.
fn equal(values: &Found<'_>, wanted: Element<'_>, collation: &Collation) -> bool {
    values.iter().any(|value| match value {
        None => wanted.kind == kind::NULL,
        Some(value) => compare(*value, wanted, collation).is_eq(),
    })
}

fn compare(one: Element<'_>, other: Element<'_>, collation: &Collation) -> Ordering {
    match (collation.folded(one), collation.folded(other)) {
        (Some(left), Some(right)) => compare_values(
            Element {
                value: &left,
                ..one
            },
            Element {
                value: &right,
                ..other
            },
        ),
        _ => compare_values(one, other),
    }
}

/// Returns true if values of the two types can be compared by `$gt` and similar operators.
const fn same_bracket(one: u8, other: u8) -> bool {
    const fn bracket(kind: u8) -> u8 {
        match kind {
            kind::INT32 | kind::INT64 | kind::DECIMAL128 => kind::DOUBLE,
            kind::SYMBOL => kind::STRING,
            kind => kind,
        }
    }
    bracket(one) == bracket(other)
}
