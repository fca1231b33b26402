//! `oplog-producer position set`: moves the saved position of a source.

use oplog_relay_core::state::{SourceMode, SourceRecord};
use oplog_relay_core::topic::position_topic;
use oplog_relay_runtime::kafka::{Admin, KafkaOptions};

use crate::config::WantedMode;
use crate::config::position::{SavedSource, SetConfig};
use crate::error::ProducerError;
use crate::position::change::{Change, FirstPosition};
use crate::position::error::PositionChangeError;
use crate::position::live_source::{LiveSource, collections_of_gap};
use crate::position::resolve::{Wanted, resolve};
use crate::position::write::{self, Place};
use crate::saved::checkpoint::Checkpoint;

/// Moves the saved position.
pub(super) async fn set(kafka: &KafkaOptions, config: &SetConfig) -> Result<(), ProducerError> {
    let of = &config.of;
    let place = Place {
        kafka,
        prefix: &of.topic_prefix,
        source: &of.source_name,
    };
    check_saved(kafka, of).await?;
    let saved = write::read(place).await?;
    saved
        .check_kept(place.prefix, place.source, None)
        .map_err(Box::new)?;
    if saved.position.is_none() {
        return Err(not_saved(of));
    }
    let wanted = Wanted::of(&config.to, config.accepted.term)?;
    let mode = mode_of(&saved);
    let source = open(of, mode.into()).await?;
    if let Some(source) = &source {
        saved.check_source(&source.record)?;
    }
    let wanted = resolve(wanted, mode, source.as_ref()).await?;
    let collections = collections_of_gap(source.as_ref(), &saved, wanted).await?;
    let change = Change {
        prefix: of.topic_prefix.clone(),
        wanted,
        accepted: config.accepted,
        first: FirstPosition::Refused,
        identity: SourceRecord::new(of.source_name.clone(), mode),
        collections,
    };
    let decided = write::change(place, &change).await?;
    write::report(&saved, decided.as_ref());
    Ok(())
}

/// Checks that the position topic of a source exists.
///
/// # Errors
/// [`PositionChangeError::NotSaved`].
pub(super) async fn check_saved(
    kafka: &KafkaOptions,
    of: &SavedSource,
) -> Result<(), ProducerError> {
    let topic = position_topic(&of.topic_prefix, &of.source_name);
    let found = Admin::connect(kafka).await?.partitions(&topic).await?;
    found.map(drop).ok_or_else(|| not_saved(of))
}

/// Returns the error for a source without a saved position.
pub(super) fn not_saved(of: &SavedSource) -> ProducerError {
    let error = PositionChangeError::NotSaved {
        source_name: of.source_name.clone(),
        prefix: of.topic_prefix.clone(),
    };
    error.into()
}

/// Returns the way in which a source is read.
pub(super) fn mode_of(saved: &Checkpoint) -> SourceMode {
    let source = saved.state.source.as_ref();
    match source.map(|source| source.mode) {
        Some(mode) => mode,
        None if saved.resume.is_some() => SourceMode::ChangeStream,
        None => SourceMode::Oplog,
    }
}

/// Connects to the source, if it is given.
pub(super) async fn open(
    of: &SavedSource,
    mode: WantedMode,
) -> Result<Option<LiveSource>, ProducerError> {
    match &of.uri {
        Some(uri) => LiveSource::open(uri, &of.source_name, mode).await.map(Some),
        None => Ok(None),
    }
}
