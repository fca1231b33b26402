//! The history of a source, and the partitions with its entries. The partitions are written as the
//! producer writes them: a command has the offsets of all its barriers, and there are gaps for control
//! records and aborted records.

use std::collections::BTreeMap;

use oplog_consumer::topic_partition::TopicPartition;
use oplog_consumer::worker::barrier::Side;
use oplog_relay_core::barrier::{Barrier, TopicBarriers};
use oplog_relay_core::collection_uuid::CollectionUuid;
use oplog_relay_core::filter::NamespaceFilter;
use oplog_relay_core::position::{EntryId, Timestamp};

use crate::target::Collections;

/// The collections, each with its own topic.
pub(crate) const NAMES: [&str; 3] = ["s.a", "s.b", "s.c"];
/// Number of entries in one second of the source.
const PER_SECOND: usize = 4;

/// A write to a document.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Write {
    /// The whole document.
    Insert,
    /// One of its two fields.
    Update(usize),
    Delete,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Command {
    Create(usize),
    Drop(usize),
    /// A rename with `dropTarget`.
    Rename(usize, usize),
    /// A command after which all writes of the collection go to one partition, as with a unique index.
    Order(usize),
    /// A build of an index that can refuse a document because of its values. Later writes do not wait
    /// for it.
    Build(usize),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Event {
    Write(usize, u8, Write),
    Run(Command),
    /// The end of a Kafka transaction: control records, and possibly an aborted record before them.
    Gap(usize),
}

/// An entry of the source.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Entry {
    pub(crate) id: EntryId,
    /// The index in the history, which is also the value that the entry writes.
    pub(crate) number: u32,
    pub(crate) ui: Option<CollectionUuid>,
    pub(crate) event: Event,
}

#[derive(Debug, Clone)]
pub(crate) enum Record {
    Entry(Entry),
    Barrier(Barrier),
    Command(Barrier, Entry),
}

/// The format of barriers: with the namespaces of their commands, or without them, as earlier producers
/// wrote them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Naming {
    Named,
    Unnamed,
}

/// The topics of one source.
#[derive(Debug)]
pub(crate) struct Log {
    pub(crate) partitions: Vec<TopicPartition>,
    /// The records by partition and offset; `None` is a gap.
    pub(crate) records: Vec<Vec<Option<Record>>>,
    /// All entries in the order of the source.
    pub(crate) entries: Vec<Entry>,
    naming: Naming,
}

/// The collections of the source, and their routing.
#[derive(Debug)]
struct Source {
    /// The UUID of each collection, and true if its writes all go to one partition.
    collections: BTreeMap<usize, (CollectionUuid, bool)>,
    created: u8,
}

impl Log {
    /// Writes the events, except for those that are impossible in the state of the source. `spread` has
    /// the number of partitions by topic.
    pub(crate) fn of(events: &[Event], spread: &[usize], with_ui: bool) -> Self {
        Self::named(events, spread, with_ui, Naming::Named)
    }

    pub(crate) fn named(events: &[Event], spread: &[usize], with_ui: bool, naming: Naming) -> Self {
        let partitions: Vec<TopicPartition> = (0..)
            .zip(spread)
            .flat_map(|(topic, count)| (0..*count).map(move |number| name(topic, number)))
            .collect();
        let mut log = Self {
            records: vec![Vec::new(); partitions.len()],
            partitions,
            entries: Vec::new(),
            naming,
        };
        let collections = BTreeMap::new();
        let created = 0;
        let mut source = Source {
            collections,
            created,
        };
        for event in events {
            if let Event::Gap(width) = event {
                log.gap(*width);
                continue;
            }
            if let Some((ui, ordered)) = source.takes(*event, spread.len()) {
                let ui = with_ui.then_some(ui);
                log.push(*event, ui, ordered, spread);
            }
        }
        log.gap(1);
        log
    }

    fn push(&mut self, event: Event, ui: Option<CollectionUuid>, ordered: bool, spread: &[usize]) {
        let number = self.entries.len();
        let entry = Entry {
            id: EntryId {
                ts: Timestamp::new(
                    u32::try_from(1 + number / PER_SECOND).unwrap(),
                    u32::try_from(1 + number % PER_SECOND).unwrap(),
                ),
                ord: 0,
            },
            number: u32::try_from(number).unwrap(),
            ui,
            event,
        };
        self.entries.push(entry);
        match event {
            Event::Write(topic, document, _) => {
                let partition = usize::from(document) % if ordered { 1 } else { spread[topic] };
                let index = self.index(&name(topic, partition));
                self.records[index].push(Some(Record::Entry(entry)));
            }
            Event::Run(command) => self.push_command(command, entry, spread),
            Event::Gap(_) => {}
        }
    }

    /// Writes a command as the producer does: a barrier in each partition and, after the leader's
    /// barrier, the command with the offsets of all barriers.
    fn push_command(&mut self, command: Command, entry: Entry, spread: &[usize]) {
        let topics = topics(command);
        let mut barrier = Barrier {
            command: entry.id,
            leader_topic: topic(topics[0]),
            leader_offset: self.end(&name(topics[0], 0)),
            ordered: false,
            passable: matches!(command, Command::Build(_)),
            namespaces: (self.naming == Naming::Named).then(|| namespaces(command)),
            partitions: Vec::new(),
        };
        let noop = barrier.clone();
        for concerned in &topics {
            let ends = (0..spread[*concerned]).map(|number| self.end(&name(*concerned, number)));
            barrier.partitions.push(TopicBarriers {
                topic: topic(*concerned),
                offsets: ends.collect(),
            });
        }
        for concerned in &topics {
            for number in 0..spread[*concerned] {
                let index = self.index(&name(*concerned, number));
                self.records[index].push(Some(Record::Barrier(noop.clone())));
            }
        }
        let leader = self.index(&name(topics[0], 0));
        self.records[leader].push(Some(Record::Command(barrier, entry)));
    }

    fn gap(&mut self, width: usize) {
        for records in &mut self.records {
            // A transaction has control records only in the partitions that it wrote to.
            if matches!(records.last(), Some(Some(_))) {
                records.extend(std::iter::repeat_n(None, width));
            }
        }
    }

    pub(crate) fn index(&self, name: &TopicPartition) -> usize {
        self.partitions.iter().position(|it| it == name).unwrap()
    }

    fn end(&self, name: &TopicPartition) -> i64 {
        i64::try_from(self.records[self.index(name)].len()).unwrap()
    }

    /// Returns the next record of a partition and its offset, without gaps.
    pub(crate) fn next(&self, partition: usize, from: i64) -> Option<(i64, &Record)> {
        let records = (0..).zip(&self.records[partition]);
        let mut after = records.skip(usize::try_from(from).unwrap());
        after.find_map(|(offset, record)| Some((offset, record.as_ref()?)))
    }

    /// Returns the commands whose barriers a partition has between two offsets, except passable
    /// ones.
    pub(crate) fn commands(
        &self,
        partition: usize,
        (from, to): (i64, i64),
    ) -> impl Iterator<Item = EntryId> {
        let records = (0..).zip(&self.records[partition]);
        let within = records.filter(move |(offset, _)| (from..to).contains(offset));
        within.filter_map(|(_, record)| match record {
            Some(Record::Barrier(barrier)) if !barrier.passable => Some(barrier.command),
            _ => None,
        })
    }

    /// Returns the numbers of the entries that a partition has before an offset.
    pub(crate) fn written_before(
        &self,
        partition: usize,
        offset: i64,
    ) -> impl Iterator<Item = usize> {
        let records = (0..offset).zip(&self.records[partition]);
        records.filter_map(|(_, record)| match record {
            Some(Record::Entry(entry)) => usize::try_from(entry.number).ok(),
            _ => None,
        })
    }

    /// Returns the position of a consumer that has taken everything before `next`. It skips only
    /// the gaps at the end.
    pub(crate) fn position(&self, partition: usize, next: i64) -> i64 {
        match self.next(partition, next) {
            Some(_) => next,
            None => i64::try_from(self.records[partition].len()).unwrap(),
        }
    }

    /// Returns the offset of the first record of each partition from a second of the source on, as
    /// Kafka finds it by time.
    pub(crate) fn cut(&self, second: u32) -> Vec<i64> {
        let starts = self.records.iter().map(|records| {
            let from = records.iter().position(|record| {
                let at = record.as_ref().map(|record| match record {
                    Record::Entry(entry) | Record::Command(_, entry) => entry.id.ts.seconds,
                    Record::Barrier(barrier) => barrier.command.ts.seconds,
                });
                at.is_some_and(|at| at >= second)
            });
            i64::try_from(from.unwrap_or(records.len())).unwrap()
        });
        starts.collect()
    }

    /// Returns the included collections of the source at the end of the log.
    pub(crate) fn reference(&self, filter: &NamespaceFilter) -> Collections {
        self.state_before(u32::MAX, filter)
    }

    /// Returns the included collections of the source at the start of a second.
    pub(crate) fn state_before(&self, second: u32, filter: &NamespaceFilter) -> Collections {
        let mut collections = Collections::default();
        let before = self
            .entries
            .iter()
            .filter(|entry| entry.id.ts.seconds < second);
        for entry in before {
            match entry.event {
                Event::Write(ns, document, write) if filter.passes(NAMES[ns]) => {
                    collections.write(NAMES[ns], document, write, entry.number);
                }
                Event::Run(command) => {
                    if let Some(command) = filtered(command, filter) {
                        collections.run(command);
                    }
                }
                Event::Write(..) | Event::Gap(_) => {}
            }
        }
        collections
    }

    /// Returns true if a rename moves an excluded collection, whose documents the target does not have,
    /// to an included name.
    pub(crate) fn enters(&self, filter: &NamespaceFilter) -> bool {
        self.entries.iter().any(|entry| match entry.event {
            Event::Run(command) => Side::of(&namespaces(command), filter) == Side::Enters,
            Event::Write(..) | Event::Gap(_) => false,
        })
    }

    /// Returns true if a command runs in a group with this filter.
    pub(crate) fn is_run(&self, id: EntryId, filter: &NamespaceFilter) -> bool {
        self.entries.iter().any(|entry| match entry.event {
            Event::Run(command) => entry.id == id && filtered(command, filter).is_some(),
            Event::Write(..) | Event::Gap(_) => false,
        })
    }

    /// Returns true if a command moves documents to other partitions.
    pub(crate) fn moves(&self) -> bool {
        let moves = |event| matches!(event, Event::Run(Command::Rename(..) | Command::Order(_)));
        self.entries.iter().any(|entry| moves(entry.event))
    }
}

impl Source {
    /// Applies an event, if it is possible. Returns the collection's UUID and order.
    fn takes(&mut self, event: Event, topics: usize) -> Option<(CollectionUuid, bool)> {
        let concerned = match event {
            Event::Write(ns, ..) => vec![ns],
            Event::Run(command) => self::topics(command),
            Event::Gap(_) => return None,
        };
        if concerned.iter().any(|ns| *ns >= topics) {
            return None;
        }
        match event {
            Event::Run(Command::Create(ns)) if !self.collections.contains_key(&ns) => {
                self.created += 1;
                let collection = (CollectionUuid([self.created; 16]), false);
                self.collections.insert(ns, collection);
                Some(collection)
            }
            Event::Run(Command::Drop(ns)) => self.collections.remove(&ns),
            Event::Run(Command::Rename(from, to)) if from != to => {
                let moved = self.collections.remove(&from)?;
                self.collections.insert(to, moved);
                Some(moved)
            }
            Event::Run(Command::Order(ns)) => {
                let found = self.collections.get_mut(&ns)?;
                found.1 = true;
                Some(*found)
            }
            Event::Write(ns, ..) | Event::Run(Command::Build(ns)) => {
                self.collections.get(&ns).copied()
            }
            Event::Run(_) | Event::Gap(_) => None,
        }
    }
}

/// Returns the topics that a command concerns. The first one has the leader.
pub(crate) fn topics(command: Command) -> Vec<usize> {
    match command {
        Command::Create(ns) | Command::Drop(ns) | Command::Order(ns) | Command::Build(ns) => {
            vec![ns]
        }
        Command::Rename(from, to) => vec![from, to],
    }
}

/// Returns the names of the collections that a command concerns.
pub(crate) fn namespaces(command: Command) -> Vec<String> {
    let concerned = topics(command);
    concerned.iter().map(|ns| NAMES[*ns].to_owned()).collect()
}

/// Returns the command that a group with this filter runs; `None` if it is excluded.
pub(crate) fn filtered(command: Command, filter: &NamespaceFilter) -> Option<Command> {
    match Side::of(&namespaces(command), filter) {
        Side::Inside | Side::Enters => Some(command),
        Side::Leaves => Some(Command::Drop(topics(command)[0])),
        Side::Outside => None,
    }
}

fn topic(ns: usize) -> String {
    format!("t.{}", NAMES[ns])
}

pub(crate) fn name(ns: usize, partition: usize) -> TopicPartition {
    TopicPartition {
        topic: topic(ns),
        partition: i32::try_from(partition).unwrap(),
    }
}
