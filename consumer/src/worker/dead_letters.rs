//! Dead letters of a worker: records, entries and writes that cannot be applied.

use oplog_relay_core::command::is_command;
use oplog_relay_core::foreign::Writer;
use oplog_relay_core::format::{Format, FormatError};

use super::{Assignment, WorkerContext};
use crate::dead_letter::{Letter, LetterEntry, Reason};
use crate::error::{ConsumerError, text_of};
use crate::record_fault::RecordFault;
use crate::replay::MongoSink;
use crate::replay::plan::PlanError;
use crate::worker::applied::{Applied, Refusal};
use crate::worker::batch::{Batch, Located};
use crate::worker::record_error::RecordError;
use crate::worker::topics::Topic;

impl WorkerContext {
    /// Makes a dead letter of a record that cannot be decoded.
    ///
    /// # Errors
    /// Returns the fault as an error if dead letters for this reason are not enabled, or if the
    /// operator has to decide: the group starts inside an entry, or the records need a flag to be
    /// accepted.
    pub(crate) async fn post_record(
        &self,
        assignment: &Assignment,
        offset: i64,
        fault: RecordFault,
    ) -> Result<Applied, ConsumerError> {
        if let RecordFault::Format(FormatError::Headless(fragment)) = fault {
            let position = assignment.position(offset);
            return Err(RecordError::InsideEntry { position, fragment }.into());
        }
        if let RecordFault::Foreign(fault) = &fault
            && fault.needs_consent()
        {
            let position = assignment.position(offset);
            let fault = fault.clone();
            return Err(RecordError::NeedsConsent { position, fault }.into());
        }
        if !self.dead_letters.takes(Reason::Undecodable) {
            let position = assignment.position(offset);
            let source = Box::new(fault);
            return Err(ConsumerError::Undecodable { position, source });
        }
        let letter = Letter {
            offset,
            reason: Reason::Undecodable,
            code: None,
            text: text_of(&fault),
            entry: None,
        };
        self.post(assignment, vec![letter]).await
    }

    /// Makes a dead letter of an entry that cannot be applied. A command is recorded as passed
    /// over, so that it does not become another dead letter when it is read again, and the workers
    /// at its barriers continue.
    ///
    /// # Errors
    /// Returns the fault as an error if dead letters for this reason are not enabled.
    pub(crate) async fn post_entry(
        &self,
        assignment: &Assignment,
        topic: &Topic,
        located: &Located<'_>,
        error: PlanError,
    ) -> Result<Applied, ConsumerError> {
        let reason = Reason::from(&error.fault);
        if !self.dead_letters.takes(reason) {
            return Err(assignment.unplayable(located.offset, error));
        }
        let letter = Letter {
            offset: located.offset,
            reason,
            code: None,
            text: text_of(&error),
            entry: Some(entry_of(located, topic)),
        };
        let posted = self.post(assignment, vec![letter]).await?;
        if posted == Applied::Done
            && is_command(&located.entry)
            && let Some(target) = self.target()
        {
            target.pass_over(&topic.source, located).await?;
        }
        Ok(posted)
    }

    /// Makes dead letters of the writes of a batch that the target refused.
    pub(crate) async fn post_refused(
        &self,
        assignment: &Assignment,
        topic: &Topic,
        batch: &Batch<'_>,
    ) -> Result<Applied, ConsumerError> {
        let Some(target) = self.target() else {
            return Ok(Applied::Done);
        };
        let refused = target.take_refused(batch);
        if refused.is_empty() {
            return Ok(Applied::Done);
        }
        let letters = refused.into_iter().map(|refusal| {
            let mut entries = batch.entries.iter();
            let located = entries.find(|located| located.id == refusal.id);
            letter_of(refusal, located, topic)
        });
        self.post(assignment, letters.collect()).await
    }

    /// Makes dead letters of the documents that are still held at a barrier or at the end. They are
    /// given up only after Kafka has acknowledged the letters, because the committed offset passes
    /// their records then.
    pub(crate) async fn post_held(
        &self,
        target: &MongoSink,
        assignment: &Assignment,
        topic: &Topic,
    ) -> Result<Applied, ConsumerError> {
        let refused = target.refuse_held(&assignment.topic, assignment.partition)?;
        if refused.is_empty() {
            return Ok(Applied::Done);
        }
        let letters = refused.into_iter();
        let letters = letters.map(|refusal| letter_of(refusal, None, topic));
        let posted = self.post(assignment, letters.collect()).await?;
        if posted == Applied::Done {
            target
                .give_up_held(&assignment.topic, assignment.partition)
                .await?;
        }
        Ok(posted)
    }

    async fn post(
        &self,
        assignment: &Assignment,
        letters: Vec<Letter>,
    ) -> Result<Applied, ConsumerError> {
        let Assignment {
            topic,
            partition,
            token,
            ..
        } = assignment;
        self.dead_letters
            .send(topic, *partition, letters, token)
            .await
    }
}

fn letter_of(refusal: Refusal, located: Option<&Located<'_>>, topic: &Topic) -> Letter {
    let entry = match located.filter(|_| refusal.whole.is_none()) {
        Some(located) => entry_of(located, topic),
        None => LetterEntry {
            bytes: refusal.whole,
            ..LetterEntry::new(&topic.source, refusal.id, &refusal.ns, None)
        },
    };
    Letter {
        offset: refusal.position.offset,
        reason: refusal.reason,
        code: refusal.code,
        text: refusal.text,
        entry: Some(entry),
    }
}

fn entry_of(located: &Located<'_>, topic: &Topic) -> LetterEntry {
    let bytes = located.entry.raw.as_bytes();
    let mut formats = topic.earlier.iter().chain([&topic.format]);
    let foreign = topic.foreign.as_ref();
    let is_foreign_frame =
        foreign.is_some_and(|foreign| foreign.rules.writer == Writer::MongoshakeRaw);
    // In these formats a record may have several entries, so the letter has the entry instead.
    let bytes = (is_foreign_frame || formats.any(|format| *format == Format::Raw)).then_some(bytes);
    LetterEntry::new(&topic.source, located.id, located.entry.ns, bytes)
}
