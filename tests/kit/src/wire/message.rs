//! Messages of the wire protocol: `OP_MSG`, and `OP_QUERY` with its `OP_REPLY` for handshakes.

use std::io::{self, Read, Write};

use oplog_relay_core::document::{Document, DocumentBuilder, Element, kind};

const OP_REPLY: i32 = 1;
const OP_QUERY: i32 = 2004;
const OP_MSG: i32 = 2013;
const HEADER_BYTES: usize = 16;
/// The message size limit that `hello` reports.
pub(crate) const MAX_MESSAGE_BYTES: usize = 48_000_000;
/// The flag of a request whose sender does not want a reply.
const MORE_TO_COME: u32 = 2;
const CHECKSUM_PRESENT: u32 = 1;

/// A request, borrowed from the bytes that were read.
#[derive(Debug)]
pub(crate) struct Request<'b> {
    pub(crate) envelope: Envelope,
    pub(crate) body: Document<'b>,
    /// The sections of kind 1.
    pub(crate) sequences: Vec<Sequence<'b>>,
}

impl Request<'_> {
    /// Returns the command as one document: the document sequences become its arrays.
    pub(crate) fn whole(&self) -> io::Result<Vec<u8>> {
        let mut out = Vec::new();
        let mut command = DocumentBuilder::start(&mut out);
        for element in self.body.elements() {
            command.element(element.map_err(io::Error::other)?);
        }
        for sequence in &self.sequences {
            let mut list = Vec::new();
            let mut array = DocumentBuilder::start(&mut list);
            for (index, document) in sequence.documents()?.into_iter().enumerate() {
                array.document(&index.to_string(), document);
            }
            array.finish();
            command.element(Element {
                name: sequence.name,
                kind: kind::ARRAY,
                value: &list,
            });
        }
        command.finish();
        Ok(out)
    }
}

/// A document sequence: a command's argument whose documents are in a section of their own, not in
/// the body.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Sequence<'b> {
    /// The argument's name.
    pub(crate) name: &'b [u8],
    documents: &'b [u8],
}

impl<'b> Sequence<'b> {
    /// Parses a section: after the length comes the name, then the documents.
    fn parse(section: &'b [u8]) -> io::Result<Sequence<'b>> {
        let after_length = section.get(4..).unwrap_or_default();
        let end = after_length.iter().position(|byte| *byte == 0);
        let (name, documents) = end
            .map(|end| after_length.split_at(end))
            .ok_or_else(|| damaged("section name"))?;
        Ok(Sequence {
            name,
            documents: &documents[1..],
        })
    }

    /// Returns the documents in order.
    pub(crate) fn documents(self) -> io::Result<Vec<Document<'b>>> {
        let (mut found, mut rest) = (Vec::new(), self.documents);
        while !rest.is_empty() {
            let (document, after) = Document::split(rest).map_err(io::Error::other)?;
            found.push(document);
            rest = after;
        }
        Ok(found)
    }
}

/// The fields of a request that its reply needs.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Envelope {
    id: i32,
    legacy: bool,
    pub(crate) wants_reply: bool,
}

/// Reads one message into `buffer`; returns false if the peer has disconnected.
pub(crate) fn read(stream: &mut impl Read, buffer: &mut Vec<u8>) -> io::Result<bool> {
    buffer.resize(HEADER_BYTES, 0);
    match stream.read_exact(buffer) {
        Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => return Ok(false),
        outcome => outcome?,
    }
    let length = usize::try_from(number(buffer, 0)?).unwrap_or(0);
    if !(HEADER_BYTES..=MAX_MESSAGE_BYTES).contains(&length) {
        return Err(damaged("message length"));
    }
    buffer.resize(length, 0);
    stream.read_exact(&mut buffer[HEADER_BYTES..])?;
    Ok(true)
}

/// Parses a message.
pub(crate) fn parse(message: &[u8]) -> io::Result<Request<'_>> {
    let id = number(message, 4)?;
    let rest = &message[HEADER_BYTES..];
    match number(message, 12)? {
        OP_MSG => parse_msg(id, rest),
        OP_QUERY => parse_query(id, rest),
        _ => Err(damaged("opcode")),
    }
}

fn parse_msg(id: i32, rest: &[u8]) -> io::Result<Request<'_>> {
    let flags = number(rest, 0)?.cast_unsigned();
    let mut sections = &rest[4..];
    if flags & CHECKSUM_PRESENT != 0 {
        sections = &sections[..sections.len().saturating_sub(4)];
    }
    let mut body = None;
    let mut sequences = Vec::new();
    while let Some((section, after)) = sections.split_first() {
        if *section == 0 {
            let (document, after) = Document::split(after).map_err(io::Error::other)?;
            body = Some(document);
            sections = after;
        } else {
            let length = usize::try_from(number(after, 0)?).unwrap_or(0);
            let (sequence, after) = after
                .split_at_checked(length)
                .ok_or_else(|| damaged("section"))?;
            sequences.push(Sequence::parse(sequence)?);
            sections = after;
        }
    }
    let envelope = Envelope {
        id,
        legacy: false,
        wants_reply: flags & MORE_TO_COME == 0,
    };
    Ok(Request {
        envelope,
        body: body.ok_or_else(|| damaged("body"))?,
        sequences,
    })
}

/// Parses an `OP_QUERY`: flags, a name, two numbers, the query.
fn parse_query(id: i32, rest: &[u8]) -> io::Result<Request<'_>> {
    let after_flags = rest.get(4..).unwrap_or_default();
    let name = after_flags.iter().position(|byte| *byte == 0);
    let query = name
        .and_then(|end| after_flags.get(end + 9..))
        .ok_or_else(|| damaged("query"))?;
    let (body, _) = Document::split(query).map_err(io::Error::other)?;
    let envelope = Envelope {
        id,
        legacy: true,
        wants_reply: true,
    };
    Ok(Request {
        envelope,
        body,
        sequences: Vec::new(),
    })
}

/// Writes a reply whose document consists of these parts.
pub(crate) fn write(
    stream: &mut impl Write,
    request: Envelope,
    document: &[&[u8]],
) -> io::Result<()> {
    let mut head = Vec::with_capacity(64);
    let body: usize = document.iter().map(|part| part.len()).sum();
    let (operation, prefix): (i32, &[u8]) = if request.legacy {
        // Flags, cursor id, index of the first document, one document.
        (
            OP_REPLY,
            &[0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1, 0, 0, 0],
        )
    } else {
        // Flags, and a section of kind 0.
        (OP_MSG, &[0; 5])
    };
    let length = HEADER_BYTES + prefix.len() + body;
    let length = i32::try_from(length).map_err(io::Error::other)?;
    for number in [length, request.id, request.id, operation] {
        head.extend_from_slice(&number.to_le_bytes());
    }
    head.extend_from_slice(prefix);
    // Small parts are sent with the header, which saves a packet.
    for part in document {
        if part.len() < 4096 {
            head.extend_from_slice(part);
        } else {
            stream.write_all(&head)?;
            stream.write_all(part)?;
            head.clear();
        }
    }
    stream.write_all(&head)
}

fn number(bytes: &[u8], at: usize) -> io::Result<i32> {
    let number = bytes.get(at..).and_then(<[u8]>::first_chunk::<4>);
    number
        .map(|bytes| i32::from_le_bytes(*bytes))
        .ok_or_else(|| damaged("length"))
}

fn damaged(what: &str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, format!("invalid {what}"))
}
