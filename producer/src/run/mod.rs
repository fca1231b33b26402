//! The command `run`: follows one source, or several of which each has its own position, metrics and
//! failures. Instances may share their sources ([`crate::instances`]).
//!
//! # Modules
//!
//! - `followed_source` holds the configuration of a source, and what HTTP reports about it
//! - `follower` follows a source, through outages and in turn with other instances

mod followed_source;
mod follower;

use std::sync::Arc;
use std::time::Duration;

use oplog_relay_runtime::exit::ExitCode;
use oplog_relay_runtime::http::{self, Http, Part};
use oplog_relay_runtime::shutdown::Shutdown;
use oplog_relay_runtime::startup_error::StartupError;
use serde_json::json;
use tokio::task::JoinSet;
use tracing::{Instrument, Span};

use crate::config::{RunConfig, SourceConfig};
use crate::error::ProducerError;
use crate::instances::{Instances, Leadership};
use crate::registry::SchemaRegistry;
use crate::run::followed_source::{FollowedSource, Setting};
use crate::run::follower::{Follower, Outages};
use crate::session::pipeline::Outcome;
use crate::{exit_code_of, report};

/// Time that sessions have to end after the grace period of a shutdown.
const AFTER_FORCED: Duration = Duration::from_millis(500);

/// Follows the sources until they are done or a shutdown is requested. If one of several sources
/// fails, the others continue.
///
/// # Errors
/// [`StartupError`] if the program cannot start; the error of the only source; the error of the group
/// of instances.
pub async fn run(config: RunConfig, shutdown: Shutdown) -> Result<ExitCode, ProducerError> {
    let registry = config.registry.as_ref().map(SchemaRegistry::new);
    let registry = registry.transpose().map_err(Box::new)?.map(Arc::new);
    let setting = Setting {
        sources: config.sources.len(),
        is_shared: config.instances.is_some(),
        stalled_after: config.serve.stalled_after,
    };
    let sources = config.sources.into_iter();
    let sources = sources.map(|source| FollowedSource::new(source, setting));
    let sources: Vec<Arc<FollowedSource>> = sources.collect::<Result<_, _>>()?;
    let instances = config.instances.map(|instances| {
        let configs: Vec<&SourceConfig> = sources.iter().map(|it| &*it.config).collect();
        Instances::new(instances, &configs)
    });
    let mut parts: Vec<Part> = sources.iter().map(|source| source.part()).collect();
    parts.extend(instances.as_ref().map(Instances::part));
    let listener = http::bind(&config.serve.address)
        .await
        .map_err(StartupError::from)?;
    let mut background = JoinSet::new();
    if let Some(listener) = listener {
        let shown = Http::of_parts(parts, status_of(sources.clone()));
        background.spawn(log_failure(shown.serve(listener, shutdown.clone())));
    }
    let mut followers = JoinSet::new();
    for (number, source) in sources.iter().enumerate() {
        let leadership = instances.as_ref().map(|it| it.leadership(number));
        let follower = Follower {
            source: Arc::clone(source),
            registry: registry.clone(),
            outages: outages(setting, leadership),
            shutdown: shutdown.clone(),
        };
        followers.spawn(reported(follower.run(), setting).instrument(span_of(source, setting)));
    }
    let members = async {
        match instances {
            Some(instances) => instances.run(&shutdown).await,
            None => Ok(()),
        }
    };
    let followed = async {
        let ended = await_all(followers, setting, &shutdown).await;
        // The group is left only when the sessions have ended.
        shutdown.trigger();
        ended
    };
    let all = async { tokio::join!(followed, members) };
    let ended = tokio::select! {
        (ended, left) = all => left.and(ended),
        // The group's coordinator may not answer.
        () = after_forced(&shutdown) => Ok(shutdown.exit_code().unwrap_or(ExitCode::Failed)),
    };
    background.shutdown().await;
    ended
}

/// Returns the span that names one of several sources in everything that is logged for it. At the level
/// of errors it is never filtered out.
fn span_of(source: &FollowedSource, setting: Setting) -> Span {
    match setting.is_alone() {
        true => Span::none(),
        false => tracing::error_span!("source", name = source.name()),
    }
}

/// Logs the error that ends one of several sources. The program itself reports the error of its only
/// source.
async fn reported(
    following: impl Future<Output = Result<Outcome, ProducerError>>,
    setting: Setting,
) -> Result<Outcome, ProducerError> {
    let ended = following.await;
    if let Err(error) = &ended
        && !setting.is_alone()
    {
        report(error);
    }
    ended
}

/// Waits until the program must exit, and a moment longer, so that sessions can end.
async fn after_forced(shutdown: &Shutdown) {
    shutdown.forced().await;
    tokio::time::sleep(AFTER_FORCED).await;
}

fn outages(setting: Setting, leadership: Option<Leadership>) -> Outages {
    match leadership {
        Some(leadership) => Outages::Shared(leadership),
        None if setting.is_alone() => Outages::End,
        None => Outages::Retried,
    }
}

/// Waits until all sources have ended, and returns the exit code of the program. The first source
/// that failed determines it, unless a signal ended the program.
async fn await_all(
    mut followers: JoinSet<Result<Outcome, ProducerError>>,
    setting: Setting,
    shutdown: &Shutdown,
) -> Result<ExitCode, ProducerError> {
    let mut failed = None;
    let mut is_stopped = false;
    while let Some(ended) = followers.join_next().await {
        let ended = ended.map_err(|_| ProducerError::Ended("a task that follows a source ended"));
        match ended.flatten() {
            Ok(outcome) => is_stopped |= outcome == Outcome::Stopped,
            Err(error) if setting.is_alone() => return Err(error),
            Err(error) => {
                failed.get_or_insert(exit_code_of(&error));
                if !followers.is_empty() {
                    // The program does not try it again by itself: after fencing, two programs would
                    // fence each other in turn.
                    tracing::warn!(
                        still_followed = followers.len(),
                        "a source has ended, and is followed again only when the program is started again; \
                         the other sources are followed further"
                    );
                }
            }
        }
    }
    let signalled = shutdown.exit_code();
    if let Some(code) = signalled
        .filter(|_| is_stopped || failed.is_some())
        .or(failed)
    {
        return Ok(code);
    }
    if is_stopped {
        return Err(ProducerError::Ended("the stream ended without a shutdown"));
    }
    tracing::info!("done: everything that was requested is committed");
    Ok(ExitCode::Done)
}

/// Returns the body of `/status`: that of the only source, or a list.
fn status_of(sources: Vec<Arc<FollowedSource>>) -> http::Status {
    Arc::new(move || match &sources[..] {
        [source] => source.status(),
        sources => json!({
            "program": "oplog-producer",
            "version": env!("CARGO_PKG_VERSION"),
            "sources": sources.iter().map(|source| source.status()).collect::<Vec<_>>(),
        }),
    })
}

/// Serves HTTP, and logs the error that ends it.
async fn log_failure(served: impl Future<Output = Result<(), http::HttpError>>) {
    if let Err(error) = served.await {
        tracing::error!(%error, "the HTTP server failed");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_source_that_was_fenced_determines_the_exit_code_when_the_others_have_ended() {
        let setting = Setting {
            sources: 2,
            is_shared: false,
            stalled_after: Duration::from_secs(60),
        };
        let mut followers = JoinSet::new();
        followers.spawn(async {
            Err(ProducerError::Fenced {
                transactional_id: "cdc.eu".to_owned(),
            })
        });
        followers.spawn(async { Ok(Outcome::Done) });
        let ended = await_all(followers, setting, &Shutdown::manual()).await;
        assert_eq!(ended.unwrap(), ExitCode::Fenced);
    }
}
