//! Finds positions in a source.

use oplog_relay_core::document::Document;
use oplog_relay_core::json::parse_document;
use oplog_relay_core::position::{Position, Timestamp};
use oplog_relay_core::state::SourceMode;

use crate::config::position::NewPosition;
use crate::error::ProducerError;
use crate::position::error::PositionChangeError;
use crate::position::live_source::LiveSource;
use crate::position_lost::{Gap, PositionLost};
use crate::source::change_stream::token::time_of;

/// A place in a source.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Wanted {
    /// After the newest entry.
    Newest,
    /// After the entry with exactly this timestamp, and with this term if it is known.
    Entry {
        /// The timestamp.
        ts: Timestamp,
        /// The term.
        term: Option<i64>,
    },
    /// After everything up to this timestamp.
    Through(Timestamp),
}

impl Wanted {
    /// Returns the place that an operator means.
    ///
    /// # Errors
    /// [`PositionChangeError`] for a resume token that cannot be read.
    pub(super) fn of(given: &NewPosition, term: Option<i64>) -> Result<Self, PositionChangeError> {
        Ok(match given {
            NewPosition::Now => Self::Newest,
            NewPosition::Second(second) => Self::Through(Timestamp::new(*second, 0).before()),
            NewPosition::Entry(ts) => Self::Entry { ts: *ts, term },
            // The number of the event among those with its cluster time is not known, so all of them
            // are sent again.
            NewPosition::Token(token) => Self::Through(time_of_token(token)?.before()),
        })
    }
}

/// Returns the cluster time of a resume token.
///
/// # Errors
/// [`PositionChangeError::Token`] and [`PositionChangeError::TokenWithoutTime`].
pub(super) fn time_of_token(token: &str) -> Result<Timestamp, PositionChangeError> {
    let text = match token.starts_with('{') {
        true => token.to_owned(),
        false => format!("{{\"_data\":\"{token}\"}}"),
    };
    let mut bytes = Vec::new();
    let unreadable = |reason: String| PositionChangeError::Token { reason };
    parse_document(text.as_bytes(), &mut bytes).map_err(|error| unreadable(error.to_string()))?;
    let token = Document::new(&bytes).map_err(|error| unreadable(error.to_string()))?;
    time_of(token).ok_or(PositionChangeError::TokenWithoutTime)
}

/// Finds a place in a source, or trusts it if the source is not given.
///
/// # Errors
/// [`PositionChangeError`] if it cannot be found; [`ProducerError::PositionLost`] if the oplog does not
/// reach back to it.
pub(super) async fn resolve(
    wanted: Wanted,
    mode: SourceMode,
    source: Option<&LiveSource>,
) -> Result<Position, ProducerError> {
    match (mode, source) {
        (SourceMode::Oplog, Some(source)) => in_oplog(wanted, source).await,
        (SourceMode::Oplog, None) => Ok(without_oplog(wanted)?),
        (SourceMode::ChangeStream, source) => in_change_stream(wanted, source).await,
    }
}

async fn in_oplog(wanted: Wanted, source: &LiveSource) -> Result<Position, ProducerError> {
    let newest = source.newest().await?.ok_or(PositionChangeError::Empty)?;
    let (ts, term) = match wanted {
        Wanted::Newest => return Ok(newest),
        Wanted::Entry { ts, term } => (ts, term),
        Wanted::Through(ts) => (ts, None),
    };
    if ts > newest.ts && ts.seconds > newest.ts.seconds {
        let newest = newest.ts;
        return Err(PositionChangeError::AfterNewest { wanted: ts, newest }.into());
    }
    let oplog = source.oplog().reaching(ts).await?;
    let exact = match wanted {
        Wanted::Entry { .. } => oplog.position_at(ts).await?,
        Wanted::Newest | Wanted::Through(_) => None,
    };
    let before = match exact {
        Some(found) => Some(found),
        None => oplog.last_until(ts).await?,
    };
    match (wanted, before, exact) {
        (_, None, _) => {
            let oldest = oplog.oldest().await?.ok_or(PositionChangeError::Empty)?;
            Err(rolled_over(ts, oldest.ts))
        }
        (Wanted::Entry { .. }, before, None) => {
            Err(PositionChangeError::NoEntry { wanted: ts, before }.into())
        }
        (_, Some(found), _) => match term {
            Some(term) if term != found.term => Err(PositionChangeError::OtherTerm {
                wanted: Position { ts, term, ord: 0 },
                found: found.term,
            }
            .into()),
            _ => Ok(found),
        },
    }
}

fn without_oplog(wanted: Wanted) -> Result<Position, PositionChangeError> {
    match wanted {
        Wanted::Newest => Err(PositionChangeError::NeedsSource {
            what: "the newest entry",
        }),
        Wanted::Through(_) => Err(PositionChangeError::NeedsSource {
            what: "the last entry before a time",
        }),
        Wanted::Entry { ts, term } => {
            let term = term.ok_or(PositionChangeError::NeedsTerm { wanted: ts })?;
            Ok(Position { ts, term, ord: 0 })
        }
    }
}

async fn in_change_stream(
    wanted: Wanted,
    source: Option<&LiveSource>,
) -> Result<Position, ProducerError> {
    let newest = match source {
        Some(source) => source.newest().await?,
        None => None,
    };
    let ts = match wanted {
        Wanted::Newest => return Ok(newest.ok_or_else(|| no_newest(source.is_some()))?),
        Wanted::Entry { ts, .. } | Wanted::Through(ts) => ts,
    };
    if let Some(newest) = newest.filter(|newest| newest.ts < ts) {
        let newest = newest.ts;
        return Err(PositionChangeError::AfterNewest { wanted: ts, newest }.into());
    }
    let window = match source {
        Some(source) => source.window(Some(ts)).await?,
        None => None,
    };
    match window.filter(|window| ts < window.oldest) {
        Some(window) => Err(rolled_over(ts, window.oldest)),
        None => Ok(Position {
            ts,
            term: -1,
            ord: 0,
        }),
    }
}

/// Returns the reason why the newest cluster time is not known.
const fn no_newest(has_source: bool) -> PositionChangeError {
    match has_source {
        true => PositionChangeError::NoClusterTime,
        false => PositionChangeError::NeedsSource {
            what: "the newest cluster time",
        },
    }
}

fn rolled_over(ts: Timestamp, oldest: Timestamp) -> ProducerError {
    let checkpoint = Position {
        ts,
        term: -1,
        ord: 0,
    };
    let gap = Gap::between(ts, oldest);
    Box::new(PositionLost::RolledOver {
        checkpoint,
        oldest,
        gap,
    })
    .into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_is_read_as_json_and_as_its_data() {
        let at = Ok(Timestamp::new(0x63ab_0411, 1));
        assert_eq!(time_of_token("8263AB0411000000012B0229296E04"), at);
        let json = r#"{"_data": "8263AB0411000000012B0229296E04"}"#;
        assert_eq!(time_of_token(json), at);
        let unknown = time_of_token(r#"{"token": 1}"#);
        assert_eq!(unknown, Err(PositionChangeError::TokenWithoutTime));
        assert!(matches!(
            time_of_token("{x"),
            Err(PositionChangeError::Token { .. })
        ));
    }

    #[test]
    fn a_source_that_was_given_is_not_asked_for() {
        assert_eq!(no_newest(true), PositionChangeError::NoClusterTime);
        assert!(no_newest(false).to_string().contains("give --source"));
    }

    #[test]
    fn without_a_source_only_an_entry_with_its_term_is_a_position() {
        let ts = Timestamp::new(7, 3);
        let entry = |term| without_oplog(Wanted::Entry { ts, term });
        assert_eq!(
            entry(Some(2)),
            Ok(Position {
                ts,
                term: 2,
                ord: 0
            })
        );
        assert!(matches!(
            entry(None),
            Err(PositionChangeError::NeedsTerm { .. })
        ));
        for wanted in [Wanted::Newest, Wanted::Through(ts)] {
            let refused = without_oplog(wanted);
            assert!(matches!(
                refused,
                Err(PositionChangeError::NeedsSource { .. })
            ));
        }
    }
}
