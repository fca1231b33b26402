//! The server versions that the model can imitate.

/// The version of a server.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord)]
#[expect(missing_docs, reason = "the names are the versions")]
pub enum Version {
    V4_2,
    V4_4,
    V5_0,
    #[default]
    V6_0,
    V7_0,
    V8_0,
}

impl Version {
    /// Returns the version as `buildInfo` reports it.
    pub(super) const fn numbers(self) -> [i32; 2] {
        match self {
            Version::V4_2 => [4, 2],
            Version::V4_4 => [4, 4],
            Version::V5_0 => [5, 0],
            Version::V6_0 => [6, 0],
            Version::V7_0 => [7, 0],
            Version::V8_0 => [8, 0],
        }
    }

    /// Returns the wire version as `hello` reports it.
    pub(super) const fn max_wire_version(self) -> i32 {
        match self {
            Version::V4_2 => 8,
            Version::V4_4 => 9,
            Version::V5_0 => 13,
            Version::V6_0 => 17,
            Version::V7_0 => 21,
            Version::V8_0 => 25,
        }
    }
}
