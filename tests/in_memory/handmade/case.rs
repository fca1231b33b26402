//! The table: one file of cases for each version.

use anyhow::{Context, Result};
use oplog_relay_core::document::{Document, Element};
use oplog_relay_core::json::parse_document;

/// One case, with its documents as BSON.
#[derive(Debug, Default)]
pub(crate) struct Case {
    pub(crate) name: String,
    pub(crate) entries: Vec<Vec<u8>>,
    pub(crate) records: Vec<Vec<u8>>,
    pub(crate) writes: Vec<Vec<u8>>,
    pub(crate) refused: Option<String>,
    pub(crate) state: Option<Vec<u8>>,
}

/// Parses a file.
pub(crate) fn read(text: &[u8]) -> Result<Vec<Case>> {
    let mut bytes = Vec::new();
    parse_document(text, &mut bytes)?;
    let cases = Document::new(&bytes)?.get("cases")?.context("cases")?;
    let cases = cases.document()?.elements();
    cases.map(|case| Case::of(case?.document()?)).collect()
}

impl Case {
    fn of(document: Document<'_>) -> Result<Case> {
        let mut case = Case::default();
        for field in document.elements() {
            let field = field?;
            match field.name {
                b"name" => case.name = field.str()?.to_owned(),
                b"entries" => case.entries = list(field)?,
                b"records" => case.records = list(field)?,
                b"writes" => case.writes = list(field)?,
                b"refused" => case.refused = Some(field.str()?.to_owned()),
                b"state" => case.state = Some(field.document()?.as_bytes().to_vec()),
                other => anyhow::bail!("{}: {}", case.name, String::from_utf8_lossy(other)),
            }
        }
        Ok(case)
    }
}

fn list(field: Element<'_>) -> Result<Vec<Vec<u8>>> {
    let documents = field.document()?.elements();
    documents
        .map(|element| Ok(element?.document()?.as_bytes().to_vec()))
        .collect()
}
