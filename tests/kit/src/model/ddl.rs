//! `create`, `drop`, `dropDatabase`, `renameCollection`, `convertToCapped`, `emptycapped`.

use bson::{Document as Bson, doc};
use oplog_relay_core::document::{Document, Element, kind};

use super::Model;
use super::collation::Collation;
use super::command::{Answer, Call, UUID, done};
use super::failure::Failure;
use super::namespace::{BUCKETS, VIEWS, check_system};
use super::options::{self, number};
use super::record::Collection;
use super::version::Version;

impl Model {
    pub(super) fn create(&mut self, call: Call<'_>) -> Answer {
        let (db, name, ns) = (call.db, call.collection()?, call.ns()?);
        check_system(db, name)?;
        let options = options::parse(&ns, &call.arguments()?, self.version)?;
        if self.collection(db, name).is_some() || self.view(db, name).is_some() {
            let message = format!("Collection {ns} already exists");
            return Err(Failure::new(48, message));
        }
        if options.contains_key("viewOn") {
            self.add_view(db, name, &options)?;
        } else if options.contains_key("timeseries") {
            self.add_time_series(db, name, &options)?;
        } else {
            self.add(db, name, options)?;
        }
        done(doc! {})
    }

    /// Adds a view, which is stored as a document.
    pub(super) fn add_view(&mut self, db: &str, name: &str, options: &Bson) -> Result<(), Failure> {
        let mut view = doc! { "_id": format!("{db}.{name}") };
        view.insert("viewOn", options.get_str("viewOn").unwrap_or_default());
        let pipeline = options.get_array("pipeline").cloned();
        view.insert("pipeline", pipeline.unwrap_or_default());
        if let Some(collation) = Collation::of(options)?.spec() {
            view.insert("collation", collation.clone());
        }
        let views = self.writable(db, VIEWS)?;
        views.insert(&format!("{db}.{VIEWS}"), view.to_vec()?)
    }

    pub(super) fn drop_collection(&mut self, call: Call<'_>) -> Answer {
        let (db, name, ns) = (call.db, call.collection()?, call.ns()?);
        if name.starts_with(BUCKETS) && call.get(UUID)?.is_some() {
            let message = "The collectionUUID parameter cannot be passed when dropping a time-series \
                           collection";
            return Err(Failure::new(72, message));
        }
        self.check_uuid(call, db, name)?;
        self.check_views_may_go(db, name)?;
        let is_series = self.collection(db, name).is_none() || name.starts_with(BUCKETS);
        if is_series && self.drop_time_series(db, name)? {
            return done(doc! { "nIndexesWas": 0, "ns": ns });
        }
        if self.view(db, name).is_some() {
            self.remove_view(db, name)?;
            return done(doc! { "ns": ns });
        }
        match self.take(db, name) {
            Some(dropped) => {
                let indexes = i32::try_from(dropped.indexes.len()).unwrap_or(i32::MAX);
                done(doc! { "nIndexesWas": indexes, "ns": ns })
            }
            None if self.version >= Version::V7_0 => done(doc! {}),
            None => Err(Failure::new(26, "ns not found")),
        }
    }

    pub(super) fn remove_view(&mut self, db: &str, name: &str) -> Result<(), Failure> {
        let id = doc! { "_id": format!("{db}.{name}") }.to_vec()?;
        let views = self.required(db, VIEWS)?;
        for record in views.select(Document::new(&id)?)? {
            views.remove(record)?;
        }
        Ok(())
    }

    pub(super) fn drop_database(&mut self, call: Call<'_>) -> Answer {
        match self.databases.remove(call.db) {
            Some(_) => done(doc! { "dropped": call.db }),
            None => done(doc! {}),
        }
    }

    /// Fails with 361 if the command names a UUID other than that of the existing collection.
    fn check_uuid(&self, call: Call<'_>, db: &str, name: &str) -> Result<(), Failure> {
        let Some(wanted) = call.get(UUID)? else {
            return Ok(());
        };
        let wanted = wanted.binary()?.bytes;
        if self.uuid(db, name).is_some_and(|uuid| uuid.0 == wanted) {
            return Ok(());
        }
        let message = format!("Collection UUID does not match that specified for {db}.{name}");
        Err(Failure::new(361, message))
    }

    pub(super) fn rename_collection(&mut self, call: Call<'_>) -> Answer {
        if call.db != "admin" {
            let message = "renameCollection may only be run against the admin database.";
            return Err(Failure::new(13, message));
        }
        let (db, name) = namespace(call.subject)?;
        let to = call.get("to")?;
        let (to_db, to_name) = namespace(to.ok_or_else(|| Failure::missing_field("to"))?)?;
        let drop_target = match call.get("dropTarget")? {
            Some(flag) if flag.kind == kind::BINARY => {
                let message = "dropTarget: expected a boolean, found binData";
                return Err(Failure::new(14, message));
            }
            _ => call.flag("dropTarget")?,
        };
        self.check_uuid(call, db, name)?;
        if (db, name) == (to_db, to_name) {
            let newer = self.version >= Version::V5_0;
            let code = if newer { 20 } else { 48 };
            return Err(Failure::new(code, "Can't rename a collection to itself"));
        }
        if self.view(db, name).is_some() {
            return Err(Failure::new(
                166,
                format!("cannot rename view: {db}.{name}"),
            ));
        }
        if self.collection(db, name).is_none() {
            return Err(Failure::new(26, "source namespace does not exist"));
        }
        if self.view(to_db, to_name).is_some() {
            let message = format!("a view already exists with that name: {to_db}.{to_name}");
            return Err(Failure::new(48, message));
        }
        if self.collection(to_db, to_name).is_some() && !drop_target {
            return Err(Failure::new(48, "target namespace exists"));
        }
        check_system(to_db, to_name)?;
        if let Some(mut collection) = self.take(db, name) {
            if db != to_db {
                collection.uuid = self.new_uuid();
            }
            self.put(to_db, to_name, collection);
        }
        done(doc! {})
    }

    /// Converts a collection, which loses its secondary indexes and the documents that do not fit.
    pub(super) fn convert_to_capped(&mut self, call: Call<'_>) -> Answer {
        let (db, name, ns) = (call.db, call.collection()?, call.ns()?);
        let size = call.count("size")?.filter(|size| *size > 0);
        let size = size.and_then(|size| i64::try_from(size).ok());
        let size =
            size.ok_or_else(|| Failure::new(72, "Capped collection size must be positive"))?;
        let mut given = self.required(db, name)?.options.clone();
        given.insert("capped", true);
        given.insert("size", number(size));
        given.remove("max");
        let options = options::parse(&ns, &given, self.version)?;
        let mut capped = Collection::new(self.new_uuid(), options)?;
        for (_, document) in self.required(db, name)?.records() {
            capped.insert(&ns, document.as_bytes().to_vec())?;
        }
        self.put(db, name, capped);
        done(doc! {})
    }

    /// Empties a capped collection. Servers provide this command for tests only.
    pub(super) fn empty_capped(&mut self, call: Call<'_>) -> Answer {
        let (name, ns) = (call.collection()?, call.ns()?);
        let collection = self.required(call.db, name)?;
        if !collection.is_capped() {
            return Err(Failure::new(20, format!("collection {ns} is not capped")));
        }
        collection.clear();
        done(doc! {})
    }
}

fn namespace(element: Element<'_>) -> Result<(&str, &str), Failure> {
    let ns = element.str()?;
    let parts = ns.split_once('.').filter(|(db, name)| {
        let invalid = name.is_empty() || name.starts_with('.') || name.contains(['$', '\0']);
        !db.is_empty() && !invalid
    });
    parts.ok_or_else(|| Failure::new(73, format!("Invalid namespace specified '{ns}'")))
}
