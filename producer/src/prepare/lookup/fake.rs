//! A source of documents in memory, for tests.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};

use bson::{Document as Doc, doc};
use oplog_relay_core::document::DocumentBuilder;
use oplog_relay_core::position::Timestamp;

use super::StoredDocuments;
use super::pre_image::{PreImageId, write_filter};
use super::reply::Reply;
use super::request::Request;

/// The time and the number of documents of each request.
pub(crate) type Asked = Arc<Mutex<Vec<(Timestamp, usize)>>>;

/// Returns the number of documents of each request.
pub(crate) fn counts(asked: &Asked) -> Vec<usize> {
    let asked = asked.lock().unwrap();
    asked.iter().map(|(_, count)| *count).collect()
}

/// A source with one collection, which records the requests that it receives.
#[derive(Debug, Default)]
pub struct Documents {
    pub(crate) by_id: BTreeMap<i32, Doc>,
    /// Maximum number of documents in a reply.
    pub(crate) room: Option<usize>,
    pub(crate) asked: Asked,
    /// The documents of `config.system.preimages`.
    pub(crate) pre_images: Vec<Doc>,
}

impl Documents {
    pub(super) fn read(&self, requests: &[Request], after: Timestamp) -> Vec<Reply> {
        let reply = |request: &Request| {
            self.asked.lock().unwrap().push((after, request.count()));
            let mut command = Vec::new();
            let mut find = DocumentBuilder::start(&mut command);
            request.write_filter(&mut find);
            find.finish();
            let command = Doc::from_reader(command.as_slice()).unwrap();
            let ids = command.get_document("filter").unwrap();
            let ids = ids.get_document("_id").unwrap().get_array("$in").unwrap();
            let found = ids.iter().filter_map(|id| self.by_id.get(&id.as_i32()?));
            let room = self.room.unwrap_or(usize::MAX);
            // A server returns the documents in the order of its index.
            let mut found: Vec<_> = found.collect();
            found.sort_by_key(|document| document.get_i32("_id").unwrap());
            let sent = found.iter().take(room);
            Reply {
                documents: sent.flat_map(|found| found.to_vec().unwrap()).collect(),
                is_cut: found.len() > room,
                at: Some(Timestamp::new(after.seconds, 7)),
            }
        };
        requests.iter().map(reply).collect()
    }

    pub(super) fn read_before(&self, ids: &[PreImageId], after: Timestamp) -> Reply {
        self.asked.lock().unwrap().push((after, ids.len()));
        let mut command = Vec::new();
        let mut find = DocumentBuilder::start(&mut command);
        write_filter(ids, &mut find);
        find.finish();
        let command = Doc::from_reader(command.as_slice()).unwrap();
        let ids = command.get_document("filter").unwrap();
        let ids = ids.get_document("_id").unwrap().get_array("$in").unwrap();
        let stored = self.pre_images.iter();
        let found = stored.filter(|stored| ids.iter().any(|id| stored.get("_id") == Some(id)));
        let found: Vec<&Doc> = found.collect();
        let room = self.room.unwrap_or(usize::MAX);
        let sent = found.iter().take(room);
        Reply {
            documents: sent.flat_map(|found| found.to_vec().unwrap()).collect(),
            is_cut: found.len() > room,
            at: None,
        }
    }

    /// Returns a source of the documents `{_id, n}` with these `_id`s.
    pub(crate) fn of(ids: std::ops::Range<i32>) -> Self {
        let document = |id| (id, doc! { "_id": id, "n": id });
        Self {
            by_id: ids.map(document).collect(),
            ..Self::default()
        }
    }
}

impl From<Documents> for StoredDocuments {
    fn from(documents: Documents) -> Self {
        Self::InMemory(documents)
    }
}
