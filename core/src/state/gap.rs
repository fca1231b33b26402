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
    /// The timestamp after which an operator has had the entries sent nevertheless,
    /// `<seconds>:<increment>`: they follow later entries in the topics.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub resent_after: Option<String>,
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
            resent_after: None,
        }
    }

    /// Returns one gap that covers this one and a later one. A text that is not a timestamp is replaced
    /// by that of the other gap.
    #[must_use]
    pub fn merged(&self, later: &Self) -> Self {
        let parse = |text: &String| text.parse::<Timestamp>().ok();
        let texts = |one: &String, other: &String| [parse(one), parse(other)].into_iter().flatten();
        let after = texts(&self.after, &later.after).min();
        let through = texts(&self.through, &later.through).max();
        let resent = [&self.resent_after, &later.resent_after];
        let resent = resent.into_iter().flatten().filter_map(parse).min();
        Self {
            after: after.map_or_else(|| self.after.clone(), |after| after.to_string()),
            through: through.map_or_else(|| later.through.clone(), |through| through.to_string()),
            resent_after: resent.map(|resent| resent.to_string()),
            ..later.clone()
        }
    }

    /// Returns true if a position is before the end of the gap, so that entries of the gap are sent after
    /// later ones.
    ///
    /// # Errors
    /// [`PositionError`] if the end is not a timestamp.
    pub fn is_crossed_by(&self, position: Timestamp) -> Result<bool, PositionError> {
        Ok(position < self.through.parse::<Timestamp>()?)
    }

    /// Returns the gap after everything after `position` is sent again.
    ///
    /// # Errors
    /// [`PositionError`] if one of its texts is not a timestamp.
    pub fn resent(self, position: Timestamp) -> Result<Self, PositionError> {
        if !self.is_crossed_by(position)? {
            return Ok(self);
        }
        let begin = position.max(self.after.parse()?);
        let earlier = self.resent_after.as_deref().map(str::parse::<Timestamp>);
        let begin = earlier
            .transpose()?
            .map_or(begin, |earlier| earlier.min(begin));
        Ok(Self {
            resent_after: Some(begin.to_string()),
            ..self
        })
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
    fn a_gap_stays_recorded_when_its_entries_are_sent_later() {
        let at = |seconds| Timestamp::new(seconds, 1);
        let gap = GapRecord::new(at(5), at(9), 0, GapReason::Operator);
        let resent = |gap: GapRecord, seconds| gap.resent(at(seconds)).unwrap();
        let after = |seconds| resent(gap.clone(), seconds).resent_after;
        assert_eq!(after(4), Some("5:1".to_owned()));
        assert_eq!(after(7), Some("7:1".to_owned()));
        assert_eq!(after(9), None);
        // The earliest position counts.
        let twice = resent(resent(gap.clone(), 6), 8);
        assert_eq!(twice.resent_after.as_deref(), Some("6:1"));
        let text = serde_json::to_string(&twice).unwrap();
        assert_eq!(
            text,
            r#"{"after":"5:1","through":"9:1","at":0,"reason":"operator","resent_after":"6:1"}"#
        );
    }
}
