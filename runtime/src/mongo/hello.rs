//! `hello`: what a server says of itself and its set.

use mongodb::Client;
use mongodb::bson::{Bson, Document, doc};
use mongodb::options::{ReadPreference, SelectionCriteria};

use super::{ANSWER, error_code, in_time};

/// CommandNotFound.
const COMMAND_NOT_FOUND: i32 = 59;

/// How far the clock of the set may be ahead of a secondary that is not behind: a primary without
/// writes logs a noop each 10 s, and a secondary hears of a new time before it has the entry.
const SECONDARY_GRACE_SECONDS: u32 = 15;

/// The part of a `hello` that matters to us.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Hello {
    /// The replica set's name.
    pub set_name: Option<String>,
    /// Whether this is a mongos, which has no oplog.
    pub is_mongos: bool,
    /// Whether the server that answered takes writes.
    pub is_writable_primary: bool,
    /// The server that answered, as the set knows it.
    pub me: Option<String>,
    /// The set's primary.
    pub primary: Option<String>,
    /// The set's members that hold data and can be seen.
    pub hosts: Vec<String>,
    /// The protocol that the server speaks at most; 9 is MongoDB 4.4.
    pub max_wire_version: i32,
    /// The newest entry that a majority has: seconds, increment and term.
    pub last_majority_write: Option<(u32, u32, i64)>,
    /// The newest entry of the server that answered.
    pub last_write: Option<(u32, u32, i64)>,
    /// The newest time that the server has heard of in its set (`$clusterTime`): seconds, increment.
    pub cluster_time: Option<(u32, u32)>,
    /// The largest document that the server takes.
    pub max_bson_object_size: Option<i64>,
    /// The largest message that the server takes.
    pub max_message_size_bytes: Option<i64>,
    /// The most operations that one write command may hold.
    pub max_write_batch_size: Option<i64>,
}

/// Asks the primary, or where there is none any server.
///
/// # Errors
/// As the driver reports.
pub async fn hello(client: &Client) -> Result<Hello, mongodb::error::Error> {
    let reply = match ask(client, doc! { "hello": 1 }).await {
        // Servers and stand-ins that know only the command's old name.
        Err(error) if error_code(&error) == Some(COMMAND_NOT_FOUND) => {
            ask(client, doc! { "isMaster": 1 }).await?
        }
        outcome => outcome?,
    };
    Ok(Hello::from_reply(&reply))
}

async fn ask(client: &Client, command: Document) -> Result<Document, mongodb::error::Error> {
    let anywhere = ReadPreference::PrimaryPreferred { options: None };
    let database = client.database("admin");
    let asked = database
        .run_command(command)
        .selection_criteria(SelectionCriteria::ReadPreference(anywhere));
    in_time(ANSWER, asked).await
}

impl Hello {
    /// The time up to which a majority of the set has entries, as far as the server that answered
    /// knows: seconds, increment. A secondary that replicates nothing still hears of the set's time,
    /// by which it can be distinguished from one that has everything.
    #[must_use]
    pub fn majority_known(&self) -> Option<(u32, u32)> {
        let (seconds, increment, _) = self.last_majority_write?;
        let own = (seconds, increment);
        let heard = self.cluster_time.filter(|_| !self.is_writable_primary);
        let heard = heard.map(|(seconds, _)| (seconds.saturating_sub(SECONDARY_GRACE_SECONDS), 0));
        Some(heard.map_or(own, |heard| heard.max(own)))
    }

    /// Reads a server's reply; what is missing there is missing here.
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
                .map(|time| (time.time, time.increment)),
            max_bson_object_size: number("maxBsonObjectSize"),
            max_message_size_bytes: number("maxMessageSizeBytes"),
            max_write_batch_size: number("maxWriteBatchSize"),
        }
    }
}

/// Servers and stand-ins differ in the type of a number.
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

/// `{ts, t}`; a bare timestamp is a set with the first election protocol, whose term is −1.
fn optime(value: Option<&Bson>) -> Option<(u32, u32, i64)> {
    match value? {
        Bson::Timestamp(ts) => Some((ts.time, ts.increment, -1)),
        Bson::Document(optime) => {
            let ts = optime.get_timestamp("ts").ok()?;
            Some((
                ts.time,
                ts.increment,
                integer(optime.get("t")).unwrap_or(-1),
            ))
        }
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use mongodb::bson::Timestamp;

    #[test]
    fn a_member_of_a_set() {
        let optime = |increment| doc! { "ts": Timestamp { time: 7, increment }, "t": 3_i64 };
        let hello = Hello::from_reply(&doc! {
            "isWritablePrimary": true, "setName": "rs0", "me": "a:1", "primary": "a:1",
            "hosts": ["a:1", "b:1"], "maxWireVersion": 21, "maxWriteBatchSize": 100_000,
            "maxBsonObjectSize": 16_777_216_i64, "maxMessageSizeBytes": 48_000_000.0,
            "lastWrite": { "opTime": optime(9), "majorityOpTime": optime(8) },
        });
        assert_eq!(hello.set_name.as_deref(), Some("rs0"));
        assert_eq!(hello.hosts, ["a:1", "b:1"]);
        assert_eq!(hello.last_majority_write, Some((7, 8, 3)));
        assert_eq!(hello.last_write, Some((7, 9, 3)));
        assert_eq!(hello.max_message_size_bytes, Some(48_000_000));
        assert!(hello.is_writable_primary && !hello.is_mongos);
    }

    #[test]
    fn a_secondary_that_the_set_is_ahead_of_does_not_have_everything() {
        let optime = doc! { "ts": Timestamp { time: 1000, increment: 2 }, "t": 3_i64 };
        let member = |is_primary: bool, cluster_time: u32| {
            Hello::from_reply(&doc! {
                "isWritablePrimary": is_primary,
                "lastWrite": { "opTime": optime.clone(), "majorityOpTime": optime.clone() },
                "$clusterTime": { "clusterTime": Timestamp { time: cluster_time, increment: 1 } },
            })
        };
        assert_eq!(member(true, 2000).majority_known(), Some((1000, 2)));
        assert_eq!(member(false, 1010).majority_known(), Some((1000, 2)));
        let known = member(false, 2000).majority_known().unwrap();
        assert!(known > (1000, 2), "{known:?}");
        assert_eq!(Hello::default().majority_known(), None);
    }

    #[test]
    fn a_mongos_and_a_stand_in_without_anything() {
        let hello = Hello::from_reply(&doc! { "msg": "isdbgrid", "ismaster": true });
        assert!(hello.is_mongos && hello.is_writable_primary);
        assert_eq!(Hello::from_reply(&doc! {}), Hello::default());
    }
}
