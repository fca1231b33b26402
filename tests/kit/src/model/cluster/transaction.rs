//! Transactions. Each command runs on a copy of the cluster. The commit runs all of them on the cluster
//! itself, and fails if a reply differs, because another client has changed a document meanwhile.

use bson::doc;
use oplog_relay_core::document::Document;

use super::without_session;
use crate::model::Model;
use crate::model::command::{Answer, done};
use crate::model::failure::Failure;

/// `NoSuchTransaction`
const NO_TRANSACTION: i32 = 251;

/// An open transaction.
#[derive(Debug, Clone)]
pub(super) struct Transaction {
    number: i64,
    /// The cluster with the writes of the transaction.
    view: Box<Model>,
    /// The commands with their databases and replies.
    commands: Vec<(String, Vec<u8>, Vec<u8>)>,
}

impl Model {
    pub(super) fn run_in_transaction(&mut self, db: &str, body: Document<'_>) -> Answer {
        let session = body.get("lsid")?.map(|id| id.value.to_vec());
        let session = session.unwrap_or_default();
        let number = body.get("txnNumber")?;
        let number = number.ok_or_else(|| Failure::missing_field("txnNumber"))?;
        let number = number.integer()?;
        let cluster = self.cluster.as_mut().expect("only a cluster is routed");
        if !cluster.runs_transactions {
            let message = "Transaction numbers are only allowed on a replica set member or mongos";
            return Err(Failure::new(20, message));
        }
        let begins = body.get("startTransaction")?.is_some();
        let open = cluster.transactions.remove(&session);
        let mut transaction = match open.filter(|open| open.number == number && !begins) {
            Some(open) => open,
            None if begins => {
                let mut view = self.clone();
                if let Some(cluster) = &mut view.cluster {
                    cluster.transactions.clear();
                }
                Transaction {
                    number,
                    view: Box::new(view),
                    commands: Vec::new(),
                }
            }
            None => {
                let message = format!("Given transaction number {number} does not match any");
                return Err(Failure::new(NO_TRANSACTION, message));
            }
        };
        let name = body.first()?.map(|first| first.name).unwrap_or_default();
        match name {
            b"abortTransaction" => return done(doc! {}),
            b"commitTransaction" => return self.commit(&transaction),
            _ if body.get("writeConcern")?.is_some() => {
                let message = "writeConcern is not allowed within a multi-statement transaction";
                return Err(Failure::new(72, message));
            }
            _ => {}
        }
        let command = without_session(body)?;
        // A failure ends the transaction, which is no longer stored.
        let reply = transaction.view.try_command(db, Document::new(&command)?)?;
        if Document::new(&reply)?.get("writeErrors")?.is_some() {
            return Ok(reply);
        }
        let run = (db.to_owned(), command, reply.clone());
        transaction.commands.push(run);
        let cluster = self.cluster.as_mut().expect("only a cluster is routed");
        cluster.transactions.insert(session, transaction);
        Ok(reply)
    }

    fn commit(&mut self, transaction: &Transaction) -> Answer {
        let mut after = self.clone();
        for (db, command, before) in &transaction.commands {
            let reply = after.try_command(db, Document::new(command)?);
            if reply.as_ref().ok() != Some(before) {
                return Err(Failure::new(
                    112,
                    "WriteConflict error: this operation conflicted",
                ));
            }
        }
        if let Some(cluster) = &mut after.cluster {
            cluster.committed += 1;
        }
        if after
            .cluster
            .as_ref()
            .is_some_and(|cluster| cluster.commits_late)
        {
            for (db, command, _) in &transaction.commands {
                let command = Document::new(command)?;
                if command
                    .first()?
                    .is_some_and(|first| first.name == b"delete")
                {
                    self.try_command(db, command)?;
                }
            }
            if let Some(cluster) = &mut self.cluster {
                cluster.prepared = Some(Box::new(after));
            }
            return done(doc! {});
        }
        *self = after;
        done(doc! {})
    }

    /// Commits a transaction on the remaining shards if a command waits for it: a write, or a read with
    /// a time. Any other read ignores a transaction that is only prepared.
    pub(super) fn finish_commit(&mut self, body: Document<'_>) -> Result<(), Failure> {
        let name = body.first()?.map(|first| first.name).unwrap_or_default();
        let waits = match name {
            b"insert" | b"update" | b"delete" => true,
            b"find" => match body.get("readConcern")? {
                Some(concern) => concern.document()?.get("afterClusterTime")?.is_some(),
                None => false,
            },
            _ => false,
        };
        let cluster = self.cluster.as_mut().filter(|_| waits);
        if let Some(prepared) = cluster.and_then(|cluster| cluster.prepared.take()) {
            *self = *prepared;
        }
        Ok(())
    }
}
