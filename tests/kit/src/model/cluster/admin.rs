//! Commands that shard, describe and change the collections of a cluster.

use bson::{Document as Bson, doc};
use oplog_relay_core::document::{Document, Element};

use super::targeting::{ShardKey, shard_of};
use crate::model::Model;
use crate::model::collation::Collation;
use crate::model::command::{Answer, Call, done};
use crate::model::failure::Failure;
use crate::model::filter;
use crate::model::index::Index;
use crate::model::read::cursor_reply;
use crate::model::record::Collection;
use crate::model::version::Version;

impl Model {
    /// Shards a collection, and distributes the documents that it has.
    pub(super) fn shard_collection(&mut self, call: Call<'_>) -> Answer {
        let ns = call.subject.str()?.to_owned();
        let (db, name) = ns.split_once('.').unwrap_or((&ns, ""));
        let pattern = Bson::from_reader(call.document("key")?.as_bytes())?;
        let key = ShardKey {
            unique: call.flag("unique")?,
            pattern,
        };
        if let Some(existing) = self.key_of(&ns) {
            if existing.pattern == key.pattern && existing.unique == key.unique {
                return done(doc! { "collectionsharded": ns.as_str() });
            }
            let message = format!("sharding already enabled for collection {ns}");
            return Err(Failure::new(23, message));
        }
        if self.collection(db, name).is_none() {
            self.add(db, name, Bson::new())?;
        }
        self.check_shardable(db, name, &key)?;
        let primary = self.required(db, name)?;
        let is_served = |index: &Index| key.is_served_by(&index.key());
        if !primary.indexes.iter().any(is_served) {
            let fields = key.pattern.iter();
            let fields = fields.map(|(path, direction)| match direction.as_str() {
                Some(kind) => format!("{path}_{kind}"),
                None => format!("{path}_1"),
            });
            let index = fields.collect::<Vec<_>>().join("_");
            let mut spec = doc! { "v": 2, "key": key.pattern.clone(), "name": index };
            if key.unique {
                spec.insert("unique", true);
            }
            self.add_index(db, name, spec)?;
        }
        self.distribute(&ns, &key)?;
        if let Some(cluster) = &mut self.cluster {
            cluster.keys.insert(ns.clone(), key);
        }
        done(doc! { "collectionsharded": ns })
    }

    fn check_shardable(&mut self, db: &str, name: &str, key: &ShardKey) -> Result<(), Failure> {
        let collection = self.required(db, name)?;
        if collection.is_capped() {
            return Err(Failure::new(72, "can't shard a capped collection"));
        }
        let others = collection.indexes.iter().filter(|index| !index.is_id());
        for index in others {
            let is_unique = index.spec().get_bool("unique").unwrap_or(false);
            if is_unique && !key.is_prefix_of(&index.key()) {
                let message = format!(
                    "can't shard collection '{db}.{name}' with unique index on '{}' and proposed \
                     shard key '{}'. Uniqueness can't be maintained unless shard key is a prefix",
                    index.key(),
                    key.pattern
                );
                return Err(Failure::new(72, message));
            }
        }
        let is_served = collection
            .indexes
            .iter()
            .any(|index| key.is_served_by(&index.key()));
        if !is_served && collection.records().next().is_some() {
            let message = "Please create an index that starts with the proposed shard key before \
                           sharding the collection";
            return Err(Failure::new(72, message));
        }
        Ok(())
    }

    fn distribute(&mut self, ns: &str, key: &ShardKey) -> Result<(), Failure> {
        let (db, name) = ns.split_once('.').unwrap_or((ns, ""));
        let (version, shards) = (self.version, self.count_of_shards());
        let whole = self.required(db, name)?.clone();
        for shard in 0..shards {
            let mut part = Collection::new(whole.uuid, whole.options.clone())?;
            for index in whole.indexes.iter().filter(|index| !index.is_id()) {
                part.indexes.push(Index::new(index.spec().clone())?);
            }
            for (_, document) in whole.records() {
                let values = key.values_of(document, version)?;
                if shard_of(&values, shards)? == shard {
                    part.insert(ns, document.as_bytes().to_vec())?;
                }
            }
            self.shard(shard).put(db, name, part);
        }
        Ok(())
    }

    /// Returns the documents of `config.collections` that match the filter.
    pub(super) fn sharded_collections(&mut self, call: Call<'_>) -> Answer {
        let cluster = self.cluster.as_ref().expect("only a cluster is routed");
        if cluster.hides_config {
            let message = "not authorized on config to execute command { find: \"collections\" }";
            return Err(Failure::new(13, message));
        }
        let mut found = Vec::new();
        for (ns, key) in &cluster.keys {
            let described = doc! {
                "_id": ns, "key": key.pattern.clone(), "unique": key.unique, "dropped": false,
            };
            let described = described.to_vec()?;
            let document = Document::new(&described)?;
            if filter::matches(document, call.document("filter")?, &Collation::default())? {
                found.push(described);
            }
        }
        Ok(cursor_reply("firstBatch", 0, "config.collections", &found))
    }

    pub(super) fn sharded_stats(&mut self, call: Call<'_>) -> Answer {
        let name = call.collection()?;
        let mut sizes: Vec<i64> = Vec::new();
        for shard in self.shards() {
            let collection = shard.collection(call.db, name);
            let records = collection.into_iter().flat_map(Collection::records);
            let lengths = records.map(|(_, document)| document.as_bytes().len());
            sizes.extend(lengths.map(|length| i64::try_from(length).unwrap_or(i64::MAX)));
        }
        let count = i64::try_from(sizes.len()).unwrap_or(i64::MAX);
        done(doc! { "sharded": true, "count": count, "size": sizes.iter().sum::<i64>() })
    }

    /// Runs a command on all shards, and returns the reply of the primary shard.
    pub(super) fn run_on_shards(&mut self, call: Call<'_>, key: &ShardKey) -> Answer {
        match call.name {
            "createIndexes" => check_unique(call, key)?,
            "dropIndexes" | "deleteIndexes" => self.check_drop(call, key)?,
            _ => {}
        }
        let mut reply = Vec::new();
        for shard in (0..self.count_of_shards()).rev() {
            // The UUID is the same on all shards.
            reply = self.on_shard(shard, call.db, call.body)?;
        }
        if call.name == "drop" {
            let ns = call.ns()?;
            if let Some(cluster) = &mut self.cluster {
                cluster.keys.remove(&ns);
            }
        }
        Ok(reply)
    }

    /// Fails with 370 if no other index serves the shard key. Servers before 5.0 drop it.
    fn check_drop(&mut self, call: Call<'_>, key: &ShardKey) -> Result<(), Failure> {
        let dropped = call.get("index")?.map(Element::str).transpose()?;
        if self.version < Version::V5_0 {
            return Ok(());
        }
        let collection = self.required(call.db, call.collection()?)?;
        let serving = collection.indexes.iter();
        let serving = serving.filter(|index| key.is_served_by(&index.key()));
        let names: Vec<&str> = serving.map(Index::name).collect();
        match (names.as_slice(), dropped) {
            ([only], Some(dropped)) if *only == dropped => {
                let message =
                    "Cannot drop the only compatible index for this collection's shard key";
                Err(Failure::new(370, message))
            }
            _ => Ok(()),
        }
    }

    pub(super) fn drop_shards(&mut self, call: Call<'_>) -> Answer {
        let mut reply = Vec::new();
        for shard in (0..self.count_of_shards()).rev() {
            reply = self.on_shard(shard, call.db, call.body)?;
        }
        let prefix = format!("{}.", call.db);
        if let Some(cluster) = &mut self.cluster {
            cluster.keys.retain(|ns, _| !ns.starts_with(&prefix));
        }
        Ok(reply)
    }

    /// Renames a collection on all shards. Servers before 5.0 cannot rename a sharded collection.
    pub(super) fn rename_shards(&mut self, call: Call<'_>) -> Result<Option<Vec<u8>>, Failure> {
        let from = call.subject.str()?.to_owned();
        let to = call.get("to")?.map(Element::str).transpose()?;
        let to = to.unwrap_or_default().to_owned();
        let (key, replaced) = (self.key_of(&from), self.key_of(&to));
        if key.is_none() && replaced.is_none() {
            return Ok(None);
        }
        if self.version < Version::V5_0 {
            return Err(Failure::new(20, "You can't rename a sharded collection"));
        }
        let mut reply = Vec::new();
        for shard in (0..self.count_of_shards()).rev() {
            if shard > 0 && key.is_none() {
                // Only the replaced collection is on this shard.
                let (db, name) = to.split_once('.').unwrap_or((&to, ""));
                self.shard(shard).take(db, name);
                continue;
            }
            reply = self.on_shard(shard, call.db, call.body)?;
        }
        if let Some(cluster) = &mut self.cluster {
            cluster.keys.remove(&from);
            cluster.keys.remove(&to);
            if let Some(key) = key {
                cluster.keys.insert(to, key);
            }
        }
        Ok(Some(reply))
    }
}

/// Fails with 67 for a unique index that does not begin with the shard key.
fn check_unique(call: Call<'_>, key: &ShardKey) -> Result<(), Failure> {
    for index in call.list("indexes")? {
        let index = Bson::from_reader(index.as_bytes())?;
        let fields = index.get_document("key").cloned().unwrap_or_default();
        if index.get_bool("unique").unwrap_or(false) && !key.is_prefix_of(&fields) {
            let message = format!(
                "cannot create unique index over {fields} with shard key pattern {}",
                key.pattern
            );
            return Err(Failure::new(67, message));
        }
    }
    Ok(())
}
