//! `hello`: a server's description of itself and its replica set.

use mongodb::Client;
use mongodb::bson::{Bson, Document, doc};
use mongodb::options::{ReadPreference, SelectionCriteria};
use oplog_relay_core::position::{OpTime, Timestamp};

use super::{REPLY_LIMIT, error_code, in_time};

/// CommandNotFound: the server does not know the command.
const COMMAND_NOT_FOUND: i32 = 59;

/// The number of seconds by which `$clusterTime` may exceed the last entry of a secondary that is
/// up to date. A primary without writes logs a noop every 10 s, and a secondary learns of a new
/// time before it has the entry.
const SECONDARY_GRACE_SECONDS: u32 = 15;

/// The fields of a `hello` reply that the programs use.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Hello {
    /// The name of the replica set.
    pub set_name: Option<String>,
    /// True if this is a mongos, which has no oplog.
    pub is_mongos: bool,
    /// True if the server that answered accepts writes.
    pub is_writable_primary: bool,
    /// The address of the server that answered, as configured in the replica set.
    pub me: Option<String>,
    /// The set's primary.
    pub primary: Option<String>,
    /// The members of the set that are neither hidden nor arbiters and have a priority above 0.
    pub hosts: Vec<String>,
    /// The highest wire version that the server supports; 9 is MongoDB 4.4.
    pub max_wire_version: i32,
    /// The newest entry that a majority of the set has.
    pub last_majority_write: Option<OpTime>,
    /// The newest entry of the server that answered.
    pub last_write: Option<OpTime>,
    /// The newest cluster time that the server knows (`$clusterTime`).
    pub cluster_time: Option<Timestamp>,
    /// The logical time of the server at its reply (`operationTime`).
    pub operation_time: Option<Timestamp>,
    /// The size limit of a document, in bytes.
    pub max_bson_object_size: Option<i64>,
    /// The size limit of a message, in bytes.
    pub max_message_size_bytes: Option<i64>,
    /// The maximum number of operations in one write command.
    pub max_write_batch_size: Option<i64>,
}

/// Sends `hello` to the primary, or to any server if there is no primary.
///
/// # Errors
/// The driver's error.
pub async fn hello(client: &Client) -> Result<Hello, mongodb::error::Error> {
    let reply = match run(client, doc! { "hello": 1 }).await {
        // Old servers and compatible services know only the command's old name.
        Err(error) if error_code(&error) == Some(COMMAND_NOT_FOUND) => {
            run(client, doc! { "isMaster": 1 }).await?
        }
        outcome => outcome?,
    };
    Ok(Hello::from_reply(&reply))
}

async fn run(client: &Client, command: Document) -> Result<Document, mongodb::error::Error> {
    let preference = ReadPreference::PrimaryPreferred { options: None };
    let database = client.database("admin");
    let request = database
        .run_command(command)
        .selection_criteria(SelectionCriteria::ReadPreference(preference));
    in_time(REPLY_LIMIT, request).await
}

impl Hello {
    /// Returns the time up to which a majority of the set has entries, as far as the server that
    /// answered knows. A secondary that has stopped replicating still learns the cluster time,
    /// which distinguishes it from a secondary that has all entries.
    #[must_use]
    pub fn majority_known(&self) -> Option<Timestamp> {
        let own = self.last_majority_write?.ts;
        let learned = self.cluster_time.filter(|_| !self.is_writable_primary);
        let learned = learned
            .map(|time| Timestamp::new(time.seconds.saturating_sub(SECONDARY_GRACE_SECONDS), 0));
        Some(learned.map_or(own, |learned| learned.max(own)))
    }

    /// Reads a server's reply. Fields that the reply does not have are left empty.
    #[must_use]
    pub fn from_reply(reply: &Document) -> Self {
        let text = |name| reply.get_str(name).ok().map(str::to_owned);
        let flag = |name| reply.get_bool(name).unwrap_or(false);
        let number = |name| integer(reply.get(name));
        let written = |name| {
            reply
                .get_document("lastWrite")
                .ok()
                .and_then(|write| optime(write.get(name)))
        };
        let hosts = reply
            .get_array("hosts")
            .map(Vec::as_slice)
            .unwrap_or_default();
        let logical = |time: mongodb::bson::Timestamp| Timestamp::new(time.time, time.increment);
        Self {
            set_name: text("setName"),
            is_mongos: reply.get_str("msg").is_ok_and(|text| text == "isdbgrid"),
            is_writable_primary: flag("isWritablePrimary") || flag("ismaster"),
            me: text("me"),
            primary: text("primary"),
            hosts: hosts
                .iter()
                .filter_map(Bson::as_str)
                .map(str::to_owned)
                .collect(),
            max_wire_version: number("maxWireVersion")
                .and_then(|version| i32::try_from(version).ok())
                .unwrap_or(0),
            last_majority_write: written("majorityOpTime"),
            last_write: written("opTime"),
            cluster_time: reply
                .get_document("$clusterTime")
                .and_then(|time| time.get_timestamp("clusterTime"))
                .ok()
                .map(logical),
            operation_time: reply.get_timestamp("operationTime").ok().map(logical),
            max_bson_object_size: number("maxBsonObjectSize"),
            max_message_size_bytes: number("maxMessageSizeBytes"),
            max_write_batch_size: number("maxWriteBatchSize"),
        }
    }
}

/// Returns an integer. Servers and compatible services use different number types.
fn integer(value: Option<&Bson>) -> Option<i64> {
    match value? {
        Bson::Int32(number) => Some(i64::from(*number)),
        Bson::Int64(number) => Some(*number),
        #[allow(
            clippy::cast_possible_truncation,
            reason = "limits and versions are small"
        )]
        Bson::Double(number) => Some(*number as i64),
        _ => None,
    }
}

/// Reads `{ts, t}`. A bare timestamp comes from a set with protocol version 0, and its term is −1.
fn optime(value: Option<&Bson>) -> Option<OpTime> {
    let (ts, term) = match value? {
        Bson::Timestamp(ts) => (*ts, None),
        Bson::Document(optime) => (optime.get_timestamp("ts").ok()?, integer(optime.get("t"))),
        _ => return None,
    };
    Some(OpTime {
        ts: Timestamp::new(ts.time, ts.increment),
        term: term.unwrap_or(-1),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use mongodb::bson::Timestamp as BsonTimestamp;

    #[test]
    fn a_member_of_a_set() {
        let optime = |increment| doc! { "ts": BsonTimestamp { time: 7, increment }, "t": 3_i64 };
        let hello = Hello::from_reply(&doc! {
            "isWritablePrimary": true, "setName": "rs0", "me": "a:1", "primary": "a:1",
            "hosts": ["a:1", "b:1"], "maxWireVersion": 21, "maxWriteBatchSize": 100_000,
            "maxBsonObjectSize": 16_777_216_i64, "maxMessageSizeBytes": 48_000_000.0,
            "lastWrite": { "opTime": optime(9), "majorityOpTime": optime(8) },
        });
        assert_eq!(hello.set_name.as_deref(), Some("rs0"));
        assert_eq!(hello.hosts, ["a:1", "b:1"]);
        let at = |increment| OpTime {
            ts: Timestamp::new(7, increment),
            term: 3,
        };
        assert_eq!(hello.last_majority_write, Some(at(8)));
        assert_eq!(hello.last_write, Some(at(9)));
        assert_eq!(hello.max_message_size_bytes, Some(48_000_000));
        assert!(hello.is_writable_primary && !hello.is_mongos);
    }

    #[test]
    fn a_secondary_behind_the_cluster_time_is_not_up_to_date() {
        let optime = doc! { "ts": BsonTimestamp { time: 1000, increment: 2 }, "t": 3_i64 };
        let member = |is_primary: bool, cluster_time: u32| {
            Hello::from_reply(&doc! {
                "isWritablePrimary": is_primary,
                "lastWrite": { "opTime": optime.clone(), "majorityOpTime": optime.clone() },
                "$clusterTime": { "clusterTime": BsonTimestamp { time: cluster_time, increment: 1 } },
            })
        };
        let own = Timestamp::new(1000, 2);
        assert_eq!(member(true, 2000).majority_known(), Some(own));
        assert_eq!(member(false, 1010).majority_known(), Some(own));
        let known = member(false, 2000).majority_known().unwrap();
        assert!(known > own, "{known:?}");
        assert_eq!(Hello::default().majority_known(), None);
    }

    #[test]
    fn a_mongos_and_an_empty_reply() {
        let hello = Hello::from_reply(&doc! { "msg": "isdbgrid", "ismaster": true });
        assert!(hello.is_mongos && hello.is_writable_primary);
        assert_eq!(Hello::from_reply(&doc! {}), Hello::default());
    }
}
