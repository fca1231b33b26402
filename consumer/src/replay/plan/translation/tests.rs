use bson::{Bson, Document as Bdoc, doc};

use super::*;
use crate::replay::plan::PlanFault;

const AT: Circumstances<'static> = Circumstances {
    collection: "c",
    ordered: true,
};

fn translated(entry: Bdoc, at: Circumstances<'_>) -> Result<Translated, PlanFault> {
    let mut entry = entry;
    let ts = bson::Timestamp {
        time: 5,
        increment: 1,
    };
    entry.insert("ts", ts);
    entry.insert("v", 2);
    let bytes = entry.to_vec().unwrap();
    translate(&Entry::parse(Document::new(&bytes).unwrap()).unwrap(), at)
}

fn command(o: Bdoc) -> Bdoc {
    doc! { "op": "c", "ns": "shop.$cmd", "o": o }
}

fn read(bytes: &[u8]) -> Bdoc {
    Bdoc::from_reader(bytes).unwrap()
}

/// Returns the command for the target that a command entry is translated to.
fn becomes(o: Bdoc) -> Bdoc {
    match translated(command(o), AT).unwrap().action {
        Action::Run { command, .. } => read(&command),
        Action::Drop { collection } => doc! { "drop": collection },
        other => panic!("{other:?}"),
    }
}

#[test]
fn create_is_sent_without_internal_options() {
    let o = doc! {
        "create": "c",
        "capped": true, "size": 4096, "max": 3, "temp": true, "autoIndexId": false,
        "collation": { "locale": "de", "version": "57.1" },
        "idIndex": { "v": 2, "key": { "_id": 1 }, "name": "_id_", "ns": "shop.c" },
        "validator": { "a": 1 },
    };
    let expected = doc! {
        "create": "c", "capped": true, "size": 4096, "max": 3,
        "collation": { "locale": "de" }, "validator": { "a": 1 },
    };
    assert_eq!(becomes(o), expected);
    let plain = doc! { "create": "c", "capped": false, "idIndex": {}, "recordPreImages": true };
    assert_eq!(becomes(plain), doc! { "create": "c" });
}

#[test]
fn create_timeseries_two_entries() {
    let buckets = Circumstances {
        collection: "system.buckets.c",
        ..AT
    };
    let o = doc! {
        "create": "system.buckets.c", "validator": {}, "clusteredIndex": true,
        "timeseries": { "timeField": "t" }, "expireAfterSeconds": 60_i64,
    };
    let found = translated(command(o), buckets).unwrap();
    let Action::Run {
        command: created, ..
    } = &found.action
    else {
        panic!()
    };
    assert_eq!(
        read(created),
        doc! { "create": "c", "timeseries": { "timeField": "t" } }
    );
    let seconds = Some(60);
    assert_eq!(
        found.withheld,
        [Withheld {
            index: None,
            seconds
        }]
    );
    let view = doc! {
        "op": "i", "ns": "shop.system.views",
        "o": { "_id": "shop.c", "viewOn": "system.buckets.c", "pipeline": [{ "$_internalUnpackBucket": {} }] },
    };
    assert_eq!(
        translated(view.clone(), AT).unwrap().action,
        Action::Nothing
    );
    let mut changed = view;
    let definition = changed.get_document("o").unwrap().to_vec().unwrap();
    changed.insert("op", "u");
    changed.insert("o2", doc! { "_id": "shop.c" });
    let expected = Action::ChangeSeriesView { definition };
    assert_eq!(translated(changed, AT).unwrap().action, expected);
    let dropped = translated(command(doc! { "drop": "system.buckets.c" }), buckets);
    let expected = Action::DropSeries {
        series: "c".to_owned(),
        buckets: "system.buckets.c".to_owned(),
    };
    assert_eq!(dropped.unwrap().action, expected);
}

#[test]
fn indexes_are_read_from_both_forms_of_an_entry() {
    let spec = doc! { "v": 2, "key": { "x": 1 }, "name": "x_1", "ns": "shop.c" };
    let mut inline = doc! { "createIndexes": "c" };
    inline.extend(spec.clone());
    let simple = doc! { "locale": "simple" };
    let one = doc! { "v": 2, "key": { "x": 1 }, "name": "x_1", "collation": simple };
    assert_eq!(
        becomes(inline),
        doc! { "createIndexes": "c", "indexes": [one.clone()] }
    );
    let other = doc! { "v": 2, "key": { "y": 1 }, "name": "y_1", "unique": true };
    let build = doc! { "commitIndexBuild": "c", "indexBuildUUID": Bson::Null, "indexes": [spec, other.clone()] };
    let mut other = other;
    other.insert("collation", doc! { "locale": "simple" });
    assert_eq!(
        becomes(build),
        doc! { "createIndexes": "c", "indexes": [one, other] }
    );
}

#[test]
fn a_flag_that_was_typed_as_a_number_becomes_a_boolean() {
    let o =
        doc! { "createIndexes": "c", "key": { "x": 1 }, "name": "x_1", "unique": 1.0, "sparse": 1 };
    let found = translated(command(o), AT).unwrap();
    assert_eq!(found.limiting, ["x_1"]);
    let Action::Run { command: run, .. } = &found.action else {
        panic!()
    };
    let indexes = read(run).get_array("indexes").unwrap().clone();
    let spec = indexes[0].as_document().unwrap();
    for flag in ["unique", "sparse"] {
        assert_eq!(spec.get(flag), Some(&Bson::Boolean(true)));
    }
}

#[test]
fn an_expiry_is_withheld_and_recorded() {
    let o =
        doc! { "createIndexes": "c", "key": { "t": 1 }, "name": "t_1", "expireAfterSeconds": 60.0 };
    let found = translated(command(o), AT).unwrap();
    let Action::Run { command: run, .. } = &found.action else {
        panic!()
    };
    let spec = read(run).get_array("indexes").unwrap()[0]
        .as_document()
        .unwrap()
        .clone();
    assert!(!spec.contains_key("expireAfterSeconds"), "{spec}");
    let withheld = Withheld {
        index: Some("t_1".into()),
        seconds: Some(60),
    };
    assert_eq!(found.withheld, std::slice::from_ref(&withheld));
    let changed = doc! { "collMod": "c", "index": { "name": "t_1", "expireAfterSeconds": 60 } };
    let found = translated(command(changed), AT).unwrap();
    assert_eq!(
        (found.action, found.withheld),
        (Action::Nothing, vec![withheld.clone()])
    );
    let by_key =
        doc! { "collMod": "c", "index": { "keyPattern": { "t": 1 }, "expireAfterSeconds": 60.0 } };
    let found = translated(command(by_key), AT).unwrap();
    assert_eq!(found.withheld, std::slice::from_ref(&withheld));
    let ended = |index: Option<&str>| Withheld {
        index: index.map(str::to_owned),
        seconds: None,
    };
    for (o, expected) in [
        (doc! { "dropIndexes": "c", "index": "t_1" }, Some("t_1")),
        (
            doc! { "deleteIndexes": "c", "index": { "a": 1, "b": -1.0, "c": "text" } },
            Some("a_1_b_-1_c_text"),
        ),
        (
            doc! { "createIndexes": "c", "key": { "t": 1 }, "name": "n", "expireAfterSeconds": f64::NAN },
            Some("n"),
        ),
        (doc! { "collMod": "c", "expireAfterSeconds": "off" }, None),
    ] {
        let found = translated(command(o.clone()), AT).unwrap();
        assert_eq!(found.withheld, [ended(expected)], "{o}");
    }
    let both = doc! { "collMod": "c", "index": { "name": "t_1", "expireAfterSeconds": 60, "hidden": true } };
    assert_eq!(
        becomes(both),
        doc! { "collMod": "c", "index": { "name": "t_1", "hidden": true } }
    );
}

#[test]
fn a_unique_index_of_a_spread_collection_is_made_non_unique() {
    let o = doc! { "createIndexes": "c", "key": { "x": 1 }, "name": "x_1", "unique": true };
    let spread = Circumstances {
        ordered: false,
        ..AT
    };
    let found = translated(command(o), spread).unwrap();
    let Action::Run { command: run, .. } = &found.action else {
        panic!()
    };
    assert!(found.made_non_unique);
    let simple = doc! { "locale": "simple" };
    let plain = doc! { "key": { "x": 1 }, "name": "x_1", "collation": simple };
    assert_eq!(read(run), doc! { "createIndexes": "c", "indexes": [plain] });
}

#[test]
fn a_change_that_does_not_make_an_index_unique_is_not_reported_as_left_out() {
    let spread = Circumstances {
        ordered: false,
        ..AT
    };
    for (field, value, expected) in [
        ("unique", true, true),
        ("prepareUnique", true, true),
        ("unique", false, false),
        ("prepareUnique", false, false),
    ] {
        let change = doc! { "collMod": "c", "index": { "name": "x_1", field: value } };
        let found = translated(command(change), spread).unwrap();
        assert_eq!(found.made_non_unique, expected, "{field}: {value}");
    }
}

#[test]
fn drop_target_of_a_rename_is_a_flag_or_a_uuid() {
    let uuid = Bson::Binary(bson::Binary {
        subtype: bson::spec::BinarySubtype::Uuid,
        bytes: vec![1; 16],
    });
    for (flag, expected) in [
        (None, false),
        (Some(false.into()), false),
        (Some(true.into()), true),
        (Some(uuid), true),
    ] {
        let mut o = doc! { "renameCollection": "shop.c", "to": "shop.d", "stayTemp": false };
        if let Some(flag) = flag {
            o.insert("dropTarget", flag);
        }
        let action = translated(command(o), AT).unwrap().action;
        let to = "shop.d".to_owned();
        assert_eq!(
            action,
            Action::Rename {
                to,
                drop_target: expected
            }
        );
    }
}

#[test]
fn commands_are_translated_to_those_of_a_target() {
    let table = [
        (doc! { "drop": "x" }, doc! { "drop": "c" }),
        (
            doc! { "dropIndexes": "c", "index": "x_1" },
            doc! { "dropIndexes": "c", "index": "x_1" },
        ),
        (
            doc! { "deleteIndexes": "c", "index": "*" },
            doc! { "dropIndexes": "c", "index": "*" },
        ),
        (
            doc! { "dropIndex": "c", "index": { "x": 1 } },
            doc! { "dropIndexes": "c", "index": { "x": 1 } },
        ),
        (
            doc! { "convertToCapped": "c", "size": 9.0 },
            doc! { "convertToCapped": "c", "size": 9.0 },
        ),
        (doc! { "emptycapped": "c" }, doc! { "emptycapped": "c" }),
        (
            doc! { "collMod": "c", "uuid": Bson::Null, "recordPreImages": true, "validator": { "a": 1 }, "validationLevel": "off" },
            doc! { "collMod": "c", "validator": { "a": 1 }, "validationLevel": "off" },
        ),
    ];
    for (o, expected) in table {
        assert_eq!(becomes(o.clone()), expected, "{o}");
    }
}

#[test]
fn view_create_modify_drop_via_system_views() {
    let at = Circumstances {
        collection: "v",
        ..AT
    };
    let definition = doc! { "_id": "shop.v", "viewOn": "c", "pipeline": [{ "$match": {} }], "collation": { "locale": "de", "version": "57.1" } };
    let run = |op: &str, o: Bdoc| {
        let entry = doc! { "op": op, "ns": "shop.system.views", "o": o, "o2": { "_id": "shop.v" } };
        match translated(entry, at).unwrap().action {
            Action::Run { command, .. } => read(&command),
            Action::DropView { view } => doc! { "view": view },
            other => panic!("{other:?}"),
        }
    };
    let created = doc! { "create": "v", "viewOn": "c", "pipeline": [{ "$match": {} }], "collation": { "locale": "de" } };
    assert_eq!(run("i", definition.clone()), created);
    let modified = doc! { "collMod": "v", "viewOn": "c", "pipeline": [{ "$match": {} }] };
    assert_eq!(run("u", definition), modified);
    assert_eq!(run("d", doc! { "_id": "shop.v" }), doc! { "view": "v" });
}

#[test]
fn ignored_commands_do_nothing_and_unknown_commands_are_refused() {
    for o in [
        doc! { "dropDatabase": 1 },
        doc! { "startIndexBuild": "c", "indexes": [] },
        doc! { "abortIndexBuild": "c", "indexes": [] },
        doc! { "dbCheck": "shop.c", "type": "batch" },
        doc! { "collMod": "c" },
        doc! { "create": "system.views" },
    ] {
        let at = Circumstances {
            collection: "system.views",
            ..AT
        };
        assert_eq!(
            translated(command(o.clone()), at).unwrap().action,
            Action::Nothing,
            "{o}"
        );
    }
    for name in ["importCollection", "truncateRange", "fly"] {
        let refused = translated(command(doc! { name: "shop.c" }), AT);
        assert_eq!(refused, Err(PlanFault::Command(name.to_owned())));
    }
}

/// Returns the translated index of a `createIndexes`, and the options that were left out.
fn index(spec: Bdoc) -> (Bdoc, Vec<String>) {
    let mut o = doc! { "createIndexes": "c" };
    o.extend(spec);
    let translated = translated(command(o), AT).unwrap();
    let Action::Run { command, .. } = translated.action else {
        panic!("{:?}", translated.action);
    };
    let command = read(&command);
    let indexes = command.get_array("indexes").unwrap();
    (
        indexes[0].as_document().unwrap().clone(),
        translated.left_out,
    )
}

#[test]
fn index_options_that_old_servers_ignored_are_left_out() {
    let odd = doc! { "k": true, "l": "", "m": 0, "n": -1 };
    let old = doc! { "v": 1, "key": odd.clone(), "name": "i", "backgroud": true, "safe": 1 };
    let expected = doc! { "v": 1, "key": odd.clone(), "name": "i" };
    let left_out = ["backgroud", "safe"].map(str::to_owned).to_vec();
    assert_eq!(index(old), (expected, left_out));
    // In versions other than 1, each value of the key is replaced by the value that it meant.
    let plain = doc! { "k": 1, "l": 1, "m": 1, "n": -1 };
    for old in [
        doc! { "key": odd.clone(), "name": "i" },
        doc! { "v": 0, "key": odd, "name": "i" },
    ] {
        let (spec, left_out) = index(old);
        assert_eq!(spec.get_document("key").unwrap(), &plain);
        assert!(!spec.contains_key("v") && left_out.contains(&"key".to_owned()));
    }
    // A later server has validated the index, so the option is valid although it is not known here.
    let new = doc! { "v": 2, "key": { "a": 1 }, "name": "i", "future": true };
    let (spec, left_out) = index(new);
    assert!(spec.contains_key("future") && left_out.is_empty());
    let id = doc! { "createIndexes": "c", "v": 1, "key": { "_id": 1 }, "name": "_id_" };
    assert_eq!(translated(command(id), AT).unwrap().action, Action::Nothing);
    let descending = index(doc! { "v": 2, "key": { "_id": -1 }, "name": "d" }).0;
    assert_eq!(descending.get_str("name").ok(), Some("d"));
}

#[test]
fn collection_options_of_removed_storage_engines_are_left_out() {
    let old = doc! { "create": "c", "size": 4096, "max": 5, "flags": 1, "$nExtents": 3 };
    assert_eq!(becomes(old.clone()), doc! { "create": "c" });
    let left_out = translated(command(old), AT).unwrap().left_out;
    assert_eq!(left_out, ["flags", "$nExtents"]);
    let capped = doc! { "create": "c", "capped": 1, "size": 4096, "flags": 1 };
    let expected = doc! { "create": "c", "capped": 1, "size": 4096 };
    assert_eq!(becomes(capped), expected);
    let change = translated(
        command(doc! { "collMod": "c", "usePowerOf2Sizes": true }),
        AT,
    )
    .unwrap();
    assert_eq!(
        (change.action, &change.left_out[..]),
        (Action::Nothing, &["usePowerOf2Sizes".to_owned()][..])
    );
}

#[test]
fn every_command_that_a_replay_runs_is_translated() {
    use oplog_relay_core::command::COMMANDS;

    let runs = COMMANDS.iter().filter(|known| {
        matches!(
            known.treatment,
            Treatment::Barrier | Treatment::Build | Treatment::Inline
        )
    });
    let mut count = 0;
    for known in runs {
        let o = doc! { known.name: "c" };
        let refused = match translated(command(o), AT) {
            Err(PlanFault::Command(name)) => Some(name),
            _ => None,
        };
        assert_eq!(refused, None, "{} is not translated", known.name);
        count += 1;
    }
    assert!(count > 8, "{count} commands");
}
