//! Diffs that servers do not write are refused with the right error.

use super::*;

fn fault(diff: &str) -> DiffFault {
    let diff = bson(diff);
    let error = Diff::parse(Document::new(&diff).unwrap()).expect_err("a damaged diff");
    error.fault
}

#[test]
fn diff_empty_rejected() {
    assert_eq!(fault("{}"), DiffFault::Empty);
    assert_eq!(fault(r#"{"sa":{}}"#), DiffFault::Empty);
}

#[test]
fn diff_section_order_violation_rejected() {
    for diff in [
        r#"{"u":{"a":1},"d":{"b":false}}"#,
        r#"{"i":{"a":1},"u":{"b":1}}"#,
        r#"{"sa":{"d":{"x":false}},"u":{"b":1}}"#,
        r#"{"u":{"a":1},"u":{"b":1}}"#,
        r#"{"sr":{"a":true,"u1":1,"l":3}}"#,
    ] {
        assert!(matches!(fault(diff), DiffFault::SectionOrder(_)), "{diff}");
    }
}

#[test]
fn diff_duplicate_name_rejected() {
    for diff in [
        r#"{"d":{"a":false},"i":{"a":1}}"#,
        r#"{"u":{"a":1,"a":2}}"#,
        r#"{"u":{"a":1},"sa":{"d":{"x":false}}}"#,
        r#"{"sb":{"d":{"x":false}},"sa":{"d":{"x":false}},"sb":{"d":{"y":false}}}"#,
    ] {
        let name = if diff.contains("sb") { "b" } else { "a" };
        assert_eq!(fault(diff), DiffFault::DuplicateName(name.into()), "{diff}");
    }
}

#[test]
fn diff_index_beyond_l_rejected() {
    let beyond = DiffFault::IndexBeyondLength {
        index: 2,
        length: 2,
    };
    assert_eq!(fault(r#"{"sr":{"a":true,"l":2,"u2":1}}"#), beyond);
    assert_eq!(
        fault(r#"{"sr":{"a":true,"l":2,"s2":{"d":{"x":false}}}}"#),
        beyond
    );
}

#[test]
fn other_damage_is_reported() {
    let section = |name: &str| DiffFault::UnknownSection(name.into());
    for (diff, expected) in [
        (r#"{"a":true,"u0":1}"#, DiffFault::ArrayAtRoot),
        (r#"{"x":{"a":1}}"#, section("x")),
        (r#"{"dx":{"a":1}}"#, section("dx")),
        (r#"{"":{"a":1}}"#, section("")),
        (r#"{"d":{"_id":false}}"#, DiffFault::Id),
        (r#"{"s_id":{"u":{"x":1}}}"#, DiffFault::Id),
        (r#"{"sr":{"a":1,"u0":1}}"#, DiffFault::ArrayHeader("a")),
        (r#"{"sr":{"a":true,"l":-1}}"#, DiffFault::ArrayHeader("l")),
        (r#"{"sr":{"a":true,"l":"2"}}"#, DiffFault::ArrayHeader("l")),
        (r#"{"sr":{"a":true,"l":3000000}}"#, DiffFault::TooLarge),
        (r#"{"sr":{"a":true,"u01":1}}"#, section("u01")),
        (r#"{"sr":{"a":true,"ux":1}}"#, section("ux")),
        (r#"{"sr":{"a":true,"u":1}}"#, section("u")),
        (r#"{"sr":{"a":true,"d":{"x":1}}}"#, section("d")),
        (
            r#"{"sr":{"a":true,"u1":1,"u1":1}}"#,
            DiffFault::IndexOrder(1),
        ),
        (
            r#"{"sr":{"a":true,"u10":1,"u9":1}}"#,
            DiffFault::IndexOrder(9),
        ),
        (r#"{"b":{"t":{"o":1}}}"#, DiffFault::Splice("t".into())),
        (
            r#"{"b":{"t":{"o":-1,"d":{"$binary":{"base64":"","subType":"00"}}}}}"#,
            DiffFault::Splice("t".into()),
        ),
    ] {
        assert_eq!(fault(diff), expected, "{diff}");
    }
    assert!(matches!(
        fault(r#"{"u":[1]}"#),
        DiffFault::Malformed(Malformed::WrongType { .. })
    ));
}

#[test]
fn only_a_different_id_is_refused() {
    let document = bson(r#"{"_id":1,"a":1}"#);
    let document = Document::new(&document).unwrap();
    let id = document.get("_id").unwrap().unwrap();
    for section in ["u", "i"] {
        let diff = bson(&format!(r#"{{"{section}":{{"_id":2,"b":1}}}}"#));
        let diff = Diff::parse(Document::new(&diff).unwrap()).unwrap();
        assert_eq!(diff.check_id(id).unwrap_err().fault, DiffFault::Id);
        assert_eq!(diff.apply(document).unwrap_err().fault, DiffFault::Id);
        let same = bson(&format!(r#"{{"{section}":{{"_id":1.0,"b":1}}}}"#));
        let same = Diff::parse(Document::new(&same).unwrap()).unwrap();
        assert_eq!(same.check_id(id), Ok(()));
        assert!(same.apply(document).is_ok());
    }
}

#[test]
fn an_error_names_its_place() {
    let diff = bson(r#"{"so":{"sr":{"a":true,"s4":{"q":{}}}}}"#);
    let error = Diff::parse(Document::new(&diff).unwrap()).unwrap_err();
    assert_eq!(
        error.to_string(),
        r#"at "o.r.4": "q" is not a section of a diff"#
    );
}

#[test]
fn excessive_nesting_is_refused() {
    let diff = nested(20_000, "sf", &bson(r#"{"u":{"x":2}}"#));
    let error = Diff::parse(Document::new(&diff).unwrap()).unwrap_err();
    assert_eq!(error.fault, DiffFault::Malformed(Malformed::TooDeep));
    let path = ["a"; 20_000].join(".");
    let modifiers = bson(&format!(r#"{{"$set":{{"{path}":1}}}}"#));
    let document = bson("{}");
    let error = apply_modifiers(
        Document::new(&document).unwrap(),
        Document::new(&modifiers).unwrap(),
    );
    assert_eq!(
        error.unwrap_err().fault,
        DiffFault::Malformed(Malformed::TooDeep)
    );
}

#[test]
fn excessive_gaps_are_refused() {
    let document = bson(r#"{"_id":1,"r":[1],"q":[1]}"#);
    let document = Document::new(&document).unwrap();
    let once = bson(r#"{"sr":{"a":true,"u4000000000":1}}"#);
    let twice = bson(r#"{"sr":{"a":true,"l":2000000},"sq":{"a":true,"l":2000000}}"#);
    for diff in [once, twice] {
        let diff = Diff::parse(Document::new(&diff).unwrap()).unwrap();
        assert_eq!(diff.apply(document).unwrap_err().fault, DiffFault::TooLarge);
    }
    let modifiers = bson(r#"{"$set":{"r.4000000000":1}}"#);
    let error = apply_modifiers(document, Document::new(&modifiers).unwrap());
    assert_eq!(error.unwrap_err().fault, DiffFault::TooLarge);
}
