//! Names in Kafka: the topic of a namespace, and the names of the internal topics.
//!
//! A data topic is `<prefix>.<db>.<collection>` with exactly two dots. Every byte outside
//! `[A-Za-z0-9_]` is written `-XX` (upper-case hex of the UTF-8 byte), including `.` and `-`. In
//! the database part, `_` is escaped too. This rules out the collision of `.` and `_` in Kafka and
//! keeps common names readable. A namespace is never parsed from a topic name, because it is in the
//! value. In a name over 249 bytes, the end is replaced by `-h` and a hash.

/// The longest topic name that Kafka accepts.
const MAX_NAME: usize = 249;
/// The length of `-h`, 16 digits of FNV-1a and 8 of CRC32C.
const HASH_SUFFIX: usize = 2 + 16 + 8;
/// The longest prefix. It leaves room for the longest database name (63 bytes, 189 when escaped)
/// and the hash.
pub const MAX_PREFIX: usize = 32;
/// The longest name of a source.
const MAX_SOURCE_NAME: usize = 64;

/// Returns the topic of a collection.
#[must_use]
pub fn collection_topic(prefix: &str, db: &str, collection: &str) -> String {
    let mut name = database_part(prefix, db);
    if is_temporary(collection) {
        name.push_str("-tmp");
        return name;
    }
    escape(
        collection,
        |byte| byte.is_ascii_alphanumeric() || byte == b'_',
        &mut name,
    );
    if name.len() > MAX_NAME {
        let digest = format!(
            "-h{:016x}{:08x}",
            fnv1a(&name),
            crc32c::crc32c(name.as_bytes())
        );
        let mut kept = MAX_NAME - HASH_SUFFIX;
        // The cut must not fall inside an escape: a part of an escape, such as `-2`, would be
        // invalid.
        if let Some(dash) = name.get(..kept).and_then(|head| head.rfind('-'))
            && dash + 3 > kept
        {
            kept = dash;
        }
        name.truncate(kept);
        name.push_str(&digest);
    }
    name
}

/// Returns the topic of a database's commands.
#[must_use]
pub fn command_topic(prefix: &str, db: &str) -> String {
    database_part(prefix, db) + "-cmd"
}

/// Returns the topic of a source's positions, the last of which is the checkpoint.
#[must_use]
pub fn position_topic(prefix: &str, source: &str) -> String {
    format!("__{prefix}.position.{source}")
}

/// Returns the compacted topic of a source's saved state ([`crate::state`]).
#[must_use]
pub fn state_topic(prefix: &str, source: &str) -> String {
    format!("__{prefix}.state.{source}")
}

/// The prefix and the source in the name of a position topic.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PositionTopicName<'t> {
    /// The prefix.
    pub prefix: &'t str,
    /// Name of the source.
    pub source: &'t str,
}

/// Returns the parts of the name of a position topic, or `None` for another topic.
#[must_use]
pub fn parse_position_topic(topic: &str) -> Option<PositionTopicName<'_>> {
    let (prefix, rest) = topic.strip_prefix("__")?.split_once('.')?;
    let source = rest.strip_prefix("position.")?;
    let is_valid = check_prefix(prefix).is_ok() && check_source_name(source).is_ok();
    is_valid.then_some(PositionTopicName { prefix, source })
}

/// Returns the source of a state topic with this prefix, or `None` for another topic.
#[must_use]
pub fn source_of_state_topic<'t>(prefix: &str, topic: &'t str) -> Option<&'t str> {
    topic
        .strip_prefix("__")?
        .strip_prefix(prefix)?
        .strip_prefix(".state.")
}

/// Returns true if a topic carries records of this prefix (data or commands).
#[must_use]
pub fn is_data_topic(prefix: &str, topic: &str) -> bool {
    topic
        .strip_prefix(prefix)
        .and_then(|rest| rest.strip_prefix('.'))
        .is_some_and(|rest| rest.matches('.').count() == 1)
}

/// Returns true if a topic carries a database's commands.
#[must_use]
pub fn is_command_topic(topic: &str) -> bool {
    topic.ends_with(".-cmd")
}

/// The reason why a text is not a prefix of topics, or not the name of a source.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum NameError {
    /// It is empty or too long.
    #[error("must have 1 to {most} characters")]
    Length {
        /// The largest number of characters.
        most: usize,
    },
    /// A prefix has other characters.
    #[error("may contain only letters, digits and `-`")]
    PrefixCharacters,
    /// The name of a source has other characters.
    #[error("may contain only lower-case letters, digits and `-`")]
    SourceCharacters,
}

/// Checks a `--topic-prefix`.
///
/// # Errors
/// [`NameError`].
pub fn check_prefix(prefix: &str) -> Result<(), NameError> {
    if prefix.is_empty() || prefix.len() > MAX_PREFIX {
        return Err(NameError::Length { most: MAX_PREFIX });
    }
    if prefix
        .bytes()
        .all(|byte| byte.is_ascii_alphanumeric() || byte == b'-')
    {
        Ok(())
    } else {
        Err(NameError::PrefixCharacters)
    }
}

/// Checks a `--source-name`.
///
/// # Errors
/// [`NameError`].
pub fn check_source_name(name: &str) -> Result<(), NameError> {
    let is_allowed = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-';
    if name.is_empty() || name.len() > MAX_SOURCE_NAME {
        return Err(NameError::Length {
            most: MAX_SOURCE_NAME,
        });
    }
    if name.bytes().all(is_allowed) {
        Ok(())
    } else {
        Err(NameError::SourceCharacters)
    }
}

/// Returns true for a collection that exists only during one operation (`$out`, mapReduce,
/// cross-database rename, convertToCapped). The temporary collections of a database share one
/// topic, because otherwise every operation would leave an unused topic behind.
#[must_use]
pub fn is_temporary(collection: &str) -> bool {
    let Some(rest) = collection.strip_prefix("tmp") else {
        return false;
    };
    if rest.starts_with(".agg_out.") || rest.starts_with(".mr.") {
        return true;
    }
    let Some((random, operation)) = rest.split_once('.') else {
        return false;
    };
    random.len() == 5
        && random.bytes().all(|byte| byte.is_ascii_alphanumeric())
        && ["renameCollection", "convertToCapped", "create", "rename"]
            .iter()
            .any(|name| operation == *name || operation.starts_with(&format!("{name}.")))
}

fn database_part(prefix: &str, db: &str) -> String {
    let mut name = format!("{prefix}.");
    escape(db, |byte| byte.is_ascii_alphanumeric(), &mut name);
    name.push('.');
    name
}

fn escape(text: &str, plain: impl Fn(u8) -> bool, out: &mut String) {
    for byte in text.bytes() {
        if plain(byte) {
            out.push(char::from(byte));
        } else {
            out.push_str(&format!("-{byte:02X}"));
        }
    }
}

fn fnv1a(text: &str) -> u64 {
    text.bytes().fold(0xcbf2_9ce4_8422_2325, |hash, byte| {
        (hash ^ u64::from(byte)).wrapping_mul(0x0000_0100_0000_01b3)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_position_topic_names_its_prefix_and_its_source() {
        let parts = |topic: &str| {
            let name = parse_position_topic(topic)?;
            Some((name.prefix.to_owned(), name.source.to_owned()))
        };
        let topic = position_topic("cdc", "rs0");
        assert_eq!(parts(&topic), Some(("cdc".to_owned(), "rs0".to_owned())));
        for other in [
            "__cdc.state.rs0",
            "cdc.position.rs0",
            "__cdc.position.a.b",
            "__cdc",
        ] {
            assert_eq!(parts(other), None, "{other}");
        }
    }

    #[test]
    fn names_are_escaped_as_frozen() {
        let golden = [
            ("shop", "orders", "cdc.shop.orders"),
            ("shop", "order_items", "cdc.shop.order_items"),
            ("shop", "order.items", "cdc.shop.order-2Eitems"),
            ("my_shop", "orders", "cdc.my-5Fshop.orders"),
            ("a-b", "-x", "cdc.a-2Db.-2Dx"),
            ("db", "日", "cdc.db.-E6-97-A5"),
            ("db", "system.views", "cdc.db.system-2Eviews"),
            ("db", "tmp.agg_out.5", "cdc.db.-tmp"),
            ("db", "tmpA1b2C.renameCollection", "cdc.db.-tmp"),
            ("db", "tmpA1b2C.convertToCapped.c", "cdc.db.-tmp"),
            ("db", "tmp", "cdc.db.tmp"),
            ("db", "tmpfiles", "cdc.db.tmpfiles"),
        ];
        for (db, collection, topic) in golden {
            assert_eq!(collection_topic("cdc", db, collection), topic);
        }
        assert_eq!(command_topic("cdc", "my_db"), "cdc.my-5Fdb.-cmd");
        assert_eq!(position_topic("cdc", "rs0"), "__cdc.position.rs0");
        assert_eq!(state_topic("cdc", "rs0"), "__cdc.state.rs0");
        assert_eq!(source_of_state_topic("cdc", "__cdc.state.rs0"), Some("rs0"));
        assert_eq!(source_of_state_topic("cdc", "__cdc2.state.rs0"), None);
    }

    #[test]
    fn long_names_are_truncated_and_stay_distinct() {
        let one = collection_topic("cdc", &"d_".repeat(31), &"é".repeat(120));
        let two = collection_topic("cdc", &"d_".repeat(31), &("é".repeat(119) + "e"));
        assert!(one.len() <= MAX_NAME && two.len() <= MAX_NAME);
        assert_ne!(one, two);
        assert_eq!(one.matches('.').count(), 2);
        let longest = collection_topic(&"p".repeat(MAX_PREFIX), &"_".repeat(63), &"_".repeat(200));
        assert!(longest.len() <= MAX_NAME);
        assert_eq!(longest.matches('.').count(), 2);
    }

    #[test]
    fn data_topics_are_recognized_by_their_two_dots() {
        assert!(is_data_topic("cdc", "cdc.shop.orders"));
        assert!(is_data_topic("cdc", "cdc.shop.-cmd"));
        assert!(!is_data_topic("cdc", "cdc2.shop.orders"));
        assert!(!is_data_topic("cdc", "__cdc.state.rs0"));
        assert!(!is_data_topic("cdc", "cdc.shop"));
    }

    #[test]
    fn prefixes_and_source_names_are_checked() {
        assert!(check_prefix("cdc-1").is_ok());
        assert!(check_prefix("").is_err());
        assert!(check_prefix("a.b").is_err());
        assert!(check_prefix("a_b").is_err());
        assert!(check_source_name("rs0").is_ok());
        assert!(check_source_name("RS0").is_err());
    }
}
