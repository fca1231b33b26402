//! Waiting at barriers. The group's committed offsets are the only coordination: a follower waits
//! for the leader's partition to get past the command, the leader for every partition to stand
//! before it.
//!
//! # Why a command has its place
//!
//! - A worker commits a barrier's own offset only when all before it is applied, and applies
//!   nothing behind it until it passes. So when all partitions are committed at their barriers, all
//!   earlier writes are on the target and no later one is. What follows the last record would not
//!   do as an offset: control records may lie between it and the barrier.
//! - The leader's own partition counts too, at the command. Were it committed further back, the
//!   next owner after a crash would apply writes again after the command ran: into a collection
//!   that was dropped, or, where a rename is not noted as done yet, into one that the second
//!   rename then puts in the place of the first one's.
//! - Offsets say where partitions stand, never whether a command ran: the catalog does, and it is
//!   written before the leader commits past the command. A crash between run and note finds all
//!   partitions where they were, so the command runs again, harmlessly.
//! - A partition that is beyond although the command did not run began at another point in time
//!   than the rest. Whoever finds that out stops: the leader when a follower is beyond, a follower
//!   when the leader is.
//! - All wait also for a command that ran: it may have moved documents to other partitions (a
//!   rename to another topic, a unique index to the first partition), and when a stretch is
//!   replayed their later entries must not overtake the earlier ones.
//!
//! # Index builds
//!
//! An index that can refuse a document for the values in it must not be built before the entries
//! that corrected such a document, which may be in any partition. It need not be built before later
//! entries: these found the index at the source. So its barrier is *passable*: the leader waits until
//! the others have come to their barriers, or are beyond them, and no other partition waits for the
//! build, which may take hours. A unique index limits later entries of other documents too, and has
//! a barrier that everybody waits at.
//!
//! # Commands that a namespace filter leaves out
//!
//! They do not run and nobody gathers for them, so the catalog does not have them either. A follower
//! recognizes them by the namespaces in the barrier, and does not ask whether they ran. Barriers of
//! earlier producers do not name any: for these the leader notes in the catalog, before it goes
//! past the command, that there was nothing to do.
//!
//! # Why no wait is endless
//!
//! One source writes all barriers, so they stand in one order in all partitions. Of all commands
//! that somebody waits for take the earliest: no partition waits before its barrier, so all come to
//! it, then the leader passes, then the others. A partition that begins beyond it counts as being
//! there, whatever it waits for.
//!
//! `tests/protocol` goes through this in any order of steps, with crashes, rebalances and resets.
//! What it cannot show: a write under way when its member loses the partition may still arrive; and
//! a reset of some partitions alone does not converge where a command moved documents to others.

use std::time::{Duration, Instant};

use oplog_relay_core::barrier::Barrier;
use oplog_relay_core::filter::NamespaceFilter;
use rdkafka::error::{KafkaError, RDKafkaErrorCode};

use crate::error::ConsumerError;
use crate::group::committed::{Absence, Committed, Offsets, Question};
use crate::topic_partition::TopicPartition;
use crate::worker::assignment::Token;

/// Waiting for longer than this is told, and again after as long.
const TELL_AFTER: Duration = Duration::from_secs(30);
/// The token is looked at that often.
const TOKEN: Duration = Duration::from_millis(200);

/// How a wait ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Waited {
    /// What was waited for is there.
    Reached,
    /// All are there, and a partition is past its barrier. If the command did not run, where the
    /// group began was no cut in time.
    Beyond(TopicPartition, i64),
    /// A partition that is on its way is of a topic that is not in the cluster.
    Absent(TopicPartition, Absence),
    /// The partition was taken away, or the program ends.
    Abandoned,
}

/// What a namespace filter makes of a command.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Side {
    /// The command runs as it is.
    Inside,
    /// A rename takes the collection out of the namespaces that pass: the collection is dropped.
    Leaves,
    /// A rename brings a collection in of which the target does not have the documents.
    Enters,
    /// The command concerns only collections that are left out: it does not run.
    Outside,
}

impl Side {
    /// Decides for a command that concerns these collections: one, or both names of a rename.
    /// A command that names none concerns everybody.
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

/// Whether a barrier says that its command concerns only collections that the filter leaves out.
#[must_use]
pub fn is_left_out(barrier: &Barrier, filter: &NamespaceFilter) -> bool {
    let namespaces = barrier.namespaces.as_ref();
    namespaces.is_some_and(|namespaces| Side::of(namespaces, filter) == Side::Outside)
}

/// Whether the leader has to note that it left a command out, because the followers cannot tell.
#[must_use]
pub const fn needs_note(barrier: &Barrier) -> bool {
    barrier.namespaces.is_none()
}

/// The partition that has a barrier's command.
#[must_use]
pub fn leader(barrier: &Barrier) -> TopicPartition {
    TopicPartition {
        topic: barrier.leader_topic.clone(),
        partition: 0,
    }
}

/// Where the other partitions' barriers stand.
#[must_use]
pub fn followers(barrier: &Barrier) -> Vec<(TopicPartition, i64)> {
    let leader = leader(barrier);
    barrier
        .partitions
        .iter()
        .flat_map(|(topic, offsets)| {
            (0..).zip(offsets).map(|(partition, offset)| {
                let topic = topic.clone();
                (TopicPartition { topic, partition }, *offset)
            })
        })
        .filter(|(name, _)| *name != leader)
        .collect()
}

/// Where every partition stands when the command may run: the others at their barriers, the
/// leader's own at the command. Its own counts too: what lies before the command must never be
/// applied again once the command ran, not even by the next owner after a crash. An index build,
/// whose barrier is passable, may see entries again that lie before it.
#[must_use]
pub fn stations(barrier: &Barrier) -> Vec<(TopicPartition, i64)> {
    let mut stations = followers(barrier);
    if barrier.passable {
        return stations;
    }
    stations.push((leader(barrier), barrier.leader_offset + 1));
    stations
}

/// What a leader knows of the [`stations`]; `None` while a partition is on its way.
#[must_use]
pub fn gathered(stations: &[(TopicPartition, i64)], committed: &Offsets) -> Option<Waited> {
    let mut beyond = None;
    for (name, barrier) in stations {
        match committed.get(name) {
            Some(committed) if committed == barrier => {}
            Some(committed) if committed > barrier => {
                beyond.get_or_insert_with(|| Waited::Beyond(name.clone(), *committed));
            }
            _ => return None,
        }
    }
    Some(beyond.unwrap_or(Waited::Reached))
}

/// Whether the leader's partition is past the command.
#[must_use]
pub fn is_past(barrier: &Barrier, committed: &Offsets) -> bool {
    gathered(&[past_command(barrier)], committed).is_some()
}

/// Where the leader's partition stands when it is past the command.
fn past_command(barrier: &Barrier) -> (TopicPartition, i64) {
    (leader(barrier), barrier.leader_offset + 2)
}

/// What to do about a topic that is waited for and not in the cluster.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum AbsentTopics {
    /// Nobody can say whether its writes were applied.
    Report,
    /// Its partitions count as having reached their barriers.
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

/// What a leader knows of where the partitions stand; `None` while one of them is on its way. Nobody
/// stands at a passable barrier, so being beyond it is the same.
#[must_use]
pub fn assembled(barrier: &Barrier, committed: &Offsets) -> Option<Waited> {
    Some(freed(barrier, gathered(&stations(barrier), committed)?))
}

fn freed(barrier: &Barrier, waited: Waited) -> Waited {
    match waited {
        Waited::Beyond(..) if barrier.passable => Waited::Reached,
        waited => waited,
    }
}

/// Waits until every partition is committed at its station or beyond it.
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
    mut stations: Vec<(TopicPartition, i64)>,
    barrier: &Barrier,
    token: &Token,
    absent: AbsentTopics,
) -> Waited {
    let names = stations.iter().map(|(name, _)| name.clone());
    let mut question = committed.ask(names.collect());
    let mut told = Instant::now();
    while token.is_valid() {
        let answer = tokio::time::timeout(TOKEN, question.answer());
        let Ok(found) = answer.await else { continue };
        if let Some(waited) = gathered(&stations, &found) {
            return waited;
        }
        let on_its_way = |(name, offset): &(TopicPartition, i64)| {
            found.get(name).is_none_or(|committed| committed < offset)
        };
        let lost = stations.iter().find_map(|station| {
            let absence = committed.absence(&station.0.topic)?;
            on_its_way(station).then(|| (station.0.clone(), absence))
        });
        match (lost, absent) {
            (Some((name, absence)), AbsentTopics::Report) => return Waited::Absent(name, absence),
            (Some((name, _)), AbsentTopics::PassOver) => {
                tracing::warn!(
                    command = %barrier.command,
                    topic = name.topic,
                    "topic does not exist; passing over its partitions at a barrier"
                );
                stations.retain(|station| station.0.topic != name.topic);
                continue;
            }
            (None, _) => {}
        }
        if told.elapsed() >= TELL_AFTER {
            told = Instant::now();
            tell(&question, barrier, &found);
        }
    }
    Waited::Abandoned
}

/// Names what a barrier waits for, so that nobody takes it for stuck.
fn tell(question: &Question, barrier: &Barrier, found: &Offsets) {
    let shown: Vec<String> = question
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

/// The error for a wait for a topic that is not in the cluster.
#[must_use]
pub fn absent_topic(barrier: &Barrier, name: &TopicPartition, why: Absence) -> ConsumerError {
    let waits = format!(
        "the command {} of topic {} has to wait for partition {} of topic {}",
        barrier.command, barrier.leader_topic, name.partition, name.topic
    );
    match why {
        Absence::Unknown => ConsumerError::OffsetsLost(format!(
            "{waits}, which does not exist: it was deleted, and with it entries that this group has \
             not applied. Begin again from topics that are complete, or pass over the topic with \
             --allow-partial-reset if its entries are not needed"
        )),
        Absence::Hidden => ConsumerError::kafka(
            format!(
                "{waits}, but the Kafka user of this program does not have the rights Describe and \
                 Read on topic {}; the wait",
                name.topic
            ),
            KafkaError::MetadataFetch(RDKafkaErrorCode::TopicAuthorizationFailed),
        ),
    }
}

/// What to tell when a partition is beyond its barrier.
#[must_use]
pub fn no_cut(barrier: &Barrier, beyond: &TopicPartition, committed: i64) -> ConsumerError {
    ConsumerError::OffsetsLost(format!(
        "the command {} of topic {} did not run on this target, but partition {} of {} is committed \
         at {committed}, past its barrier: the partitions of this group do not begin at one point \
         in time, as after a reset of some of them. Running the command now would act on writes \
         that came after it. Stop all members and reset all topics of the prefix to one time \
         (`kafka-consumer-groups --reset-offsets --to-datetime`), or accept it with \
         --allow-partial-reset",
        barrier.command, barrier.leader_topic, beyond.partition, beyond.topic
    ))
}

/// What to tell when the leader's partition is past a command that did not run.
#[must_use]
pub fn skipped(barrier: &Barrier) -> ConsumerError {
    ConsumerError::OffsetsLost(format!(
        "the command {} of topic {} did not run on this target, but partition 0 of that topic is \
         committed past it: the partitions of this group do not begin at one point in time, as after \
         a reset of some of them, the target's catalog was removed, or the namespaces of the group \
         were changed when that partition was already past the command. Going on would leave the \
         command out. Stop all members and reset all topics of the prefix to one time \
         (`kafka-consumer-groups --reset-offsets --to-datetime`), or accept it with \
         --allow-partial-reset",
        barrier.command, barrier.leader_topic
    ))
}

#[cfg(test)]
mod tests {
    use super::*;
    use oplog_relay_core::position::{EntryId, Timestamp};

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
            partitions: vec![("a".into(), vec![5, 7]), ("b".into(), vec![3])],
        }
    }

    fn name(topic: &str, partition: i32) -> TopicPartition {
        let topic = topic.to_owned();
        TopicPartition { topic, partition }
    }

    #[test]
    fn a_leader_waits_for_all_and_tells_who_is_beyond() {
        let followers = followers(&barrier());
        assert_eq!(followers, [(name("a", 1), 7), (name("b", 0), 3)]);
        let own = (name("a", 0), 6);
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
                Some(Waited::Beyond(name("b", 0), 4)),
            ),
        ];
        for (committed, expected) in table {
            let committed = committed.into_iter().collect();
            assert_eq!(gathered(&followers, &committed), expected, "{committed:?}");
        }
    }

    #[test]
    fn a_build_waits_for_what_is_before_it_and_nobody_waits_for_a_build() {
        let barrier = Barrier {
            passable: true,
            ..barrier()
        };
        assert_eq!(stations(&barrier), [(name("a", 1), 7), (name("b", 0), 3)]);
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
    fn a_filter_takes_a_side_and_a_barrier_without_namespaces_does_not_tell() {
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
    fn a_follower_waits_until_the_command_is_behind() {
        for (offset, past) in [(5, false), (6, false), (7, true), (8, true)] {
            let committed = [(name("a", 0), offset)].into_iter().collect();
            assert_eq!(is_past(&barrier(), &committed), past, "{offset}");
        }
    }
}
