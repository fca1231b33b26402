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
fn may_have_searches_the_top_level_and_is_true_for_damage() {
    let bytes = build(|doc| {
        doc.str("s", "\u{11}").int32("n", 0x11);
        doc.nested("in", kind::DOCUMENT, |inner| {
            inner.date("at", 1);
        });
    });
    let document = Document::new(&bytes).unwrap();
    assert!(document.may_have(kind::STRING) && document.may_have(kind::DOCUMENT));
    assert!(!document.may_have(kind::TIMESTAMP) && !document.may_have(kind::DATE));
    let mut damaged = bytes;
    // The type of the second field becomes an unknown one.
    let second = damaged
        .windows(2)
        .position(|pair| pair == [kind::INT32, b'n']);
    damaged[second.unwrap()] = 0x66;
    assert!(Document::new(&damaged).unwrap().may_have(kind::TIMESTAMP));
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

/// Returns a document with a value of every type.
fn of_every_type() -> Vec<u8> {
    let scope = build(|doc| {
        doc.int32("x", 1);
    });
    let code_with_scope: Vec<u8> = [
        &u32::try_from(4 + 4 + 2 + scope.len())
            .unwrap()
            .to_le_bytes()[..],
        &[2, 0, 0, 0, b'f', 0],
        &scope,
    ]
    .concat();
    let values: [(u8, &[u8]); 20] = [
        (kind::DOUBLE, &[0; 8]),
        (kind::STRING, &[3, 0, 0, 0, b'a', b'b', 0]),
        (kind::DOCUMENT, &[5, 0, 0, 0, 0]),
        (kind::ARRAY, &[8, 0, 0, 0, kind::NULL, b'0', 0, 0]),
        (kind::BINARY, &[2, 0, 0, 0, 0, 7, 7]),
        (kind::UNDEFINED, &[]),
        (kind::OBJECT_ID, &[9; 12]),
        (kind::BOOLEAN, &[1]),
        (kind::DATE, &[1; 8]),
        (kind::NULL, &[]),
        (kind::REGEX, b"a.*\0i\0"),
        (
            kind::DB_POINTER,
            &[2, 0, 0, 0, b'n', 0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12],
        ),
        (kind::CODE, &[2, 0, 0, 0, b'f', 0]),
        (kind::SYMBOL, &[2, 0, 0, 0, b's', 0]),
        (kind::CODE_WITH_SCOPE, &code_with_scope),
        (kind::INT32, &[1, 0, 0, 0]),
        (kind::TIMESTAMP, &[1; 8]),
        (kind::INT64, &[1; 8]),
        (kind::DECIMAL128, &[1; 16]),
        (kind::MAX_KEY, &[]),
    ];
    let inner = build(|doc| {
        for (kind, value) in values {
            let name = "x".repeat(usize::from(kind) % 12);
            doc.raw(&name, kind, value);
        }
    });
    let inner = Document::new(&inner).unwrap();
    build(|doc| {
        doc.document("in", inner);
    })
}

#[test]
fn the_fast_check_and_the_detailed_check_agree_about_every_changed_byte() {
    let whole = of_every_type();
    assert_eq!(Document::new(&whole).unwrap().find_fault(0), Ok(()));
    let mut faults = 0;
    for at in 0..whole.len() {
        for byte in 0..=u8::MAX {
            let mut bytes = whole.clone();
            bytes[at] = byte;
            let Ok(document) = Document::new(&bytes) else {
                continue;
            };
            let fault = document.find_fault(0);
            assert_eq!(
                whole::is_whole(&bytes, 0),
                fault.is_ok(),
                "byte {at}: {byte}"
            );
            assert_eq!(document.validate(), fault);
            faults += u32::from(fault.is_err());
        }
    }
    assert!(faults > 10_000, "{faults}");
}

#[test]
fn the_first_zero_is_found_among_high_bytes_and_ones() {
    for length in 0..20_usize {
        for filler in [1, 0x7f, 0x80, 0x81, 0xff] {
            let mut bytes = vec![filler; length];
            assert_eq!(zero_in(&bytes), None);
            bytes.extend([0, 1, 0, 0x80]);
            assert_eq!(zero_in(&bytes), Some(length));
        }
    }
}
