//! The JSON line that `emit` writes for one entry.

use oplog_relay_core::barrier::strip;
use oplog_relay_core::command::is_command;
use oplog_relay_core::document::Document;
use oplog_relay_core::entry::{Entry, EntryError};
use oplog_relay_core::format::avro::SchemaIds;
use oplog_relay_core::format::debezium::{Debezium, write_debezium, write_debezium_key};
use oplog_relay_core::format::envelope::Envelope;
use oplog_relay_core::format::is_for_readers;
use oplog_relay_core::format::json::write_change_event;
use oplog_relay_core::format::oplog::write_oplog_entry;
use oplog_relay_core::format::origin::Origin;
use oplog_relay_core::key::write_key;
use oplog_relay_core::position::EntryId;
use oplog_relay_runtime::clock::now_ms;

use crate::config::LineForm;
use crate::worker::batch::{Batch, Located};

/// Writes the lines of a batch.
#[derive(Debug)]
pub(super) struct LineWriter<'b> {
    origin: Origin<'b>,
    form: LineForm,
}

impl<'b> LineWriter<'b> {
    pub(super) fn new(batch: &Batch<'b>, form: LineForm) -> Self {
        let origin = Origin {
            topic: batch.topic,
            source: batch.source,
            processed_at: now_ms(),
            schemas: SchemaIds::default(),
        };
        Self { origin, form }
    }

    /// Appends the line of an entry. A command is written without its barrier, which only `replay`
    /// needs. The Debezium envelope omits every entry that is only for replays, such as a command.
    pub(super) fn write(
        &self,
        located: &Located<'_>,
        lines: &mut Vec<u8>,
    ) -> Result<(), EntryError> {
        let Located { entry, id, .. } = located;
        let mut stripped = Vec::new();
        if is_command(entry) && strip(entry.raw, &mut stripped)? {
            let entry = Entry::parse(Document::new(&stripped)?)?;
            return self.write_entry(&entry, *id, lines);
        }
        self.write_entry(entry, *id, lines)
    }

    fn write_entry(
        &self,
        entry: &Entry<'_>,
        id: EntryId,
        lines: &mut Vec<u8>,
    ) -> Result<(), EntryError> {
        let LineForm { mode, envelope } = self.form;
        match envelope {
            Envelope::ChangeEvent => {
                write_change_event(entry, self.origin.source, id.ord, mode, lines)?;
            }
            Envelope::Oplog => {
                write_oplog_entry(entry.raw, mode, lines)?;
                // A Kafka record has the identity in a header. A line has no headers, so the
                // identity is inserted before the closing brace.
                lines.pop();
                lines.extend_from_slice(b",\"oplogId\":\"");
                id.write_header(self.origin.source, lines);
                lines.extend_from_slice(b"\"}");
            }
            Envelope::Debezium if !is_for_readers(entry) => return Ok(()),
            Envelope::Debezium => {
                let with_schema = false;
                let form = Debezium { mode, with_schema };
                let (document_id, mut key) = (entry.document_id()?, Vec::new());
                write_key(document_id, &mut key)?;
                lines.extend_from_slice(b"{\"key\":");
                write_debezium_key(document_id, &key, form, self.origin.topic, lines)?;
                lines.extend_from_slice(b",\"value\":");
                write_debezium(entry, id, form, &self.origin, lines)?;
                lines.push(b'}');
            }
        }
        lines.push(b'\n');
        Ok(())
    }
}
