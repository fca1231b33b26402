//! Stretches of a source that were skipped.

use serde::{Deserialize, Serialize};

use crate::position::{PositionError, Timestamp};

/// A stretch of a source whose entries were never sent.
///
/// Readers that do not know it ignore it: it is a field of the source's record.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct GapRecord {
    /// The timestamp up to which everything was sent before the gap, `<seconds>:<increment>`.
    pub after: String,
    /// The timestamp of the last entry that may be missing, `<seconds>:<increment>`.
    pub through: String,
    /// The time at which the gap was recorded, in milliseconds since 1970.
    pub at: i64,
    /// The reason why the entries were skipped.
    pub reason: GapReason,
}

/// The reason why entries were skipped.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum GapReason {
    /// An operator moved the position forward.
    Operator,
    /// A reason that this version does not know.
    #[serde(other)]
    Unknown,
}

impl GapReason {
    /// Returns the reason as a clause.
    #[must_use]
    pub const fn text(self) -> &'static str {
        match self {
            Self::Operator => "an operator moved the position forward",
            Self::Unknown => "a later version recorded it",
        }
    }
}

impl GapRecord {
    /// Creates the record of a gap.
    #[must_use]
    pub fn new(after: Timestamp, through: Timestamp, at: i64, reason: GapReason) -> Self {
        Self {
            after: after.to_string(),
            through: through.to_string(),
            at,
            reason,
        }
    }

    /// Returns what remains of the gap if everything after `position` is sent again; `None` if the
    /// gap is filled.
    ///
    /// # Errors
    /// [`PositionError`] if one of its texts is not a timestamp.
    pub fn before(&self, position: Timestamp) -> Result<Option<Self>, PositionError> {
        let (after, through): (Timestamp, Timestamp) = (self.after.parse()?, self.through.parse()?);
        let through = through.min(position);
        Ok((after < through).then(|| Self {
            through: through.to_string(),
            ..self.clone()
        }))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_gap_has_its_frozen_form_and_a_later_reason_is_accepted() {
        let text = r#"{"after":"7:3","through":"9:1","at":12,"reason":"operator"}"#;
        let gap: GapRecord = serde_json::from_str(text).unwrap();
        assert_eq!(serde_json::to_string(&gap).unwrap(), text);
        let later = text.replace("operator", "moonlight");
        let gap: GapRecord = serde_json::from_str(&later).unwrap();
        assert_eq!(gap.reason, GapReason::Unknown);
    }

    #[test]
    fn entries_that_are_sent_again_fill_a_gap() {
        let at = |seconds| Timestamp::new(seconds, 1);
        let gap = GapRecord::new(at(5), at(9), 0, GapReason::Operator);
        let left = |seconds| gap.before(at(seconds)).unwrap().map(|gap| gap.through);
        assert_eq!(left(4), None);
        assert_eq!(left(5), None);
        assert_eq!(left(7), Some("7:1".to_owned()));
        assert_eq!(left(11), Some("9:1".to_owned()));
    }
}
