//! Errors of updates.

use crate::document::Malformed;

/// An update that cannot be applied.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("at {}: {fault}", shown(path))]
pub struct DiffError {
    /// The path to the fault, with its parts in reverse order.
    path: Vec<String>,
    /// The fault.
    pub fault: DiffFault,
}

/// The fault of an update.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum DiffFault {
    /// A diff without sections.
    #[error("the diff is empty")]
    Empty,
    /// A key that does not name a section of a diff.
    #[error("{0:?} is not a section of a diff")]
    UnknownSection(String),
    /// A section that is out of order or repeated.
    #[error("section {0:?} of the diff is out of order or repeated")]
    SectionOrder(String),
    /// A field that is named twice at the same level.
    #[error("the diff names field {0:?} twice")]
    DuplicateName(String),
    /// An array diff where a document diff is required.
    #[error("expected a document diff, found an array diff")]
    ArrayAtRoot,
    /// A diff that changes or removes `_id`.
    #[error("the diff changes _id")]
    Id,
    /// An `a` that is not `true`, or an `l` that is not a length.
    #[error("field {0:?} of the array diff has an invalid value")]
    ArrayHeader(&'static str),
    /// An index that is not greater than the index before it.
    #[error("index {0} of the array diff is not greater than the index before it")]
    IndexOrder(usize),
    /// An index that is not below the array's new length.
    #[error("index {index} of the array diff is not below the array's length {length}")]
    IndexBeyondLength {
        /// The index.
        index: usize,
        /// The length.
        length: usize,
    },
    /// A splice without offset or data.
    #[error("the splice of field {0:?} has no offset or no binary data")]
    Splice(String),
    /// More nulls in array gaps than a document can hold.
    #[error("the update fills array gaps with more nulls than a document can hold")]
    TooLarge,
    /// An operator other than `$set` and `$unset`.
    #[error("operator {0:?} is not supported; only $set and $unset are")]
    Operator(String),
    /// Damaged bytes, a value of the wrong type, or too many levels.
    #[error(transparent)]
    Malformed(#[from] Malformed),
}

impl DiffError {
    /// Adds the name of the enclosing field to the path of the error.
    pub(super) fn below(mut self, name: &[u8]) -> Self {
        self.path.push(lossy(name));
        self
    }
}

impl<F: Into<DiffFault>> From<F> for DiffError {
    fn from(fault: F) -> Self {
        Self {
            path: Vec::new(),
            fault: fault.into(),
        }
    }
}

fn shown(path: &[String]) -> String {
    if path.is_empty() {
        return "the top level".to_owned();
    }
    let parts: Vec<&str> = path.iter().rev().map(String::as_str).collect();
    format!("{:?}", parts.join("."))
}

pub(super) fn lossy(name: &[u8]) -> String {
    String::from_utf8_lossy(name).into_owned()
}
