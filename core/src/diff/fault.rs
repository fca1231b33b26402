//! What can be wrong with an update.

use crate::document::Malformed;

/// An update that cannot be applied.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("at {}: {fault}", shown(path))]
pub struct DiffError {
    /// The path to the place, its parts in reverse order.
    path: Vec<String>,
    /// What is wrong there.
    pub fault: DiffFault,
}

/// What is wrong with an update.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum DiffFault {
    /// A diff without any section.
    #[error("the diff is empty")]
    Empty,
    /// A key that begins with none of the letters of a section.
    #[error("{0:?} is no section of a diff")]
    UnknownSection(String),
    /// A section after one that it must precede, or twice.
    #[error("section {0:?} of the diff stands in the wrong place")]
    SectionOrder(String),
    /// A field that is named twice in one level.
    #[error("the diff names field {0:?} twice")]
    DuplicateName(String),
    /// An array's diff for the whole document.
    #[error("it is the diff of an array, but a document's is needed")]
    ArrayAtRoot,
    /// `_id` gets another value, or is removed.
    #[error("the diff changes _id")]
    Id,
    /// `a` is not `true`, or `l` no length.
    #[error("{0:?} of the array's diff has a wrong value")]
    ArrayHeader(&'static str),
    /// An index that is not above the one before.
    #[error("index {0} of the array's diff stands in the wrong place")]
    IndexOrder(usize),
    /// An index that the array's new length cuts off.
    #[error("index {index} of the array's diff is not below its length {length}")]
    IndexBeyondLength {
        /// The index.
        index: usize,
        /// The length.
        length: usize,
    },
    /// A splice without offset or data.
    #[error("the splice of field {0:?} has no offset or no binary data")]
    Splice(String),
    /// More place-holders than a document can hold.
    #[error("it leaves more gaps in arrays than a document can hold")]
    TooLarge,
    /// An operator other than `$set` and `$unset`.
    #[error("{0:?} is no operator that is applied here")]
    Operator(String),
    /// The bytes are damaged.
    #[error(transparent)]
    Malformed(#[from] Malformed),
}

impl DiffError {
    /// The same error, seen from one level above.
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
        return "the first level".to_owned();
    }
    let parts: Vec<&str> = path.iter().rev().map(String::as_str).collect();
    format!("{:?}", parts.join("."))
}

pub(super) fn lossy(name: &[u8]) -> String {
    String::from_utf8_lossy(name).into_owned()
}
