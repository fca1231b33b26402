//! A source of this program: its configuration, and what HTTP reports about it.

use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::Duration;

use oplog_relay_runtime::http::{Health, Part};
use oplog_relay_runtime::startup_error::StartupError;
use serde_json::{Value, json};

use crate::config::SourceConfig;
use crate::error::ProducerError;
use crate::session::Lagging;
use crate::session::pipeline::Outcome;
use crate::telemetry::metrics::Metrics;

/// What an instance does for a source.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Role {
    /// It connects to the source, or follows it.
    Active,
    /// Another instance follows the source, and this one waits.
    Standby,
    /// Everything that was requested is committed, or the program was stopped.
    Ended,
    /// An error ended the source.
    Failed(String),
}

impl Role {
    const fn name(&self) -> &'static str {
        match self {
            Self::Active => "active",
            Self::Standby => "standby",
            Self::Ended => "ended",
            Self::Failed(_) => "failed",
        }
    }
}

/// The reason why a source that has just begun is not ready.
const STARTING: &str = "starting";

/// What the sources of a program have in common.
#[derive(Debug, Clone, Copy)]
pub(super) struct Setting {
    /// Number of sources.
    pub(super) sources: usize,
    /// True if several instances share the sources.
    pub(super) is_shared: bool,
    /// The time after which a stall is reported.
    pub(super) stalled_after: Duration,
}

impl Setting {
    /// Returns true if the program has one source.
    pub(super) const fn is_alone(self) -> bool {
        self.sources == 1
    }
}

/// A source of this program.
#[derive(Debug)]
pub(super) struct FollowedSource {
    pub(super) config: Arc<SourceConfig>,
    pub(super) metrics: Arc<Metrics>,
    pub(super) health: Health,
    pub(super) setting: Setting,
    /// Consecutive sessions that ended because a member of the source lagged behind.
    pub(super) lagging: Arc<Mutex<Lagging>>,
    /// The source's name. Without `--source-name` it is known only after the source has answered.
    name: OnceLock<String>,
    role: Mutex<Role>,
}

impl FollowedSource {
    pub(super) fn new(config: SourceConfig, setting: Setting) -> Result<Arc<Self>, ProducerError> {
        let name = OnceLock::new();
        if let Some(given) = &config.stream.source_name {
            name.get_or_init(|| given.clone());
        }
        let metrics = match name.get() {
            Some(name) if !setting.is_alone() || setting.is_shared => Metrics::of_source(name),
            _ => Metrics::new(),
        };
        Ok(Arc::new(Self {
            config: Arc::new(config),
            metrics: Arc::new(metrics.map_err(StartupError::from)?),
            health: Health::new(setting.stalled_after),
            setting,
            lagging: Arc::default(),
            name,
            role: Mutex::new(Role::Standby),
        }))
    }

    /// Returns the source's name; empty as long as it is unknown.
    pub(super) fn name(&self) -> &str {
        self.name.get().map_or("", String::as_str)
    }

    /// Sets the name that the source has reported.
    pub(super) fn set_name(&self, name: &str) {
        self.name.get_or_init(|| name.to_owned());
    }

    /// Returns the source as a part of the HTTP server.
    pub(super) fn part(&self) -> Part {
        let name = (!self.setting.is_alone()).then(|| format!("source {}", self.name()));
        Part {
            name,
            ..Part::whole(self.metrics.registry.clone(), self.health.clone())
        }
    }

    /// Notes that this instance follows the source from now on. After an outage the source stays unready,
    /// with the reason, until it is followed successfully.
    pub(super) fn note_active(&self) {
        let before = std::mem::replace(&mut *self.role(), Role::Active);
        if before != Role::Active {
            self.metrics.set_active(true);
            self.health.set_ready(false, STARTING);
        }
    }

    /// Returns true if the source is not followed successfully. A source that has just begun is not
    /// failing.
    pub(super) fn is_failing(&self) -> bool {
        self.health.live().is_err() || self.health.ready().is_err_and(|it| it != STARTING)
    }

    /// Notes that another instance may follow the source from now on. A standby is ready to take over.
    pub(super) fn note_standby(&self) {
        *self.role() = Role::Standby;
        self.metrics.set_active(false);
        // The position of another instance is not known here.
        self.metrics.forget_position();
        self.health.set_ready(true, "");
    }

    /// Notes that the source has ended: this program does not follow it again.
    pub(super) fn note_ended(&self, ended: &Result<Outcome, ProducerError>) {
        self.metrics.set_active(false);
        *self.role() = match ended {
            Ok(_) => Role::Ended,
            Err(error) => {
                self.health.set_ready(false, &error.to_string());
                Role::Failed(error.to_string())
            }
        };
    }

    /// Returns the source's part of `/status`.
    pub(super) fn status(&self) -> Value {
        let mut status = self.metrics.status(self.name());
        let role = self.role().clone();
        status["role"] = json!(role.name());
        if let Role::Failed(error) = role {
            status["error"] = json!(error);
        }
        status
    }

    fn role(&self) -> MutexGuard<'_, Role> {
        self.role.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
