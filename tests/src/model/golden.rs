//! Oplogs that a real server wrote, with the state that they must lead to.

use std::fs;
use std::io::Read as _;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail, ensure};
use bson::{Bson as Value, Document as Bson};
use flate2::read::GzDecoder;
use oplog_relay_core::document::Document;
use oplog_relay_core::json::parse_document;

use super::Model;
use super::contents::{Collections, State, compare};
use super::record::Collection;

/// One directory of the golden data.
#[derive(Debug, Clone)]
pub struct Scenario {
    directory: PathBuf,
    left_out: Vec<String>,
}

impl Scenario {
    /// The scenario of that name.
    #[must_use]
    pub fn new(name: &str) -> Scenario {
        let fixtures = Path::new(env!("CARGO_MANIFEST_DIR")).join("fixtures/oplog-4.2");
        Scenario {
            directory: fixtures.join(name),
            left_out: Vec::new(),
        }
    }

    /// The same, but nothing is expected of that collection.
    #[must_use]
    pub fn without(mut self, ns: &str) -> Scenario {
        self.left_out.push(ns.to_owned());
        self
    }

    /// The entries one after the other, as a dump has them.
    ///
    /// # Errors
    /// When the file cannot be read.
    pub fn oplog(&self) -> Result<Vec<u8>> {
        read(&self.directory.join("oplog.bson"))
    }

    /// What must be there in the end.
    ///
    /// # Errors
    /// When a file cannot be read.
    pub fn expected(&self) -> Result<State> {
        self.documents("expected")
    }

    fn documents(&self, directory: &str) -> Result<State> {
        let mut state = State::new();
        for file in fs::read_dir(self.directory.join(directory))? {
            let path = file?.path();
            let name = path.file_name().and_then(|name| name.to_str());
            let name = name.context("a name")?;
            let name = name.strip_suffix(".gz").unwrap_or(name);
            if let Some(escaped) = name.strip_suffix(".bson") {
                let documents = split(&read(&path.with_file_name(name))?)?;
                state.insert(unescaped(escaped)?, documents);
            }
        }
        state.retain(|ns, _| !self.left_out.contains(ns));
        Ok(state)
    }

    /// The collections that must be there in the end.
    ///
    /// # Errors
    /// When the file cannot be read.
    pub fn expected_collections(&self) -> Result<Collections> {
        self.described("expected")
    }

    fn described(&self, directory: &str) -> Result<Collections> {
        let text = read(&self.directory.join(directory).join("collections.json"))?;
        let mut bytes = Vec::new();
        parse_document(&text, &mut bytes)?;
        let all = Bson::from_reader(bytes.as_slice())?;
        let databases = all.iter().map(|(db, collections)| {
            let collections = collections.as_array().context("collections")?.iter();
            let collections = collections.map(|one| one.as_document().cloned());
            let collections: Option<Vec<Bson>> = collections.collect();
            let mut collections = collections.context("a collection")?;
            collections.retain(|collection| {
                let name = collection.get_str("name").unwrap_or_default();
                !self.left_out.contains(&format!("{db}.{name}"))
            });
            Ok((db.clone(), collections))
        });
        databases.collect()
    }

    /// Fails unless these are the expected collections, with their options and indexes; names all
    /// that differs. Options and fields of indexes that are named in `withheld` may be missing or
    /// differ.
    ///
    /// # Errors
    /// When they differ.
    pub fn expect_collections(&self, found: &Collections, withheld: &[&str]) -> Result<()> {
        compare(found, &self.expected_collections()?, withheld)
    }

    /// A target that holds what was there before the oplog begins: a copy with the UUIDs of the
    /// source.
    ///
    /// # Errors
    /// When the scenario has no such files, or they contradict themselves.
    pub fn initial(&self) -> Result<Model> {
        let mut model = Model::default();
        let mut documents = self.documents("initial")?;
        for (db, collections) in self.described("initial")? {
            for described in collections {
                if described.get_str("type")? != "collection" {
                    // A view is a document of system.views.
                    continue;
                }
                let name = described.get_str("name")?;
                let uuid = described.get("uuid").context("a uuid")?;
                let Value::Binary(uuid) = uuid else {
                    bail!("{uuid} is no UUID");
                };
                let options = described.get_document("options")?.clone();
                let mut collection = Collection::new(uuid.bytes.as_slice().try_into()?, options)?;
                let ns = format!("{db}.{name}");
                for document in documents.remove(&ns).context(ns.clone())? {
                    collection.insert(&ns, document)?;
                }
                model.put(&db, name, collection);
                for spec in described.get_array("indexes")?.iter().skip(1) {
                    let spec = spec.as_document().context("an index")?;
                    model.add_index(&db, name, spec.clone())?;
                }
            }
        }
        ensure!(documents.is_empty(), "documents of unknown collections");
        Ok(model)
    }

    /// Fails unless the state is the expected one, byte for byte; names what differs.
    ///
    /// # Errors
    /// When they differ.
    pub fn expect(&self, state: &State) -> Result<()> {
        let expected = self.expected()?;
        ensure!(!expected.is_empty(), "nothing is expected");
        let (one, other): (Vec<_>, Vec<_>) = (state.keys().collect(), expected.keys().collect());
        ensure!(one == other, "collections {one:?}, expected {other:?}");
        for (ns, documents) in &expected {
            let found = &state[ns];
            for (number, (found, wanted)) in found.iter().zip(documents).enumerate() {
                ensure!(
                    found == wanted,
                    "{ns} {number}:\n{:?}\nexpected\n{:?}",
                    bson::RawDocument::from_bytes(found),
                    bson::RawDocument::from_bytes(wanted)
                );
            }
            let count = found.len();
            ensure!(count == documents.len(), "{ns} has {count} documents");
        }
        Ok(())
    }
}

/// Takes apart documents that stand one after the other.
fn split(mut bytes: &[u8]) -> Result<Vec<Vec<u8>>> {
    let mut documents = Vec::new();
    while !bytes.is_empty() {
        let (document, rest) = Document::split(bytes)?;
        documents.push(document.as_bytes().to_vec());
        bytes = rest;
    }
    Ok(documents)
}

/// Reads a file, or its gzipped form.
fn read(path: &Path) -> Result<Vec<u8>> {
    if path.exists() {
        return Ok(fs::read(path)?);
    }
    let path = PathBuf::from(format!("{}.gz", path.display()));
    let file = fs::File::open(&path).with_context(|| format!("{}", path.display()))?;
    let mut bytes = Vec::new();
    GzDecoder::new(file).read_to_end(&mut bytes)?;
    Ok(bytes)
}

/// `%XX` stands for a byte.
fn unescaped(name: &str) -> Result<String> {
    let mut parts = name.split('%');
    let mut bytes = parts.next().unwrap_or_default().as_bytes().to_vec();
    for part in parts {
        let (byte, rest) = part.split_at_checked(2).context("an escape")?;
        bytes.push(u8::from_str_radix(byte, 16)?);
        bytes.extend_from_slice(rest.as_bytes());
    }
    Ok(String::from_utf8(bytes)?)
}
