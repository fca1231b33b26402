//! A mixed write load on one connection, deterministic by seed.
//!
//! It uses one connection, because FerretDB's oplog times are not monotonic under several writers.
//! The types are those that FerretDB can store. Updates and deletes go to one small collection,
//! because FerretDB searches all documents of a collection for every `_id`; the large ones receive
//! inserts.

use anyhow::Result;
use bson::{Bson, Document, doc, oid::ObjectId};
use futures_util::StreamExt;
use mongodb::options::ClientOptions;
use mongodb::{Client, Collection, Database};

/// Collections that receive inserts.
const LARGE: [&str; 3] = ["orders", "order_items", "events.log"];
/// The collection whose documents change.
const SMALL: &str = "customers";
/// Number of documents in the small collection.
const CUSTOMERS: u64 = 120;
/// Number of groups of documents that change together.
const GROUPS: u64 = 8;

/// A writer to one database.
#[derive(Debug)]
pub struct Load {
    database: Database,
    random: u64,
    next_id: i64,
    writes: u64,
}

impl Load {
    /// Connects with a pool of one connection.
    ///
    /// # Errors
    /// The server cannot be reached.
    pub async fn connect(uri: &str, database: &str, seed: u64) -> Result<Self> {
        let mut options = ClientOptions::parse(uri).await?;
        options.max_pool_size = Some(1);
        let client = Client::with_options(options)?;
        Ok(Self {
            database: client.database(database),
            random: seed | 1,
            next_id: 1,
            writes: 0,
        })
    }

    /// Returns the number of writes so far: documents inserted, updated, replaced or deleted.
    #[must_use]
    pub const fn writes(&self) -> u64 {
        self.writes
    }

    fn next(&mut self, below: u64) -> u64 {
        // xorshift is fast, and gives the same numbers on every machine.
        self.random ^= self.random << 13;
        self.random ^= self.random >> 7;
        self.random ^= self.random << 17;
        self.random % below
    }

    /// Inserts into a large collection, then changes the small one.
    ///
    /// # Errors
    /// The server refuses a write.
    pub async fn round(&mut self, inserts: usize) -> Result<()> {
        let which = usize::try_from(self.next(LARGE.len() as u64))?;
        let large: Collection<Document> = self.database.collection(LARGE[which]);
        let batch: Vec<Document> = (0..inserts).map(|_| self.order()).collect();
        large.insert_many(&batch).await?;
        self.writes += batch.len() as u64;
        let small: Collection<Document> = self.database.collection(SMALL);
        self.change_group(&small).await?;
        for _ in 0..4 {
            self.change_one(&small).await?;
        }
        Ok(())
    }

    fn order(&mut self) -> Document {
        let number = self.next_id;
        self.next_id += 1;
        let amount = self.next(10_000);
        doc! {
            "_id": large_id(number),
            "customer": format!("customer-{}", amount % 97),
            "amount": amount as f64 / 100.0,
            "lines": [{ "sku": "a-1", "n": 1 }, { "sku": "b-2", "n": (amount % 9) as i32 }],
            "address": { "city": "Zürich", "zip": format!("{amount:05}"), "geo": [8.54, 47.37] },
            "reference": ObjectId::from_bytes([(amount % 251) as u8; 12]),
            "at": bson::DateTime::from_millis(1_700_000_000_000 + number),
            "paid": false,
            "note": Bson::Null,
        }
    }

    async fn change_group(&mut self, small: &Collection<Document>) -> Result<()> {
        let group = self.next(GROUPS) as i32;
        let value = self.next(1_000_000) as i64;
        let change =
            doc! { "$set": { "value": value, "address.city": "Bern" }, "$inc": { "n": 1_i64 } };
        self.writes += small
            .update_many(doc! { "group": group }, change)
            .await?
            .modified_count;
        Ok(())
    }

    /// Replaces, truncates, deletes or inserts one document of the small collection. A deleted
    /// `_id` is inserted again later, which makes the order per document visible.
    async fn change_one(&mut self, small: &Collection<Document>) -> Result<()> {
        let number = self.next(CUSTOMERS) as i64;
        let id = small_id(number);
        let value = self.next(1_000_000) as i64;
        let group = (number % GROUPS as i64) as i32;
        let found = doc! { "_id": &id };
        let changed = match self.next(4) {
            0 => {
                let change = doc! { "$unset": { "value": "" }, "$set": { "trimmed": value } };
                small.update_one(found, change).await?.modified_count
            }
            1 => {
                let whole = doc! { "_id": &id, "group": group, "replaced": value };
                small.replace_one(found, whole).await?.modified_count
            }
            2 => small.delete_one(found).await?.deleted_count,
            _ => {
                let fresh = doc! { "$setOnInsert": { "group": group, "again": value, "n": 0_i64 } };
                let inserted = small.update_one(found, fresh).upsert(true).await?;
                u64::from(inserted.upserted_id.is_some())
            }
        };
        self.writes += changed;
        Ok(())
    }

    /// Writes rounds until at least that many writes are done.
    ///
    /// # Errors
    /// The server refuses a write.
    pub async fn until(&mut self, writes: u64) -> Result<()> {
        while self.writes < writes {
            self.round(500).await?;
        }
        Ok(())
    }
}

/// Returns an `_id`: every fifth one is a string, the others are ObjectIds.
fn large_id(number: i64) -> Bson {
    if number % 5 == 0 {
        return Bson::String(format!("key-{number:08}"));
    }
    let mut bytes = [0x65; 12];
    bytes[4..].copy_from_slice(&number.to_be_bytes());
    Bson::ObjectId(ObjectId::from_bytes(bytes))
}

/// Returns an `_id`: a number, a string or a document.
fn small_id(number: i64) -> Bson {
    match number % 4 {
        0 => Bson::Int32(number as i32),
        1 => Bson::Double(number as f64),
        2 => Bson::String(format!("customer-{number}")),
        _ => Bson::Document(doc! { "customer": number }),
    }
}

/// Returns all documents of a database by collection, as raw bytes in order of `_id`.
///
/// # Errors
/// The server refuses a query.
pub async fn contents(uri: &str, database: &str) -> Result<Vec<(String, Vec<Vec<u8>>)>> {
    let database = Client::with_uri_str(uri).await?.database(database);
    let mut names = database.list_collection_names().await?;
    names.sort();
    let mut found = Vec::new();
    for name in names {
        let collection: Collection<bson::RawDocumentBuf> = database.collection(&name);
        let mut cursor = collection.find(doc! {}).sort(doc! { "_id": 1 }).await?;
        let mut documents = Vec::new();
        while let Some(document) = cursor.next().await {
            documents.push(document?.into_bytes());
        }
        if !documents.is_empty() {
            found.push((name, documents));
        }
    }
    Ok(found)
}
