//! Waiting at barriers. Members coordinate only through the group's committed offsets: a follower
//! waits until the leader's partition is past the command, and the leader waits until every
//! other partition is at its barrier.
//!
//! # Why a command runs at its place
//!
//! - A worker commits a barrier's own offset only when everything before it is applied, and applies
//!   nothing after it until it passes. So when all partitions are committed at their barriers, all
//!   earlier writes are on the target and no later one is. To commit the offset after the record
//!   before the barrier would not suffice, because control records may lie between the two.
//! - The leader's own partition counts too, at the command. If it were committed further back, the next
//!   owner after a crash would apply writes again after the command ran: to a collection that was
//!   dropped, or, if a rename is not recorded as done yet, to a collection that the second rename
//!   then moves over the result of the first one.
//! - Offsets do not show whether a command ran. The catalog does, and it is written before the
//!   leader commits past the command. After a crash between the command and its note in the
//!   catalog, all partitions are where they were, so the command runs again, harmlessly.
//! - A partition that is past its barrier although the command did not run started at a different
//!   point in time from the others. The worker that detects this stops: the leader if a follower is
//!   past its barrier, a follower if the leader is past the command.
//! - All workers also wait for a command that has already run. It may have moved documents to other
//!   partitions (a rename to another topic, a unique index to the first partition), and when entries
//!   are replayed again, the later entries of these documents must not overtake the earlier ones.
//!
//! # Index builds
//!
//! An index that can refuse a document because of its values must not be built before the entries
//! that correct such a document are applied, and these may be in any partition. It need not be
//! built before later entries, because these were written with the index on the source. So its
//! barrier is *passable*: the leader waits until the others have reached their barriers, or are
//! past them, and no other partition waits for the build, which may take hours. A unique index also
//! constrains later entries of other documents, and has a barrier at which all partitions wait.
//!
//! # Commands that a namespace filter excludes
//!
//! An excluded command does not run. Its leader passes it without waiting for the other partitions,
//! and does not record it in the catalog. The followers still wait until the leader is past the
//! command. They recognize it by the namespaces in the barrier, and do not check whether it ran.
//! Barriers of earlier producers do not have namespaces. For these, the leader records in the
//! catalog, before it passes the command, that it was passed over.
//!
//! # Why every wait ends
//!
//! One source writes all barriers, so they are in the same order in all partitions. Consider the
//! earliest of all commands that a partition waits for: no partition waits before its barrier, so all
//! of them reach it, then the leader passes, then the others. A partition that starts after the barrier
//! counts as having reached it, whatever it waits for.
//!
//! `tests/protocol` checks this for any order of steps, with crashes, rebalances and resets. It cannot
//! cover two cases: a write that is in progress when its member loses the partition may still
//! arrive, and a reset of only some partitions does not converge if a command moved documents to
//! other partitions.

use std::time::{Duration, Instant};

use oplog_relay_core::barrier::Barrier;
use oplog_relay_core::filter::NamespaceFilter;
use rdkafka::error::{KafkaError, RDKafkaErrorCode};

use crate::error::ConsumerError;
use crate::group::committed::{Absence, Committed, OffsetRequest, Offsets};
use crate::topic_partition::TopicPartition;
use crate::worker::assignment::Token;
use crate::worker::barrier_error::{BarrierError, Wait};

/// Interval at which a wait is logged.
const LOG_INTERVAL: Duration = Duration::from_secs(30);
/// Interval at which the token is checked.
const TOKEN_CHECK: Duration = Duration::from_millis(200);

/// The result of a wait.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Waited {
    /// All partitions have reached their barriers.
    Reached,
    /// All partitions have reached their barriers, and this one is past its own. If the command did
    /// not run, the group did not start at one point in time.
    Beyond {
        /// The partition.
        name: TopicPartition,
        /// The offset at which it is committed.
        committed: i64,
    },
    /// A partition that has not reached its barrier belongs to a topic that does not exist, or that
    /// this program may not read.
    Absent {
        /// The partition.
        name: TopicPartition,
        /// The reason.
        why: Absence,
    },
    /// The partition was revoked, or the program ends.
    Abandoned,
}

/// The offset at which a partition must be committed for a barrier to be reached.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Station {
    /// The topic and partition.
    pub name: TopicPartition,
    /// The offset.
    pub offset: i64,
}

/// The effect of a namespace filter on a command.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Side {
    /// The command runs as it is.
    Inside,
    /// A rename moves the collection out of the included namespaces, so the collection is dropped.
    Leaves,
    /// A rename moves in a collection whose documents the target does not have.
    Enters,
    /// The command concerns only excluded collections, so it does not run.
    Outside,
}

impl Side {
    /// Returns the effect on a command that concerns these collections: one, or both names of a
    /// rename. A command without namespaces concerns all collections.
    #[must_use]
    pub fn of(namespaces: &[String], filter: &NamespaceFilter) -> Self {
        let mut passes = namespaces.iter().map(|ns| filter.passes(ns));
        match (passes.next(), passes.next()) {
            (None, _) | (Some(true), None | Some(true)) => Self::Inside,
            (Some(true), Some(false)) => Self::Leaves,
            (Some(false), Some(true)) => Self::Enters,
            (Some(false), None | Some(false)) => Self::Outside,
        }
    }
}

/// Returns true if a barrier shows that its command concerns only excluded collections.
#[must_use]
pub fn is_left_out(barrier: &Barrier, filter: &NamespaceFilter) -> bool {
    let namespaces = barrier.namespaces.as_ref();
    namespaces.is_some_and(|namespaces| Side::of(namespaces, filter) == Side::Outside)
}

/// Returns true if the leader has to record that it passed over an excluded command, because the
/// followers cannot detect that from the barrier.
#[must_use]
pub const fn needs_note(barrier: &Barrier) -> bool {
    barrier.namespaces.is_none()
}

/// Returns the partition that contains a barrier's command.
#[must_use]
pub fn leader(barrier: &Barrier) -> TopicPartition {
    TopicPartition {
        topic: barrier.leader_topic.clone(),
        partition: 0,
    }
}

/// Returns the barrier offsets of the other partitions.
#[must_use]
pub fn followers(barrier: &Barrier) -> Vec<Station> {
    let leader = leader(barrier);
    barrier
        .partitions
        .iter()
        .flat_map(|barriers| {
            (0..).zip(&barriers.offsets).map(|(partition, offset)| {
                let topic = barriers.topic.clone();
                Station {
                    name: TopicPartition { topic, partition },
                    offset: *offset,
                }
            })
        })
        .filter(|station| station.name != leader)
        .collect()
}

/// Returns the offsets at which every partition must be committed for the command to run: the
/// leader's own partition at the command, the others at their barriers. The leader's partition
/// counts too, because entries before the command must never be applied again once the command ran,
/// not even by the next owner after a crash. An index build, whose barrier is passable, tolerates
/// that entries before it are applied again.
#[must_use]
pub fn stations(barrier: &Barrier) -> Vec<Station> {
    let mut stations = followers(barrier);
    if barrier.passable {
        return stations;
    }
    stations.push(Station {
        name: leader(barrier),
        offset: barrier.leader_offset + 1,
    });
    stations
}

/// Returns the state of the [`stations`]; `None` while a partition has not reached its station.
#[must_use]
pub fn gathered(stations: &[Station], committed: &Offsets) -> Option<Waited> {
    let mut beyond = None;
    for Station { name, offset } in stations {
        match committed.get(name) {
            Some(committed) if committed == offset => {}
            Some(committed) if committed > offset => {
                beyond.get_or_insert_with(|| Waited::Beyond {
                    name: name.clone(),
                    committed: *committed,
                });
            }
            _ => return None,
        }
    }
    Some(beyond.unwrap_or(Waited::Reached))
}

/// Returns true if the leader's partition is past the command.
#[must_use]
pub fn is_past(barrier: &Barrier, committed: &Offsets) -> bool {
    gathered(&[past_command(barrier)], committed).is_some()
}

/// Returns the station of the leader's partition after the command.
fn past_command(barrier: &Barrier) -> Station {
    Station {
        name: leader(barrier),
        offset: barrier.leader_offset + 2,
    }
}

/// The policy for a topic that a barrier waits for and that does not exist or may not be read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum AbsentTopics {
    /// Stops, because it is not known whether the entries of the topic were applied.
    Report,
    /// Treats its partitions as if they had reached their barriers.
    PassOver,
}

/// Waits until the leader's partition is past the command of a barrier.
pub async fn follow(
    committed: &Committed,
    barrier: &Barrier,
    token: &Token,
    absent: AbsentTopics,
) -> Waited {
    let stations = vec![past_command(barrier)];
    wait(committed, stations, barrier, token, absent).await
}

/// Returns the state of the partitions for the leader; `None` while one of them has not reached its
/// barrier. Workers do not stop at a passable barrier, so being past it is the same as having reached
/// it.
#[must_use]
pub fn assembled(barrier: &Barrier, committed: &Offsets) -> Option<Waited> {
    Some(freed(barrier, gathered(&stations(barrier), committed)?))
}

fn freed(barrier: &Barrier, waited: Waited) -> Waited {
    match waited {
        Waited::Beyond { .. } if barrier.passable => Waited::Reached,
        waited => waited,
    }
}

/// Waits until every partition is committed at its station or past it.
pub async fn gather(
    committed: &Committed,
    barrier: &Barrier,
    token: &Token,
    absent: AbsentTopics,
) -> Waited {
    let stations = stations(barrier);
    if stations.is_empty() {
        return Waited::Reached;
    }
    let waited = wait(committed, stations, barrier, token, absent).await;
    freed(barrier, waited)
}

async fn wait(
    committed: &Committed,
    mut stations: Vec<Station>,
    barrier: &Barrier,
    token: &Token,
    absent: AbsentTopics,
) -> Waited {
    let names = stations.iter().map(|station| station.name.clone());
    let mut request = committed.request(names.collect());
    let mut logged = Instant::now();
    while token.is_valid() {
        let result = tokio::time::timeout(TOKEN_CHECK, request.next_result());
        let Ok(found) = result.await else { continue };
        if let Some(waited) = gathered(&stations, &found) {
            return waited;
        }
        let on_its_way = |station: &Station| {
            let committed = found.get(&station.name);
            committed.is_none_or(|committed| *committed < station.offset)
        };
        let lost = stations.iter().find_map(|station| {
            let absence = committed.absence(&station.name.topic)?;
            on_its_way(station).then(|| (station.name.clone(), absence))
        });
        match (lost, absent) {
            (Some((name, why)), AbsentTopics::Report) => return Waited::Absent { name, why },
            (Some((name, _)), AbsentTopics::PassOver) => {
                tracing::warn!(
                    command = %barrier.command,
                    topic = name.topic,
                    "topic does not exist or may not be read; passing over its partitions at a \
                     barrier"
                );
                stations.retain(|station| station.name.topic != name.topic);
                continue;
            }
            (None, _) => {}
        }
        if logged.elapsed() >= LOG_INTERVAL {
            logged = Instant::now();
            log_wait(&request, barrier, &found);
        }
    }
    Waited::Abandoned
}

/// Logs the partitions that a barrier waits for, so that the wait is not mistaken for a hang.
fn log_wait(request: &OffsetRequest, barrier: &Barrier, found: &Offsets) {
    let shown: Vec<String> = request
        .names()
        .iter()
        .map(|name| {
            let at = found
                .get(name)
                .map_or_else(|| "no commit".to_owned(), i64::to_string);
            format!("{}[{}] at {at}", name.topic, name.partition)
        })
        .take(8)
        .collect();
    tracing::info!(
        command = %barrier.command,
        leader = barrier.leader_topic,
        offset = barrier.leader_offset,
        waiting_for = shown.join(", "),
        "still waiting at a barrier"
    );
}

/// Returns the error for a wait for an absent topic.
#[must_use]
pub fn absent_topic(barrier: &Barrier, name: &TopicPartition, why: Absence) -> ConsumerError {
    let wait = Wait {
        command: barrier.command,
        leader_topic: barrier.leader_topic.clone(),
        partition: name.clone(),
    };
    match why {
        Absence::Unknown => BarrierError::TopicDeleted { wait }.into(),
        Absence::Unauthorized => ConsumerError::kafka(
            format!(
                "{wait}, but the Kafka user of this program does not have the rights Describe and \
                 Read on topic {}; the wait",
                name.topic
            ),
            KafkaError::MetadataFetch(RDKafkaErrorCode::TopicAuthorizationFailed),
        ),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use oplog_relay_core::barrier::TopicBarriers;
    use oplog_relay_core::position::{EntryId, Timestamp};

    fn barriers(topic: &str, offsets: &[i64]) -> TopicBarriers {
        TopicBarriers {
            topic: topic.to_owned(),
            offsets: offsets.to_vec(),
        }
    }

    fn barrier() -> Barrier {
        Barrier {
            command: EntryId {
                ts: Timestamp::new(1, 1),
                ord: 0,
            },
            ordered: false,
            passable: false,
            leader_topic: "a".into(),
            leader_offset: 5,
            namespaces: None,
            partitions: vec![barriers("a", &[5, 7]), barriers("b", &[3])],
        }
    }

    fn name(topic: &str, partition: i32) -> TopicPartition {
        let topic = topic.to_owned();
        TopicPartition { topic, partition }
    }

    fn station(topic: &str, partition: i32, offset: i64) -> Station {
        let name = name(topic, partition);
        Station { name, offset }
    }

    #[test]
    fn a_leader_waits_for_all_partitions_and_reports_one_that_is_beyond() {
        let followers = followers(&barrier());
        assert_eq!(followers, [station("a", 1, 7), station("b", 0, 3)]);
        let own = station("a", 0, 6);
        assert_eq!(stations(&barrier()), [&followers[..], &[own]].concat());
        let table = [
            (vec![], None),
            (vec![(name("a", 1), 7)], None),
            (vec![(name("a", 1), 7), (name("b", 0), 2)], None),
            (vec![(name("a", 1), 9), (name("b", 0), 2)], None),
            (
                vec![(name("a", 1), 7), (name("b", 0), 3)],
                Some(Waited::Reached),
            ),
            (
                vec![(name("a", 1), 7), (name("b", 0), 4)],
                Some(Waited::Beyond {
                    name: name("b", 0),
                    committed: 4,
                }),
            ),
        ];
        for (committed, expected) in table {
            let committed = committed.into_iter().collect();
            assert_eq!(gathered(&followers, &committed), expected, "{committed:?}");
        }
    }

    #[test]
    fn a_build_waits_for_earlier_entries_and_no_partition_waits_for_the_build() {
        let barrier = Barrier {
            passable: true,
            ..barrier()
        };
        assert_eq!(stations(&barrier), [station("a", 1, 7), station("b", 0, 3)]);
        for (at, expected) in [
            ((6, 3), None),
            ((7, 3), Some(Waited::Reached)),
            ((9, 4), Some(Waited::Reached)),
        ] {
            let committed = [(name("a", 1), at.0), (name("b", 0), at.1)];
            let committed = committed.into_iter().collect();
            assert_eq!(assembled(&barrier, &committed), expected, "{at:?}");
        }
    }

    #[test]
    fn a_filter_takes_a_side_and_a_barrier_without_namespaces_needs_a_note() {
        let filter = NamespaceFilter::new(["s.a", "s.b"], []).unwrap();
        let table: [(&[&str], Side); 7] = [
            (&[], Side::Inside),
            (&["s.a"], Side::Inside),
            (&["s.a", "s.b"], Side::Inside),
            (&["s.a", "s.c"], Side::Leaves),
            (&["s.c", "s.a"], Side::Enters),
            (&["s.c"], Side::Outside),
            (&["s.c", "s.d"], Side::Outside),
        ];
        for (names, side) in table {
            let namespaces: Vec<String> = names.iter().map(|&name| name.to_owned()).collect();
            assert_eq!(Side::of(&namespaces, &filter), side, "{names:?}");
            let named = Barrier {
                namespaces: Some(namespaces),
                ..barrier()
            };
            let left_out = side == Side::Outside;
            assert_eq!(is_left_out(&named, &filter), left_out, "{names:?}");
            assert!(!needs_note(&named));
        }
        assert!(!is_left_out(&barrier(), &filter) && needs_note(&barrier()));
    }

    #[test]
    fn a_follower_waits_until_the_leader_is_past_the_command() {
        for (offset, past) in [(5, false), (6, false), (7, true), (8, true)] {
            let committed = [(name("a", 0), offset)].into_iter().collect();
            assert_eq!(is_past(&barrier(), &committed), past, "{offset}");
        }
    }
}
