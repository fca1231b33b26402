//! Numbers: their text, and the form that equal numbers of all types share.

use std::io::Write as _;

use super::decimal::{self, Decimal, Scaled};
use crate::document::{Element, Malformed, exact_integer, kind};

/// The exponent of the greatest power of five below 10^34. No greater power divides a coefficient.
const MAX_FIVES: u32 = 48;
/// The greatest decimal exponent, positive or negative, of a decimal that is written as a bare
/// number. Beyond it a reader's double may overflow or underflow, so the text is a
/// `$numberDecimal`.
const MAX_BARE_EXPONENT: i32 = 307;

/// The only NaN that the text represents exactly.
pub(super) const CANONICAL_NAN: u64 = 0x7ff8_0000_0000_0000;

/// Writes an integer's digits.
#[inline]
pub(crate) fn write_integer(value: impl itoa::Integer, out: &mut Vec<u8>) {
    out.extend_from_slice(itoa::Buffer::new().format(value).as_bytes());
}

/// Writes a double in the shortest form that reads back as the same value, always with a fraction
/// or an exponent.
pub(crate) fn write_double(value: f64, out: &mut Vec<u8>) {
    let text: &[u8] = if value.is_nan() {
        b"NaN"
    } else if value.is_infinite() {
        if value > 0.0 {
            b"Infinity"
        } else {
            b"-Infinity"
        }
    } else {
        return out.extend_from_slice(zmij::Buffer::new().format_finite(value).as_bytes());
    };
    out.extend_from_slice(text);
}

/// Reads the text of a `$numberDouble`. Returns `None` if it is not a number or too large for a
/// double.
pub(super) fn parse_double(text: &[u8]) -> Option<f64> {
    match text {
        b"NaN" => return Some(f64::from_bits(CANONICAL_NAN)),
        b"Infinity" => return Some(f64::INFINITY),
        b"-Infinity" => return Some(f64::NEG_INFINITY),
        _ => {}
    }
    let allowed = |byte: &u8| matches!(byte, b'0'..=b'9' | b'+' | b'-' | b'.' | b'e' | b'E');
    if !text.iter().all(allowed) {
        return None;
    }
    let value: f64 = std::str::from_utf8(text).ok()?.parse().ok()?;
    value.is_finite().then_some(value)
}

/// A number regardless of its BSON type: two numbers that are equal in MongoDB have the same form.
/// An integer is a [`Number::Integer`] if it fits into an `i64`. Otherwise a value that a double
/// holds exactly is a [`Number::Double`], and only the rest stays decimal.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Number {
    /// A NaN of any kind, which is below all other numbers.
    NaN,
    /// An integral value in the range of `i64`; zero loses its sign.
    Integer(i64),
    /// An infinity, or a finite value that is not an `i64`.
    Double(f64),
    /// A value that neither of them can hold.
    Decimal(Stripped),
}

/// A value `±coefficient × 10^exponent` whose coefficient does not end in a zero digit.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Stripped {
    pub(super) negative: bool,
    pub(super) coefficient: u128,
    pub(super) exponent: i32,
}

impl Number {
    /// Returns the number of an element, or `None` if the element is not a number.
    ///
    /// # Errors
    /// [`Malformed::Truncated`] if the value does not have the size of its type.
    pub(crate) fn of(element: Element<'_>) -> Result<Option<Self>, Malformed> {
        Ok(Some(match element.kind {
            kind::INT32 => Self::Integer(i32::from_le_bytes(element.fixed()?).into()),
            kind::INT64 => Self::Integer(i64::from_le_bytes(element.fixed()?)),
            kind::DOUBLE => Self::from_double(f64::from_le_bytes(element.fixed()?)),
            kind::DECIMAL128 => Self::from_decimal(Decimal::from_bytes(element.fixed()?)),
            _ => return Ok(None),
        }))
    }

    pub(super) fn from_double(value: f64) -> Self {
        match exact_integer(value) {
            Some(integer) => Self::Integer(integer),
            None if value.is_nan() => Self::NaN,
            None => Self::Double(value),
        }
    }

    pub(super) fn from_decimal(decimal: Decimal) -> Self {
        let stripped = match decimal {
            Decimal::NaN => return Self::NaN,
            Decimal::Infinite { negative: false } => return Self::Double(f64::INFINITY),
            Decimal::Infinite { negative: true } => return Self::Double(f64::NEG_INFINITY),
            Decimal::Finite { coefficient: 0, .. } => return Self::Integer(0),
            Decimal::Finite {
                negative,
                mut coefficient,
                mut exponent,
            } => {
                while coefficient.is_multiple_of(10) {
                    coefficient /= 10;
                    exponent += 1;
                }
                Stripped {
                    negative,
                    coefficient,
                    exponent,
                }
            }
        };
        if let Some(integer) = stripped.to_integer() {
            Self::Integer(integer)
        } else if let Some(double) = stripped.to_double() {
            Self::Double(double)
        } else {
            Self::Decimal(stripped)
        }
    }

    /// Writes the number in the form of record keys: integral values as plain digits, other doubles
    /// in their shortest form, other decimals without trailing zeros. NaN, infinities, and decimals
    /// beyond [`MAX_BARE_EXPONENT`] are type wrappers.
    pub(super) fn write(self, out: &mut Vec<u8>) {
        match self {
            Self::NaN => out.extend_from_slice(br#"{"$numberDouble":"NaN"}"#),
            Self::Integer(value) => write_integer(value, out),
            Self::Double(value) if value.is_infinite() => {
                out.extend_from_slice(br#"{"$numberDouble":""#);
                write_double(value, out);
                out.extend_from_slice(br#""}"#);
            }
            Self::Double(value) if value.fract() == 0.0 => {
                // With a precision, all digits are exact. Without a precision, zeros would follow
                // the shortest digits.
                write!(out, "{value:.0}").unwrap_or_default();
            }
            Self::Double(value) => write_double(value, out),
            Self::Decimal(value) => value.write(out),
        }
    }

    /// Returns this form as a BSON value. Different numbers have different bytes.
    pub(crate) fn to_bson(self) -> BsonNumber {
        let (kind, value) = match self {
            Self::NaN => (kind::DOUBLE, Value::Eight(CANONICAL_NAN.to_le_bytes())),
            Self::Integer(value) => (kind::INT64, Value::Eight(value.to_le_bytes())),
            Self::Double(value) => (kind::DOUBLE, Value::Eight(value.to_le_bytes())),
            Self::Decimal(value) => (kind::DECIMAL128, Value::Sixteen(value.to_bytes())),
        };
        BsonNumber { kind, value }
    }
}

/// A number as a BSON value.
#[derive(Debug, Clone, Copy)]
pub(crate) struct BsonNumber {
    /// The BSON type.
    pub(crate) kind: u8,
    /// The bytes.
    pub(crate) value: Value,
}

/// The bytes of a number's form.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Value {
    /// The bytes of an int64 or a double.
    Eight([u8; 8]),
    /// The bytes of a decimal.
    Sixteen([u8; 16]),
}

impl AsRef<[u8]> for Value {
    fn as_ref(&self) -> &[u8] {
        match self {
            Self::Eight(bytes) => bytes,
            Self::Sixteen(bytes) => bytes,
        }
    }
}

impl Stripped {
    fn to_integer(self) -> Option<i64> {
        let exponent = u32::try_from(self.exponent)
            .ok()
            .filter(|exponent| *exponent < 19)?;
        let magnitude = self.coefficient.checked_mul(10_u128.pow(exponent))?;
        let value = i128::try_from(magnitude).ok()?;
        i64::try_from(if self.negative { -value } else { value }).ok()
    }

    /// Returns the double with exactly this value, if there is one.
    fn to_double(self) -> Option<f64> {
        let power = self.exponent.unsigned_abs();
        if power > MAX_FIVES {
            // 5^49 has more significant bits than a double, and no coefficient is divisible by it.
            return None;
        }
        let fives = 5_u128.pow(power);
        let twos = self.coefficient.trailing_zeros();
        let odd = self.coefficient >> twos;
        let odd = if self.exponent >= 0 {
            odd.checked_mul(fives)?
        } else if odd.is_multiple_of(fives) {
            odd / fives
        } else {
            return None;
        };
        let odd = u64::try_from(odd)
            .ok()
            .filter(|odd| odd >> f64::MANTISSA_DIGITS == 0)?;
        #[expect(clippy::cast_precision_loss, reason = "at most 53 bits")]
        let magnitude = odd as f64 * power_of_two(self.exponent + signed(twos));
        Some(if self.negative { -magnitude } else { magnitude })
    }

    fn write(self, out: &mut Vec<u8>) {
        let adjusted = self.exponent + digit_count(self.coefficient) - 1;
        let Self {
            negative,
            coefficient,
            exponent,
        } = self;
        if adjusted.abs() > MAX_BARE_EXPONENT {
            out.extend_from_slice(br#"{"$numberDecimal":""#);
            Decimal::Finite {
                negative,
                coefficient,
                exponent,
            }
            .write(out);
            return out.extend_from_slice(br#""}"#);
        }
        if exponent < 0 {
            return Decimal::Finite {
                negative,
                coefficient,
                exponent,
            }
            .write(out);
        }
        if negative {
            out.push(b'-');
        }
        write_integer(coefficient, out);
        out.resize(
            out.len() + usize::try_from(exponent).unwrap_or_default(),
            b'0',
        );
    }

    fn to_bytes(self) -> [u8; 16] {
        let Scaled {
            coefficient,
            exponent,
        } = decimal::fit(self.coefficient, self.exponent.into())
            .expect("a value that was read from 16 bytes also fits into 16 bytes");
        Decimal::Finite {
            negative: self.negative,
            coefficient,
            exponent,
        }
        .to_bytes()
    }
}

/// Returns a power of two exactly. The exponent must be that of a normal double.
fn power_of_two(exponent: i32) -> f64 {
    f64::from_bits(
        u64::try_from(exponent + 1023).expect("the exponent is that of a normal double") << 52,
    )
}

fn signed(count: u32) -> i32 {
    i32::try_from(count).expect("a number of bits or digits is small")
}

pub(super) fn digit_count(coefficient: u128) -> i32 {
    coefficient
        .checked_ilog10()
        .map_or(1, |log| signed(log) + 1)
}

#[cfg(test)]
mod tests {
    use std::cmp::Ordering;

    use super::*;

    fn decimal(text: &str) -> Number {
        Number::from_decimal(Decimal::parse(text.as_bytes()).unwrap())
    }

    fn text(number: Number) -> String {
        let mut out = Vec::new();
        number.write(&mut out);
        String::from_utf8(out).unwrap()
    }

    #[test]
    fn doubles_always_look_like_doubles() {
        for (value, expected) in [
            (1.0, "1.0"),
            (-0.0, "-0.0"),
            (0.1, "0.1"),
            (1e300, "1e+300"),
            (1e15, "1000000000000000.0"),
            (1e16, "1e+16"),
            (5e-324, "5e-324"),
            (f64::MAX, "1.7976931348623157e+308"),
        ] {
            let mut out = Vec::new();
            write_double(value, &mut out);
            assert_eq!(String::from_utf8(out.clone()).unwrap(), expected);
            assert_eq!(parse_double(&out).map(f64::to_bits), Some(value.to_bits()));
        }
        for refused in [
            "", "inf", "nan", "-NaN", "infinity", "1e999", "x", "1_0", " 1",
        ] {
            assert_eq!(parse_double(refused.as_bytes()), None, "{refused}");
        }
    }

    #[test]
    fn equal_decimals_and_doubles_have_one_form() {
        for (double, same) in [
            (0.5, "0.500"),
            (-0.125, "-125E-3"),
            (2_f64.powi(70), "1180591620717411303424"),
            (2_f64.powi(-40), "9.094947017729282379150390625E-13"),
            (2_f64.powi(-48), "3.552713678800500929355621337890625E-15"),
            (1e22, "1E+22"),
            (4e22, "40000000000000000000000"),
            (
                9_007_199_254_740_991.0 * 1_048_576.0,
                "9444732965739289378816",
            ),
            (9_223_372_036_854_775_808.0, "9223372036854775808"),
            (f64::INFINITY, "Infinity"),
        ] {
            let (left, right) = (Number::from_double(double), decimal(same));
            assert_eq!(left.cmp(&right), Ordering::Equal, "{double}");
            assert_eq!(text(left), text(right));
            let (left, right) = (left.to_bson().value, right.to_bson().value);
            assert_eq!(left.as_ref(), right.as_ref());
        }
        assert!(
            matches!(decimal("1E+23"), Number::Decimal(_)),
            "1e23 is not a double"
        );
        assert!(
            matches!(decimal("0.1"), Number::Decimal(_)),
            "0.1 is not a double"
        );
        assert!(matches!(
            decimal("-9223372036854775808"),
            Number::Integer(i64::MIN)
        ));
        assert!(matches!(decimal("-0E+5"), Number::Integer(0)));
    }

    #[test]
    fn keys_write_integral_numbers_plainly() {
        assert_eq!(text(Number::from_double(-0.0)), "0");
        assert_eq!(text(Number::from_double(1e23)), "99999999999999991611392");
        assert_eq!(text(decimal("1.50E+30")), "1500000000000000000000000000000");
        assert_eq!(text(decimal("1E+307")), format!("1{}", "0".repeat(307)));
        assert_eq!(text(decimal("1E+308")), r#"{"$numberDecimal":"1E+308"}"#);
        assert_eq!(
            text(decimal("-1.2300E-400")),
            r#"{"$numberDecimal":"-1.23E-400"}"#
        );
        assert_eq!(text(decimal("0.100")), "0.1");
        assert_eq!(text(Number::from_double(0.1)), "0.1");
        assert_eq!(text(Number::from_double(f64::MAX)).len(), 309);
    }
}
