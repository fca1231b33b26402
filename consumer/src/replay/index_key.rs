//! The key of an index, in a form that can be compared.

use mongodb::bson::{Bson, Document};

/// Returns the fields of a key in order. The order is significant, but the comparison of documents
/// ignores it.
pub(crate) fn key_fields(key: &Document) -> Vec<Bson> {
    key.iter()
        .map(|(name, direction)| Bson::from(vec![Bson::from(name.as_str()), number(direction)]))
        .collect()
}

/// Normalizes a number, whose type differs between servers and drivers.
pub(crate) fn number(value: &Bson) -> Bson {
    match value {
        Bson::Int32(number) => Bson::Double((*number).into()),
        #[expect(
            clippy::cast_precision_loss,
            reason = "directions and seconds are small"
        )]
        Bson::Int64(number) => Bson::Double(*number as f64),
        other => other.clone(),
    }
}
