//! The failures of a server, by code.

use std::fmt;

use oplog_relay_core::document::{DocumentBuilder, Malformed, kind};

use super::duplicate::DuplicateKey;
use super::version::Version;

/// Names of error codes in the server's `error_codes.yml`. The model reports any other code as
/// `Location<code>`.
const NAMES: &[(i32, &str)] = &[
    (2, "BadValue"),
    (9, "FailedToParse"),
    (13, "Unauthorized"),
    (14, "TypeMismatch"),
    (16, "InvalidLength"),
    (20, "IllegalOperation"),
    (22, "InvalidBSON"),
    (23, "AlreadyInitialized"),
    (26, "NamespaceNotFound"),
    (27, "IndexNotFound"),
    (28, "PathNotViable"),
    (40, "ConflictingUpdateOperators"),
    (43, "CursorNotFound"),
    (48, "NamespaceExists"),
    (52, "DollarPrefixedFieldName"),
    (56, "EmptyFieldName"),
    (59, "CommandNotFound"),
    (61, "ShardKeyNotFound"),
    (66, "ImmutableField"),
    (67, "CannotCreateIndex"),
    (72, "InvalidOptions"),
    (73, "InvalidNamespace"),
    (85, "IndexOptionsConflict"),
    (86, "IndexKeySpecsConflict"),
    (91, "ShutdownInProgress"),
    (112, "WriteConflict"),
    (121, "DocumentValidationFailure"),
    (161, "IncompatibleCollationVersion"),
    (166, "CommandNotSupportedOnView"),
    (171, "CannotIndexParallelArrays"),
    (189, "PrimarySteppedDown"),
    (197, "InvalidIndexSpecificationOption"),
    (238, "NotImplemented"),
    (251, "NoSuchTransaction"),
    (359, "CannotConvertIndexToUnique"),
    (361, "CollectionUUIDMismatch"),
    (365, "TemporarilyUnavailable"),
    (371, "UserWritesBlocked"),
    (10107, "NotWritablePrimary"),
    (11000, "DuplicateKey"),
    (11600, "InterruptedAtShutdown"),
    (11601, "Interrupted"),
    (11602, "InterruptedDueToReplStateChange"),
    (13388, "StaleConfig"),
    (14031, "OutOfDiskSpace"),
];

/// Code of a failure whose reply has no code, as some compatible servers send it.
pub const NO_CODE: i32 = 0;

/// The reason for which a command, or one of its writes, was refused.
#[derive(Debug, Clone, PartialEq)]
pub struct Failure {
    /// The server's code.
    pub code: i32,
    /// The server's text, or a similar one.
    pub message: String,
    /// The key, for a duplicate key error.
    pub(super) key: Option<Box<DuplicateKey>>,
}

impl Failure {
    /// Returns a refusal with that code.
    pub(super) fn new(code: i32, message: impl Into<String>) -> Failure {
        Failure {
            code,
            message: message.into(),
            key: None,
        }
    }

    /// Returns the refusal of an unknown field.
    pub(super) fn unknown_field(command: &str, field: &str) -> Failure {
        let message = format!("BSON field '{command}.{field}' is an unknown field.");
        Failure::new(40415, message)
    }

    /// Returns the refusal of a command without a required field.
    pub(super) fn missing_field(field: &str) -> Failure {
        let message = format!("BSON field '{field}' is missing but a required field");
        Failure::new(40414, message)
    }

    /// Returns the refusal of a namespace that does not exist.
    pub(super) fn no_namespace(ns: &str) -> Failure {
        Failure::new(26, format!("ns not found {ns}"))
    }

    /// Returns the refusal of a command that names a view instead of a collection.
    pub(super) fn is_view(ns: &str) -> Failure {
        Failure::new(166, format!("Namespace {ns} is a view, not a collection"))
    }

    /// Returns the reply to a command that failed as a whole.
    pub(super) fn reply(&self, version: Version) -> Result<Vec<u8>, Failure> {
        let name = NAMES.iter().find(|(code, _)| *code == self.code);
        let name = name.map_or_else(
            || format!("Location{}", self.code),
            |(_, name)| (*name).to_owned(),
        );
        let mut out = Vec::new();
        let mut reply = DocumentBuilder::start(&mut out);
        reply.raw("ok", kind::DOUBLE, &0_f64.to_le_bytes());
        reply.str("errmsg", &self.message);
        if self.code != NO_CODE {
            reply.int32("code", self.code).str("codeName", &name);
        }
        self.write_key(version, &mut reply)?;
        reply.finish();
        Ok(out)
    }

    /// Returns an element of `writeErrors`.
    pub(super) fn write_error(&self, index: usize, version: Version) -> Result<Vec<u8>, Failure> {
        let mut out = Vec::new();
        let mut error = DocumentBuilder::start(&mut out);
        error.int32("index", i32::try_from(index).unwrap_or(i32::MAX));
        error.int32("code", self.code);
        self.write_key(version, &mut error)?;
        error.str("errmsg", &self.message);
        error.finish();
        Ok(out)
    }

    fn write_key(&self, version: Version, reply: &mut DocumentBuilder<'_>) -> Result<(), Failure> {
        match self.key.as_deref() {
            Some(key) => key.write(version, reply),
            None => Ok(()),
        }
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.code, self.message)
    }
}

impl std::error::Error for Failure {}

impl From<Malformed> for Failure {
    fn from(error: Malformed) -> Failure {
        match error {
            Malformed::WrongType { .. } => Failure::new(14, error.to_string()),
            _ => Failure::new(22, error.to_string()),
        }
    }
}

impl From<bson::error::Error> for Failure {
    fn from(error: bson::error::Error) -> Failure {
        Failure::new(22, error.to_string())
    }
}
