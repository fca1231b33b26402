//! The scope of a change stream: the whole deployment or one database.
//!
//! A stream of a single collection would not contain the documents that `$out` or a rename brings
//! into it under another name, so the smallest scope is a database.

use oplog_relay_core::filter::NamespaceFilter;

/// The scope of a stream.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Scope {
    /// All databases except `admin`, `config` and `local`.
    Deployment,
    /// One database.
    Database(String),
}

impl Scope {
    /// Returns the smallest scope that contains the namespaces that a filter selects.
    #[must_use]
    pub fn of(filter: &NamespaceFilter) -> Self {
        let mut databases = filter.include().iter().map(|pattern| {
            let database = pattern
                .split_once('.')
                .map_or(pattern.as_str(), |(db, _)| db);
            (!database.contains('*')).then_some(database)
        });
        match databases.next() {
            Some(Some(first)) if databases.all(|other| other == Some(first)) => {
                Self::Database(first.to_owned())
            }
            _ => Self::Deployment,
        }
    }

    /// Returns the database on which the stream is opened.
    #[must_use]
    pub fn database(&self) -> &str {
        match self {
            Self::Deployment => "admin",
            Self::Database(name) => name,
        }
    }
}

impl std::fmt::Display for Scope {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Deployment => f.write_str("the whole deployment"),
            Self::Database(name) => write!(f, "database {name}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_scope_is_one_database_if_every_pattern_names_it() {
        let scope = |include: &[&str]| {
            let filter = NamespaceFilter::new(include.iter().copied(), ["shop.tmp"]);
            Scope::of(&filter.unwrap())
        };
        let shop = Scope::Database("shop".to_owned());
        assert_eq!(scope(&[]), Scope::Deployment);
        assert_eq!(scope(&["shop"]), shop);
        assert_eq!(scope(&["shop.orders", "shop.a*"]), shop);
        for several in [
            &["shop.a", "other.a"][..],
            &["sh*.a"],
            &["*"],
            &["shop", "*.a"],
        ] {
            assert_eq!(scope(several), Scope::Deployment, "{several:?}");
        }
    }
}
