//! Log messages about the topics of another program, mainly about what cannot be known from them.

use std::collections::BTreeMap;

use oplog_relay_core::foreign::{Program, Writer, recognize};

use crate::error::ConsumerError;
use crate::input::ForeignInput;
use crate::worker::sink::Sink;
use crate::worker::topic_error::TopicError;

/// Checks that the topics exist, and logs what cannot be known from them. `partitions` has the
/// topics of the input with their numbers of partitions.
///
/// # Errors
/// Returns [`TopicError::Missing`] if a named topic does not exist, or if there is no topic at
/// all.
pub(crate) fn check(
    input: &ForeignInput,
    sink: &Sink,
    partitions: &BTreeMap<String, i32>,
) -> Result<(), TopicError> {
    let topics: Vec<&str> = partitions.keys().map(String::as_str).collect();
    let missing = input.topics.unmatched(&topics);
    let (patterns, names): (Vec<&str>, Vec<&str>) =
        missing.into_iter().partition(|name| name.contains('*'));
    if topics.is_empty() || !names.is_empty() {
        let names = if names.is_empty() { patterns } else { names };
        let topics = names.into_iter().map(str::to_owned).collect();
        return Err(TopicError::Missing { topics });
    }
    for pattern in patterns {
        tracing::warn!(pattern, "no topic matches this pattern of --topics yet");
    }
    let writer = input.writer;
    tracing::info!(
        input = writer.name(),
        topics = topics.join(","),
        "reading the topics of another program. Repeated records are harmless, but no reader can detect \
         records that the program has lost: compare source and target with verify"
    );
    tracing::warn!(input = writer.name(), "{}", commands_of(writer));
    warn_of_partitions(input, sink, partitions);
    Ok(())
}

/// Returns which commands of the source the records contain.
const fn commands_of(writer: Writer) -> &'static str {
    match writer {
        Writer::MongoshakeBson | Writer::MongoshakeJson | Writer::MongoshakeRaw => {
            "MongoShake writes the commands of the source (create, drop, rename, indexes) only with \
             filter.ddl_enable = true, and never writes copied documents to Kafka"
        }
        Writer::MongoKafkaJson | Writer::MongoKafkaBson => {
            "these events include drop and rename, but the creation of collections and indexes only with \
             change.stream.show.expanded.events=true; without it, create the indexes on the target \
             yourself. In an update without fullDocument, a field whose name contains a dot cannot be \
             distinguished from a path"
        }
        Writer::Debezium => {
            "these events include no commands, so drops, renames and index changes on the source do not \
             reach the target. In an update without after, a field whose name contains a dot cannot be \
             distinguished from a path"
        }
    }
}

fn warn_of_partitions(input: &ForeignInput, sink: &Sink, partitions: &BTreeMap<String, i32>) {
    let mut several = partitions.iter().filter(|(_, count)| **count > 1);
    let Some((topic, count)) = several.next() else {
        return;
    };
    let others = several.count();
    let writer = input.writer.name();
    if sink.target().is_none() {
        tracing::warn!(
            input = writer,
            topic,
            partitions = count,
            others,
            "lines are in order only within a partition"
        );
        return;
    }
    tracing::warn!(
        input = writer,
        topic,
        partitions = count,
        others,
        "Kafka keeps no order across the partitions of a topic, so commands in these topics are refused, \
         except the creation of an index that cannot refuse a document (--dead-letter command stores \
         them and continues)"
    );
    if input.writer.is_mongoshake() {
        tracing::warn!(
            input = writer,
            "MongoShake writes the operations of large transactions to partition 0, regardless of the \
             partitions of their documents. A document that such a transaction changed may remain \
             wrong; compare source and target with verify"
        );
    } else if input.accepts_any_order {
        tracing::warn!(
            input = writer,
            "--allow-unordered: the keys of the records are not checked. An older change may overwrite a \
             newer one; compare source and target with verify"
        );
    }
}

/// Names the program that seems to have written the first record in the error for an unclaimed
/// topic.
pub(super) fn naming_the_writer(error: ConsumerError, value: Option<&[u8]>) -> ConsumerError {
    match (error, value.and_then(recognize)) {
        (
            ConsumerError::Topic(TopicError::Unclaimed { topic, prefix, .. }),
            Some(Program::Other(writer)),
        ) => TopicError::Unclaimed {
            topic,
            prefix,
            writer: Some(writer),
        }
        .into(),
        (error, _) => error,
    }
}
