//! `oplog-producer position list`: the saved positions of all sources.

use oplog_relay_core::topic::parse_position_topic;
use oplog_relay_runtime::clock::now_ms;
use oplog_relay_runtime::kafka::{Admin, KafkaOptions, Reader};

use crate::config::position::{ListConfig, Output};
use crate::error::ProducerError;
use crate::position::show::{PositionJson, age_of, time_of};
use crate::saved::checkpoint::Checkpoint;
use crate::stdout::print_line;

/// Prints the saved positions of all sources whose position topics exist. A record that cannot be read
/// is printed as the fault of its source, and is the error at the end.
pub(super) async fn list(kafka: &KafkaOptions, config: &ListConfig) -> Result<(), ProducerError> {
    let topics = Admin::connect(kafka).await?.topics().await?;
    let reader = Reader::new(kafka);
    let mut count = 0;
    let mut unreadable = None;
    for topic in topics.keys() {
        let Some(name) = parse_position_topic(topic) else {
            continue;
        };
        if config
            .topic_prefix
            .as_ref()
            .is_some_and(|prefix| prefix != name.prefix)
        {
            continue;
        }
        count += 1;
        let (prefix, source) = (name.prefix, name.source);
        let line = match Checkpoint::read_without_state(&reader, prefix, source).await {
            Ok(saved) => match config.output {
                Output::Text => text(prefix, source, &saved),
                Output::Json => json(prefix, source, &saved),
            },
            // The other sources are listed nevertheless.
            Err(ProducerError::Saved(fault)) => {
                let line = match config.output {
                    Output::Text => format!("{prefix}  {source}  {fault}"),
                    Output::Json => {
                        let fault = fault.to_string();
                        serde_json::json!({ "prefix": prefix, "source": source, "fault": fault })
                            .to_string()
                    }
                };
                unreadable = Some(fault);
                line
            }
            Err(error) => return Err(error),
        };
        print_line(&line)?;
    }
    if count == 0 {
        tracing::info!("no position topic exists");
    }
    unreadable.map_or(Ok(()), |fault| Err(ProducerError::Saved(fault)))
}

fn json(prefix: &str, source: &str, saved: &Checkpoint) -> String {
    let position = saved.position.map(PositionJson::new);
    let line = serde_json::json!({
        "prefix": prefix,
        "source": source,
        "position": position,
        "saved_at": saved.place.and_then(|place| place.written_ms).map(time_of),
        "offset": saved.place.map(|place| place.offset),
    });
    line.to_string()
}

fn text(prefix: &str, source: &str, saved: &Checkpoint) -> String {
    let Some(position) = saved.position else {
        return format!("{prefix}  {source}  no position");
    };
    let at = i64::from(position.ts.seconds) * 1000;
    let age = age_of(now_ms(), at);
    format!("{prefix}  {source}  {position}  {}  {age} ago", time_of(at))
}
