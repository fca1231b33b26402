//! The ways in which a source is read.

use std::fmt;

use serde::{Deserialize, Serialize};

/// The way in which a source is read.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum SourceMode {
    /// The oplog of a replica set, or a dump of one.
    #[default]
    Oplog,
    /// A change stream of a replica set or of a sharded cluster.
    ChangeStream,
}

impl SourceMode {
    #[expect(clippy::trivially_copy_pass_by_ref, reason = "serde passes references")]
    pub(super) const fn is_oplog(&self) -> bool {
        matches!(self, Self::Oplog)
    }
}

impl fmt::Display for SourceMode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Oplog => "oplog",
            Self::ChangeStream => "change-stream",
        })
    }
}
