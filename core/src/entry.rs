//! An oplog entry: the header fields that routing and replay need, read in one pass, and the raw
//! document, which is carried unchanged.

use crate::collection_uuid::CollectionUuid;
use crate::document::{Document, Element, Malformed, kind};
use crate::format::looked_up::LookedUp;
use crate::namespace::Namespace;
use crate::position::Timestamp;

/// The `op` of a document that a full sync read. It is applied as an insert.
const READ: &[u8] = b"r";

/// The operation of an entry (`op`).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Operation {
    /// `i`; also `r`, a document that a full sync read.
    Insert,
    /// `u`
    Update,
    /// `d`
    Delete,
    /// `c`: a command (DDL, or a transaction).
    Command,
    /// `n`; also `db`. Advances the position and changes nothing.
    Noop,
}

impl Operation {
    /// All operations, in the order of [`Operation::index`].
    pub const ALL: [Self; 5] = [
        Self::Insert,
        Self::Update,
        Self::Delete,
        Self::Command,
        Self::Noop,
    ];

    /// Returns the name used in metrics and logs.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Insert => "insert",
            Self::Update => "update",
            Self::Delete => "delete",
            Self::Command => "command",
            Self::Noop => "noop",
        }
    }

    /// Returns a small number for counting by operation.
    #[must_use]
    pub const fn index(self) -> usize {
        match self {
            Self::Insert => 0,
            Self::Update => 1,
            Self::Delete => 2,
            Self::Command => 3,
            Self::Noop => 4,
        }
    }
}

/// The reason why a document is not an oplog entry.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum EntryError {
    /// The bytes are damaged, or a field has the wrong type.
    #[error(transparent)]
    Malformed(#[from] Malformed),
    /// An `op` other than `i u d c n r db`, for example `xi`, `ci` or `km`.
    #[error("entry {ts} of {ns:?} has the unknown operation {op:?}")]
    UnknownOperation {
        /// The entry's time.
        ts: Timestamp,
        /// The entry's namespace.
        ns: String,
        /// The value of `op` that was found.
        op: String,
    },
    /// An oplog version other than 1 and 2.
    #[error("entry {ts} has oplog version {version}; only versions 1 and 2 are supported")]
    UnknownVersion {
        /// The entry's time.
        ts: Timestamp,
        /// The version that was found.
        version: i64,
    },
    /// An entry without a field that its operation requires.
    #[error("entry {ts} of {ns:?} has no {field}")]
    MissingField {
        /// The entry's time.
        ts: Timestamp,
        /// The entry's namespace.
        ns: String,
        /// The missing field.
        field: &'static str,
    },
    /// An update with a part that Debezium's envelope cannot describe.
    #[error("update {ts} of {ns:?}: {part} cannot be described in Debezium's envelope")]
    Indescribable {
        /// The entry's time.
        ts: Timestamp,
        /// The entry's namespace.
        ns: String,
        /// The operator or the diff.
        part: String,
    },
    /// An update whose `$v` is neither 1 nor 2.
    #[error("update {ts} of {ns:?} has $v {version}; only 1 and 2 are supported")]
    UnknownUpdate {
        /// The entry's time.
        ts: Timestamp,
        /// The entry's namespace.
        ns: String,
        /// The version that was found.
        version: i64,
    },
}

/// An oplog entry, borrowed from its bytes.
#[derive(Debug, Clone, Copy)]
pub struct Entry<'a> {
    /// The whole entry.
    pub raw: Document<'a>,
    /// `ts`
    pub ts: Timestamp,
    /// `t`; -1 if it is missing (the first entry of a set, and oplogs of protocol version 0).
    pub term: i64,
    /// `op`
    pub operation: Operation,
    /// `ns`: `db.collection`, `db.$cmd`, or empty for most noops.
    pub ns: &'a str,
    /// `ui`: the collection's UUID.
    pub ui: Option<CollectionUuid>,
    /// `o`; empty if it is missing, as it may be in a noop.
    pub o: Document<'a>,
    /// `o2`
    pub o2: Option<Document<'a>>,
    /// `wall`, milliseconds since 1970.
    pub wall: Option<i64>,
    /// `lsid`
    pub lsid: Option<Document<'a>>,
    /// `txnNumber`
    pub txn_number: Option<i64>,
    /// `txn {index, count}`: only in entries built from an operation of a transaction.
    pub txn: Option<TxnPlace>,
    /// `b` of an update: an upsert, which creates the document if it does not exist. It occurs in
    /// the `applyOps` of users and of servers up to 3.6.
    pub is_upsert: bool,
    /// `isTimeseries` (9.0): the entry writes a bucket of a time series under the series' own
    /// name.
    pub is_timeseries: bool,
    /// `snapshot.capturedAt`, milliseconds since 1970: only in entries of a full sync, which do not
    /// come from an oplog ([`crate::snapshot`]).
    pub snapshot: Option<i64>,
    /// The document of an update as it was looked up at the source. It is not part of the entry: a
    /// producer that looks up documents sets it before it encodes the entry.
    pub looked_up: Option<&'a LookedUp<'a>>,
}

/// The place of an operation in its transaction.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TxnPlace {
    /// The index of the operation in the transaction before filtering.
    pub index: u32,
    /// The number of operations in the transaction before filtering.
    pub count: u32,
}

/// The three forms of an update, distinguished as the server's oplog applier distinguishes them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Update<'a> {
    /// The whole new document.
    Replacement(Document<'a>),
    /// `$v: 1`: `$set` and `$unset` with dotted paths. The document still has its `$v`.
    Modifiers(Document<'a>),
    /// `$v: 2`: the `diff` document.
    Diff(Document<'a>),
}

impl<'a> Entry<'a> {
    /// Reads the header fields. Other fields are kept in `raw` and ignored.
    ///
    /// # Errors
    /// [`EntryError`] if a required field is missing or has the wrong type.
    pub fn parse(raw: Document<'a>) -> Result<Self, EntryError> {
        let mut fields = Fields::default();
        for element in raw.elements() {
            fields.take(element?)?;
        }
        Self::from_fields(raw, &fields)
    }

    /// Reads an entry like [`Entry::parse`], but treats an unknown operation as a noop. It is for
    /// readers that need only the position of the entry.
    ///
    /// # Errors
    /// [`EntryError`] as in [`Entry::parse`], except for unknown operations.
    pub fn parse_any_operation(raw: Document<'a>) -> Result<Self, EntryError> {
        match Self::parse(raw) {
            Err(EntryError::UnknownOperation { .. }) => {
                let mut fields = Fields::default();
                for element in raw.elements() {
                    fields.take(element?)?;
                }
                fields.op = Some(b"n");
                Self::from_fields(raw, &fields)
            }
            parsed => parsed,
        }
    }

    /// Reads an entry like [`Entry::parse`] and checks every level, so that later reads cannot
    /// fail.
    ///
    /// # Errors
    /// [`EntryError`] as in [`Entry::parse`], or if an embedded value is damaged.
    pub fn parse_whole(raw: Document<'a>) -> Result<Self, EntryError> {
        let mut fields = Fields::default();
        for element in raw.elements() {
            let element = element?;
            element.validate()?;
            fields.take(element)?;
        }
        Self::from_fields(raw, &fields)
    }

    fn from_fields(raw: Document<'a>, fields: &Fields<'a>) -> Result<Self, EntryError> {
        let ts = fields.ts.ok_or(Malformed::Missing("ts"))?;
        let ns = fields.ns.unwrap_or_default();
        let op = fields.op.ok_or(Malformed::Missing("op"))?;
        let operation = match op {
            b"i" | READ => Operation::Insert,
            b"u" => Operation::Update,
            b"d" => Operation::Delete,
            b"c" => Operation::Command,
            // Servers up to 2.6 announce the existence of a database with `db`.
            b"n" | b"db" => Operation::Noop,
            _ => {
                let op = String::from_utf8_lossy(op).into_owned();
                return Err(EntryError::UnknownOperation {
                    ts,
                    ns: ns.to_owned(),
                    op,
                });
            }
        };
        // A missing version means 1: servers before 2.2 did not write it.
        let version = fields.version.unwrap_or(1);
        if !(1..=2).contains(&version) {
            return Err(EntryError::UnknownVersion { ts, version });
        }
        if operation != Operation::Noop && fields.o.is_none() {
            return Err(EntryError::MissingField {
                ts,
                ns: ns.to_owned(),
                field: "o",
            });
        }
        Ok(Self {
            raw,
            ts,
            term: fields.term.unwrap_or(-1),
            operation,
            ns,
            ui: fields.ui,
            o: fields.o.unwrap_or(Document::EMPTY),
            o2: fields.o2,
            wall: fields.wall,
            lsid: fields.lsid,
            txn_number: fields.txn_number,
            txn: fields.txn,
            is_upsert: fields.is_upsert,
            is_timeseries: fields.is_timeseries,
            snapshot: fields.snapshot,
            looked_up: None,
        })
    }

    /// Returns the database and the collection.
    #[inline]
    #[must_use]
    pub fn namespace(&self) -> Namespace<'a> {
        Namespace::split(self.ns)
    }

    /// Returns the `_id` of the document that the entry writes: from `o` for inserts and deletes,
    /// from `o2` for updates. `o2` has the `_id` as it is stored; the `o` of a replacement may have
    /// the same number with another type.
    ///
    /// # Errors
    /// [`EntryError::MissingField`] if the `_id` is missing: such an entry is corrupt.
    pub fn document_id(&self) -> Result<Element<'a>, EntryError> {
        let (document, field) = match self.operation {
            Operation::Update => (self.o2, "o2._id"),
            _ => (Some(self.o), "o._id"),
        };
        match document
            .map(|document| document.get("_id"))
            .transpose()?
            .flatten()
        {
            Some(id) => Ok(id),
            None => Err(self.missing(field)),
        }
    }

    /// Returns the form of an update. The `_id` is tested before `$v`, because a replacement may
    /// itself have a field `$v` (5.0 and later).
    ///
    /// # Errors
    /// [`EntryError::UnknownUpdate`] for another `$v`, [`EntryError::MissingField`] for a diff
    /// without its `diff`.
    pub fn update(&self) -> Result<Update<'a>, EntryError> {
        if self.o.get("_id")?.is_some() {
            return Ok(Update::Replacement(self.o));
        }
        match self
            .o
            .get("$v")?
            .map(Element::integer)
            .transpose()?
            .unwrap_or(1)
        {
            1 => Ok(self
                .disguised_replacement()?
                .map_or(Update::Modifiers(self.o), Update::Replacement)),
            2 => match self.o.get("diff")? {
                Some(diff) => Ok(Update::Diff(diff.document()?)),
                None => Err(self.missing("o.diff")),
            },
            version => Err(EntryError::UnknownUpdate {
                ts: self.ts,
                ns: self.ns.to_owned(),
                version,
            }),
        }
    }

    /// Returns the document of a replacement that FerretDB logs as
    /// `{$v: 1, $set: <whole document with _id>}`. mongod never sets `_id`, so this form is
    /// unambiguous.
    fn disguised_replacement(&self) -> Result<Option<Document<'a>>, Malformed> {
        let mut set = None;
        for element in self.o.elements() {
            let element = element?;
            match element.name {
                b"$v" => {}
                b"$set" if set.is_none() => set = Some(element.document()?),
                _ => return Ok(None),
            }
        }
        let Some(set) = set else { return Ok(None) };
        let stored = self.o2.map(|o2| o2.get("_id")).transpose()?.flatten();
        let written = set.get("_id")?;
        let same = matches!((stored, written), (Some(a), Some(b)) if a.kind == b.kind && a.value == b.value);
        Ok(same.then_some(set))
    }

    /// Returns the first element of `o`. Its field name is the name of the command.
    ///
    /// # Errors
    /// [`EntryError::MissingField`] if `o` is empty.
    pub fn command(&self) -> Result<Element<'a>, EntryError> {
        self.o
            .first()?
            .ok_or_else(|| self.missing("command name in o"))
    }

    fn missing(&self, field: &'static str) -> EntryError {
        EntryError::MissingField {
            ts: self.ts,
            ns: self.ns.to_owned(),
            field,
        }
    }
}

#[derive(Default)]
struct Fields<'a> {
    ts: Option<Timestamp>,
    term: Option<i64>,
    version: Option<i64>,
    op: Option<&'a [u8]>,
    ns: Option<&'a str>,
    ui: Option<CollectionUuid>,
    o: Option<Document<'a>>,
    o2: Option<Document<'a>>,
    wall: Option<i64>,
    lsid: Option<Document<'a>>,
    txn_number: Option<i64>,
    txn: Option<TxnPlace>,
    is_upsert: bool,
    is_timeseries: bool,
    snapshot: Option<i64>,
}

impl<'a> Fields<'a> {
    #[inline]
    fn take(&mut self, element: Element<'a>) -> Result<(), Malformed> {
        match element.name {
            b"ts" => self.ts = Some(element.timestamp()?),
            b"t" => self.term = Some(element.integer()?),
            b"v" => self.version = Some(element.integer()?),
            b"op" => self.op = Some(element.string_bytes()?),
            b"ns" => self.ns = Some(element.str()?),
            b"ui" => {
                let bytes = element
                    .binary()?
                    .bytes
                    .try_into()
                    .map_err(|_| element.wrong_type())?;
                self.ui = Some(CollectionUuid(bytes));
            }
            b"o" => self.o = Some(element.document()?),
            // Old servers write `o2: true` on some commands and `null` on noops; only documents
            // count.
            b"o2" if element.kind == kind::DOCUMENT => self.o2 = Some(element.document()?),
            b"wall" => self.wall = Some(element.date()?),
            b"lsid" if element.kind == kind::DOCUMENT => self.lsid = Some(element.document()?),
            b"txnNumber" if element.kind != kind::NULL => {
                self.txn_number = Some(element.integer()?);
            }
            b"txn" if element.kind == kind::DOCUMENT => self.txn = txn_place(element.document()?)?,
            b"b" if element.kind == kind::BOOLEAN => self.is_upsert = element.boolean()?,
            b"isTimeseries" if element.kind == kind::BOOLEAN => {
                self.is_timeseries = element.boolean()?;
            }
            b"snapshot" if element.kind == kind::DOCUMENT => {
                let captured = element.document()?.get("capturedAt")?;
                self.snapshot = captured.map(Element::date).transpose()?;
            }
            _ => {}
        }
        Ok(())
    }
}

fn txn_place(document: Document<'_>) -> Result<Option<TxnPlace>, Malformed> {
    let number = |name| -> Result<Option<u32>, Malformed> {
        let number = document.get(name)?.map(Element::integer).transpose()?;
        Ok(number.and_then(|number| u32::try_from(number).ok()))
    };
    Ok(match (number("index")?, number("count")?) {
        (Some(index), Some(count)) => Some(TxnPlace { index, count }),
        _ => None,
    })
}

#[cfg(test)]
mod tests;
