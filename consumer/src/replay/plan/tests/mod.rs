mod diff;

use std::collections::BTreeMap;

use crate::replay::plan::PlanFault;
use oplog_relay_core::diff::DiffFault;
use oplog_relay_core::document::{DocumentBuilder, kind};
use oplog_relay_core::entry::Entry;
use oplog_relay_core::json::{Mode, write_document};
use oplog_relay_core::position::Timestamp;
use proptest::prelude::*;

use super::*;

fn document(fill: impl FnOnce(&mut DocumentBuilder<'_>)) -> Vec<u8> {
    let mut out = Vec::new();
    let mut builder = DocumentBuilder::start(&mut out);
    fill(&mut builder);
    builder.finish();
    out
}

/// A change of one of a few documents, with the value that it writes.
#[derive(Debug, Clone, Copy)]
enum Change {
    Insert(i32),
    Set(i32),
    Unset,
    SetTwice(i32),
    /// A diff that `$set` can express.
    Update(i32),
    /// A diff that operators cannot express.
    Move(i32),
    Replace(i32),
    Delete,
}

fn diff_of(section: &str, value: i32) -> Vec<u8> {
    document(|o| {
        o.int32("$v", 2).nested("diff", kind::DOCUMENT, |diff| {
            diff.nested(section, kind::DOCUMENT, |fields| {
                fields.int32("value", value);
            });
        });
    })
}

fn entry(ns: &str, id: i32, change: Change) -> Vec<u8> {
    let whole = |value: i32| {
        document(|o| {
            o.int32("_id", id).int32("value", value);
        })
    };
    let key = document(|o| {
        o.int32("_id", id);
    });
    let set = |o: &mut DocumentBuilder<'_>, name: &str, value: i32| {
        o.nested("$set", kind::DOCUMENT, |set| {
            set.int32(name, value);
        });
    };
    let (op, o, o2) = match change {
        Change::Insert(value) => ("i", whole(value), None),
        Change::Set(value) => (
            "u",
            document(|o| {
                o.int32("$v", 1);
                set(o, "value", value);
            }),
            Some(key),
        ),
        Change::SetTwice(value) => (
            "u",
            document(|o| {
                set(o, "one", value);
                set(o, "two", value);
            }),
            Some(key),
        ),
        Change::Update(value) => ("u", diff_of("u", value), Some(key)),
        Change::Move(value) => ("u", diff_of("i", value), Some(key)),
        Change::Unset => (
            "u",
            document(|o| {
                o.nested("$unset", kind::DOCUMENT, |unset| {
                    unset.boolean("value", true);
                });
            }),
            Some(key),
        ),
        Change::Replace(value) => ("u", whole(value), Some(key)),
        Change::Delete => ("d", key, None),
    };
    document(|entry| {
        entry.raw("ts", kind::TIMESTAMP, &Timestamp::new(9, 1).to_le_bytes());
        entry
            .str("op", op)
            .str("ns", ns)
            .document("o", Document::new(&o).unwrap());
        if let Some(o2) = o2 {
            entry.document("o2", Document::new(&o2).unwrap());
        }
    })
}

fn located(entries: &[Vec<u8>]) -> Vec<Located<'_>> {
    let id = |index: usize| EntryId {
        ts: Timestamp::new(9, 1 + u32::try_from(index).unwrap()),
        ord: 0,
    };
    entries
        .iter()
        .enumerate()
        .map(|(index, bytes)| Located {
            offset: i64::try_from(index).unwrap(),
            id: id(index),
            entry: Entry::parse(Document::new(bytes).unwrap()).unwrap(),
        })
        .collect()
}

type Target = BTreeMap<(String, i32), BTreeMap<String, i32>>;

fn fields(document: Document<'_>) -> BTreeMap<String, i32> {
    document
        .elements()
        .map(|field| {
            let field = field.unwrap();
            let number = i32::try_from(field.integer().unwrap()).unwrap();
            (String::from_utf8(field.name.to_vec()).unwrap(), number)
        })
        .collect()
}

fn apply(target: &mut Target, ns: &str, id: i32, action: Action<'_>) {
    let place = (ns.to_owned(), id);
    match action {
        Action::AsIs { .. } => unreachable!("no change produces it"),
        Action::Insert(document) | Action::Replace(document) => {
            drop(target.insert(place, fields(document)));
        }
        Action::Rewritten(_) => unreachable!("no entry produces it"),
        Action::Zeros(_) => unreachable!("no document has timestamps"),
        Action::Delete => drop(target.remove(&place)),
        Action::Fields(diff) | Action::Diff(diff) => {
            if let Some(stored) = target.get_mut(&place) {
                for section in diff.elements() {
                    stored.extend(fields(section.unwrap().document().unwrap()));
                }
            }
        }
        Action::Modify(modifiers) => {
            let Some(stored) = target.get_mut(&place) else {
                return;
            };
            for operator in modifiers.elements() {
                let operator = operator.unwrap();
                match operator.name {
                    b"$set" => stored.extend(fields(operator.document().unwrap())),
                    b"$unset" => drop(stored.remove("value")),
                    _ => {}
                }
            }
        }
    }
}

fn apply_plan(target: &mut Target, plan: &Plan<'_>, rotate: usize) {
    for step in &plan.steps {
        let Step::Write(lanes) = step else { continue };
        for index in 0..lanes.len() {
            for bulk in &lanes[(index + rotate) % lanes.len()].bulks {
                let forward: Vec<&Write<'_>> = match bulk.kind {
                    BulkKind::Update | BulkKind::Rewrite => bulk.writes.iter().collect(),
                    // The documents are distinct, so any order is valid.
                    BulkKind::Insert | BulkKind::Delete => bulk.writes.iter().rev().collect(),
                };
                for write in forward {
                    let id = i32::try_from(write.document_id.integer().unwrap()).unwrap();
                    apply(target, bulk.ns, id, write.action);
                }
            }
        }
    }
}

fn changes() -> impl Strategy<Value = Vec<(bool, i32, Change)>> {
    let change = prop_oneof![
        any::<i32>().prop_map(Change::Insert),
        any::<i32>().prop_map(Change::Set),
        any::<i32>().prop_map(Change::SetTwice),
        any::<i32>().prop_map(Change::Update),
        any::<i32>().prop_map(Change::Move),
        Just(Change::Unset),
        any::<i32>().prop_map(Change::Replace),
        Just(Change::Delete),
    ];
    proptest::collection::vec((any::<bool>(), 0..4, change), 0..400)
}

proptest! {
    /// For any history, any state of the target and any order of lanes, a plan has the same result
    /// as its entries applied one by one.
    #[test]
    fn a_plan_has_the_same_result_as_its_entries(
        history in changes(),
        before in changes(),
        lanes in 1_usize..5,
        rotate in 0_usize..4,
    ) {
        let bytes = |changes: &[(bool, i32, Change)]| -> Vec<Vec<u8>> {
            let ns = |other: &bool| if *other { "db.a" } else { "db.b" };
            changes.iter().map(|(other, id, change)| entry(ns(other), *id, *change)).collect()
        };
        let (before, history) = (bytes(&before), bytes(&history));
        let mut one_by_one = Target::new();
        for located in located(&before).iter().chain(&located(&history)) {
            let id = located.entry.document_id().unwrap().integer().unwrap();
            let action = Planner::new(1).action_of(located).unwrap().unwrap();
            apply(&mut one_by_one, located.entry.ns, i32::try_from(id).unwrap(), action);
        }
        let planner = Planner::new(lanes);
        let mut planned = Target::new();
        apply_plan(&mut planned, &planner.plan(&located(&before)).unwrap(), rotate);
        let entries = located(&history);
        let plan = planner.plan(&entries).unwrap();
        apply_plan(&mut planned, &plan, rotate);
        prop_assert_eq!(&planned, &one_by_one);
        let writes: usize = plan.steps.iter().map(|step| match step {
            Step::Write(lanes) => lanes.iter().flat_map(|lane| &lane.bulks).map(|b| b.writes.len()).sum(),
            Step::Command(_) => 0,
        }).sum();
        prop_assert_eq!(writes + usize::try_from(plan.folded).unwrap(), history.len());
    }
}

fn actions(changes: &[(i32, Change)]) -> Vec<(BulkKind, i64)> {
    let entries: Vec<Vec<u8>> = changes
        .iter()
        .map(|(id, change)| entry("db.c", *id, *change))
        .collect();
    let entries = located(&entries);
    let plan = Planner::new(4).plan(&entries).unwrap();
    let [Step::Write(lanes)] = &plan.steps[..] else {
        panic!("{plan:?}")
    };
    let [lane] = &lanes[..] else {
        panic!("a few entries must be planned as one lane")
    };
    lane.bulks
        .iter()
        .flat_map(|bulk| {
            bulk.writes
                .iter()
                .map(|write| (bulk.kind, write.document_id.integer().unwrap()))
        })
        .collect()
}

#[test]
fn folding_follows_the_table() {
    use BulkKind as Kind;
    let insert = Change::Insert(1);
    let (set, replace, delete) = (Change::Set(2), Change::Replace(3), Change::Delete);
    assert_eq!(
        actions(&[(1, insert), (1, set), (1, set)]),
        [(Kind::Insert, 1), (Kind::Update, 1), (Kind::Update, 1)]
    );
    assert_eq!(
        actions(&[(1, insert), (1, set), (1, replace)]),
        [(Kind::Update, 1)]
    );
    assert_eq!(actions(&[(1, replace), (1, replace)]), [(Kind::Update, 1)]);
    assert_eq!(
        actions(&[(1, insert), (1, set), (1, delete)]),
        [(Kind::Delete, 1)]
    );
    assert_eq!(actions(&[(1, delete), (1, insert)]), [(Kind::Update, 1)]);
    assert_eq!(
        actions(&[(1, set), (2, insert), (1, delete), (3, set)]),
        [(Kind::Insert, 2), (Kind::Delete, 1), (Kind::Update, 3)]
    );
}

#[test]
fn all_updates_of_a_document_with_a_rewrite_are_rewrites() {
    use BulkKind as Kind;
    let (set, update, moved) = (Change::Set(1), Change::Update(2), Change::Move(3));
    let replace = Change::Replace(4);
    assert_eq!(
        actions(&[(1, set), (2, set), (1, moved), (2, update), (1, update)]),
        [
            (Kind::Update, 2),
            (Kind::Update, 2),
            (Kind::Rewrite, 1),
            (Kind::Rewrite, 1),
            (Kind::Rewrite, 1)
        ]
    );
    // A replacement precedes the rewrite. The writes that it supersedes do not require a rewrite.
    assert_eq!(
        actions(&[(1, set), (1, replace), (1, moved)]),
        [(Kind::Update, 1), (Kind::Rewrite, 1)]
    );
    assert_eq!(
        actions(&[(1, moved), (1, replace), (1, set)]),
        [(Kind::Update, 1), (Kind::Update, 1)]
    );
}

fn command_text(kind: BulkKind, writes: &[Write<'_>]) -> String {
    let options = CommandOptions {
        bypass_validation: true,
        upsert_unmatched: false,
        max_time_ms: 30_000,
        literal_zeros: false,
        in_transaction: false,
    };
    let mut out = Vec::new();
    write_command("c", kind, writes, options, &mut out).unwrap();
    let mut text = Vec::new();
    assert!(
        write_document(Document::new(&out).unwrap(), Mode::Relaxed, &mut text)
            .unwrap()
            .is_exact()
    );
    String::from_utf8(text).unwrap()
}

fn first_write<'a>(located: &[Located<'a>]) -> (BulkKind, Write<'a>) {
    let plan = Planner::new(1).plan(located).unwrap();
    let Some(Step::Write(lanes)) = plan.steps.first() else {
        panic!()
    };
    let bulk = &lanes[0].bulks[0];
    (bulk.kind, bulk.writes[0])
}

#[test]
fn commands_have_the_servers_form() {
    let golden = [
        (
            Change::Insert(5),
            r#"{"insert":"c","ordered":false,"bypassDocumentValidation":true,"maxTimeMS":30000,"writeConcern":{"w":"majority"},"documents":[{"_id":1,"value":5}]}"#,
        ),
        (
            Change::Set(5),
            r#"{"update":"c","ordered":true,"bypassDocumentValidation":true,"maxTimeMS":30000,"writeConcern":{"w":"majority"},"updates":[{"q":{"_id":1},"u":{"$set":{"value":5}}}]}"#,
        ),
        (
            Change::SetTwice(5),
            r#"{"update":"c","ordered":true,"bypassDocumentValidation":true,"maxTimeMS":30000,"writeConcern":{"w":"majority"},"updates":[{"q":{"_id":1},"u":{"$set":{"one":5,"two":5}}}]}"#,
        ),
        (
            Change::Update(5),
            r#"{"update":"c","ordered":true,"bypassDocumentValidation":true,"maxTimeMS":30000,"writeConcern":{"w":"majority"},"updates":[{"q":{"_id":1},"u":{"$set":{"value":5}}}]}"#,
        ),
        (
            Change::Replace(5),
            r#"{"update":"c","ordered":true,"bypassDocumentValidation":true,"maxTimeMS":30000,"writeConcern":{"w":"majority"},"updates":[{"q":{"_id":1},"u":{"_id":1,"value":5},"upsert":true}]}"#,
        ),
        (
            Change::Delete,
            r#"{"delete":"c","ordered":false,"maxTimeMS":30000,"writeConcern":{"w":"majority"},"deletes":[{"q":{"_id":1},"limit":1}]}"#,
        ),
    ];
    for (change, text) in golden {
        let entries = [entry("db.c", 1, change)];
        let (kind, write) = first_write(&located(&entries));
        assert_eq!(command_text(kind, &[write]), text);
        let mut command = Vec::new();
        let options = CommandOptions {
            bypass_validation: true,
            upsert_unmatched: true,
            max_time_ms: 1,
            literal_zeros: false,
            in_transaction: false,
        };
        write_command("c", kind, &[write], options, &mut command).unwrap();
        assert!(statement_bytes(&write) + 150 > command.len());
    }
}

#[test]
fn an_id_that_looks_like_an_operator_is_matched_by_equality() {
    let entry = document(|entry| {
        let o = document(|o| {
            o.nested("_id", kind::DOCUMENT, |id| {
                id.int32("$gt", 1);
            });
        });
        entry
            .raw("ts", kind::TIMESTAMP, &[0; 8])
            .str("op", "d")
            .str("ns", "db.c");
        entry.document("o", Document::new(&o).unwrap());
    });
    let entries = [entry];
    let (kind, write) = first_write(&located(&entries));
    assert!(command_text(kind, &[write]).contains(r#""q":{"_id":{"$eq":{"$gt":1}}}"#));
}

fn with_o(op: &str, fill: impl FnOnce(&mut DocumentBuilder<'_>)) -> Vec<u8> {
    let o = document(fill);
    document(|entry| {
        entry
            .raw("ts", kind::TIMESTAMP, &[0; 8])
            .str("op", op)
            .str("ns", "db.$cmd");
        entry.document("o", Document::new(&o).unwrap());
        let key = document(|key| {
            key.int32("_id", 1);
        });
        entry.document("o2", Document::new(&key).unwrap());
    })
}

fn plan_of(entry: Vec<u8>) -> Result<String, PlanFault> {
    let entries = [entry];
    let entries = located(&entries);
    Planner::new(1)
        .plan(&entries)
        .map(|plan| format!("{:?}", plan.steps))
        .map_err(|error| {
            assert_eq!(error.index, 0);
            error.fault
        })
}

#[test]
fn a_command_is_a_step_of_its_own_between_writes() {
    let create = with_o("c", |o| {
        o.str("create", "c");
    });
    assert!(plan_of(create).unwrap().contains("Command"));
}

/// Returns the command for the only write of an entry, by a planner that applies operators that are
/// not idempotent.
fn sent_as_is(fill: impl FnOnce(&mut DocumentBuilder<'_>), upsert: bool) -> String {
    let (o, key) = (document(fill), entry_key());
    let entries = [document(|entry| {
        entry.raw("ts", kind::TIMESTAMP, &[1; 8]);
        entry.str("op", "u").str("ns", "a.b");
        entry.document("o", Document::new(&o).unwrap());
        entry.document("o2", Document::new(&key).unwrap());
        entry.boolean("b", upsert);
    })];
    let entries = located(&entries);
    let planner = Planner::new(4).applying_unrepeatable();
    let plan = planner.plan(&entries).unwrap();
    let [Step::Write(lanes)] = &plan.steps[..] else {
        panic!("{plan:?}")
    };
    let bulk = &lanes[0].bulks[0];
    command_text(bulk.kind, &bulk.writes)
}

fn entry_key() -> Vec<u8> {
    document(|key| {
        key.int32("_id", 1);
    })
}

#[test]
fn an_update_that_is_not_idempotent_is_a_separate_step() {
    let update = |operator: &str, field: &str| {
        document(|entry| {
            entry.raw("ts", kind::TIMESTAMP, &[1; 8]);
            entry.str("op", "u").str("ns", "a.b");
            entry.nested("o", kind::DOCUMENT, |o| {
                o.int32("$v", 1).nested(operator, kind::DOCUMENT, |change| {
                    change.int32(field, 1);
                });
            });
            entry.document("o2", Document::new(&entry_key()).unwrap());
        })
    };
    let entries = [
        update("$set", "a"),
        update("$inc", "n"),
        update("$set", "b"),
    ];
    let entries = located(&entries);
    let plan = Planner::new(4).applying_unrepeatable().plan(&entries);
    let plan = plan.unwrap();
    let writes = plan.steps.iter().map(|step| match step {
        Step::Write(lanes) => lanes[0].bulks[0].writes.len(),
        Step::Command(_) => panic!("{step:?}"),
    });
    assert_eq!(writes.collect::<Vec<_>>(), [1, 1, 1]);
}

#[test]
fn a_users_own_updates_are_sent_as_they_are() {
    let increment = |o: &mut DocumentBuilder<'_>| {
        o.int32("$v", 1).nested("$inc", kind::DOCUMENT, |inc| {
            inc.int32("n", 1);
        });
    };
    let set = |o: &mut DocumentBuilder<'_>| {
        o.nested("$set", kind::DOCUMENT, |set| {
            set.int32("n", 1);
        });
    };
    let (by_one, to_one) = (
        r#"{"q":{"_id":1},"u":{"$inc":{"n":1}}"#,
        r#""u":{"$set":{"n":1}}"#,
    );
    assert!(sent_as_is(increment, false).contains(&format!("{by_one}}}")));
    assert!(sent_as_is(increment, true).contains(&format!(r#"{by_one},"upsert":true}}"#)));
    assert!(sent_as_is(set, true).contains(&format!(r#"{to_one},"upsert":true}}"#)));
    assert!(!sent_as_is(set, false).contains("upsert"));
}

#[test]
fn updates_that_are_not_idempotent_are_refused_and_empty_ones_left_out() {
    let increment = with_o("u", |o| {
        o.nested("$inc", kind::DOCUMENT, |inc| {
            inc.int32("n", 1);
        });
    });
    assert_eq!(plan_of(increment), Err(PlanFault::Operator("$inc".into())));
    let damaged = with_o("u", |o| {
        o.int32("$v", 2).nested("diff", kind::DOCUMENT, |_| {});
    });
    let fault = plan_of(damaged).unwrap_err();
    assert!(matches!(&fault, PlanFault::Diff(error) if error.fault == DiffFault::Empty));
    let other_id = with_o("u", |o| {
        o.int32("$v", 2).nested("diff", kind::DOCUMENT, |diff| {
            diff.nested("i", kind::DOCUMENT, |fields| {
                fields.int32("_id", 7);
            });
        });
    });
    let fault = plan_of(other_id).unwrap_err();
    assert!(matches!(&fault, PlanFault::Diff(error) if error.fault == DiffFault::Id));
    let empty = with_o("u", |o| {
        o.int32("$v", 1).nested("$set", kind::DOCUMENT, |_| {});
    });
    assert_eq!(plan_of(empty).unwrap(), "[]");
    let empty = with_o("u", |o| {
        o.int32("$v", 2).nested("diff", kind::DOCUMENT, |diff| {
            diff.nested("u", kind::DOCUMENT, |_| {});
        });
    });
    assert_eq!(plan_of(empty).unwrap(), "[]");
}

#[test]
fn an_ordered_collection_keeps_every_write_in_its_place() {
    let changes = [
        (1, Change::Insert(1)),
        (2, Change::Insert(1)),
        (1, Change::Delete),
        (3, Change::Insert(1)),
        (1, Change::Insert(1)),
    ];
    let entries: Vec<Vec<u8>> = changes
        .iter()
        .map(|(id, change)| entry("db.c", *id, *change))
        .collect();
    let entries = located(&entries);
    let plan = Planner::new(8)
        .plan_ordered(&entries, TopicPartition::NONE, &|_| true)
        .unwrap();
    let [Step::Write(lanes)] = &plan.steps[..] else {
        panic!()
    };
    let [lane] = &lanes[..] else { panic!() };
    let kinds: Vec<_> = lane
        .bulks
        .iter()
        .map(|bulk| (bulk.kind, bulk.writes.len()))
        .collect();
    let expected = [
        (BulkKind::Insert, 2),
        (BulkKind::Delete, 1),
        (BulkKind::Insert, 2),
    ];
    assert_eq!((kinds.as_slice(), plan.folded), (&expected[..], 0));
}
