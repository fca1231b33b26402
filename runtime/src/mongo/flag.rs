//! Flags of indexes and collections in a server's replies.

use mongodb::bson::{Document as Bson, doc};

use oplog_relay_core::compare::is_truthy;
use oplog_relay_core::document::Document;

/// Returns true if a flag is set ([`is_truthy`]): `true` and `1` are equivalent.
#[must_use]
pub fn is_set(described: &Bson, flag: &str) -> bool {
    let Some(value) = described.get(flag) else {
        return false;
    };
    let bytes = doc! { "": value }.to_vec().unwrap_or_default();
    let first = Document::new(&bytes).and_then(Document::first);
    first.ok().flatten().is_some_and(is_truthy)
}

#[cfg(test)]
mod tests {
    use super::*;
    use mongodb::bson::{Bson as Value, Decimal128};

    #[test]
    fn booleans_and_numbers_are_one_kind_of_flag() {
        let zero: Decimal128 = "0.00".parse().unwrap();
        let one: Decimal128 = "1".parse().unwrap();
        for (value, expected) in [
            (Value::from(true), true),
            (Value::from(1), true),
            (Value::from(1_i64), true),
            (Value::from(1.0), true),
            (Value::from(one), true),
            (Value::from(false), false),
            (Value::from(0), false),
            (Value::from(-0.0), false),
            (Value::from(zero), false),
            (Value::Null, false),
        ] {
            let index = doc! { "unique": value.clone() };
            assert_eq!(is_set(&index, "unique"), expected, "{value}");
        }
        assert!(!is_set(&doc! {}, "unique"));
    }
}
