//! `oplog-producer position import`: the first position of a source, from the checkpoint of another
//! program.

use std::time::Duration;

use bson::{RawDocumentBuf, doc};
use oplog_relay_core::document::Document;
use oplog_relay_core::json::{Mode, write_document};
use oplog_relay_core::position::Timestamp;
use oplog_relay_core::state::{SourceMode, SourceRecord};
use oplog_relay_core::topic::position_topic;
use oplog_relay_runtime::clock::now_ms;
use oplog_relay_runtime::config::Secret;
use oplog_relay_runtime::kafka::{Admin, KafkaOptions};
use oplog_relay_runtime::mongo::{self, READ, in_time};

use crate::config::WantedMode;
use crate::config::position::{CheckpointPlace, ImportConfig, OtherProgram};
use crate::error::ProducerError;
use crate::position::change::{Change, FirstPosition};
use crate::position::checkpoint_of::{Imported, last_entry, mongoshake, other};
use crate::position::error::PositionChangeError;
use crate::position::live_source::{LiveSource, collections_of_gap};
use crate::position::resolve::{Wanted, resolve};
use crate::position::set::{mode_of, open};
use crate::position::write::{self, Place};
use crate::prepare::internal_topics::ensure_internal_topic;
use crate::saved::checkpoint::Checkpoint;

/// Writes the first position of a source.
pub(super) async fn import(
    kafka: &KafkaOptions,
    config: &ImportConfig,
) -> Result<(), ProducerError> {
    let of = &config.of;
    let place = Place {
        kafka,
        prefix: &of.topic_prefix,
        source: &of.source_name,
    };
    let imported = read_checkpoint(config).await?;
    let admin = Admin::connect(kafka).await?;
    let topic = position_topic(place.prefix, place.source);
    let saved = match admin.partitions(&topic).await? {
        Some(_) => write::read(place).await?,
        None => Checkpoint::default(),
    };
    let source = open(of, wanted_mode(&saved, config)).await?;
    if let Some(source) = &source {
        saved.check_source(&source.record)?;
        warn_of_name(place.source, source.record.set_name.as_deref());
    }
    let mode = source
        .as_ref()
        .map_or_else(|| mode_without(&saved, config), LiveSource::mode);
    let wanted = wanted(imported, config, mode, source.is_some());
    tracing::info!(checkpoint = ?imported, %mode, "the checkpoint of the other program is read");
    let identity = source.as_ref().map(|source| source.record.clone());
    let wanted = resolve(wanted, mode, source.as_ref()).await?;
    let collections = collections_of_gap(source.as_ref(), &saved, wanted).await?;
    let change = Change {
        prefix: of.topic_prefix.clone(),
        wanted,
        accepted: config.accepted,
        first: match config.replace {
            true => FirstPosition::Allowed,
            false => FirstPosition::Required,
        },
        identity: identity.unwrap_or_else(|| SourceRecord::new(of.source_name.clone(), mode)),
        collections,
    };
    // A checkpoint that cannot be used creates no topics.
    ensure_internal_topic(
        &admin,
        place.prefix,
        place.source,
        config.replication_factor,
    )
    .await?;
    let decided = write::change(place, &change).await?;
    write::report(&saved, decided.as_ref());
    Ok(())
}

/// Warns of a name that may be mistyped: the position would be saved for a source that no producer
/// follows.
fn warn_of_name(name: &str, set_name: Option<&str>) {
    if let Some(set_name) = set_name.filter(|set_name| *set_name != name) {
        tracing::warn!(
            source = name,
            replica_set = set_name,
            "the source has another name than its replica set: oplog-producer run finds this position only \
             if it is given the same --source-name"
        );
    }
}

/// Returns the saved mode if a position is saved, otherwise the configured one.
fn wanted_mode(saved: &Checkpoint, config: &ImportConfig) -> WantedMode {
    match saved.position {
        None => config.mode,
        Some(_) => mode_of(saved).into(),
    }
}

/// Returns the mode of a source to which the command does not connect.
fn mode_without(saved: &Checkpoint, config: &ImportConfig) -> SourceMode {
    match wanted_mode(saved, config) {
        WantedMode::Oplog => SourceMode::Oplog,
        WantedMode::ChangeStream => SourceMode::ChangeStream,
        WantedMode::Auto if config.program.reads_change_streams() => SourceMode::ChangeStream,
        WantedMode::Auto => SourceMode::Oplog,
    }
}

/// Returns the place that a checkpoint means, moved back by the given time.
fn wanted(imported: Imported, config: &ImportConfig, mode: SourceMode, has_source: bool) -> Wanted {
    let term = config.accepted.term.or(imported.term);
    let ts = back(imported.through, config.back);
    // An oplog is asked for the last entry up to the time, because the other program may have saved a
    // time that no entry has. Without an oplog, the entry is trusted.
    let is_exact = config.back.is_zero() && (imported.term.is_some() || !has_source);
    match mode {
        SourceMode::Oplog if is_exact && imported.is_entry => Wanted::Entry { ts, term },
        SourceMode::Oplog | SourceMode::ChangeStream => Wanted::Through(ts),
    }
}

/// Returns a timestamp moved back by whole seconds.
fn back(ts: Timestamp, by: Duration) -> Timestamp {
    let seconds = u32::try_from(by.as_secs()).unwrap_or(u32::MAX);
    match seconds {
        0 => ts,
        seconds => Timestamp::new(ts.seconds.saturating_sub(seconds), ts.increment),
    }
}

/// Reads the checkpoint, and checks that it is not in the future.
async fn read_checkpoint(config: &ImportConfig) -> Result<Imported, ProducerError> {
    let imported = Box::pin(read_place(config)).await?;
    // With the source, the time is compared with its newest entry.
    if config.of.uri.is_none() {
        let past = imported.check_past(now_ms());
        past.map_err(|reason| PositionChangeError::Checkpoint {
            place: config.place.to_string(),
            reason,
        })?;
    }
    Ok(imported)
}

async fn read_place(config: &ImportConfig) -> Result<Imported, ProducerError> {
    let name = config.checkpoint_name.as_deref();
    let unusable =
        |place: String, reason: String| PositionChangeError::Checkpoint { place, reason };
    let place = config.place.to_string();
    let path = match &config.place {
        CheckpointPlace::File(path) => path.clone(),
        CheckpointPlace::Collection {
            uri,
            db,
            collection,
        } => {
            let documents = documents(uri, db, collection).await?;
            let found = mongoshake(&documents, name);
            return Ok(found.map_err(|reason| unusable(place, reason))?);
        }
    };
    let unreadable = |source| ProducerError::File {
        path: path.display().to_string(),
        source,
    };
    if config.program == OtherProgram::Mongodump {
        let file = path.clone();
        let found = tokio::task::spawn_blocking(move || last_entry(&file)).await;
        let found =
            found.map_err(|_| ProducerError::Ended("the thread that reads the dump ended"))?;
        let found = found.map_err(unreadable)?;
        return Ok(found.map_err(|reason| unusable(place, reason))?);
    }
    let text = tokio::fs::read_to_string(&path).await.map_err(unreadable)?;
    let found = other(config.program, &text, name);
    Ok(found.map_err(|reason| unusable(place, reason))?)
}

/// Reads the documents of a checkpoint collection as Extended JSON.
async fn documents(
    uri: &Secret,
    db: &str,
    collection: &str,
) -> Result<Vec<serde_json::Value>, ProducerError> {
    let client = mongo::connect(uri, "oplog-producer", |_| ()).await?;
    let found = client.database(db).collection::<RawDocumentBuf>(collection);
    let mut found = in_time(READ, found.find(doc! {}))
        .await
        .map_err(ProducerError::Source)?;
    let mut documents = Vec::new();
    while in_time(READ, found.advance())
        .await
        .map_err(ProducerError::Source)?
    {
        let (document, mut text) = (Document::new(found.current().as_bytes()), Vec::new());
        let document = document.map_err(ProducerError::undecodable)?;
        let written = write_document(document, Mode::Canonical, &mut text);
        written.map(drop).map_err(ProducerError::undecodable)?;
        // A document that cannot be parsed as JSON is not a checkpoint.
        documents.extend(serde_json::from_slice::<serde_json::Value>(&text));
    }
    Ok(documents)
}
