//! The differences between two documents. Performs no I/O.

use oplog_relay_core::document::{Document, Element, MAX_DEPTH, Malformed, kind};
use rustc_hash::FxHashMap;

/// The fields in which two documents differ.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct DifferingPaths {
    /// The dotted paths of the fields, up to a limit.
    pub(super) paths: Vec<String>,
    /// True if there are more of them.
    pub(super) more: bool,
}

/// Returns the paths of the fields that differ, at most `most` of them.
///
/// Fields are matched by their names. If only their order differs, and the order counts, the first
/// field that is out of place is returned.
pub(super) fn differences(
    left: Document<'_>,
    right: Document<'_>,
    ignore_field_order: bool,
    most: usize,
) -> DifferingPaths {
    let mut found = Paths {
        names: Vec::new(),
        paths: Vec::new(),
        most: most.saturating_add(1),
    };
    // If a document is damaged, only the first difference is returned.
    let walked = found.documents(left, right);
    if walked.is_err() || found.paths.is_empty() {
        found.paths = Vec::from_iter(first_difference(left, right, ignore_field_order));
    }
    let more = found.paths.len() > most;
    found.paths.truncate(most);
    DifferingPaths {
        paths: found.paths,
        more,
    }
}

/// A collector of paths.
struct Paths<'a> {
    /// The names on the path to the current fields.
    names: Vec<&'a [u8]>,
    paths: Vec<String>,
    most: usize,
}

impl<'a> Paths<'a> {
    fn documents(&mut self, left: Document<'a>, right: Document<'a>) -> Result<(), Malformed> {
        if left == right || self.paths.len() >= self.most {
            return Ok(());
        }
        if self.names.len() > MAX_DEPTH {
            return Err(Malformed::TooDeep);
        }
        let mut others = FxHashMap::default();
        for field in right.elements() {
            let field = field?;
            others.insert(field.name, field);
        }
        for field in left.elements() {
            let field = field?;
            self.names.push(field.name);
            match others.remove(field.name) {
                Some(other) => self.fields(field, other)?,
                None => self.note(),
            }
            self.names.pop();
        }
        for field in right.elements() {
            let field = field?;
            if others.contains_key(field.name) {
                self.names.push(field.name);
                self.note();
                self.names.pop();
            }
        }
        Ok(())
    }

    fn fields(&mut self, left: Element<'a>, right: Element<'a>) -> Result<(), Malformed> {
        let nested = matches!(left.kind, kind::DOCUMENT | kind::ARRAY);
        if nested && left.kind == right.kind {
            return self.documents(left.document()?, right.document()?);
        }
        if left.kind != right.kind || left.value != right.value {
            self.note();
        }
        Ok(())
    }

    fn note(&mut self) {
        if self.paths.len() < self.most {
            let names = self.names.iter().map(|name| String::from_utf8_lossy(name));
            self.paths.push(names.collect::<Vec<_>>().join("."));
        }
    }
}

/// Returns the dotted path of the first field that differs, in the order of the left document;
/// `None` if the documents are equal. If the order of fields is ignored, it is also ignored in
/// nested documents, but not in arrays.
fn first_difference(
    left: Document<'_>,
    right: Document<'_>,
    ignore_field_order: bool,
) -> Option<String> {
    let mut path = Path {
        names: Vec::new(),
        ignore_field_order,
    };
    match path.documents(left, right, false) {
        Ok(true) => None,
        Ok(false) => Some(path.names.join(".")),
        // Damaged documents are compared by their bytes. The path leads to the damage.
        Err(_) => (left != right).then(|| path.names.join(".")),
    }
}

struct Path {
    /// The names on the path to the current fields; after a difference, the path to it.
    names: Vec<String>,
    ignore_field_order: bool,
}

impl Path {
    fn documents(
        &mut self,
        left: Document<'_>,
        right: Document<'_>,
        is_array: bool,
    ) -> Result<bool, Malformed> {
        if left == right {
            return Ok(true);
        }
        if self.names.len() > MAX_DEPTH {
            return Ok(false);
        }
        let mut left = left.elements().collect::<Result<Vec<_>, _>>()?;
        let mut right = right.elements().collect::<Result<Vec<_>, _>>()?;
        if self.ignore_field_order && !is_array {
            // The sort is stable: duplicate names keep their order among themselves.
            left.sort_by_key(|element| element.name);
            right.sort_by_key(|element| element.name);
        }
        for index in 0..left.len().max(right.len()) {
            if !self.elements(left.get(index), right.get(index))? {
                return Ok(false);
            }
        }
        Ok(true)
    }

    fn elements(
        &mut self,
        left: Option<&Element<'_>>,
        right: Option<&Element<'_>>,
    ) -> Result<bool, Malformed> {
        let name = match (left, right) {
            // Both lists are sorted by name, so the smaller name is missing on the other side.
            (Some(left), Some(right)) if self.ignore_field_order => left.name.min(right.name),
            (Some(element), _) | (None, Some(element)) => element.name,
            (None, None) => return Ok(true),
        };
        self.names.push(String::from_utf8_lossy(name).into_owned());
        let (Some(left), Some(right)) = (left, right) else {
            return Ok(false);
        };
        if left.name != right.name || left.kind != right.kind {
            return Ok(false);
        }
        let equal = match left.kind {
            kind::DOCUMENT => self.documents(left.document()?, right.document()?, false)?,
            kind::ARRAY => self.documents(left.document()?, right.document()?, true)?,
            _ => left.value == right.value,
        };
        if equal {
            self.names.pop();
        }
        Ok(equal)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use oplog_relay_core::json::parse_document;

    fn difference(left: &str, right: &str, ignore_field_order: bool) -> Option<String> {
        let bson = |text: &str| {
            let mut out = Vec::new();
            parse_document(text.as_bytes(), &mut out).unwrap();
            out
        };
        let (left, right) = (bson(left), bson(right));
        first_difference(
            Document::new(&left).unwrap(),
            Document::new(&right).unwrap(),
            ignore_field_order,
        )
    }

    #[test]
    fn the_first_difference_has_a_path() {
        let table = [
            (r#"{"a":1}"#, r#"{"a":1}"#, None),
            (r#"{"a":1}"#, r#"{"a":2}"#, Some("a")),
            (r#"{"a":1}"#, r#"{"a":{"$numberLong":"1"}}"#, Some("a")),
            (r#"{"a":1}"#, r#"{"a":1,"b":2}"#, Some("b")),
            (r#"{"a":1,"b":2}"#, r#"{"a":1}"#, Some("b")),
            (
                r#"{"a":{"b":[1,{"c":2}]}}"#,
                r#"{"a":{"b":[1,{"c":3}]}}"#,
                Some("a.b.1.c"),
            ),
            (r#"{"a":1,"b":2}"#, r#"{"b":2,"a":1}"#, Some("a")),
        ];
        for (left, right, path) in table {
            assert_eq!(
                difference(left, right, false).as_deref(),
                path,
                "{left} {right}"
            );
        }
    }

    #[test]
    fn the_paths_of_all_differing_fields_are_returned_up_to_a_limit() {
        let bson = |text: &str| {
            let mut out = Vec::new();
            parse_document(text.as_bytes(), &mut out).unwrap();
            out
        };
        let table = [
            (
                r#"{"a":1,"b":2,"c":{"d":1,"e":[1,2]}}"#,
                r#"{"b":3,"c":{"d":2,"e":[1,3]},"f":1}"#,
                vec!["a", "b", "c.d", "c.e.1", "f"],
            ),
            (r#"{"a":1,"b":2}"#, r#"{"b":2,"a":1}"#, vec!["a"]),
            (r#"{"a":[1,2]}"#, r#"{"a":[1]}"#, vec!["a.1"]),
            (r#"{"a":1}"#, r#"{"a":1}"#, vec![]),
        ];
        for (left, right, paths) in table {
            let (left, right) = (bson(left), bson(right));
            let (left, right) = (
                Document::new(&left).unwrap(),
                Document::new(&right).unwrap(),
            );
            let all = differences(left, right, false, 10);
            let expected = DifferingPaths {
                paths: paths.iter().map(ToString::to_string).collect(),
                more: false,
            };
            assert_eq!(all, expected);
            let some = differences(left, right, false, 2);
            assert_eq!(
                (some.paths.len(), some.more),
                (paths.len().min(2), paths.len() > 2)
            );
        }
    }

    #[test]
    fn the_order_of_fields_can_be_ignored_but_not_that_of_arrays() {
        let table = [
            (
                r#"{"a":1,"b":{"c":1,"d":2}}"#,
                r#"{"b":{"d":2,"c":1},"a":1}"#,
                None,
            ),
            (r#"{"a":[1,2]}"#, r#"{"a":[2,1]}"#, Some("a.0")),
            (r#"{"a":1,"c":3}"#, r#"{"c":3,"b":2,"a":1}"#, Some("b")),
        ];
        for (left, right, path) in table {
            assert_eq!(
                difference(left, right, true).as_deref(),
                path,
                "{left} {right}"
            );
        }
    }
}
