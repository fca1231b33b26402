//! The namespace filter: include and exclude patterns, and namespaces that are never carried.
//!
//! Namespaces with a special meaning are carried as follows:
//!
//! | namespace | carried | because |
//! | --- | --- | --- |
//! | `admin.*`, `config.*`, `local.*`, `oplog_relay.*`, `system.profile` | never | see [`INTERNAL`] |
//! | `<db>.system.views` | as commands | `i` creates a view, `u` changes it, `d` drops it; a target creates the collection itself |
//! | `<db>.system.indexes` | as `createIndexes` | servers before 4.2 may log an index this way; a target refuses writes to it |
//! | `<db>.system.js` | as documents | functions of the database's users |
//! | `<db>.system.buckets.<name>` | as documents | the buckets of the time series `<name>` (5.0 to 8.x); creating them creates the series |
//! | `<db>.enxcol_.<name>.*` | as documents | Queryable Encryption needs them together with `<name>`: include or exclude both |
//! | `<db>.tmp…` | as documents | becomes a collection through a rename |
//! | `<db>.system.resharding.<uuid>` | as documents | becomes a collection through a rename; only on shards, whose oplogs are not followed |
//! | `<db>.fs.files`, `<db>.fs.chunks` | as documents | `GridFS` is two plain collections; a unique index keeps the chunks in one partition |

use std::fmt;

use crate::namespace::Namespace;
use crate::topic::is_temporary;

/// A filter by namespace. Without include patterns, every namespace that is not excluded passes.
///
/// A pattern is a namespace in which `*` matches any number of characters: `shop.*`, `*.orders`,
/// `shop.order*`. A database name alone means all of its collections. A comma in a name is written
/// `\,`, because commas separate patterns.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct NamespaceFilter {
    include: Vec<String>,
    exclude: Vec<String>,
}

/// The reason why patterns are no filter.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum FilterError {
    /// A pattern has no characters.
    #[error("a namespace pattern is empty")]
    EmptyPattern,
}

impl NamespaceFilter {
    /// Creates a filter from the operator's patterns. Patterns that were split at an escaped comma
    /// are joined.
    ///
    /// # Errors
    /// [`FilterError`].
    pub fn new<'p>(
        include: impl IntoIterator<Item = &'p str>,
        exclude: impl IntoIterator<Item = &'p str>,
    ) -> Result<Self, FilterError> {
        let read = |patterns: &mut dyn Iterator<Item = &'p str>| {
            let patterns = with_commas(patterns);
            let patterns = patterns.iter().map(|pattern| normalize(pattern));
            patterns.collect::<Result<Vec<_>, _>>()
        };
        Ok(Self {
            include: read(&mut include.into_iter())?,
            exclude: read(&mut exclude.into_iter())?,
        })
    }

    /// Returns true if the entries of a collection pass. A temporary collection (for example of
    /// `$out`) is also included if any collection of its database may be included, because a rename
    /// turns it into one of them.
    #[must_use]
    pub fn passes(&self, ns: &str) -> bool {
        let any = |patterns: &[String]| patterns.iter().any(|pattern| matches(pattern, ns));
        let Namespace { db, collection } = Namespace::split(ns);
        let included = self.include.is_empty()
            || any(&self.include)
            || (is_temporary(collection) && self.may_include_some_of(db));
        included && !any(&self.exclude)
    }

    /// Returns the include patterns. One of them must match, unless the list is empty.
    #[must_use]
    pub fn include(&self) -> &[String] {
        &self.include
    }

    /// Returns the exclude patterns. None of them may match.
    #[must_use]
    pub fn exclude(&self) -> &[String] {
        &self.exclude
    }

    /// Returns true if the patterns show that every namespace that passes this filter also passes
    /// `other`. Each include pattern must be covered by an include pattern of `other`. Each exclude
    /// pattern of `other` must be covered by an exclude pattern of this filter, or must have no
    /// namespace in common with this filter's include patterns.
    #[must_use]
    pub fn is_within(&self, other: &Self) -> bool {
        let every = ["*".to_owned()];
        let included = |filter: &Self| match filter.include.as_slice() {
            [] => every.to_vec(),
            patterns => patterns.to_vec(),
        };
        let (ours, theirs) = (included(self), included(other));
        let covered = |pattern: &String, by: &[String]| by.iter().any(|by| matches(by, pattern));
        let not_included = |pattern: &String| ours.iter().all(|ours| are_disjoint(ours, pattern));
        ours.iter().all(|pattern| covered(pattern, &theirs))
            && other
                .exclude
                .iter()
                .all(|pattern| covered(pattern, &self.exclude) || not_included(pattern))
    }

    fn may_include_some_of(&self, db: &str) -> bool {
        self.include.iter().any(|pattern| {
            pattern
                .split_once('.')
                .is_none_or(|(database, _)| matches(database, db))
        })
    }
}

impl fmt::Display for NamespaceFilter {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.include.as_slice() {
            [] => f.write_str("all namespaces")?,
            patterns => f.write_str(&patterns.join(","))?,
        }
        match self.exclude.as_slice() {
            [] => Ok(()),
            patterns => write!(f, " except {}", patterns.join(",")),
        }
    }
}

/// Namespaces that are never carried.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct InternalNamespaces {
    /// The database; `*` stands for any name.
    pub db: &'static str,
    /// The collection; `*` stands for any name.
    pub collection: &'static str,
    /// The reason.
    pub reason: &'static str,
}

/// All namespaces that are never carried.
pub const INTERNAL: &[InternalNamespaces] = &[
    InternalNamespaces {
        db: "admin",
        collection: "system.keys",
        reason: "keys that sign cluster times; with a copy, another cluster could forge them",
    },
    InternalNamespaces {
        db: "admin",
        collection: "system.version",
        reason: "feature compatibility version of that server's data files",
    },
    InternalNamespaces {
        db: "admin",
        collection: "system.users",
        reason: "users of that server; a target has its own users",
    },
    InternalNamespaces {
        db: "admin",
        collection: "system.roles",
        reason: "roles of that server; a target has its own roles",
    },
    InternalNamespaces {
        db: "admin",
        collection: "*",
        reason: "internal data of that server",
    },
    InternalNamespaces {
        db: "config",
        collection: "transactions",
        reason: "last write of each session; members derive it from other entries, and only its deletes are logged",
    },
    InternalNamespaces {
        db: "config",
        collection: "image_collection",
        reason: "document images for retries of findAndModify, by session",
    },
    InternalNamespaces {
        db: "config",
        collection: "system.preimages",
        reason: "pre-images for change streams, local to one member",
    },
    InternalNamespaces {
        db: "config",
        collection: "*",
        reason: "sessions, sharding metadata and caches of that cluster",
    },
    InternalNamespaces {
        db: "local",
        collection: "*",
        reason: "local to one member, never in an oplog",
    },
    InternalNamespaces {
        db: "*",
        collection: "system.profile",
        reason: "the profiler's output, never in an oplog",
    },
    InternalNamespaces {
        db: CATALOG_DB,
        collection: "*",
        reason: "the catalog that a replay keeps on its target",
    },
];

/// The database on a target in which a replay keeps its catalog.
pub const CATALOG_DB: &str = "oplog_relay";

/// Returns true if a namespace is never carried ([`INTERNAL`]).
#[must_use]
pub fn is_internal(ns: &str) -> bool {
    let Namespace { db, collection } = Namespace::split(ns);
    let is = |pattern: &str, name: &str| pattern == "*" || pattern == name;
    INTERNAL
        .iter()
        .any(|internal| is(internal.db, db) && is(internal.collection, collection))
}

/// Joins patterns that were split at an escaped comma (`a\,b`).
#[must_use]
pub fn with_commas<'p>(parts: impl IntoIterator<Item = &'p str>) -> Vec<String> {
    let mut patterns = Vec::new();
    let mut unfinished = String::new();
    for part in parts {
        match part.strip_suffix('\\') {
            Some(part) => {
                unfinished.push_str(part);
                unfinished.push(',');
            }
            None => patterns.push(std::mem::take(&mut unfinished) + part),
        }
    }
    // No part follows the last backslash, so it is a literal character.
    if unfinished.pop().is_some() {
        patterns.push(unfinished + "\\");
    }
    patterns
}

fn normalize(pattern: &str) -> Result<String, FilterError> {
    let pattern = pattern.trim();
    if pattern.is_empty() {
        return Err(FilterError::EmptyPattern);
    }
    let whole_database = !pattern.contains('.') && pattern != "*";
    Ok(if whole_database {
        format!("{pattern}.*")
    } else {
        pattern.to_owned()
    })
}

/// Returns true if two patterns certainly have no namespace in common, because they name different
/// databases or different collections.
fn are_disjoint(one: &str, other: &str) -> bool {
    let database = |pattern: &str| match pattern.split_once('.') {
        Some((database, _)) if !database.contains('*') => Some(database.to_owned()),
        _ => None,
    };
    let names_one = |pattern: &str| !pattern.contains('*');
    match (database(one), database(other)) {
        (Some(one), Some(other)) if one != other => true,
        _ => names_one(one) && names_one(other) && one != other,
    }
}

/// Matches a pattern with `*` as the only wildcard. It is enough to match each part between two `*`
/// at its first occurrence, so no backtracking is needed.
fn matches(pattern: &str, text: &str) -> bool {
    let Some((head, rest)) = pattern.split_once('*') else {
        return pattern == text;
    };
    let Some(mut text) = text.strip_prefix(head) else {
        return false;
    };
    let mut parts = rest.split('*').peekable();
    while let Some(part) = parts.next() {
        if parts.peek().is_none() {
            return text.ends_with(part);
        }
        match text.split_once(part) {
            Some((_, after)) => text = after,
            None => return false,
        }
    }
    true
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn patterns_match_whole_namespaces() {
        let cases = [
            ("shop.orders", "shop.orders", true),
            ("shop.orders", "shop.orders2", false),
            ("shop", "shop.a.b", true),
            ("shop", "shop2.a", false),
            ("shop.*", "shop.a", true),
            ("*.orders", "x.orders", true),
            ("*.orders", "x.orders.old", false),
            ("s*p.o*s", "shop.orders", true),
            ("s*p.o*s", "shop.orders1", false),
            ("*", "a.b", true),
            ("a.*.*.d", "a.b.c.d", true),
            ("a.*.*.d", "a.b.d", false),
        ];
        for (pattern, ns, expected) in cases {
            let filter = NamespaceFilter::new([pattern], []).unwrap();
            assert_eq!(filter.passes(ns), expected, "{pattern} {ns}");
        }
    }

    #[test]
    fn exclude_patterns_win_and_no_include_pattern_means_all() {
        let filter = NamespaceFilter::new(["shop"], ["shop.secret*"]).unwrap();
        assert!(filter.passes("shop.a") && !filter.passes("shop.secrets") && !filter.passes("b.c"));
        let filter = NamespaceFilter::new([], ["shop"]).unwrap();
        assert!(filter.passes("b.c") && !filter.passes("shop.a"));
        assert!(NamespaceFilter::new([" "], []).is_err());
    }

    #[test]
    fn a_comma_in_a_name_is_escaped() {
        // The command line and the environment split patterns in this way.
        let filter = NamespaceFilter::new("shop.a\\,b,shop.c".split(','), []).unwrap();
        assert!(filter.passes("shop.a,b") && filter.passes("shop.c"));
        assert!(!filter.passes("shop.a") && !filter.passes("b"));
        assert_eq!(with_commas("a\\,b\\,c,d\\".split(',')), ["a,b,c", "d\\"]);
    }

    #[test]
    fn a_temporary_collection_passes_with_its_database() {
        let filter = NamespaceFilter::new(["shop.orders"], []).unwrap();
        assert!(filter.passes("shop.tmp.agg_out.1") && !filter.passes("other.tmp.agg_out.1"));
        let filter = NamespaceFilter::new(["shop.orders"], ["shop.tmp*"]).unwrap();
        assert!(!filter.passes("shop.tmp.agg_out.1"));
    }

    #[test]
    fn a_filter_that_lets_more_pass_is_not_within_the_other() {
        let filter = |include: &[&str], exclude: &[&str]| {
            NamespaceFilter::new(include.iter().copied(), exclude.iter().copied()).unwrap()
        };
        let all = filter(&[], &[]);
        let shop = filter(&["shop"], &[]);
        let orders = filter(&["shop.orders", "shop.o*"], &[]);
        let without = filter(&["shop"], &["shop.tmp*", "crm"]);
        for (narrow, wide) in [
            (&shop, &all),
            (&orders, &shop),
            (&without, &shop),
            (&without, &filter(&["shop", "crm"], &["shop.tmp*"])),
        ] {
            assert!(narrow.is_within(wide), "{narrow:?} in {wide:?}");
            assert!(narrow.is_within(narrow) && wide.is_within(wide));
            assert!(!wide.is_within(narrow), "{wide:?} in {narrow:?}");
        }
        // The narrower filter does not reach the namespaces that only the wider one excludes.
        assert!(filter(&["shop.orders"], &[]).is_within(&filter(&[], &["crm", "shop.tmp"])));
        assert!(!without.is_within(&filter(&["shop"], &["shop.t*"])));
        assert!(filter(&["shop"], &["shop.t*"]).is_within(&without));
    }

    #[test]
    fn internal_namespaces_are_never_carried() {
        for (index, internal) in INTERNAL.iter().enumerate() {
            assert!(!internal.reason.is_empty());
            let (db, collection) = (internal.db, internal.collection);
            let ns = format!("{db}.{collection}").replace('*', "x");
            assert!(is_internal(&ns), "{ns}");
            let same =
                |other: &InternalNamespaces| other.db == db && other.collection == collection;
            assert!(!INTERNAL[..index].iter().any(same), "{ns} twice");
        }
        for ns in [
            "config.system.sessions",
            "config.cache.chunks.shop.c",
            "config.rangeDeletions",
            "config.localReshardingOplogBuffer.1.2",
            "admin.tempusers",
            "local.oplog.rs",
            "shop.system.profile",
        ] {
            assert!(is_internal(ns), "{ns}");
        }
        for ns in [
            "shop.system.views",
            "shop.system.indexes",
            "shop.system.js",
            "shop.system.buckets.w",
            "shop.system.resharding.1",
            "shop.enxcol_.c.esc",
            "shop.fs.chunks",
            "shop.tmpa1B2c.renameCollection",
            "administration.x",
            "configuration.transactions",
        ] {
            assert!(!is_internal(ns), "{ns}");
        }
    }
}
