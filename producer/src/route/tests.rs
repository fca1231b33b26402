use oplog_relay_core::document::{Document, DocumentBuilder, kind};

use super::*;

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
fn commands_pass_with_the_collections_they_name() {
    let mut router = router(&["shop"]);
    let cases = [
        ("shop.$cmd", "create", "a", true),
        ("web.$cmd", "drop", "a", false),
        ("shop.$cmd", "dropDatabase", "1", false),
        ("admin.$cmd", "applyOps", "", true),
        ("config.$cmd", "create", "x", false),
    ];
    for (ns, command, value, passes) in cases {
        let bytes = entry("c", ns, None, &[(command, value)]);
        let decision = decide(&mut router, &bytes);
        assert_eq!(
            matches!(decision, Decision::Unknown(_)),
            passes,
            "{ns} {command}"
        );
    }
    let bytes = entry(
        "c",
        "web.$cmd",
        None,
        &[("renameCollection", "web.a"), ("to", "shop.a")],
    );
    let Decision::Unknown(new) = decide(&mut router, &bytes) else {
        panic!("dropped")
    };
    assert_eq!(new.record.topic, "cdc.web.-cmd");
}
