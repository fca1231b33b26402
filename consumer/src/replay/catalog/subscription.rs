//! The namespaces of a group, which must be the same for all of its members. If only one member
//! excluded a collection, it would skip the collection's commands and writes, and commit their
//! offsets.

use std::collections::BTreeSet;

use bson::{Bson, Document, doc};
use oplog_relay_runtime::exit::ExitCode;
use oplog_relay_runtime::mongo::error_code;

use super::{Catalog, unreadable};
use crate::replay::directive::DUPLICATE_KEY;

/// The patterns of `--include-namespaces` and `--exclude-namespaces`, in any order.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Subscription {
    include: BTreeSet<String>,
    exclude: BTreeSet<String>,
}

impl Subscription {
    /// Creates a subscription from the patterns of the command line.
    #[must_use]
    pub fn new(include: &[String], exclude: &[String]) -> Self {
        let set = |patterns: &[String]| {
            let patterns = patterns.iter().map(|pattern| pattern.trim().to_owned());
            patterns.collect()
        };
        Self {
            include: set(include),
            exclude: set(exclude),
        }
    }

    fn written(&self) -> Document {
        let list = |set: &BTreeSet<String>| set.iter().cloned().map(Bson::from).collect::<Vec<_>>();
        doc! { "include": list(&self.include), "exclude": list(&self.exclude) }
    }

    fn read(note: &Document) -> Option<Self> {
        let list = |name: &str| {
            let patterns = note.get_array(name).ok()?.iter();
            patterns
                .map(|pattern| pattern.as_str().map(str::to_owned))
                .collect::<Option<BTreeSet<String>>>()
        };
        Some(Self {
            include: list("include")?,
            exclude: list("exclude")?,
        })
    }
}

impl std::fmt::Display for Subscription {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let list = |set: &BTreeSet<String>| {
            let all: Vec<&str> = set.iter().map(String::as_str).collect();
            all.join(",")
        };
        if self.include.is_empty() {
            f.write_str("all namespaces")?;
        } else {
            f.write_str(&list(&self.include))?;
        }
        if !self.exclude.is_empty() {
            write!(f, " except {}", list(&self.exclude))?;
        }
        Ok(())
    }
}

impl Catalog {
    fn subscription_id(&self) -> String {
        format!("{}/subscription", self.group)
    }

    /// Returns the namespaces that are recorded for the group.
    ///
    /// # Errors
    /// Returns the driver's error.
    pub async fn subscription(&self) -> mongodb::error::Result<Option<Subscription>> {
        let name = doc! { "_id": self.subscription_id() };
        let Some(note) = self.notes.find_one(name).await? else {
            return Ok(None);
        };
        let noted = Subscription::read(&note).ok_or_else(|| unreadable(&note))?;
        Ok(Some(noted))
    }

    /// Records the group's namespaces if they are not recorded yet, or if `change` is set. Returns the
    /// recorded namespaces if they differ from the member's own.
    ///
    /// # Errors
    /// Returns the driver's error.
    pub async fn subscribe(
        &self,
        own: &Subscription,
        change: bool,
    ) -> mongodb::error::Result<Option<Subscription>> {
        let id = self.subscription_id();
        let mut note = own.written();
        note.insert("group", &self.group);
        note.insert("_id", &id);
        let name = doc! { "_id": &id };
        if change {
            let replaced = self.notes.replace_one(name, note).upsert(true);
            replaced.await?;
            return Ok(None);
        }
        let mut noted = self.subscription().await?;
        if noted.is_none() {
            match self.notes.insert_one(note).await {
                Ok(_) => return Ok(None),
                // Another member that started at the same time was faster; its namespaces apply.
                Err(error) if error_code(&error) == Some(DUPLICATE_KEY) => {
                    noted = self.subscription().await?;
                }
                Err(error) => return Err(error),
            }
        }
        Ok(noted.filter(|noted| noted != own))
    }
}

/// A member whose namespaces differ from those of its group.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "group {group} replays {noted} into this target, but this member is configured to replay {own}: all \
     members of a group must have the same --include-namespaces and --exclude-namespaces. Start this \
     member with those of the group; or, to change them, stop all members and start one with \
     --change-subscription. Namespaces that were excluded until then are not on the target: they need a \
     full sync, or a replay from the start into an empty target"
)]
pub struct OtherSubscription {
    /// The group.
    pub group: String,
    /// The namespaces of the group.
    pub noted: Subscription,
    /// The namespaces of the member.
    pub own: Subscription,
}

impl OtherSubscription {
    /// Returns the exit code of the program for this error.
    #[must_use]
    pub const fn exit_code(&self) -> ExitCode {
        ExitCode::Usage
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(include: &[&str], exclude: &[&str]) -> Subscription {
        let list = |patterns: &[&str]| {
            let patterns = patterns.iter().map(|pattern| (*pattern).to_owned());
            patterns.collect::<Vec<_>>()
        };
        Subscription::new(&list(include), &list(exclude))
    }

    #[test]
    fn a_subscription_is_read_as_it_was_written_and_displayed() {
        for (set, displayed) in [
            (of(&[], &[]), "all namespaces"),
            (of(&["b", "a.*"], &["a.x"]), "a.*,b except a.x"),
        ] {
            assert_eq!(Subscription::read(&set.written()), Some(set.clone()));
            assert_eq!(set.to_string(), displayed);
        }
        assert_eq!(of(&["a", " b"], &[]), of(&["b", "a", "a"], &[]));
        assert_eq!(Subscription::read(&doc! { "include": [1] }), None);
    }
}
