//! The collections and views of each database.

use std::time::{SystemTime, UNIX_EPOCH};

use bson::{Document as Bson, doc};
use oplog_relay_core::collection_uuid::CollectionUuid;

use super::Model;
use super::failure::Failure;
use super::index::Index;
use super::record::Collection;

/// The collection that stores the views of a database, one document for each.
pub(super) const VIEWS: &str = "system.views";
/// System collections to which clients may write.
const SYSTEM: [&str; 6] = [
    VIEWS,
    "system.js",
    "system.users",
    "system.roles",
    "system.version",
    "system.profile",
];
/// Prefix of the collections that store the documents of a time series.
pub(super) const BUCKETS: &str = "system.buckets.";

impl Model {
    /// Returns a collection for reading.
    pub(super) fn collection(&self, db: &str, name: &str) -> Option<&Collection> {
        self.databases.get(db)?.get(name)
    }

    /// Returns a collection for a change. Fails with 166 for a view.
    pub(super) fn existing(
        &mut self,
        db: &str,
        name: &str,
    ) -> Result<Option<&mut Collection>, Failure> {
        if self.view(db, name).is_some() {
            return Err(Failure::is_view(&format!("{db}.{name}")));
        }
        Ok(self.databases.get_mut(db).and_then(|db| db.get_mut(name)))
    }

    /// Returns a collection for a change. Fails with 26 if it does not exist.
    pub(super) fn required(&mut self, db: &str, name: &str) -> Result<&mut Collection, Failure> {
        let found = self.existing(db, name)?;
        found.ok_or_else(|| Failure::no_namespace(&format!("{db}.{name}")))
    }

    /// Returns a collection for a new document, and creates it if it does not exist.
    pub(super) fn writable(&mut self, db: &str, name: &str) -> Result<&mut Collection, Failure> {
        if self.existing(db, name)?.is_none() {
            check_system(db, name)?;
            self.add(db, name, Bson::new())?;
        }
        self.required(db, name)
    }

    /// Adds a collection with a new UUID.
    pub(super) fn add(&mut self, db: &str, name: &str, options: Bson) -> Result<(), Failure> {
        let collection = Collection::new(self.new_uuid(), options)?;
        self.put(db, name, collection);
        Ok(())
    }

    /// Stores a collection under a name.
    pub(super) fn put(&mut self, db: &str, name: &str, collection: Collection) {
        let database = self.databases.entry(db.to_owned()).or_default();
        database.insert(name.to_owned(), collection);
    }

    /// Removes a collection, and the database with its last one.
    pub(super) fn take(&mut self, db: &str, name: &str) -> Option<Collection> {
        let database = self.databases.get_mut(db)?;
        let taken = database.remove(name);
        if database.is_empty() {
            self.databases.remove(db);
        }
        taken
    }

    /// Returns the definition of a view: `viewOn`, `pipeline`, `collation`.
    pub(super) fn view(&self, db: &str, name: &str) -> Option<Bson> {
        let id = doc! { "_id": format!("{db}.{name}") }.to_vec().ok()?;
        let views = self.collection(db, VIEWS)?;
        let filter = oplog_relay_core::document::Document::new(&id).ok()?;
        let record = views.select(filter).ok()?.first().copied()?;
        let mut view = Bson::from_reader(views.document(record)?.as_bytes()).ok()?;
        view.remove("_id");
        Some(view)
    }

    /// Returns the UUID of a collection.
    #[must_use]
    pub fn uuid(&self, db: &str, name: &str) -> Option<CollectionUuid> {
        Some(self.collection(db, name)?.uuid)
    }

    /// Returns a UUID that is unique within a model.
    pub(super) fn new_uuid(&mut self) -> CollectionUuid {
        self.uuids += 1;
        let mut uuid = *b"model\0\x40\0\x80\0\0\0\0\0\0\0";
        uuid[9..].copy_from_slice(&self.uuids.to_be_bytes()[1..]);
        CollectionUuid(uuid)
    }

    /// Returns the current time as the bytes of a timestamp that is unique within the model.
    pub(super) fn now(&mut self) -> [u8; 8] {
        let since = SystemTime::now().duration_since(UNIX_EPOCH);
        let seconds = since.map_or(0, |since| since.as_secs());
        self.uuids += 1;
        ((seconds << 32) | (self.uuids & 0xffff_ffff)).to_le_bytes()
    }

    /// Adds an index to a collection. Fails with 11000 if it is unique and there are duplicates.
    pub(super) fn add_index(&mut self, db: &str, name: &str, spec: Bson) -> Result<(), Failure> {
        let ns = format!("{db}.{name}");
        let collection = self.required(db, name)?;
        let mut index = Index::new(spec)?;
        let refuse = index.refuses_duplicates();
        collection.build(&ns, &mut index, refuse)?;
        collection.indexes.push(index);
        Ok(())
    }
}

/// Fails with 73 for a system collection that clients must not create.
pub(super) fn check_system(db: &str, name: &str) -> Result<(), Failure> {
    // On a server only the server itself writes pre-images; in the model a test stores them.
    let is_known = SYSTEM.contains(&name)
        || name.starts_with(BUCKETS)
        || (db, name) == ("config", "system.preimages");
    if name.starts_with("system.") && !is_known {
        let message = format!("Invalid system namespace: {db}.{name}");
        return Err(Failure::new(73, message));
    }
    Ok(())
}
