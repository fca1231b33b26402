//! Reports of liveness while a session starts.

use std::time::Duration;

use oplog_relay_runtime::http::Health;

/// Interval between two reports.
pub(crate) const BEAT: Duration = Duration::from_secs(1);

/// Waits until the source or a session is open, and reports liveness while it waits.
///
/// The publisher's loop, which normally reports liveness, runs only once the session is open.
/// Planning a full sync of many collections may take minutes; each request to Kafka and each query
/// of the source has its own time limit.
pub(crate) async fn beating<T>(
    health: &Health,
    every: Duration,
    step: impl Future<Output = T>,
) -> T {
    tokio::pin!(step);
    loop {
        tokio::select! {
            outcome = &mut step => return outcome,
            () = tokio::time::sleep(every) => health.beat(),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Instant;

    use super::*;

    #[tokio::test]
    async fn a_long_plan_does_not_look_stuck() {
        let limit = Duration::from_millis(400);
        let health = Health::new(limit);
        let plan = async {
            let began = Instant::now();
            while began.elapsed() < limit * 2 {
                tokio::task::yield_now().await;
            }
            health.live()
        };
        assert_eq!(beating(&health, limit / 20, plan).await, Ok(()));
    }
}
