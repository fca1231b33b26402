//! `createIndexes`, `dropIndexes`, `listIndexes`.

use bson::{Bson as Value, Document as Bson, doc};
use oplog_relay_core::document::kind;

use super::Model;
use super::command::{Answer, Call, done};
use super::failure::Failure;
use super::index::{Index, value_of};
use super::namespace::check_system;
use super::record::Collection;
use super::spec;

impl Model {
    /// Creates all of the indexes, or none of them.
    pub(super) fn create_indexes(&mut self, call: Call<'_>) -> Answer {
        let (db, name, ns) = (call.db, call.collection()?, call.ns()?);
        let version = self.version;
        let mut specs = Vec::new();
        for given in call.list("indexes")? {
            specs.push(Bson::from_reader(given.as_bytes())?);
        }
        let (created, mut copy) = match self.existing(db, name)? {
            Some(collection) => (false, collection.clone()),
            None => {
                check_system(db, name)?;
                (true, Collection::new(self.new_uuid(), Bson::new())?)
            }
        };
        let before = copy.indexes.len();
        for given in &specs {
            let spec = spec::parse(&ns, given, &copy.collation, version)?;
            let mut index = Index::new(spec)?;
            let mut is_there = false;
            for there in &copy.indexes {
                is_there |= spec::is_there(there, &index, version)?;
            }
            if !is_there {
                let refuse = index.refuses_duplicates();
                let built = copy.build(&ns, &mut index, refuse);
                built.map_err(|failure| failed_build(&ns, failure))?;
                copy.indexes.push(index);
            }
        }
        let after = copy.indexes.len();
        self.put(db, name, copy);
        let count = |indexes| i32::try_from(indexes).unwrap_or(i32::MAX);
        let mut reply = doc! {
            "createdCollectionAutomatically": created,
            "numIndexesBefore": count(before),
            "numIndexesAfter": count(after),
        };
        if before == after {
            reply.insert("note", "all indexes already exist");
        }
        done(reply)
    }

    pub(super) fn drop_indexes(&mut self, call: Call<'_>) -> Answer {
        let wanted = call.get("index")?;
        let wanted = wanted.ok_or_else(|| Failure::missing_field("dropIndexes.index"))?;
        let collection = self.required(call.db, call.collection()?)?;
        let before = i32::try_from(collection.indexes.len()).unwrap_or(i32::MAX);
        let mut names = Vec::new();
        match wanted.kind {
            kind::DOCUMENT => names.push(by_key(collection, &value_of(wanted)?)?),
            kind::ARRAY => {
                for name in wanted.document()?.elements() {
                    names.push(by_name(collection, name?.str()?)?);
                }
            }
            _ if wanted.str()? == "*" => {
                let others = collection.indexes.iter().filter(|index| !index.is_id());
                names.extend(others.map(|index| index.name().to_owned()));
            }
            _ => names.push(by_name(collection, wanted.str()?)?),
        }
        collection
            .indexes
            .retain(|index| index.is_id() || !names.iter().any(|name| name == index.name()));
        done(doc! { "nIndexesWas": before })
    }

    pub(super) fn list_indexes(&mut self, call: Call<'_>) -> Answer {
        let (name, ns) = (call.collection()?, call.ns()?);
        let collection = self.required(call.db, name)?;
        let indexes = collection.listed_indexes().map(Index::spec);
        let indexes: Vec<Bson> = indexes.cloned().collect();
        done(doc! { "cursor": { "id": 0_i64, "ns": ns, "firstBatch": indexes } })
    }
}

/// Wraps the failure of a build in the server's text.
fn failed_build(ns: &str, failure: Failure) -> Failure {
    let message = format!(
        "Index build failed: Collection {ns} :: caused by :: {}",
        failure.message
    );
    Failure { message, ..failure }
}

fn checked(index: Option<&Index>, missing: String) -> Result<String, Failure> {
    match index {
        Some(index) if index.is_id() => Err(Failure::new(72, "cannot drop _id index")),
        Some(index) => Ok(index.name().to_owned()),
        None => Err(Failure::new(27, missing)),
    }
}

fn by_name(collection: &Collection, name: &str) -> Result<String, Failure> {
    let mut indexes = collection.indexes.iter();
    let found = indexes.find(|index| index.name() == name);
    checked(found, format!("index not found with name [{name}]"))
}

fn by_key(collection: &Collection, key: &Value) -> Result<String, Failure> {
    let mut indexes = collection.indexes.iter();
    let same = |index: &&Index| {
        let own = index.key();
        key.as_document().is_some_and(|key| own.iter().eq(key))
    };
    checked(
        indexes.find(same),
        format!("can't find index with key: {key}"),
    )
}
