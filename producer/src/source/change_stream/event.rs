//! An event of a change stream, read from its bytes.

use oplog_relay_core::document::{Document, Element, Malformed, kind};
use oplog_relay_core::position::Timestamp;

use crate::entry_fault::EntryFault;
use crate::error::ProducerError;

/// The fields of an event that its entry is made from.
#[derive(Debug, Clone, Copy)]
pub struct Event<'e> {
    /// `_id`: the resume token.
    pub token: Document<'e>,
    /// `operationType`
    pub operation: &'e str,
    /// `clusterTime`
    pub time: Timestamp,
    /// `wallTime`, milliseconds since 1970 (6.0 and later).
    pub wall: Option<i64>,
    /// `ns.db`; empty if the event has no namespace, such as `invalidate`.
    pub db: &'e str,
    /// `ns.coll`; empty for a whole database.
    pub collection: &'e str,
    /// `to` of a rename.
    pub to: Option<Name<'e>>,
    /// `collectionUUID` (6.0 and later, with expanded events).
    pub ui: Option<Element<'e>>,
    /// `documentKey`
    pub key: Option<Document<'e>>,
    /// `fullDocument`
    pub whole: Option<Document<'e>>,
    /// `updateDescription`
    pub update: Option<Document<'e>>,
    /// `operationDescription` of a command (6.0 and later, with expanded events).
    pub description: Option<Document<'e>>,
    /// `lsid`; only events of transactions have it.
    pub lsid: Option<Document<'e>>,
    /// `txnNumber`
    pub txn_number: Option<i64>,
    /// `splitEvent`: the event is a fragment of a larger one.
    pub fragment: Option<Fragment>,
}

/// A namespace in an event.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Name<'e> {
    /// The database.
    pub db: &'e str,
    /// The collection.
    pub collection: &'e str,
}

/// The place of a fragment in an event that was split.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Fragment {
    /// The number of the fragment, from 1 on.
    pub number: i64,
    /// The number of fragments of the event.
    pub of: i64,
}

impl<'e> Event<'e> {
    /// Reads an event.
    ///
    /// # Errors
    /// [`ProducerError::Undecodable`] if the event is damaged, or has no token, operation or time.
    pub fn read(document: Document<'e>) -> Result<Self, ProducerError> {
        Self::of(document).map_err(|error| {
            let field = |name| document.get(name).ok().flatten();
            let time = field("clusterTime").and_then(|time| time.timestamp().ok());
            EntryFault::Event {
                time,
                source: error,
            }
            .into()
        })
    }

    fn of(document: Document<'e>) -> Result<Self, Malformed> {
        let mut event = Self {
            token: Document::EMPTY,
            operation: "",
            time: Timestamp::default(),
            wall: None,
            db: "",
            collection: "",
            to: None,
            ui: None,
            key: None,
            whole: None,
            update: None,
            description: None,
            lsid: None,
            txn_number: None,
            fragment: None,
        };
        let mut has_time = false;
        for element in document.elements() {
            let element = element?;
            if element.kind == kind::NULL {
                continue;
            }
            has_time |= element.name == b"clusterTime";
            event.take(element)?;
        }
        if event.token.is_empty() {
            return Err(Malformed::Missing("_id"));
        }
        // Only the first fragment of an event has its operation and its time.
        if event.fragment.is_none() && event.operation.is_empty() {
            return Err(Malformed::Missing("operationType"));
        }
        if event.fragment.is_none() && !has_time {
            return Err(Malformed::Missing("clusterTime"));
        }
        Ok(event)
    }

    fn take(&mut self, element: Element<'e>) -> Result<(), Malformed> {
        match element.name {
            b"_id" => self.token = element.document()?,
            b"operationType" => self.operation = element.str()?,
            b"clusterTime" => self.time = element.timestamp()?,
            b"wallTime" => self.wall = Some(element.date()?),
            b"ns" => {
                let name = name(element.document()?)?;
                (self.db, self.collection) = (name.db, name.collection);
            }
            b"to" => self.to = Some(name(element.document()?)?),
            b"collectionUUID" if element.kind == kind::BINARY => self.ui = Some(element),
            b"documentKey" => self.key = Some(element.document()?),
            b"fullDocument" => self.whole = Some(element.document()?),
            b"updateDescription" => self.update = Some(element.document()?),
            b"operationDescription" => self.description = Some(element.document()?),
            b"lsid" => self.lsid = Some(element.document()?),
            b"txnNumber" => self.txn_number = Some(element.integer()?),
            b"splitEvent" => self.fragment = Some(fragment(element.document()?)?),
            _ => {}
        }
        Ok(())
    }

    /// Returns the namespace: `db.collection`, or the database alone.
    #[must_use]
    pub fn ns(&self) -> String {
        match self.collection {
            "" => self.db.to_owned(),
            collection => format!("{}.{collection}", self.db),
        }
    }

    /// Returns the error for an event that has no exact meaning as an entry.
    #[must_use]
    pub fn refused(&self, reason: &str) -> ProducerError {
        EntryFault::EventRefused {
            operation: self.operation.to_owned(),
            ns: self.ns(),
            time: self.time,
            reason: reason.to_owned(),
        }
        .into()
    }
}

fn name(ns: Document<'_>) -> Result<Name<'_>, Malformed> {
    let part = |name| ns.get(name)?.map(Element::str).transpose();
    Ok(Name {
        db: part("db")?.unwrap_or_default(),
        collection: part("coll")?.unwrap_or_default(),
    })
}

fn fragment(place: Document<'_>) -> Result<Fragment, Malformed> {
    let number = |name| place.get(name)?.ok_or(Malformed::Missing(name))?.integer();
    Ok(Fragment {
        number: number("fragment")?,
        of: number("of")?,
    })
}
