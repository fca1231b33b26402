//! Log messages about the topics of another program, mainly about what cannot be known from them.

use std::collections::BTreeMap;

use oplog_relay_core::foreign::{Program, Writer, recognize};

use crate::error::ConsumerError;
use crate::input::ForeignInput;
use crate::worker::sink::Sink;

/// Checks that the topics exist, and logs what cannot be known from them. `partitions` has the
/// topics of the input with their numbers of partitions.
///
/// # Errors
/// Returns [`ConsumerError::Usage`] if a named topic does not exist, or if there is no topic at
/// all.
pub(crate) fn tell(
    input: &ForeignInput,
    sink: &Sink,
    partitions: &BTreeMap<String, i32>,
) -> Result<(), ConsumerError> {
    let topics: Vec<&str> = partitions.keys().map(String::as_str).collect();
    let missing = input.topics.without(&topics);
    let (patterns, names): (Vec<&str>, Vec<&str>) =
        missing.into_iter().partition(|name| name.contains('*'));
    if topics.is_empty() || !names.is_empty() {
        let names = if names.is_empty() { patterns } else { names };
        return Err(ConsumerError::Usage(format!(
            "--topics: Kafka has no topic {}, or it may not be read: give the names of the topics that the \
             other program writes",
            names.join(", ")
        )));
    }
    for pattern in patterns {
        tracing::warn!(pattern, "no topic matches this pattern of --topics yet");
    }
    let writer = input.writer;
    tracing::info!(
        input = writer.name(),
        topics = topics.join(","),
        "reading the topics of another program. It may have written a record twice, which is applied again \
         without effect, or lost one, which no reader can detect: compare both ends with verify"
    );
    tracing::warn!(input = writer.name(), "{}", commands_of(writer));
    tell_of_partitions(input, sink, partitions);
    Ok(())
}

/// Returns which commands of the source the records contain.
const fn commands_of(writer: Writer) -> &'static str {
    match writer {
        Writer::MongoshakeBson | Writer::MongoshakeJson | Writer::MongoshakeRaw => {
            "MongoShake writes the commands of the source (create, drop, rename, indexes) only with \
             filter.ddl_enable = true, and copied documents not at all"
        }
        Writer::MongoKafkaJson | Writer::MongoKafkaBson => {
            "these events have drop and rename, and the creation of collections and indexes only with \
             change.stream.show.expanded.events=true: create the indexes on the target yourself. A field \
             whose name has a dot cannot be told from a path in an update without fullDocument"
        }
        Writer::Debezium => {
            "these events have no commands: what the source drops, renames or indexes stays as it is on the \
             target. A field whose name has a dot cannot be told from a path in an update without after"
        }
    }
}

fn tell_of_partitions(input: &ForeignInput, sink: &Sink, partitions: &BTreeMap<String, i32>) {
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
            "lines are in order per partition only"
        );
        return;
    }
    tracing::warn!(
        input = writer,
        topic,
        partitions = count,
        others,
        "topics with several partitions have no order across them: a command other than the creation of a \
         plain index is refused there (--dead-letter command stores it and continues)"
    );
    if input.writer.is_mongoshake() {
        tracing::warn!(
            input = writer,
            "MongoShake writes the operations of large transactions to partition 0, whatever their documents: \
             a document that such a transaction changed may be wrong for good. Compare both ends with \
             verify"
        );
    } else if input.accepts_any_order {
        tracing::warn!(
            input = writer,
            "--allow-unordered: the keys of the records are not checked. An older change may overwrite a \
             newer one; compare both ends with verify"
        );
    }
}

/// Adds the program that the first record looks like to the error for an unknown topic.
pub(super) fn naming_the_writer(error: ConsumerError, value: Option<&[u8]>) -> ConsumerError {
    match (error, value.and_then(recognize)) {
        (ConsumerError::Refused(text), Some(Program::Other(writer))) => {
            ConsumerError::Refused(format!(
                "{text}. Its record looks like one of another program: read the topic with \
                 --input {writer} --topics"
            ))
        }
        (error, _) => error,
    }
}
