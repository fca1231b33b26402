//! The headers of records.

use oplog_relay_core::format::fragment::{FRAGMENT_HEADER, Fragment};
use rdkafka::message::{Header, OwnedHeaders};

use crate::encode::chunk::{Chunk, EncodedRecord, RecordHeader};

/// Returns all headers of a record except the fragment header.
pub(super) fn headers_of<'c>(
    chunk: &'c Chunk,
    record: &'c EncodedRecord,
) -> impl Iterator<Item = &'c RecordHeader> + Clone {
    let for_routers = chunk.router_headers.get(record.router_headers.clone());
    record.header.iter().chain(for_routers.unwrap_or_default())
}

/// Returns the headers of a record, or of one of its fragments; `None` if there are none.
pub(super) fn headers(
    chunk: &Chunk,
    record: &EncodedRecord,
    fragment: Option<Fragment>,
) -> Option<OwnedHeaders> {
    let all = headers_of(chunk, record);
    let count = all.clone().count() + usize::from(fragment.is_some());
    if count == 0 {
        return None;
    }
    let headers = all.fold(OwnedHeaders::new_with_capacity(count), |headers, header| {
        headers.insert(Header {
            key: header.name,
            value: Some(chunk.bytes(&header.value)),
        })
    });
    let Some(fragment) = fragment else {
        return Some(headers);
    };
    let mut place = Vec::new();
    fragment.write(&mut place);
    Some(headers.insert(Header {
        key: FRAGMENT_HEADER,
        value: Some(&place),
    }))
}
