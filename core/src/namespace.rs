//! The two parts of a namespace.

use std::fmt;

/// The namespace of a collection, split into its two parts.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Namespace<'a> {
    /// The database.
    pub db: &'a str,
    /// The collection. It may contain dots.
    pub collection: &'a str,
}

impl<'a> Namespace<'a> {
    /// Splits `db.collection` at the first dot, because collection names may contain dots. The
    /// collection is empty if there is no dot.
    #[inline]
    #[must_use]
    pub fn split(ns: &'a str) -> Self {
        let (db, collection) = ns.split_once('.').unwrap_or((ns, ""));
        Self { db, collection }
    }
}

impl fmt::Display for Namespace<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}", self.db, self.collection)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_namespace_is_split_at_its_first_dot_and_joined_again() {
        for (ns, db, collection) in [("d.c", "d", "c"), ("d.c.e", "d", "c.e"), ("d.", "d", "")] {
            let namespace = Namespace::split(ns);
            assert_eq!(namespace, Namespace { db, collection });
            assert_eq!(namespace.to_string(), ns);
        }
        let database_only = Namespace {
            db: "d",
            collection: "",
        };
        assert_eq!(Namespace::split("d"), database_only);
    }
}
