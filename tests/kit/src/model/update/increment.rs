//! `$inc`: the sum of two numbers, and its type.

use oplog_relay_core::document::{Element, kind};

use crate::model::failure::Failure;

/// Numbers that the model can add; it does not add Decimal128 values.
#[derive(Debug, Clone, Copy)]
enum Number {
    Int32(i32),
    Int64(i64),
    Double(f64),
}

/// Returns the element's value as a number; `None` for other types.
fn number(element: Element<'_>) -> Result<Option<Number>, Failure> {
    Ok(Some(match element.kind {
        kind::INT32 => Number::Int32(i32::from_le_bytes(element.fixed()?)),
        kind::INT64 => Number::Int64(i64::from_le_bytes(element.fixed()?)),
        kind::DOUBLE => Number::Double(f64::from_le_bytes(element.fixed()?)),
        kind::DECIMAL128 => return Err(Failure::new(238, "the model does not add Decimal128")),
        _ => return Ok(None),
    }))
}

/// Checks that the increment is a number.
pub(super) fn check(by: Element<'_>) -> Result<(), Failure> {
    let numeric = number(by)?.is_some();
    let message = "Cannot increment with non-numeric argument";
    numeric.then_some(()).ok_or(Failure::new(14, message))
}

/// Returns the type and the value of the sum. A missing field becomes the increment.
///
/// If the sum of two 32-bit integers overflows, it becomes a 64-bit integer. An overflow of 64 bits is
/// refused. A sum with a double is a double.
pub(super) fn sum(found: Option<Element<'_>>, by: Element<'_>) -> Result<(u8, Vec<u8>), Failure> {
    let Some(found) = found else {
        return Ok((by.kind, by.value.to_vec()));
    };
    let (Some(one), Some(other)) = (number(found)?, number(by)?) else {
        let message = "Cannot apply $inc to a value of non-numeric type";
        return Err(Failure::new(14, message));
    };
    if let (Number::Int32(one), Number::Int32(other)) = (one, other)
        && let Some(sum) = one.checked_add(other)
    {
        return Ok((kind::INT32, sum.to_le_bytes().to_vec()));
    }
    if let (Some(one), Some(other)) = (integer(one), integer(other)) {
        let message = "Failed to apply $inc operations to current value";
        let sum = one.checked_add(other).ok_or(Failure::new(2, message))?;
        return Ok((kind::INT64, sum.to_le_bytes().to_vec()));
    }
    let sum = double(one) + double(other);
    Ok((kind::DOUBLE, sum.to_le_bytes().to_vec()))
}

fn integer(number: Number) -> Option<i64> {
    match number {
        Number::Int32(number) => Some(number.into()),
        Number::Int64(number) => Some(number),
        Number::Double(_) => None,
    }
}

#[expect(clippy::cast_precision_loss, reason = "as a server rounds")]
fn double(number: Number) -> f64 {
    match number {
        Number::Int32(number) => number.into(),
        Number::Int64(number) => number as f64,
        Number::Double(number) => number,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(number: Number) -> (u8, Vec<u8>) {
        match number {
            Number::Int32(number) => (kind::INT32, number.to_le_bytes().to_vec()),
            Number::Int64(number) => (kind::INT64, number.to_le_bytes().to_vec()),
            Number::Double(number) => (kind::DOUBLE, number.to_le_bytes().to_vec()),
        }
    }

    #[test]
    fn a_sum_has_the_type_that_a_server_gives_it() {
        use Number::{Double, Int32, Int64};
        for (one, other, result) in [
            (Int32(40), Int32(2), Ok(Int32(42))),
            (Int32(i32::MAX), Int32(1), Ok(Int64(1 << 31))),
            (Int32(i32::MIN), Int32(-1), Ok(Int64(-(1 << 31) - 1))),
            (Int32(1), Int64(1), Ok(Int64(2))),
            (Int64(1), Int32(1), Ok(Int64(2))),
            (Int64(i64::MAX), Int32(1), Err(2)),
            (Int64(i64::MIN), Int64(-1), Err(2)),
            (Int32(1), Double(0.5), Ok(Double(1.5))),
            (Double(0.25), Int64(2), Ok(Double(2.25))),
            (Double(1.0), Double(1.0), Ok(Double(2.0))),
        ] {
            let [(first, one), (second, other)] = [of(one), of(other)];
            let element = |kind, value| Element {
                name: b"n",
                kind,
                value,
            };
            let found = sum(Some(element(first, &one)), element(second, &other));
            let found = found.map_err(|failure| failure.code);
            assert_eq!(found, result.map(of), "{first} {second}");
        }
    }
}
