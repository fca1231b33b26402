//! Names of collections at the tail's position, and the commands that create them.

use std::collections::BTreeMap;

use oplog_relay_core::namespace::Namespace;
use oplog_relay_core::state::{CopyKind, CopyStage};

use super::copies::Copy;
use crate::entry_fault::EntryFault;
use crate::error::ProducerError;
use crate::source::full_sync::interleave::Interleaving;
use crate::source::{Copied, SourceEvent, Work};
use oplog_relay_runtime::clock::now_ms;

impl Interleaving {
    /// Determines the names of collections at the tail's position, if they are unknown.
    pub(super) async fn determine_names(&mut self) -> Result<(), ProducerError> {
        let unnamed = self.sync.copies.keys_of(|copy| !copy.is_named);
        if unnamed.is_empty() {
            return Ok(());
        }
        // The source reports current names, and the tail may be behind a rename. A name that is the
        // same before and after the tail has caught up is the name at the tail's position.
        let before = self.names_of(&unnamed).await?;
        self.tail_past_now().await?;
        let after = self.names_of(&unnamed).await?;
        for (key, name) in after {
            if before.get(&key) != Some(&name) {
                continue;
            }
            let Some(copy) = self.sync.copies.get_mut(&key) else {
                continue;
            };
            match name {
                Some(name) => {
                    copy.record.ns = name;
                    copy.is_named = true;
                }
                None => self.close(&key).await?,
            }
        }
        Ok(())
    }

    async fn names_of(
        &self,
        keys: &[String],
    ) -> Result<BTreeMap<String, Option<String>>, ProducerError> {
        let mut names = BTreeMap::new();
        for copy in self
            .sync
            .copies
            .iter()
            .filter(|copy| keys.contains(&copy.key))
        {
            let listed = self.sync.source.find(&copy.record.ns, copy.ui).await?;
            names.insert(copy.key.clone(), listed.map(|listed| listed.ns));
        }
        Ok(names)
    }

    /// Sends the commands that create collections whose copy was requested while the stream ran.
    pub(super) async fn create(&mut self) -> Result<(), ProducerError> {
        let planned = |copy: &Copy| copy.is_named && copy.record.stage == CopyStage::Planned;
        for key in self.sync.copies.keys_of(planned) {
            self.create_one(&key).await?;
        }
        Ok(())
    }

    /// Sends the command that creates a collection.
    pub(super) async fn create_one(&mut self, key: &str) -> Result<(), ProducerError> {
        let Some(copy) = self.sync.copies.get_mut(key) else {
            return Ok(());
        };
        copy.record.stage = match copy.record.kind {
            // Views are created at the end.
            CopyKind::View => CopyStage::Reading,
            CopyKind::Collection | CopyKind::Capped => CopyStage::Created,
        };
        let (ns, ui, saves) = (copy.record.ns.clone(), copy.ui, vec![copy.save()]);
        if copy.record.only_documents || copy.record.kind == CopyKind::View {
            return self.send_saves(saves).await;
        }
        let Some(listed) = self.sync.source.find(&ns, ui).await? else {
            return self.close(key).await;
        };
        let name = Namespace::split(&ns).collection;
        let mut command = bson::doc! { "create": name };
        command.extend(listed.options);
        let command = command.to_vec().map_err(|error| EntryFault::Definition {
            part: "options",
            ns: ns.clone(),
            reason: error.to_string(),
        })?;
        let copied = Copied {
            ns,
            ui,
            captured_at: now_ms(),
            work: Work::Command(command),
            saves,
            holds_indexes: Some(true),
        };
        self.send(SourceEvent::Copied(Box::new(copied))).await
    }
}
