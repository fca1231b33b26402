//! `oplog-producer position show`: the saved position of a source.

use oplog_relay_core::position::{Position, Timestamp};
use oplog_relay_core::state::{GapRecord, SourceMode};
use oplog_relay_core::topic::position_topic;
use oplog_relay_runtime::clock::{now_ms, utc};
use oplog_relay_runtime::kafka::KafkaOptions;
use serde::Serialize;

use crate::config::position::{Output, ShowConfig};
use crate::error::ProducerError;
use crate::oplog_window::OplogWindow;
use crate::position::live_source::LiveSource;
use crate::position::set::{check_saved, mode_of, open};
use crate::position::write::{self, Place};
use crate::position_lost::Gap;
use crate::saved::checkpoint::Checkpoint;
use crate::stdout::print_line;

/// A position as JSON.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub(super) struct PositionJson {
    ts: String,
    time: String,
    term: i64,
    ord: u32,
}

impl PositionJson {
    pub(super) fn new(position: Position) -> Self {
        Self {
            ts: position.ts.to_string(),
            time: time_of(millis_of(position.ts)),
            term: position.term,
            ord: position.ord,
        }
    }
}

/// Everything that is shown.
#[derive(Debug, Serialize)]
struct Shown {
    prefix: String,
    source: String,
    mode: SourceMode,
    position: Option<PositionJson>,
    age_seconds: Option<i64>,
    saved_at: Option<String>,
    topic: String,
    offset: Option<i64>,
    routing: Option<u32>,
    open_transaction: Option<String>,
    resume_token: Option<String>,
    began: Option<String>,
    full_sync_collections: usize,
    gaps: Vec<GapRecord>,
    oplog: Option<OplogJson>,
}

/// The oplog of the source as JSON.
#[derive(Debug, Serialize)]
struct OplogJson {
    oldest: Option<String>,
    newest: Option<String>,
    window_seconds: Option<i64>,
    head_room_seconds: Option<i64>,
    /// Whether the stream can continue from the position; `None` if that is not known.
    holds_position: Option<bool>,
    /// The reason, unless the oplog holds the position.
    reason: Option<String>,
}

/// Prints the saved position.
pub(super) async fn show(kafka: &KafkaOptions, config: &ShowConfig) -> Result<(), ProducerError> {
    let of = &config.of;
    check_saved(kafka, of).await?;
    let place = Place {
        kafka,
        prefix: &of.topic_prefix,
        source: &of.source_name,
    };
    let saved = write::read(place).await?;
    let mode = mode_of(&saved);
    let mut shown = shown(place, mode, &saved);
    if let Some(source) = open(of, mode.into()).await? {
        saved.check_source(&source.record)?;
        shown.oplog = Some(examine(&source, saved.position).await?);
    }
    let text = match config.output {
        Output::Text => lines(&shown),
        Output::Json => {
            serde_json::to_string(&shown).expect("it has only texts, numbers, lists and objects")
        }
    };
    print_line(&text)
}

fn shown(place: Place<'_>, mode: SourceMode, saved: &Checkpoint) -> Shown {
    let source = saved.state.source.as_ref();
    let record = saved.place;
    let written = record.and_then(|record| record.written_ms);
    let position = saved.position;
    Shown {
        prefix: place.prefix.to_owned(),
        source: place.source.to_owned(),
        mode,
        position: position.map(PositionJson::new),
        age_seconds: position.map(|position| (now_ms() - millis_of(position.ts)).max(0) / 1000),
        saved_at: written.map(time_of),
        topic: position_topic(place.prefix, place.source),
        offset: record.map(|record| record.offset),
        routing: saved.routing,
        open_transaction: saved.history.open.map(|open| open.to_string()),
        resume_token: saved.resume.as_ref().map(|point| point.token.clone()),
        began: source.and_then(|source| source.began.clone()),
        full_sync_collections: saved.state.copies.len(),
        gaps: source.map_or_else(Vec::new, |source| source.gaps.clone()),
        oplog: None,
    }
}

/// Finds out whether the source's oplog still holds a position.
async fn examine(
    source: &LiveSource,
    position: Option<Position>,
) -> Result<OplogJson, ProducerError> {
    let window = source.window(position.map(|position| position.ts)).await?;
    let (holds_position, reason) = match (window, position) {
        (Some(window), Some(position)) => holds(source, window, position).await?,
        (None, _) => (None, Some("the source's oplog cannot be read".to_owned())),
        (_, None) => (None, Some("no position is saved".to_owned())),
    };
    Ok(OplogJson {
        oldest: window.map(|window| window.oldest.to_string()),
        newest: window.map(|window| window.newest.to_string()),
        window_seconds: window.map(OplogWindow::seconds),
        head_room_seconds: window
            .zip(position)
            .map(|(window, position)| window.head_room(position.ts)),
        holds_position,
        reason,
    })
}

async fn holds(
    source: &LiveSource,
    window: OplogWindow,
    position: Position,
) -> Result<(Option<bool>, Option<String>), ProducerError> {
    if position.ts < window.oldest {
        let gap = Gap::between(position.ts, window.oldest);
        let reason = format!("the oplog begins {gap} after the position");
        return Ok((Some(false), Some(reason)));
    }
    // A change stream continues at a time, whether an event has it or not.
    if source.mode() == SourceMode::ChangeStream {
        return Ok((Some(true), None));
    }
    let oplog = source.oplog().reaching(position.ts).await?;
    let found = match oplog.position_at(position.ts).await? {
        Some(found) => Some(found),
        None => oplog.last_until(position.ts).await?,
    };
    Ok(match found {
        Some(found) if (found.ts, found.term) == (position.ts, position.term) => (Some(true), None),
        Some(found) => {
            let reason = format!(
                "the oplog has no such entry; the last one up to its time is {found}: it was rolled back, \
                 or this is another replica set"
            );
            (Some(false), Some(reason))
        }
        None => (None, Some("the oplog is empty".to_owned())),
    })
}

fn lines(shown: &Shown) -> String {
    let mut lines = vec![format!(
        "source       {} (prefix {}, mode {})",
        shown.source, shown.prefix, shown.mode
    )];
    let mut line = |name: &str, text: String| lines.push(format!("{name:<13}{text}"));
    match &shown.position {
        None => line("position", "none".to_owned()),
        Some(position) => {
            let age = shown.age_seconds.unwrap_or_default();
            line(
                "position",
                format!("{} (term {})", position.ts, position.term),
            );
            line("time", format!("{} ({} ago)", position.time, duration(age)));
            if position.ord > 0 {
                let (ord, ts) = (position.ord, &position.ts);
                let text = format!("only {ord} operations of the entry at {ts} are sent");
                line("transaction", text);
            }
        }
    }
    if let Some(offset) = shown.offset {
        let at = shown.saved_at.as_deref().unwrap_or("unknown");
        line("saved", format!("{at}, offset {offset} of {}", shown.topic));
    }
    if let Some(open) = &shown.open_transaction {
        line("open", format!("a transaction that begins at {open}"));
    }
    if let Some(token) = &shown.resume_token {
        line("token", token.clone());
    }
    if let Some(routing) = shown.routing {
        line("routing", format!("version {routing}"));
    }
    if let Some(began) = &shown.began {
        line("began", format!("after {began}"));
    }
    if shown.full_sync_collections > 0 {
        let copies = shown.full_sync_collections;
        line(
            "full sync",
            format!("{copies} collections are not copied completely"),
        );
    }
    for gap in &shown.gaps {
        let (after, through) = (&gap.after, &gap.through);
        let (at, reason) = (time_of(gap.at), gap.reason.text());
        let resent = gap.resent_after.as_ref();
        let later = resent.map_or_else(String::new, |resent| {
            format!("; the entries after {resent} were sent later")
        });
        let text =
            format!("after {after} through {through}: nothing was sent ({reason}, {at}){later}");
        line("gap", text);
    }
    if let Some(oplog) = &shown.oplog {
        oplog_lines(oplog, &mut line);
    }
    lines.join("\n")
}

fn oplog_lines(oplog: &OplogJson, line: &mut impl FnMut(&str, String)) {
    if let (Some(oldest), Some(newest), Some(window)) =
        (&oplog.oldest, &oplog.newest, oplog.window_seconds)
    {
        let window = duration(window);
        line(
            "oplog",
            format!("{oldest} to {newest}, a window of {window}"),
        );
    }
    if let Some(head_room) = oplog.head_room_seconds.filter(|head_room| *head_room >= 0) {
        line("head-room", duration(head_room));
    }
    let held = match oplog.holds_position {
        Some(true) => "the position is in the oplog",
        Some(false) => "THE POSITION IS LOST",
        None => "whether the position is in the oplog is unknown",
    };
    let reason = oplog.reason.as_ref();
    let text = reason.map_or_else(|| held.to_owned(), |reason| format!("{held}: {reason}"));
    line("state", text);
}

fn millis_of(ts: Timestamp) -> i64 {
    i64::from(ts.seconds) * 1000
}

/// Returns a time in milliseconds since 1970 as RFC 3339.
pub(super) fn time_of(millis: i64) -> String {
    utc(millis)
}

/// Returns the time from one moment to a later one, both in milliseconds.
pub(super) fn age_of(now: i64, then: i64) -> String {
    duration((now - then).max(0) / 1000)
}

fn duration(seconds: i64) -> String {
    let seconds = u32::try_from(seconds).unwrap_or(u32::MAX);
    Gap { seconds }.to_string()
}
