use super::*;

fn build(fill: impl FnOnce(&mut DocumentBuilder<'_>)) -> Vec<u8> {
    let mut out = Vec::new();
    let mut builder = DocumentBuilder::start(&mut out);
    fill(&mut builder);
    builder.finish();
    out
}

#[test]
fn elements_come_in_order_with_their_values() {
    let bytes = build(|doc| {
        doc.int32("_id", 7)
            .str("name", "naïve")
            .boolean("ok", true)
            .date("at", -1);
        doc.nested("in", kind::DOCUMENT, |inner| {
            inner.int64("n", 1 << 40);
        });
    });
    let document = Document::new(&bytes).unwrap();
    document.validate().unwrap();
    let names: Vec<_> = document
        .elements()
        .map(|e| lossy(e.unwrap().name))
        .collect();
    assert_eq!(names, ["_id", "name", "ok", "at", "in"]);
    assert_eq!(document.get("_id").unwrap().unwrap().integer(), Ok(7));
    assert_eq!(document.get("name").unwrap().unwrap().str(), Ok("naïve"));
    assert_eq!(document.get("at").unwrap().unwrap().date(), Ok(-1));
    let inner = document.get("in").unwrap().unwrap().document().unwrap();
    assert_eq!(inner.get("n").unwrap().unwrap().integer(), Ok(1 << 40));
}

#[test]
fn every_truncation_is_an_error_and_never_a_panic() {
    let bytes = build(|doc| {
        doc.str("s", "text").int64("n", 1);
        doc.nested("in", kind::ARRAY, |inner| {
            inner.boolean("0", false);
        });
    });
    for end in 0..bytes.len() {
        assert!(Document::new(&bytes[..end]).is_err());
        let mut cut = bytes[..end].to_vec();
        if let Some(prefix) = cut.get_mut(..4) {
            prefix.copy_from_slice(&i32::try_from(end).unwrap().to_le_bytes());
        }
        if let Ok(document) = Document::new(&cut) {
            drop(document.validate());
        }
    }
}

#[test]
fn doubles_count_as_integers_only_without_loss() {
    assert_eq!(exact_integer(3.0), Some(3));
    assert_eq!(exact_integer(-0.0), Some(0));
    assert_eq!(exact_integer(3.5), None);
    assert_eq!(exact_integer(9_223_372_036_854_775_808.0), None);
    assert_eq!(exact_integer(-9_223_372_036_854_775_808.0), Some(i64::MIN));
    assert_eq!(exact_integer(f64::NAN), None);
}
