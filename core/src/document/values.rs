//! The values of BSON types that consist of two parts.

use super::Document;

/// The value of a binary.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Binary<'a> {
    /// The subtype.
    pub subtype: u8,
    /// The bytes, unchanged: subtype 2 keeps its inner length.
    pub bytes: &'a [u8],
}

/// The value of a regular expression.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Regex<'a> {
    /// The pattern.
    pub pattern: &'a [u8],
    /// The options.
    pub options: &'a [u8],
}

/// The value of a DBPointer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct DbPointer<'a> {
    /// The namespace.
    pub ns: &'a [u8],
    /// The ObjectId.
    pub id: [u8; 12],
}

/// The value of JavaScript code with a scope.
#[derive(Debug, Clone, Copy)]
pub struct CodeWithScope<'a> {
    /// The code.
    pub code: &'a [u8],
    /// The scope.
    pub scope: Document<'a>,
}
