//! The exact order of numbers across all types.

use std::cmp::Ordering;

use super::number::{Number, Stripped, digit_count, write_integer};
use crate::document::exact_integer;

impl Ord for Number {
    fn cmp(&self, other: &Self) -> Ordering {
        match (*self, *other) {
            (Self::NaN, Self::NaN) => Ordering::Equal,
            (Self::NaN, _) => Ordering::Less,
            (_, Self::NaN) => Ordering::Greater,
            (Self::Integer(left), Self::Integer(right)) => left.cmp(&right),
            (Self::Double(left), Self::Double(right)) => left.total_cmp(&right),
            (Self::Integer(left), Self::Double(right)) => integer_to_double(left, right),
            (Self::Double(left), Self::Integer(right)) => integer_to_double(right, left).reverse(),
            (Self::Double(double), Self::Decimal(_)) if double.is_infinite() => {
                double.total_cmp(&0.0)
            }
            (Self::Decimal(_), Self::Double(double)) if double.is_infinite() => {
                0.0_f64.total_cmp(&double)
            }
            (left, right) => left.scientific().cmp(&right.scientific()),
        }
    }
}

impl PartialOrd for Number {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl PartialEq for Number {
    fn eq(&self, other: &Self) -> bool {
        self.cmp(other) == Ordering::Equal
    }
}

impl Eq for Number {}

/// Compares an integer with a double that is not an `i64`: it has a fraction or is out of range.
fn integer_to_double(integer: i64, double: f64) -> Ordering {
    match exact_integer(double.floor()) {
        Some(floor) if integer <= floor => Ordering::Less,
        Some(_) => Ordering::Greater,
        None => 0.0_f64.total_cmp(&double),
    }
}

/// A finite number as digits without trailing zeros; zero has no digits. The conversion is slow,
/// and is needed only if one of the numbers to compare is a [`Number::Decimal`].
#[derive(Debug, PartialEq, Eq)]
struct Scientific {
    negative: bool,
    exponent: i32,
    digits: Vec<u8>,
}

impl Number {
    fn scientific(self) -> Scientific {
        match self {
            Self::Decimal(value) => value.scientific(),
            Self::Integer(0) | Self::NaN => Scientific {
                negative: false,
                exponent: i32::MIN,
                digits: Vec::new(),
            },
            Self::Integer(value) => {
                let mut digits = Vec::with_capacity(20);
                write_integer(value.unsigned_abs(), &mut digits);
                let exponent =
                    i32::try_from(digits.len()).expect("an integer has at most 19 digits") - 1;
                strip_zeros(&mut digits);
                Scientific {
                    negative: value < 0,
                    exponent,
                    digits,
                }
            }
            Self::Double(value) => double_digits(value),
        }
    }
}

/// Returns all digits of a double. At most 767 are significant.
fn double_digits(value: f64) -> Scientific {
    let text = format!("{:.766e}", value.abs());
    let (significand, exponent) = text
        .split_once('e')
        .expect("the format of a finite double has an exponent");
    let mut digits: Vec<u8> = significand.bytes().filter(u8::is_ascii_digit).collect();
    strip_zeros(&mut digits);
    Scientific {
        negative: value.is_sign_negative(),
        exponent: exponent
            .parse()
            .expect("the exponent of a double is a number"),
        digits,
    }
}

fn strip_zeros(digits: &mut Vec<u8>) {
    while digits.pop_if(|digit| *digit == b'0').is_some() {}
}

impl Ord for Scientific {
    fn cmp(&self, other: &Self) -> Ordering {
        let magnitudes = || {
            self.exponent
                .cmp(&other.exponent)
                .then_with(|| self.digits.cmp(&other.digits))
        };
        match (self.negative, other.negative) {
            (false, false) => magnitudes(),
            (true, true) => magnitudes().reverse(),
            (false, true) => Ordering::Greater,
            (true, false) => Ordering::Less,
        }
    }
}

impl PartialOrd for Scientific {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl Stripped {
    /// Returns the sign, the exponent of the first digit, and the digits.
    fn scientific(self) -> Scientific {
        let mut digits = Vec::with_capacity(39);
        write_integer(self.coefficient, &mut digits);
        Scientific {
            negative: self.negative,
            exponent: self.exponent + digit_count(self.coefficient) - 1,
            digits,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::decimal::Decimal;
    use super::*;

    fn decimal(text: &str) -> Number {
        Number::from_decimal(Decimal::parse(text.as_bytes()).unwrap())
    }

    #[test]
    fn order_is_exact_across_types() {
        let ascending = [
            Number::NaN,
            Number::Double(f64::NEG_INFINITY),
            decimal("-9.999999999999999999999999999999999E+6144"),
            Number::from_double(f64::MIN),
            Number::Integer(i64::MIN),
            decimal("-9223372036854775807.5"),
            Number::Integer(i64::MIN + 1),
            Number::from_double(-1.5),
            Number::Integer(-1),
            decimal("-1E-6176"),
            Number::Integer(0),
            decimal("1E-6176"),
            Number::from_double(5e-324),
            decimal("0.1"),
            // The double is exactly 0.100000000000000005551115123125782702….
            decimal("0.1000000000000000055511151231257827"),
            Number::from_double(0.1),
            decimal("0.1000000000000000055511151231257828"),
            Number::Integer(1),
            Number::Integer((1 << 53) + 1),
            decimal("9007199254740993.5"),
            Number::Integer(i64::MAX),
            Number::from_double(9_223_372_036_854_775_808.0),
            // The double is exactly 99999999999999991611392.
            Number::from_double(1e23),
            decimal("1E+23"),
            Number::from_double(f64::MAX),
            decimal("1E+6144"),
            Number::Double(f64::INFINITY),
        ];
        for (left_at, left) in ascending.iter().enumerate() {
            for (right_at, right) in ascending.iter().enumerate() {
                assert_eq!(
                    left.cmp(right),
                    left_at.cmp(&right_at),
                    "{left:?} {right:?}"
                );
            }
        }
    }
}
