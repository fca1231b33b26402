use std::sync::{Arc, Mutex};

use oplog_relay_core::collection_uuid::CollectionUuid;
use oplog_relay_core::document::{Document, DocumentBuilder, kind};
use oplog_relay_runtime::exit::ExitCode;

use super::*;
use crate::error::Directive;

fn entry(op: &str, ns: &str, ui: Option<u8>, o: &[(&str, &str)]) -> Vec<u8> {
    let mut out = Vec::new();
    let mut entry = DocumentBuilder::start(&mut out);
    entry
        .raw("ts", kind::TIMESTAMP, &[1, 0, 0, 0, 1, 0, 0, 0])
        .str("op", op)
        .str("ns", ns);
    if let Some(ui) = ui {
        entry.raw(
            "ui",
            kind::BINARY,
            &[&[16, 0, 0, 0, 4], &[ui; 16][..]].concat(),
        );
    }
    entry.nested("o", kind::DOCUMENT, |doc| {
        for (name, value) in o {
            doc.str(name, value);
        }
    });
    entry.finish();
    out
}

fn decide(router: &mut Router, bytes: &[u8]) -> Decision {
    let entry = Entry::parse(Document::new(bytes).unwrap()).unwrap();
    router.decide(&entry).unwrap()
}

fn router(include: &[&str]) -> Router {
    let filter = NamespaceFilter::new(include.iter().copied(), []).unwrap();
    Router::new("cdc", filter, State::default())
}

#[test]
fn a_collection_keeps_its_route_under_another_name() {
    let mut router = router(&[]);
    let before = entry("i", "shop.a", Some(1), &[("_id", "x")]);
    let Decision::Unknown(new) = decide(&mut router, &before) else {
        panic!("known")
    };
    assert_eq!(new.record.topic, "cdc.shop.a");
    assert_eq!(new.name, "01010101-0101-0101-0101-010101010101");
    let target = Target::Keyed {
        topic: TopicIndex(1),
        partitions: 4,
    };
    let parsed = Entry::parse(Document::new(&before).unwrap()).unwrap();
    assert!(router.add(&parsed, &new, target));
    let renamed = entry("i", "shop.b", Some(1), &[("_id", "x")]);
    assert!(matches!(decide(&mut router, &renamed), Decision::Known(found) if found == target));
    assert!(!router.add(&parsed, &new, target));
}

#[test]
fn internal_and_excluded_namespaces_are_dropped() {
    let mut router = router(&["shop"]);
    for ns in [
        "config.transactions",
        "local.x",
        "admin.system.keys",
        "web.a",
    ] {
        let bytes = entry("i", ns, None, &[("_id", "x")]);
        assert!(
            matches!(
                decide(&mut router, &bytes),
                Decision::Known(Target::Dropped)
            ),
            "{ns}"
        );
    }
}

#[test]
fn topics_ahead_are_those_that_entries_will_need() {
    let mut router = router(&["shop"]);
    let ahead = |router: &Router, bytes: &[u8]| {
        router.topics_ahead(&Entry::parse(Document::new(bytes).unwrap()).unwrap())
    };
    let write = entry("i", "shop.a", Some(1), &[("_id", "x")]);
    assert_eq!(ahead(&router, &write), ["cdc.shop.a"]);
    for command in [
        entry("c", "shop.$cmd", Some(3), &[("create", "a")]),
        entry("c", "shop.$cmd", Some(3), &[("drop", "a")]),
    ] {
        assert_eq!(ahead(&router, &command), ["cdc.shop.a"]);
    }
    let rename = [("renameCollection", "shop.a"), ("to", "shop.b")];
    let rename = entry("c", "shop.$cmd", Some(3), &rename);
    assert_eq!(ahead(&router, &rename), ["cdc.shop.a", "cdc.shop.b"]);
    for none in [
        entry("i", "web.a", Some(2), &[("_id", "x")]),
        entry("i", "config.transactions", None, &[("_id", "x")]),
        entry("c", "web.$cmd", Some(3), &[("create", "a")]),
        entry("c", "shop.$cmd", None, &[("dropDatabase", "x")]),
        entry("n", "", None, &[("msg", "x")]),
    ] {
        assert_eq!(ahead(&router, &none), Vec::<String>::new());
    }
    let Decision::Unknown(new) = decide(&mut router, &write) else {
        panic!("known")
    };
    let parsed = Entry::parse(Document::new(&write).unwrap()).unwrap();
    router.add(&parsed, &new, Target::First(TopicIndex(1)));
    assert_eq!(ahead(&router, &write), Vec::<String>::new());
}

fn command_route(router: &mut Router, bytes: &[u8]) -> CommandRoute {
    match decide(router, bytes) {
        Decision::Command(route) => route,
        other => panic!("{other:?}"),
    }
}

#[test]
fn commands_are_filtered_by_the_collections_they_name() {
    let mut router = router(&["shop"]);
    let cases = [
        ("shop.$cmd", "create", "a", "barrier"),
        ("web.$cmd", "drop", "a", "dropped"),
        ("config.$cmd", "create", "x", "dropped"),
        ("shop.$cmd", "startIndexBuild", "a", "cdc.shop.-cmd"),
        ("shop.$cmd", "createIndexes", "a", "cdc.shop.a"),
        ("shop.$cmd", "fly", "a", "cdc.shop.-cmd"),
        ("web.$cmd", "fly", "a", "dropped"),
    ];
    for (ns, command, value, expected) in cases {
        let bytes = entry("c", ns, None, &[(command, value)]);
        let found = match decide(&mut router, &bytes) {
            Decision::Command(_) => "barrier".to_owned(),
            Decision::Unknown(new) => new.record.topic,
            Decision::Known(Target::Dropped) => "dropped".to_owned(),
            Decision::Known(_) => panic!("{ns} {command} is known"),
        };
        assert_eq!(found, expected, "{ns} {command}");
    }
}

#[test]
fn unknown_commands_on_internal_databases_are_sent_too() {
    let fly = entry("c", "config.$cmd", None, &[("fly", "a")]);
    let decision = decide(&mut router(&[]), &fly);
    assert!(matches!(decision, Decision::Unknown(new) if new.record.topic == "cdc.config.-cmd"));
    // The command of an excluded database counts as filtered.
    let decision = decide(&mut router(&["shop"]), &fly);
    assert!(matches!(decision, Decision::Known(Target::Dropped)));
}

#[test]
fn drop_database_with_filter() {
    let mut out = Vec::new();
    let mut bytes = DocumentBuilder::start(&mut out);
    bytes.raw("ts", kind::TIMESTAMP, &[1, 0, 0, 0, 1, 0, 0, 0]);
    bytes.str("op", "c").str("ns", "shop.$cmd");
    bytes.nested("o", kind::DOCUMENT, |o| {
        o.int32("dropDatabase", 1);
    });
    bytes.finish();
    let decision = decide(&mut router(&["shop.a"]), &out);
    assert!(matches!(decision, Decision::Known(Target::Dropped)));
    let decision = decide(&mut router(&[]), &out);
    assert!(matches!(decision, Decision::Unknown(new) if new.record.topic == "cdc.shop.-cmd"));
}

fn rename(from: &str, to: &str) -> Vec<u8> {
    entry(
        "c",
        "shop.$cmd",
        Some(1),
        &[("renameCollection", from), ("to", to)],
    )
}

#[test]
fn a_rename_waits_in_both_topics_and_moves_its_route() {
    let mut router = router(&[]);
    let route = command_route(&mut router, &rename("shop.a", "shop.b"));
    assert_eq!(route.topics, ["cdc.shop.a", "cdc.shop.b"]);
    router.apply(route.changes);
    let after = entry("i", "shop.b", Some(1), &[("_id", "x")]);
    let Decision::Unknown(new) = decide(&mut router, &after) else {
        panic!("known")
    };
    assert_eq!(new.record.topic, "cdc.shop.b");
}

#[test]
fn rename_source_filtered_and_rename_target_filtered() {
    let mut router = router(&["shop.a"]);
    let out = command_route(&mut router, &rename("shop.a", "shop.b"));
    assert_eq!(out.topics, ["cdc.shop.a"]);
    assert_eq!(out.as_drop_of.as_deref(), Some("a"));
    let bytes = rename("shop.b", "shop.a");
    let parsed = Entry::parse(Document::new(&bytes).unwrap()).unwrap();
    let error = router.decide(&parsed).unwrap_err().to_string();
    assert!(error.contains("shop.b, which is not streamed"), "{error}");
    // The temporary collection that `$out` writes is renamed to an included collection.
    let staged = command_route(&mut router, &rename("shop.tmp.agg_out.1", "shop.a"));
    assert_eq!(staged.topics, ["cdc.shop.-tmp", "cdc.shop.a"]);
}

#[test]
fn an_index_that_can_refuse_documents_waits_for_earlier_writes_and_does_not_delay_later_ones() {
    let create_index = |field: &str, kind_of_index: Option<&str>| {
        let mut out = Vec::new();
        let mut bytes = DocumentBuilder::start(&mut out);
        bytes.raw("ts", kind::TIMESTAMP, &[1, 0, 0, 0, 1, 0, 0, 0]);
        bytes.str("op", "c").str("ns", "shop.$cmd");
        bytes.nested("o", kind::DOCUMENT, |o| {
            o.str("createIndexes", "a");
            o.nested("key", kind::DOCUMENT, |key| match kind_of_index {
                Some(name) => drop(key.str(field, name)),
                None => drop(key.int32(field, 1)),
            });
        });
        bytes.finish();
        out
    };
    // Under this rule no command changes the order of a collection.
    let mut router = router(&[]).ordered(OrderRule::Id).unwrap();
    let sphere = command_route(&mut router, &create_index("place", Some("2dsphere")));
    assert!(sphere.passable && !sphere.ordered && sphere.changes.is_empty());
    assert!(matches!(
        decide(&mut router, &create_index("place", None)),
        Decision::Unknown(_) | Decision::Known(_)
    ));
}

#[test]
fn a_unique_index_moves_a_collection_to_one_partition_and_a_drop_forgets_it() {
    let create_with = |flag: &str, value: f64| {
        let mut out = Vec::new();
        let mut bytes = DocumentBuilder::start(&mut out);
        bytes.raw("ts", kind::TIMESTAMP, &[1, 0, 0, 0, 1, 0, 0, 0]);
        bytes.str("op", "c").str("ns", "shop.$cmd");
        bytes.raw(
            "ui",
            kind::BINARY,
            &[&[16, 0, 0, 0, 4], &[1; 16][..]].concat(),
        );
        bytes.nested("o", kind::DOCUMENT, |o| {
            // Servers up to 4.4 keep the type of a flag as the user gave it.
            o.str("createIndexes", "a")
                .raw(flag, kind::DOUBLE, &value.to_le_bytes());
        });
        bytes.finish();
        out
    };
    let create_index = |unique| create_with("unique", unique);
    let prepared = create_with("prepareUnique", 1.0);
    assert!(command_route(&mut router(&[]), &prepared).ordered);
    let mut auto = router(&[]);
    let route = command_route(&mut auto, &create_index(1.0));
    assert!(route.ordered);
    auto.apply(route.changes);
    let insert = entry("i", "shop.a", Some(1), &[("_id", "x")]);
    let Decision::Unknown(new) = decide(&mut auto, &insert) else {
        panic!("known")
    };
    assert_eq!(new.record.order, Order::Collection);
    let drop = entry("c", "shop.$cmd", Some(1), &[("drop", "a")]);
    let dropped = command_route(&mut auto, &drop);
    assert_eq!(dropped.changes.len(), 1);
    auto.apply(dropped.changes);
    assert!(auto.state().routes.is_empty());

    let mut by_id = router(&[]).ordered(OrderRule::Id).unwrap();
    assert!(!command_route(&mut by_id, &create_index(1.0)).ordered);
    assert!(matches!(
        decide(&mut by_id, &create_index(0.0)),
        Decision::Unknown(_)
    ));
}

/// A source in which the documents of some namespaces and UUIDs depend on each other.
#[derive(Debug, Clone, Default)]
struct FakeCollections {
    dependent: Vec<(&'static str, Option<u8>)>,
    queried: Arc<Mutex<Vec<String>>>,
}

impl FakeCollections {
    fn new(dependent: &[(&'static str, Option<u8>)]) -> Self {
        Self {
            dependent: dependent.to_vec(),
            ..Self::default()
        }
    }

    fn router(&self, rule: OrderRule) -> Router {
        let router = router(&[]).ordered(rule).unwrap();
        router.with_collections(Some(Box::new(self.clone())))
    }

    fn queried(&self) -> Vec<String> {
        self.queried.lock().unwrap().clone()
    }
}

impl Collections for FakeCollections {
    fn depend(&self, ns: &str, ui: Option<CollectionUuid>) -> Result<bool, ProducerError> {
        self.queried.lock().unwrap().push(ns.to_owned());
        let dependent = self.dependent.iter();
        let mut dependent = dependent.map(|(ns, ui)| (*ns, ui.map(|ui| CollectionUuid([ui; 16]))));
        Ok(dependent.any(|dependent| dependent == (ns, ui)))
    }
}

fn learned_order(router: &mut Router, bytes: &[u8]) -> Order {
    let Decision::Unknown(new) = decide(router, bytes) else {
        panic!("known")
    };
    let parsed = Entry::parse(Document::new(bytes).unwrap()).unwrap();
    router.add(&parsed, &new, Target::First(TopicIndex(1)));
    new.record.order
}

#[test]
fn a_collection_without_a_route_is_queried_once() {
    let source = FakeCollections::new(&[("shop.a", Some(1)), ("shop.b", None)]);
    let mut auto = source.router(OrderRule::Auto);
    for (ns, ui, expected) in [
        ("shop.a", Some(1), Order::Collection),
        ("shop.a", Some(2), Order::Id),
        ("shop.b", None, Order::Collection),
        ("shop.c", None, Order::Id),
    ] {
        let insert = entry("i", ns, ui, &[("_id", "x")]);
        assert_eq!(learned_order(&mut auto, &insert), expected, "{ns} {ui:?}");
        assert!(matches!(decide(&mut auto, &insert), Decision::Known(_)));
    }
    assert_eq!(source.queried(), ["shop.a", "shop.a", "shop.b", "shop.c"]);

    // Only commands change saved routes: the properties on the source may be newer.
    let saved = auto.state().clone();
    let source = FakeCollections::new(&[("shop.c", None)]);
    let restarted = Router::new("cdc", NamespaceFilter::default(), saved);
    let mut restarted = restarted.with_collections(Some(Box::new(source.clone())));
    let insert = entry("i", "shop.c", None, &[("_id", "x")]);
    assert_eq!(learned_order(&mut restarted, &insert), Order::Id);
    assert!(source.queried().is_empty());

    for (rule, expected) in [
        (OrderRule::Id, Order::Id),
        (OrderRule::Collection, Order::Collection),
    ] {
        let mut fixed = source.router(rule);
        assert_eq!(learned_order(&mut fixed, &insert), expected);
        assert!(source.queried().is_empty());
    }
}

#[test]
fn a_command_queries_a_collection_without_a_route_by_its_current_name() {
    let source = FakeCollections::new(&[("shop.b", Some(1))]);
    let mut auto = source.router(OrderRule::Auto);
    let route = command_route(&mut auto, &rename("shop.a", "shop.b"));
    assert!(route.ordered);
    auto.apply(route.changes);
    let insert = entry("i", "shop.b", Some(1), &[("_id", "x")]);
    assert_eq!(learned_order(&mut auto, &insert), Order::Collection);
    assert_eq!(source.queried(), ["shop.b"]);

    // The properties of a collection that the command creates or drops are not queried.
    for name in ["create", "drop"] {
        let command = entry("c", "shop.$cmd", Some(3), &[(name, "a")]);
        assert!(!command_route(&mut auto, &command).ordered);
    }
    assert_eq!(source.queried(), ["shop.b"]);
}

#[test]
fn a_table_made_under_another_rule_is_refused() {
    let insert = entry("i", "shop.a", None, &[("_id", "x")]);
    let rules = [OrderRule::Auto, OrderRule::Id, OrderRule::Collection];
    for made in rules {
        let mut router = router(&[]).ordered(made).unwrap();
        learned_order(&mut router, &insert);
        for wanted in rules {
            let again = Router::new("cdc", NamespaceFilter::default(), router.state().clone());
            match again.ordered(wanted) {
                Ok(_) => assert_eq!(made, wanted),
                Err(error) => {
                    let text = error.to_string();
                    assert!(made != wanted && text.contains("shop.a"), "{text}");
                    assert!(text.contains(&format!("Give --order {made}")), "{text}");
                    let stop = Directive::Stop(ExitCode::Usage);
                    assert_eq!(error.directive(), stop);
                }
            }
        }
    }
}

#[test]
fn a_view_waits_with_commands_that_drop_all_views() {
    let view = entry("i", "shop.system.views", Some(1), &[("_id", "shop.v")]);
    let route = command_route(&mut router(&[]), &view);
    assert_eq!(route.topics, ["cdc.shop.v", "cdc.shop.system-2Eviews"]);
}

#[test]
fn a_time_series_waits_in_the_topics_of_its_buckets_its_name_and_the_views() {
    let topics = [
        "cdc.shop.system-2Ebuckets-2Ew",
        "cdc.shop.w",
        "cdc.shop.system-2Eviews",
    ];
    for command in ["create", "drop", "collMod"] {
        let mut o = vec![(command, "system.buckets.w")];
        if command == "collMod" {
            o.push(("expireAfterSeconds", "off"));
        }
        let bytes = entry("c", "shop.$cmd", Some(1), &o);
        assert_eq!(command_route(&mut router(&[]), &bytes).topics, topics);
    }
    // Its documents have their own route.
    let write = entry("i", "shop.system.buckets.w", Some(1), &[("_id", "x")]);
    let Decision::Unknown(new) = decide(&mut router(&[]), &write) else {
        panic!("known")
    };
    assert_eq!(new.record.topic, topics[0]);
}

/// Returns the UUID of the collection that a round of `$out` creates.
fn made_in(round: u32) -> CollectionUuid {
    let mut ui = [7; 16];
    ui[..4].copy_from_slice(&round.to_be_bytes());
    CollectionUuid(ui)
}

/// Returns the entries of `$out` into `to`: a temporary collection is created, filled and renamed over
/// the one that the previous round created.
fn out_round(to: &str, round: u32) -> [Vec<u8>; 3] {
    let binary = |ui: CollectionUuid| [&[16, 0, 0, 0, 4], &ui.0[..]].concat();
    let staged = format!("tmp.agg_out.{round}");
    let write = |op: &str, ns: &str, o: &dyn Fn(&mut DocumentBuilder<'_>)| {
        let mut out = Vec::new();
        let mut entry = DocumentBuilder::start(&mut out);
        entry
            .raw("ts", kind::TIMESTAMP, &[1, 0, 0, 0, 1, 0, 0, 0])
            .str("op", op)
            .str("ns", ns)
            .raw("ui", kind::BINARY, &binary(made_in(round)));
        entry.nested("o", kind::DOCUMENT, |body| o(body));
        entry.finish();
        out
    };
    let from = format!("shop.{staged}");
    [
        write("c", "shop.$cmd", &|o| {
            o.str("create", &staged);
        }),
        write("i", &from, &|o| {
            o.str("_id", "x");
        }),
        write("c", "shop.$cmd", &|o| {
            o.str("renameCollection", &from).str("to", to);
            if let Some(before) = round.checked_sub(1) {
                o.raw("dropTarget", kind::BINARY, &binary(made_in(before)));
            }
        }),
    ]
}

/// Routes entries as the encoder does. The records that it would save are applied to `saved`, as if
/// they were read from the state topic.
fn take(router: &mut Router, entries: &[Vec<u8>], saved: &mut State) {
    let mut save = |name: &str, record: Option<&RouteRecord>| {
        let value = record.map(|record| serde_json::to_vec(record).unwrap());
        let key = format!("route/{name}");
        saved.apply(&key, value.as_deref()).unwrap();
    };
    for bytes in entries {
        let parsed = Entry::parse(Document::new(bytes).unwrap()).unwrap();
        match router.decide(&parsed).unwrap() {
            Decision::Known(_) => {}
            Decision::Unknown(new) => {
                if router.add(&parsed, &new, Target::First(TopicIndex(1))) {
                    save(&new.name, Some(&new.record));
                }
            }
            Decision::Command(route) => {
                for change in &route.changes {
                    save(&change.name, change.record.as_ref());
                }
                router.apply(route.changes);
            }
        }
    }
}

#[test]
fn months_of_out_leave_one_route_for_each_existing_collection() {
    const ROUNDS: u32 = 10_000;
    let (mut router, mut saved) = (router(&[]), State::default());
    let mut largest = 0;
    for round in 0..ROUNDS {
        take(&mut router, &out_round("shop.report", round), &mut saved);
        largest = largest.max(router.by_ui.len()).max(saved.routes.len());
    }
    let last = made_in(ROUNDS - 1).to_string();
    assert_eq!(saved.routes.keys().collect::<Vec<_>>(), [&last]);
    assert_eq!(saved.routes.get(&last).unwrap().ns, "shop.report");
    // After each round the collection of the previous round is gone.
    assert_eq!(largest, 1);
    // A restart continues with the same table.
    assert_eq!(router.state(), &saved);
    let filter = NamespaceFilter::default();
    let mut again = Router::new("cdc", filter, saved.clone());
    for router in [&mut router, &mut again] {
        let mut saved = saved.clone();
        take(router, &out_round("shop.report", ROUNDS), &mut saved);
        let made = made_in(ROUNDS).to_string();
        assert_eq!(saved.routes.keys().collect::<Vec<_>>(), [&made]);
    }
}

#[test]
fn excluded_collections_are_forgotten_when_they_are_dropped_or_renamed() {
    let mut saved = State::default();
    // Writes are streamed until the collection is renamed to an excluded namespace.
    let mut leaving = router(&["shop.a"]);
    // Every namespace of the collection is excluded.
    let mut excluded = router(&["web"]);
    for round in 0..100 {
        let mut entries = out_round("shop.b", round).to_vec();
        entries.push(entry("i", "shop.b", None, &[("_id", "x")]));
        let ui = made_in(round);
        let after = entries.last_mut().unwrap();
        let place = after.len() - 1;
        let field = [&b"\x05ui\0"[..], &[16, 0, 0, 0, 4], &ui.0[..]].concat();
        after.splice(place..place, field);
        let length = u32::try_from(after.len()).unwrap();
        after.splice(..4, length.to_le_bytes());
        take(&mut leaving, &entries, &mut saved);
        take(&mut excluded, &entries, &mut saved);
        assert!(leaving.by_ui.len() <= 1 && excluded.by_ui.len() <= 1);
        assert!(saved.routes.is_empty());
        assert_eq!(excluded.by_ui.get(&ui), Some(&Target::Dropped));
    }
    let ended = [
        entry("i", "shop.b", Some(9), &[("_id", "x")]),
        entry("c", "shop.$cmd", Some(9), &[("drop", "b")]),
    ];
    take(&mut excluded, &ended, &mut saved);
    assert_eq!(excluded.by_ui.len(), 1);
}
