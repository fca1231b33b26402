//! The paths in a piece of code that begin at the crate, at a parent or at the module itself.

/// A part of a path.
pub(crate) type Name = String;

/// Finds all paths, those in nested braces of a `use` one by one.
pub(crate) fn paths_in(code: &str) -> Vec<Vec<Name>> {
    let mut found = Vec::new();
    for root in ["crate", "super", "self"] {
        let pattern = format!("{root}::");
        for (at, _) in code.match_indices(&pattern) {
            let before = code.get(..at).and_then(|before| before.chars().next_back());
            // `$crate::` is another crate's, and `super::super::` was found at its start.
            if before.is_some_and(|c| c.is_alphanumeric() || matches!(c, '_' | '$' | ':')) {
                continue;
            }
            let rest = code.get(at + pattern.len()..).unwrap_or_default();
            expand(vec![root.to_owned()], rest, &mut found);
        }
    }
    found
}

/// Finds the paths of all items that are re-exported: `pub use` and `pub(crate) use`.
pub(crate) fn reexports_in(code: &str) -> Vec<Vec<Name>> {
    let mut found = Vec::new();
    for statement in code.split(';').map(str::trim_start) {
        // A statement may follow attributes or the end of an item.
        let Some(at) = statement.rfind("pub") else {
            continue;
        };
        let rest = statement.get(at + "pub".len()..).unwrap_or_default();
        let rest = rest.strip_prefix("(crate)").unwrap_or(rest);
        let rest = rest.strip_prefix("(super)").unwrap_or(rest);
        let Some(path) = rest.strip_prefix(" use ") else {
            continue;
        };
        let is_rooted = ["crate::", "super::", "self::"]
            .iter()
            .any(|root| path.starts_with(root));
        let root = if is_rooted {
            Vec::new()
        } else {
            vec!["self".to_owned()]
        };
        expand(root, path, &mut found);
    }
    found
}

/// Follows a path to its ends; returns how many bytes of the text it takes.
fn expand(mut path: Vec<Name>, text: &str, found: &mut Vec<Vec<Name>>) -> usize {
    let mut at = 0;
    loop {
        let rest = text.get(at..).unwrap_or_default();
        if rest.starts_with('{') {
            return at + expand_braces(&path, rest, found);
        }
        let name: String = rest
            .chars()
            .take_while(|c| c.is_alphanumeric() || *c == '_')
            .collect();
        if name.is_empty() {
            break;
        }
        at += name.len();
        path.push(name);
        if !text.get(at..).is_some_and(|rest| rest.starts_with("::")) {
            break;
        }
        at += 2;
    }
    found.push(path);
    at
}

/// Follows each path between braces; returns how many bytes they take, both braces included.
fn expand_braces(path: &[Name], text: &str, found: &mut Vec<Vec<Name>>) -> usize {
    let mut at = 1;
    while let Some(next) = text.get(at..).and_then(|rest| rest.chars().next()) {
        if next == '}' {
            return at + 1;
        }
        if next.is_alphabetic() || next == '_' {
            at += expand(path.to_vec(), text.get(at..).unwrap_or_default(), found);
        } else {
            at += next.len_utf8();
        }
    }
    at
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_public_uses_are_reexports() {
        let code = "use crate::x::Y;\npub use past::Past;\npub(crate) use crate::a::{B, C};\n";
        let found: Vec<String> = reexports_in(code)
            .iter()
            .map(|path| path.join("::"))
            .collect();
        assert_eq!(found, ["self::past::Past", "crate::a::B", "crate::a::C"]);
    }

    #[test]
    fn nested_braces_give_a_path_each() {
        let code = "use crate::a::{self, b::{C, d}, e::F};\nlet x = super::g::h();";
        let found: Vec<String> = paths_in(code).iter().map(|path| path.join("::")).collect();
        let expected = [
            "crate::a::self",
            "crate::a::b::C",
            "crate::a::b::d",
            "crate::a::e::F",
        ];
        assert_eq!(found[..4], expected);
        assert_eq!(found[4..], ["super::g::h"]);
    }
}
