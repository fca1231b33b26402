//! Oplogs that a real server wrote, with the state that they must result in.

use std::fs;
use std::io::Read as _;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail, ensure};
use bson::{Bson as Value, Document as Bson};
use flate2::read::GzDecoder;
use oplog_relay_core::collection_uuid::CollectionUuid;
use oplog_relay_core::document::{Document, DocumentBuilder, Element, kind};
use oplog_relay_core::json::parse_document;

use super::Model;
use super::contents::{Collections, State, compare};
use super::record::Collection;
use super::version::Version;

/// One directory of the golden data.
#[derive(Debug, Clone)]
pub struct Scenario {
    version: Version,
    directory: PathBuf,
    left_out: Vec<String>,
}

/// The required agreement of a state with the expected one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Agreement {
    /// Equality byte for byte.
    Bytes,
    /// Equality except for the order of the fields of documents.
    Fields,
}

impl Scenario {
    /// Returns the scenario of that name that MongoDB 4.2 recorded.
    #[must_use]
    pub fn new(name: &str) -> Scenario {
        Scenario::recorded_by(Version::V4_2, name)
    }

    /// Returns the scenario of that name that a server of this version recorded: 4.2 or 5.0.
    #[must_use]
    pub fn recorded_by(version: Version, name: &str) -> Scenario {
        let [major, minor] = version.numbers();
        let fixtures = Path::new(env!("CARGO_MANIFEST_DIR")).join("../fixtures");
        let directory = fixtures.join(format!("oplog-{major}.{minor}")).join(name);
        Scenario {
            version,
            directory,
            left_out: Vec::new(),
        }
    }

    /// Returns the recorded history of a sharded cluster of MongoDB 5.0. It has a change stream and no
    /// oplog.
    #[must_use]
    pub fn sharded() -> Scenario {
        let fixtures = Path::new(env!("CARGO_MANIFEST_DIR")).join("../fixtures");
        Scenario {
            version: Version::V5_0,
            directory: fixtures.join("change-stream-5.0-sharded"),
            left_out: Vec::new(),
        }
    }

    /// Returns a scenario of MongoDB 4.2 of which only the change stream was recorded.
    #[must_use]
    pub fn events_of_4_2(name: &str) -> Scenario {
        let fixtures = Path::new(env!("CARGO_MANIFEST_DIR")).join("../fixtures");
        Scenario {
            version: Version::V4_2,
            directory: fixtures.join("change-stream-4.2").join(name),
            left_out: Vec::new(),
        }
    }

    /// Returns the recorded events of the change stream of the whole deployment, as BSON.
    ///
    /// # Errors
    /// Fails if the scenario has no events, or if the file cannot be read.
    pub fn events(&self) -> Result<Vec<Vec<u8>>> {
        split(&read(&self.directory.join("change-stream.bson"))?)
    }

    /// Excludes from the comparison the collections on which, according to the scenario, the
    /// server's own oplog application ends in a different state than the primary.
    ///
    /// # Errors
    /// Fails if the scenario cannot be read.
    pub fn within_the_applier(self) -> Result<Scenario> {
        let beyond = self.noted("beyond_the_applier")?;
        Ok(beyond.iter().fold(self, |kept, ns| kept.without(ns)))
    }

    /// Returns the server's version and the name of the scenario.
    #[must_use]
    pub fn name(&self) -> String {
        let [major, minor] = self.version.numbers();
        let name = self.directory.file_name().unwrap_or_default();
        format!("{} of {major}.{minor}", name.to_string_lossy())
    }

    /// Returns the version of the server that recorded it.
    #[must_use]
    pub const fn version(&self) -> Version {
        self.version
    }

    /// Excludes a collection from the comparison.
    #[must_use]
    pub fn without(mut self, ns: &str) -> Scenario {
        self.left_out.push(ns.to_owned());
        self
    }

    /// Returns the concatenated entries, as a dump has them.
    ///
    /// # Errors
    /// Fails if the file cannot be read.
    pub fn oplog(&self) -> Result<Vec<u8>> {
        read(&self.directory.join("oplog.bson"))
    }

    /// Returns the expected documents.
    ///
    /// # Errors
    /// Fails if a file cannot be read.
    pub fn expected(&self) -> Result<State> {
        self.documents("expected")
    }

    /// Returns the expected documents, including those of excluded collections.
    ///
    /// # Errors
    /// Fails if a file cannot be read.
    pub fn all_expected(&self) -> Result<State> {
        let mut all = self.clone();
        all.left_out.clear();
        all.expected()
    }

    fn documents(&self, directory: &str) -> Result<State> {
        let mut state = State::new();
        for file in fs::read_dir(self.directory.join(directory))? {
            let path = file?.path();
            let name = path.file_name().and_then(|name| name.to_str());
            let name = name.context("no name")?;
            let name = name.strip_suffix(".gz").unwrap_or(name);
            if let Some(escaped) = name.strip_suffix(".bson") {
                let documents = split(&read(&path.with_file_name(name))?)?;
                state.insert(unescaped(escaped)?, documents);
            }
        }
        state.retain(|ns, _| !self.left_out.contains(ns));
        Ok(state)
    }

    /// Returns the expected collections.
    ///
    /// # Errors
    /// Fails if the file cannot be read.
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
            let mut collections = collections.context("no collection")?;
            collections.retain(|collection| {
                let name = collection.get_str("name").unwrap_or_default();
                !self.left_out.contains(&format!("{db}.{name}"))
            });
            Ok((db.clone(), collections))
        });
        databases.collect()
    }

    /// Checks that these are the expected collections, with their options and indexes; the error
    /// names all differences. Options and fields of indexes that are named in `withheld` may be
    /// missing or differ.
    ///
    /// # Errors
    /// Fails if they differ.
    pub fn expect_collections(&self, found: &Collections, withheld: &[&str]) -> Result<()> {
        let mut found = found.clone();
        for (db, collections) in &mut found {
            collections.retain(|collection| {
                let name = collection.get_str("name").unwrap_or_default();
                !self.left_out.contains(&format!("{db}.{name}"))
            });
        }
        compare(&found, &self.expected_collections()?, withheld)
    }

    /// Returns a target with the documents from before the start of the oplog: a copy with the
    /// UUIDs of the source.
    ///
    /// # Errors
    /// Fails if the scenario does not have such files, or if they contradict each other.
    pub fn initial(&self) -> Result<Model> {
        let mut model = Model::default();
        let mut documents = self.documents("initial")?;
        for (db, collections) in self.described("initial")? {
            for described in collections {
                if described.get_str("type")? != "collection" {
                    // A view is created by its document in system.views.
                    continue;
                }
                let name = described.get_str("name")?;
                let uuid = described.get("uuid").context("no UUID")?;
                let Value::Binary(uuid) = uuid else {
                    bail!("{uuid} is not a UUID");
                };
                let options = described.get_document("options")?.clone();
                let mut collection =
                    Collection::new(CollectionUuid(uuid.bytes.as_slice().try_into()?), options)?;
                let ns = format!("{db}.{name}");
                for document in documents.remove(&ns).context(ns.clone())? {
                    collection.insert(&ns, document)?;
                }
                model.put(&db, name, collection);
                for spec in described.get_array("indexes")?.iter().skip(1) {
                    let spec = spec.as_document().context("no index")?;
                    model.add_index(&db, name, spec.clone())?;
                }
            }
        }
        ensure!(documents.is_empty(), "documents of unknown collections");
        Ok(model)
    }

    /// Checks that the state is the expected one, byte for byte; the error names the differences.
    /// The order of fields is ignored where the scenario says that it depends on the moment of a
    /// full sync's reads.
    ///
    /// # Errors
    /// Fails if they differ.
    pub fn expect(&self, state: &State) -> Result<()> {
        self.expect_as(state, Agreement::Bytes)
    }

    /// Checks the state with the given agreement for all collections.
    ///
    /// # Errors
    /// Fails if they differ.
    pub fn expect_as(&self, state: &State, agreement: Agreement) -> Result<()> {
        let expected = self.expected()?;
        ensure!(!expected.is_empty(), "the scenario expects no documents");
        let found = state.keys().filter(|ns| !self.left_out.contains(ns));
        let (one, other): (Vec<_>, Vec<_>) = (found.collect(), expected.keys().collect());
        ensure!(one == other, "collections {one:?}, expected {other:?}");
        let loose = self.noted("field_order_insensitive")?;
        for (ns, documents) in &expected {
            let agreement = if loose.contains(ns) {
                Agreement::Fields
            } else {
                agreement
            };
            let found = &state[ns];
            for (number, (found, wanted)) in found.iter().zip(documents).enumerate() {
                let agree = match agreement {
                    Agreement::Bytes => found == wanted,
                    Agreement::Fields => sorted(found)? == sorted(wanted)?,
                };
                ensure!(
                    agree,
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

    /// Returns the namespaces that the scenario lists under that name.
    fn noted(&self, name: &str) -> Result<Vec<String>> {
        let noted = fs::read_to_string(self.directory.join("scenario.json"))?;
        let noted: serde_json::Value = serde_json::from_str(&noted)?;
        let listed = noted.get(name).and_then(|listed| listed.as_array());
        let listed = listed.into_iter().flatten();
        Ok(listed
            .filter_map(|ns| ns.as_str().map(str::to_owned))
            .collect())
    }

    /// Returns the time of the entry in the middle of the oplog, in milliseconds since 1970.
    ///
    /// # Errors
    /// Fails if the oplog cannot be read.
    pub fn middle(&self) -> Result<i64> {
        let entries = split(&self.oplog()?)?;
        let middle = entries.get(entries.len() / 2).context("no entries")?;
        let wall = Document::new(middle)?.get("wall")?;
        Ok(wall.context("no wall")?.date()?)
    }
}

/// Returns the document with its fields in order of their names, at every level.
fn sorted(document: &[u8]) -> Result<Vec<u8>> {
    let mut fields = Vec::new();
    for element in Document::new(document)?.elements() {
        let element = element?;
        let value = match element.kind {
            kind::DOCUMENT | kind::ARRAY => sorted(element.value)?,
            _ => element.value.to_vec(),
        };
        fields.push((element.name, element.kind, value));
    }
    fields.sort();
    let mut out = Vec::new();
    let mut builder = DocumentBuilder::start(&mut out);
    for (name, kind, value) in &fields {
        let (name, kind) = (*name, *kind);
        builder.element(Element { name, kind, value });
    }
    builder.finish();
    Ok(out)
}

/// Splits concatenated documents.
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

/// Decodes `%XX` in a file name to a byte.
fn unescaped(name: &str) -> Result<String> {
    let mut parts = name.split('%');
    let mut bytes = parts.next().unwrap_or_default().as_bytes().to_vec();
    for part in parts {
        let (byte, rest) = part.split_at_checked(2).context("no escape")?;
        bytes.push(u8::from_str_radix(byte, 16)?);
        bytes.extend_from_slice(rest.as_bytes());
    }
    Ok(String::from_utf8(bytes)?)
}
