//! The right to follow a source, for the code that follows it.

use std::sync::Arc;
use std::time::Duration;

use oplog_relay_runtime::shutdown::{Cause, Shutdown};
use tokio::sync::{mpsc, oneshot};
use tokio::task::JoinSet;

use super::shared_source::SharedSource;

/// A request to the member's thread, and the channel for the answer.
#[derive(Debug)]
pub(super) enum Request {
    /// Ask the group's coordinator whether this instance may follow the source.
    Confirm {
        source: Arc<SharedSource>,
        answer: oneshot::Sender<bool>,
    },
    /// Leave the source to other instances: for a time, or, without one, for as long as the program runs.
    Resign {
        source: Arc<SharedSource>,
        rest: Option<Duration>,
        answer: oneshot::Sender<bool>,
    },
}

/// The right to follow a source. Clones share it.
#[derive(Debug, Clone)]
pub struct Leadership {
    source: Arc<SharedSource>,
    requests: mpsc::Sender<Request>,
}

impl Leadership {
    pub(super) const fn new(source: Arc<SharedSource>, requests: mpsc::Sender<Request>) -> Self {
        Self { source, requests }
    }

    /// Returns true if the source is assigned to this instance.
    #[must_use]
    pub fn is_turn(&self) -> bool {
        self.source.is_assigned()
    }

    /// Waits until the source is assigned to this instance. Cancel-safe.
    pub async fn turn(&self) {
        self.source.assigned(true).await;
    }

    /// Returns a lease. Its shutdown is requested when the source is revoked from this instance or the
    /// program shuts down.
    #[must_use]
    pub fn lease(&self, program: &Shutdown) -> Lease {
        // A rebalance that begins after this line waits for the return of the lease. The task below
        // notices one that has begun before.
        self.source.set_leased(true);
        let shutdown = Shutdown::manual();
        let mut tasks = JoinSet::new();
        let (source, own, program) = (Arc::clone(&self.source), shutdown.clone(), program.clone());
        tasks.spawn(async move {
            tokio::select! {
                () = program.wait() => {
                    own.trigger_as(program.cause().unwrap_or(Cause::Program));
                }
                () = source.assigned(false) => own.trigger(),
            }
            program.forced().await;
            own.force();
        });
        Lease {
            source: Arc::clone(&self.source),
            shutdown,
            _tasks: tasks,
        }
    }

    /// Returns true if the group's coordinator confirms that this instance is a member and the source
    /// is assigned to it. An instance that was suspended for longer than the session timeout still
    /// considers itself a member until it asks.
    pub async fn confirm(&self) -> bool {
        let source = Arc::clone(&self.source);
        self.ask(|answer| Request::Confirm { source, answer }).await
    }

    /// Leaves the source to other instances: for the given time, or, without one, for as long as the
    /// program runs.
    pub async fn resign(&self, rest: Option<Duration>) {
        let source = Arc::clone(&self.source);
        self.ask(|answer| Request::Resign {
            source,
            rest,
            answer,
        })
        .await;
    }

    /// Returns the answer to a request; false if the member's thread has ended.
    async fn ask(&self, request: impl FnOnce(oneshot::Sender<bool>) -> Request) -> bool {
        let (answer_in, answer) = oneshot::channel();
        if self.requests.send(request(answer_in)).await.is_err() {
            return false;
        }
        answer.await.unwrap_or(false)
    }
}

/// The permission to follow a source while it is assigned to this instance. Dropping the lease returns
/// it.
#[derive(Debug)]
pub struct Lease {
    source: Arc<SharedSource>,
    shutdown: Shutdown,
    _tasks: JoinSet<()>,
}

impl Lease {
    /// Returns the shutdown signal of the work that the lease permits.
    #[must_use]
    pub const fn shutdown(&self) -> &Shutdown {
        &self.shutdown
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        self.source.set_leased(false);
    }
}
