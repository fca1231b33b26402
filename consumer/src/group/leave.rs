//! Leaves the group.

use std::time::{Duration, Instant};

use oplog_relay_runtime::shutdown::GRACE;
use rdkafka::consumer::Consumer;

use super::commit;
use super::poller::{BUSY_POLL, Poller};

/// Part of the shutdown grace period that is reserved for the last commit and for leaving the group.
const RESERVE: Duration = Duration::from_secs(5);
/// Time limit for leaving the group. After that, the client is dropped, which also leaves the
/// group.
const LEAVE: Duration = Duration::from_secs(2);

impl Poller {
    /// Closes the queues, waits for the workers to end, commits the offsets that they acknowledged, and
    /// leaves the group.
    pub(super) fn leave(&mut self) {
        let context = self.consumer.context();
        context.close_queues();
        let left = self.parts.shutdown.time_left().unwrap_or(GRACE);
        let deadline = Instant::now() + left.saturating_sub(RESERVE);
        while context.has_workers() && Instant::now() < deadline {
            self.parts.health.beat();
            self.parts.reports.wait(BUSY_POLL);
            for chunk in context.take_reports(&mut self.intake) {
                drop(chunk);
            }
            context.abandon_waits();
        }
        context.invalidate_all();
        drop(context.take_reports(&mut self.intake));
        if !self.consumer.assignment_lost()
            && let Some(commits) = context.acknowledged()
        {
            commit::commit(&self.consumer, &commits);
        }
        context.forget_all();
        self.close();
    }

    /// Returns true if Kafka reports that the group is completing a rebalance.
    fn is_completing_rebalance(&self) -> bool {
        let group = Some(self.consumer.context().group.as_str());
        let list = self.consumer.fetch_group_list(group, LEAVE / 2);
        list.is_ok_and(|list| {
            let mut groups = list.groups().iter();
            groups.any(|group| group.state() == "CompletingRebalance")
        })
    }

    /// Leaves the group. Dropping the client also leaves it, but checks for the end only every 100 ms.
    fn close(&self) {
        let deadline = Instant::now() + LEAVE;
        // librdkafka 2.12 crashes if it is closed while the group completes a rebalance that then fails
        // (`rd_kafka_cgrp_handle_LeaveGroup` without a broker). This can happen if three members end at
        // the same time.
        while self.is_completing_rebalance() && Instant::now() < deadline {
            drop(self.consumer.poll(BUSY_POLL));
        }
        if let Err(error) = self.consumer.close_queue() {
            tracing::debug!(
                %error,
                "leaving the group failed; the group is left when the client is dropped"
            );
            return;
        }
        while !self.consumer.closed() && Instant::now() < deadline {
            drop(self.consumer.poll(BUSY_POLL));
        }
    }
}
