//! Entries made by hand, in the forms of servers from 3.6 to 9.0 and of FerretDB 1: the records
//! that a producer makes of them, and the commands that a replay makes.
//!
//! `tests/fixtures/made/` has a file for each version: a list of cases in Extended JSON.
//!
//! | field of a case | holds |
//! | --- | --- |
//! | `name` | the behaviour that it shows |
//! | `entries` | the oplog |
//! | `records` | the records for Kafka, in order; a command with barriers is one record of several topics |
//! | `writes` | the target's commands, in order, without the common fields; `rewrite` stands for read, apply the diffs, replace |
//! | `refused` | instead of `writes`, or of both: a part of the message that ends the stream |
//! | `state` | optional: documents by namespace after applying everything to the model target |
//!
//! A record's `value` is given where it is not the entry itself. Topics have two partitions.

mod carry;
mod case;
mod faults;

use std::fs;
use std::path::Path;

use anyhow::{Context, Result, ensure};
use oplog_consumer::replay::plan::Planner;
use oplog_relay_core::command::is_command;
use oplog_relay_core::document::{Document, DocumentBuilder, kind};
use oplog_relay_core::entry::Entry;
use oplog_relay_core::json::{Mode, write_document};
use oplog_relay_kit::model::Model;

use carry::{Carried, carry, plan};
use case::{Case, read};

/// The files, each with the minimum number of its cases.
const FILES: [(&str, usize); 9] = [
    ("3.6-4.0", 18),
    ("4.2", 20),
    ("4.4", 11),
    ("5.0", 12),
    ("6.0", 11),
    ("7.0", 6),
    ("8.0", 7),
    ("8.2-9.0", 14),
    ("ferretdb-1", 3),
];

#[test]
fn entries_of_every_version_become_the_records_and_writes_of_the_table() -> Result<()> {
    let directory = Path::new(env!("CARGO_MANIFEST_DIR")).join("fixtures/made");
    let mut failures = Vec::new();
    for (version, least) in FILES {
        let text = fs::read(directory.join(format!("{version}.json")))?;
        let cases = read(&text).with_context(|| version.to_owned())?;
        ensure!(cases.len() >= least, "{version}: {} cases", cases.len());
        for case in &cases {
            if let Err(failure) = check(case) {
                failures.push(format!("{version}, {}: {failure:#}", case.name));
            }
        }
    }
    ensure!(failures.is_empty(), "{}", failures.join("\n\n"));
    Ok(())
}

fn check(case: &Case) -> Result<()> {
    let carried = carry(&case.entries)?;
    same("records", &shown(&carried.records)?, &shown(&case.records)?)?;
    let planned = match &carried.refused {
        Some(message) => Err(message.clone()),
        None => plan(&carried)?,
    };
    match (planned, &case.refused) {
        (Ok(writes), None) => same("writes", &shown(&writes)?, &shown(&case.writes)?)?,
        (Err(message), Some(part)) => ensure!(message.contains(part), "refused: {message}"),
        (Err(message), None) => anyhow::bail!("refused: {message}"),
        (Ok(writes), Some(part)) => {
            let writes = shown(&writes)?.join("\n");
            anyhow::bail!("not refused ({part}):\n{writes}")
        }
    }
    match &case.state {
        Some(expected) => check_state(&carried, Document::new(expected)?),
        None => Ok(()),
    }
}

/// Checks the documents of the model target after applying everything. Without commands it checks
/// them again after applying everything twice; commands would need a catalog to be skipped then.
fn check_state(carried: &Carried, expected: Document<'_>) -> Result<()> {
    let planner = Planner::new(1);
    let mut model = Model::default();
    let mut passes = 2;
    for entry in &carried.entries {
        if is_command(&Entry::parse(Document::new(&entry.carried.1)?)?) {
            passes = 1;
        }
    }
    for _ in 0..passes {
        for entry in &carried.entries {
            model.replay(&planner, std::slice::from_ref(&entry.carried))?;
        }
        let state = model.state();
        let mut bytes = Vec::new();
        let mut found = DocumentBuilder::start(&mut bytes);
        for namespace in expected.elements() {
            let ns = std::str::from_utf8(namespace?.name)?;
            found.nested(ns, kind::ARRAY, |list| {
                for (index, document) in state.get(ns).into_iter().flatten().enumerate() {
                    list.raw(&index.to_string(), kind::DOCUMENT, document);
                }
            });
        }
        found.finish();
        let expected = expected.as_bytes().to_vec();
        same("state", &shown(&[bytes])?, &shown(&[expected])?)?;
    }
    Ok(())
}

/// Formats documents as canonical Extended JSON.
fn shown(documents: &[Vec<u8>]) -> Result<Vec<String>> {
    let text = |bytes: &Vec<u8>| -> Result<String> {
        let mut text = Vec::new();
        let written = write_document(Document::new(bytes)?, Mode::Canonical, &mut text);
        written.map(drop)?;
        Ok(String::from_utf8(text)?)
    };
    documents.iter().map(text).collect()
}

fn same(what: &str, found: &[String], expected: &[String]) -> Result<()> {
    let (found, expected) = (found.join("\n"), expected.join("\n"));
    ensure!(found == expected, "{what}:\n{found}\nexpected:\n{expected}");
    Ok(())
}
