//! Oplogs of a real server: each entry runs on the model as the command that it stands for, and the
//! model must end with the server's documents, options and indexes.

use anyhow::{Context, Result, ensure};
use bson::{Document as Bson, doc};
use oplog_relay_core::document::{Document, DocumentBuilder, Element, kind};
use oplog_relay_kit::model::{Model, Scenario, Version};

/// Error codes for an effect that exists already, or an object that does not exist.
const REPEATED: [i32; 3] = [26, 27, 48];
const DUPLICATE_KEY: i32 = 11000;
const PATH_NOT_VIABLE: i32 = 28;

/// Applies entries to a model.
struct Applier {
    model: Model,
    /// True if the model is a copy that is ahead of the oplog: existing effects are ignored.
    is_fuzzy: bool,
}

impl Applier {
    fn run(&mut self, db: &str, command: &[u8]) -> Result<Bson> {
        let reply = self.model.command(db, Document::new(command)?)?;
        Ok(Bson::from_reader(reply.as_slice())?)
    }

    /// Runs a command that must succeed.
    fn must(&mut self, db: &str, command: &[u8]) -> Result<()> {
        let reply = self.run(db, command)?;
        let code = code(&reply);
        let repeated = code.is_some_and(|code| self.is_fuzzy && REPEATED.contains(&code));
        ensure!(code.is_none() || repeated, "{reply}");
        Ok(())
    }

    fn entry(&mut self, entry: Document<'_>) -> Result<()> {
        let op = entry.get("op")?.context("op")?.str()?;
        let ns = entry.get("ns")?.context("ns")?.str()?;
        let o = entry.get("o")?.context("o")?.document()?;
        let (db, collection) = ns.split_once('.').unwrap_or((ns, ""));
        let is_transaction = op == "c" && o.get("applyOps")?.is_some();
        if op == "n" || (["admin", "config", "local"].contains(&db) && !is_transaction) {
            return Ok(());
        }
        match op {
            _ if collection == "system.views" => self.view(db, op, o),
            "i" => self.insert(db, collection, o),
            "u" => {
                let query = entry.get("o2")?.context("o2")?.document()?;
                self.update(db, collection, query, o)
            }
            "d" => {
                let delete = write("delete", collection, "deletes", |delete| {
                    delete.document("q", o).int32("limit", 1);
                });
                self.must(db, &delete)
            }
            _ => self.command(db, o),
        }
        .with_context(|| format!("{op} {ns} {:?}", Bson::from_reader(entry.as_bytes())))
    }

    /// Applies an entry of `system.views`. Views are logged as documents but created by commands.
    fn view(&mut self, db: &str, op: &str, o: Document<'_>) -> Result<()> {
        let mut view = Bson::from_reader(o.as_bytes())?;
        let id = view.remove("_id").context("_id")?;
        let name = id.as_str().and_then(|id| id.split_once('.'));
        let (_, name) = name.context("no name")?;
        let command = match op {
            "i" => "create",
            "u" => "collMod",
            _ => "drop",
        };
        let mut command = doc! { command: name };
        command.extend(view);
        self.must(db, &command.to_vec()?)
    }

    fn insert(&mut self, db: &str, collection: &str, o: Document<'_>) -> Result<()> {
        let insert = write("insert", collection, "documents", |insert| {
            for element in o.elements().flatten() {
                insert.element(element);
            }
        });
        let reply = self.run(db, &insert)?;
        let is_there = self.is_fuzzy && code(&reply) == Some(DUPLICATE_KEY);
        if !is_there {
            ensure!(code(&reply).is_none(), "{reply}");
            return Ok(());
        }
        let id = o.get("_id")?.context("_id")?;
        let replace = update(collection, id, o, true);
        self.must(db, &replace)
    }

    /// Applies an update. If the model is ahead, paths that its document no longer has are skipped.
    fn update(
        &mut self,
        db: &str,
        collection: &str,
        query: Document<'_>,
        o: Document<'_>,
    ) -> Result<()> {
        let id = query.get("_id")?.context("_id")?;
        if o.get("_id")?.is_some() {
            return self.must(db, &update(collection, id, o, self.is_fuzzy));
        }
        let whole = modifiers(o, |_| true)?;
        let whole = update(collection, id, Document::new(&whole)?, false);
        let reply = self.run(db, &whole)?;
        if !self.is_fuzzy || code(&reply) != Some(PATH_NOT_VIABLE) {
            ensure!(code(&reply).is_none(), "{reply}");
            ensure!(self.is_fuzzy || reply.get_i32("n")? == 1, "{reply}");
            return Ok(());
        }
        for operator in o.elements().skip(1) {
            for path in operator?.document()?.elements() {
                let name = path?.name;
                let one = modifiers(o, |path| path == name)?;
                let one = update(collection, id, Document::new(&one)?, false);
                let code = code(&self.run(db, &one)?);
                ensure!(code.is_none_or(|code| code == PATH_NOT_VIABLE));
            }
        }
        Ok(())
    }

    /// Runs a logged command without the fields that a client must not send.
    fn command(&mut self, db: &str, o: Document<'_>) -> Result<()> {
        let name = o.first()?.context("no command")?;
        if name.name == b"applyOps" {
            for entry in name.document()?.elements() {
                self.entry(entry?.document()?)?;
            }
            return Ok(());
        }
        let mut command = Bson::from_reader(o.as_bytes())?;
        match name.name {
            b"create" if name.str()? == "system.views" => return Ok(()),
            b"create" => drop(command.remove("temp")),
            b"createIndexes" => {
                let collection = command.remove("createIndexes").context("no name")?;
                command
                    .entry("collation")
                    .or_insert(doc! { "locale": "simple" }.into());
                command = doc! { "createIndexes": collection, "indexes": [command] };
            }
            b"renameCollection" => {
                command.remove("stayTemp");
                let is_there = command.contains_key("dropTarget");
                command.insert("dropTarget", is_there);
                return self.must("admin", &command.to_vec()?);
            }
            _ => {}
        }
        self.must(db, &command.to_vec()?)
    }
}

/// Returns the code of a command's failure, or of its first write error.
fn code(reply: &Bson) -> Option<i32> {
    let errors = reply.get_array("writeErrors").ok();
    let error = errors.and_then(|errors| errors.first()?.as_document());
    error.unwrap_or(reply).get_i32("code").ok()
}

/// Returns a command with one write.
fn write(
    name: &str,
    collection: &str,
    list: &str,
    fill: impl FnOnce(&mut DocumentBuilder<'_>),
) -> Vec<u8> {
    let mut out = Vec::new();
    let mut command = DocumentBuilder::start(&mut out);
    command.str(name, collection);
    if name != "delete" {
        command.boolean("bypassDocumentValidation", true);
    }
    command.nested(list, kind::ARRAY, |list| {
        list.nested("0", kind::DOCUMENT, fill);
    });
    command.finish();
    out
}

fn update(collection: &str, id: Element<'_>, change: Document<'_>, upsert: bool) -> Vec<u8> {
    write("update", collection, "updates", |update| {
        update.nested("q", kind::DOCUMENT, |query| {
            query.nested("_id", kind::DOCUMENT, |equal| {
                equal.raw("$eq", id.kind, id.value);
            });
        });
        update.document("u", change).boolean("upsert", upsert);
    })
}

/// Returns the modifiers of these paths, without `$v`.
fn modifiers(o: Document<'_>, wanted: impl Fn(&[u8]) -> bool) -> Result<Vec<u8>> {
    let mut out = Vec::new();
    let mut update = DocumentBuilder::start(&mut out);
    for operator in o.elements() {
        let operator = operator?;
        let Ok(paths) = operator.document() else {
            continue;
        };
        let paths: Vec<_> = paths.elements().flatten().collect();
        let paths: Vec<_> = paths.into_iter().filter(|path| wanted(path.name)).collect();
        if !paths.is_empty() {
            update.nested(std::str::from_utf8(operator.name)?, kind::DOCUMENT, |all| {
                for path in paths {
                    all.element(path);
                }
            });
        }
    }
    update.finish();
    Ok(out)
}

fn applied(scenario: &Scenario, model: Model, is_fuzzy: bool) -> Result<Model> {
    let mut applier = Applier { model, is_fuzzy };
    let oplog = scenario.oplog()?;
    let mut rest = oplog.as_slice();
    while !rest.is_empty() {
        let (entry, after) = Document::split(rest)?;
        applier.entry(entry)?;
        rest = after;
    }
    Ok(applier.model)
}

#[test]
fn histories_of_a_server_lead_the_model_to_the_servers_state() -> Result<()> {
    for name in [
        "crud-types",
        "updates",
        "ddl",
        "unique-indexes",
        "workload-a",
    ] {
        let scenario = Scenario::new(name);
        let model = applied(&scenario, Model::of(Version::V4_2), false).context(name)?;
        scenario.expect(&model.state()).context(name)?;
        scenario
            .expect_collections(&model.collections(), &[])
            .context(name)?;
    }
    Ok(())
}

/// The order of fields may differ in `wl_b_3.fo`, which exists to show that; only its documents are
/// counted.
#[test]
fn a_history_over_a_copy_that_is_ahead_leads_to_the_same_collections() -> Result<()> {
    let scenario = Scenario::new("workload-b");
    let model = applied(&scenario, scenario.initial()?, true)?;
    let (mut found, mut expected) = (model.state(), scenario.expected()?);
    let (one, other) = (found.remove("wl_b_3.fo"), expected.remove("wl_b_3.fo"));
    assert_eq!(one.unwrap().len(), other.unwrap().len());
    assert_eq!(
        found.keys().collect::<Vec<_>>(),
        expected.keys().collect::<Vec<_>>()
    );
    for (ns, documents) in &expected {
        assert!(&found[ns] == documents, "{ns}");
    }
    scenario.expect_collections(&model.collections(), &[])
}

#[test]
fn all_differences_are_named() -> Result<()> {
    let scenario = Scenario::new("ddl");
    let mut found = scenario.expected_collections()?;
    scenario.expect_collections(&found, &[])?;
    let collections = found.get_mut("ddl_a").context("ddl_a")?;
    collections.retain(|collection| {
        !collection
            .get_str("name")
            .is_ok_and(|name| name == "german")
    });
    for collection in collections.iter_mut() {
        if collection.get_str("name")? == "ttl" {
            let index = collection.get_array_mut("indexes")?.last_mut();
            let index = index.and_then(|index| index.as_document_mut());
            index
                .context("no index")?
                .insert("expireAfterSeconds", i32::MAX);
        }
    }
    collections.push(doc! { "name": "more", "type": "view", "options": {} });
    let error = scenario.expect_collections(&found, &[]).unwrap_err();
    let error = error.to_string();
    let lines: Vec<_> = error.lines().collect();
    assert_eq!(
        lines,
        [
            "ddl_a.more is unexpected",
            "ddl_a.german is missing",
            "ddl_a.ttl, index at_1: expireAfterSeconds is {\"$numberInt\":\"2147483647\"}, \
             expected {\"$numberInt\":\"0\"}",
        ]
    );
    let error = scenario.expect_collections(&found, &["expireAfterSeconds"]);
    assert_eq!(error.unwrap_err().to_string().lines().count(), 2);
    Ok(())
}
