//! `collMod`.

use bson::{Bson as Value, Document as Bson, doc};

use super::Model;
use super::command::{Answer, Call, done};
use super::expiry::{self, EXPIRES};
use super::failure::Failure;
use super::index::{Index, is_true};
use super::namespace::VIEWS;
use super::options::{OPTIONS, check_validation, is_empty};
use super::version::Version;

/// Options that `collMod` can change.
const CHANGEABLE: [&str; 4] = [
    "validator",
    "validationLevel",
    "validationAction",
    "changeStreamPreAndPostImages",
];
/// Fields of an index that `collMod` can change, with the first version that can.
const OF_INDEX: [(&str, Version); 4] = [
    ("expireAfterSeconds", Version::V4_2),
    ("hidden", Version::V4_4),
    ("unique", Version::V6_0),
    ("prepareUnique", Version::V6_0),
];

impl Model {
    pub(super) fn coll_mod(&mut self, call: Call<'_>) -> Answer {
        let (db, name) = (call.db, call.collection()?);
        let given = call.arguments()?;
        if let Some(buckets) = self.buckets_of(db, name) {
            return self.change_time_series(call, &buckets, given);
        }
        if self.view(db, name).is_some() {
            self.change_view(db, name, &given)?;
            return done(doc! {});
        }
        self.change_collection(call, name, &given)
    }

    pub(super) fn change_collection(&mut self, call: Call<'_>, name: &str, given: &Bson) -> Answer {
        let (db, version) = (call.db, self.version);
        let mut reply = doc! {};
        let mut changed = self.required(db, name)?.clone();
        for (option, value) in given {
            let mut options = OPTIONS.iter();
            let known = options.any(|(known, since)| known == option && *since <= version);
            match option.as_str() {
                "index" => {
                    let change = value.as_document();
                    let change = change.ok_or_else(|| Failure::missing_field("collMod.index"))?;
                    let place = find(&changed.indexes, change)?;
                    let mut index = changed.indexes.remove(place);
                    change_index(&mut index, change, version, &mut reply)?;
                    changed.build(&call.ns()?, &mut index, false)?;
                    if is_set(change, "unique") && index.has_duplicates() {
                        let message = "Cannot convert the index to unique: there are duplicates";
                        return Err(Failure::new(359, message));
                    }
                    changed.indexes.insert(place, index);
                }
                "viewOn" | "pipeline" => {
                    let message = format!("ns {db}.{name} is not a view: '{option}'");
                    return Err(Failure::new(72, message));
                }
                "validator" if is_empty(value) => drop(changed.options.remove(option)),
                EXPIRES if known => {
                    expiry::check_collection(&changed.options, value, true)?;
                    if value.as_str() == Some("off") {
                        changed.options.remove(EXPIRES);
                    } else {
                        changed.options.insert(EXPIRES, value.clone());
                    }
                }
                option if known && CHANGEABLE.contains(&option) => {
                    check_validation(option, value)?;
                    changed.options.insert(option, value.clone());
                }
                option => return Err(Failure::unknown_field("collMod", option)),
            }
        }
        self.put(db, name, changed);
        done(reply)
    }

    pub(super) fn change_view(
        &mut self,
        db: &str,
        name: &str,
        given: &Bson,
    ) -> Result<(), Failure> {
        let mut view = doc! { "_id": format!("{db}.{name}") };
        let filter = view.to_vec()?;
        view.extend(self.view(db, name).unwrap_or_default());
        for (option, value) in given {
            if !["viewOn", "pipeline"].contains(&option.as_str()) {
                let message = format!("option '{option}' not supported on a view");
                return Err(Failure::new(72, message));
            }
            view.insert(option, value.clone());
        }
        let filter = oplog_relay_core::document::Document::new(&filter)?;
        let views = self.required(db, VIEWS)?;
        for record in views.select(filter)? {
            views.replace(VIEWS, record, view.to_vec()?)?;
        }
        Ok(())
    }
}

/// Returns true if a change sets a boolean field to true.
fn is_set(change: &Bson, field: &str) -> bool {
    change.get(field).is_some_and(is_true)
}

fn find(indexes: &[Index], change: &Bson) -> Result<usize, Failure> {
    let found = match (change.get("name"), change.get("keyPattern")) {
        (Some(Value::String(name)), None) => indexes.iter().position(|index| index.name() == name),
        (None, Some(Value::Document(key))) => {
            let same = |index: &Index| index.key().iter().eq(key);
            indexes.iter().position(same)
        }
        _ => {
            let message = "Must specify either index name or key pattern";
            return Err(Failure::new(72, message));
        }
    };
    let missing = || Failure::new(27, format!("cannot find index for {change}"));
    found.ok_or_else(missing)
}

fn change_index(
    index: &mut Index,
    change: &Bson,
    version: Version,
    reply: &mut Bson,
) -> Result<(), Failure> {
    expiry::check_changed_index(index.spec(), change, version)?;
    let is_prepared = index.is("prepareUnique") || index.is("unique");
    for (field, value) in change {
        if field == "name" || field == "keyPattern" {
            continue;
        }
        let mut fields = OF_INDEX.iter();
        if !fields.any(|(known, since)| known == field && *since <= version) {
            return Err(Failure::unknown_field("collMod.index", field));
        }
        if field == "unique" && !is_prepared {
            let message = "Cannot make index unique with 'prepareUnique=false'";
            return Err(Failure::new(72, message));
        }
        if let Some(old) = index.spec_mut().insert(field, value.clone()) {
            reply.insert(format!("{field}_old"), old);
        }
        reply.insert(format!("{field}_new"), value.clone());
    }
    if is_set(change, "unique") {
        index.spec_mut().remove("prepareUnique");
    }
    // A server shows these fields only while they are true.
    for field in ["hidden", "prepareUnique"] {
        if !index.is(field) {
            index.spec_mut().remove(field);
        }
    }
    Ok(())
}
