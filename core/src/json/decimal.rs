//! Decimal128: the binary (BID) encoding of IEEE 754-2008 and its text in Extended JSON.

/// The greatest coefficient: 34 nines.
const MAX_COEFFICIENT: u128 = 10_u128.pow(34) - 1;
const EXPONENT_BIAS: i32 = 6176;
/// The least exponent of the coefficient.
const MIN_EXPONENT: i32 = -EXPONENT_BIAS;
/// The greatest exponent of the coefficient.
pub(crate) const MAX_EXPONENT: i32 = 6111;

const SIGN: u128 = 1 << 127;
const SPECIAL: u128 = 0x78 << 120;
const NAN: u128 = 0x7c << 120;
/// If both bits are set, the exponent is two bits lower and the coefficient is greater than
/// allowed.
const LARGE: u128 = 0b11 << 125;
const EXPONENT_SHIFT: u32 = 113;
const LARGE_EXPONENT_SHIFT: u32 = 111;
const EXPONENT_MASK: u128 = 0x3fff;
const COEFFICIENT_MASK: u128 = (1 << EXPONENT_SHIFT) - 1;

/// The value of a Decimal128.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Decimal {
    /// A NaN of any kind.
    NaN,
    /// An infinity.
    Infinite {
        /// True if the value is below zero.
        negative: bool,
    },
    /// A finite value `±coefficient × 10^exponent`; zero has a sign and an exponent too.
    Finite {
        /// True if the sign bit is set.
        negative: bool,
        /// The coefficient, with at most 34 digits.
        coefficient: u128,
        /// The exponent, between -6176 and 6111.
        exponent: i32,
    },
}

impl Decimal {
    /// Reads any 16 bytes. Representations that are not canonical also have a value.
    pub(crate) fn from_bytes(bytes: [u8; 16]) -> Self {
        let bits = u128::from_le_bytes(bytes);
        let negative = bits & SIGN != 0;
        if bits & NAN == NAN {
            return Self::NaN;
        }
        if bits & SPECIAL == SPECIAL {
            return Self::Infinite { negative };
        }
        let (shift, coefficient) = if bits & LARGE == LARGE {
            (LARGE_EXPONENT_SHIFT, 0)
        } else {
            (EXPONENT_SHIFT, bits & COEFFICIENT_MASK)
        };
        let biased = i32::try_from((bits >> shift) & EXPONENT_MASK).expect("the mask has 14 bits");
        // A coefficient out of range counts as zero, as IEEE 754-2008 requires.
        let coefficient = if coefficient > MAX_COEFFICIENT {
            0
        } else {
            coefficient
        };
        Self::Finite {
            negative,
            coefficient,
            exponent: biased - EXPONENT_BIAS,
        }
    }

    /// Returns the canonical representation.
    pub(crate) fn to_bytes(self) -> [u8; 16] {
        let (negative, bits) = match self {
            Self::NaN => (false, NAN),
            Self::Infinite { negative } => (negative, SPECIAL),
            Self::Finite {
                negative,
                coefficient,
                exponent,
            } => {
                let biased = u128::try_from(exponent + EXPONENT_BIAS)
                    .expect("a biased exponent is not negative");
                (negative, (biased << EXPONENT_SHIFT) | coefficient)
            }
        };
        (bits | if negative { SIGN } else { 0 }).to_le_bytes()
    }

    /// Writes the text without quotes. The notation is plain if the exponent is not positive and
    /// the first digit is at most six places after the point, otherwise scientific.
    pub(crate) fn write(self, out: &mut Vec<u8>) {
        let (negative, coefficient, exponent) = match self {
            Self::NaN => return out.extend_from_slice(b"NaN"),
            Self::Infinite { negative: false } => return out.extend_from_slice(b"Infinity"),
            Self::Infinite { negative: true } => return out.extend_from_slice(b"-Infinity"),
            Self::Finite {
                negative,
                coefficient,
                exponent,
            } => (negative, coefficient, exponent),
        };
        if negative {
            out.push(b'-');
        }
        let mut buffer = itoa::Buffer::new();
        let digits = buffer.format(coefficient).as_bytes();
        let adjusted = exponent + length(digits) - 1;
        if exponent > 0 || adjusted < -6 {
            write_scientific(digits, adjusted, out);
        } else {
            write_plain(digits, exponent, out);
        }
    }

    /// Reads a text in any case with any exponent. Returns `None` if it is not a number, or would
    /// have to be rounded.
    pub(crate) fn parse(text: &[u8]) -> Option<Self> {
        let (negative, text) = match text {
            [b'-', rest @ ..] => (true, rest),
            [b'+', rest @ ..] => (false, rest),
            _ => (false, text),
        };
        if text.eq_ignore_ascii_case(b"nan") {
            return Some(Self::NaN);
        }
        if text.eq_ignore_ascii_case(b"infinity") || text.eq_ignore_ascii_case(b"inf") {
            return Some(Self::Infinite { negative });
        }
        let mut parts = text.splitn(2, |byte| byte.eq_ignore_ascii_case(&b'e'));
        let significand = parts.next()?;
        let exponent = parts.next().map_or(Some(0), parse_exponent)?;
        let (coefficient, exponent) = parse_significand(significand, exponent)?;
        let Scaled {
            coefficient,
            exponent,
        } = fit(coefficient, exponent)?;
        Some(Self::Finite {
            negative,
            coefficient,
            exponent,
        })
    }
}

fn length(digits: &[u8]) -> i32 {
    i32::try_from(digits.len()).expect("a Decimal128 has at most 34 digits")
}

fn write_scientific(digits: &[u8], adjusted: i32, out: &mut Vec<u8>) {
    let Some((first, rest)) = digits.split_first() else {
        return;
    };
    out.push(*first);
    if !rest.is_empty() {
        out.push(b'.');
        out.extend_from_slice(rest);
    }
    out.push(b'E');
    out.push(if adjusted < 0 { b'-' } else { b'+' });
    out.extend_from_slice(
        itoa::Buffer::new()
            .format(adjusted.unsigned_abs())
            .as_bytes(),
    );
}

/// Writes digits with the point `-exponent` places before their end.
fn write_plain(digits: &[u8], exponent: i32, out: &mut Vec<u8>) {
    let places =
        usize::try_from(exponent.unsigned_abs()).expect("a number of 32 bits fits into usize");
    if places == 0 {
        return out.extend_from_slice(digits);
    }
    if let Some((whole, fraction)) = digits
        .len()
        .checked_sub(places)
        .filter(|whole| *whole > 0)
        .map(|at| digits.split_at(at))
    {
        out.extend_from_slice(whole);
        out.push(b'.');
        out.extend_from_slice(fraction);
    } else {
        out.extend_from_slice(b"0.");
        out.resize(out.len() + places - digits.len(), b'0');
        out.extend_from_slice(digits);
    }
}

fn parse_exponent(text: &[u8]) -> Option<i64> {
    let (sign, digits) = match text {
        [b'-', rest @ ..] => (-1, rest),
        [b'+', rest @ ..] => (1, rest),
        _ => (1, text),
    };
    if digits.is_empty() {
        return None;
    }
    digits.iter().try_fold(0_i64, |exponent, digit| {
        let digit = digit.is_ascii_digit().then(|| i64::from(digit - b'0'))?;
        Some(exponent.saturating_mul(10).saturating_add(sign * digit))
    })
}

/// Returns the digits as a coefficient. Zeros beyond 34 digits are moved to the exponent.
fn parse_significand(text: &[u8], mut exponent: i64) -> Option<(u128, i64)> {
    let mut coefficient = 0_u128;
    let (mut point, mut any) = (false, false);
    for byte in text {
        let digit = match byte {
            b'0'..=b'9' => u128::from(byte - b'0'),
            b'.' if !point => {
                point = true;
                continue;
            }
            _ => return None,
        };
        any = true;
        if point {
            exponent = exponent.saturating_sub(1);
        }
        let longer = coefficient * 10 + digit;
        if longer <= MAX_COEFFICIENT {
            coefficient = longer;
        } else if digit == 0 {
            exponent = exponent.saturating_add(1);
        } else {
            return None;
        }
    }
    any.then_some((coefficient, exponent))
}

/// A coefficient and an exponent that a Decimal128 can have.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Scaled {
    /// The coefficient.
    pub(crate) coefficient: u128,
    /// The exponent of 10.
    pub(crate) exponent: i32,
}

/// Moves zeros between coefficient and exponent to bring the exponent into range. Returns `None` if
/// that would round the value.
pub(crate) fn fit(mut coefficient: u128, mut exponent: i64) -> Option<Scaled> {
    let (min, max) = (i64::from(MIN_EXPONENT), i64::from(MAX_EXPONENT));
    if coefficient == 0 {
        exponent = exponent.clamp(min, max);
    }
    while exponent > max && coefficient * 10 <= MAX_COEFFICIENT {
        coefficient *= 10;
        exponent -= 1;
    }
    while exponent < min && coefficient.is_multiple_of(10) {
        coefficient /= 10;
        exponent += 1;
    }
    let exponent = i32::try_from(exponent).ok()?;
    (MIN_EXPONENT..=MAX_EXPONENT)
        .contains(&exponent)
        .then_some(Scaled {
            coefficient,
            exponent,
        })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn text(decimal: Decimal) -> String {
        let mut out = Vec::new();
        decimal.write(&mut out);
        String::from_utf8(out).unwrap()
    }

    fn bits(high: u64, low: u64) -> [u8; 16] {
        ((u128::from(high) << 64) | u128::from(low)).to_le_bytes()
    }

    #[test]
    fn text_and_bytes_agree() {
        for (high, low, expected) in [
            (0x3040_0000_0000_0000, 0, "0"),
            (0xb040_0000_0000_0000, 0, "-0"),
            (0xb03e_0000_0000_0000, 0, "-0.0"),
            (0x303e_0000_0000_0000, 1, "0.1"),
            (0x3034_0000_0000_0000, 1234, "0.001234"),
            (0x302a_0000_0000_0000, 123_400_000, "0.00123400000"),
            (0x3046_0000_0000_0000, 1, "1E+3"),
            (0x3042_0000_0000_0000, 1050, "1.050E+4"),
            (0xb02c_0000_0000_0000, 100, "-1.00E-8"),
            (0x5f20_0000_0000_0000, 0, "0E+6000"),
            (0x2b7a_0000_0000_0000, 0, "0E-611"),
            (0x0000_0000_0000_0000, 1, "1E-6176"),
            (
                0x5ffe_314d_c644_8d93,
                0x38c1_5b0a_0000_0000,
                "1.000000000000000000000000000000000E+6144",
            ),
            (
                0x5fff_ed09_bead_87c0,
                0x378d_8e63_ffff_ffff,
                "9.999999999999999999999999999999999E+6144",
            ),
            (0x7c00_0000_0000_0000, 0, "NaN"),
            (0x7800_0000_0000_0000, 0, "Infinity"),
            (0xf800_0000_0000_0000, 0, "-Infinity"),
        ] {
            let bytes = bits(high, low);
            assert_eq!(text(Decimal::from_bytes(bytes)), expected);
            assert_eq!(Decimal::from_bytes(bytes).to_bytes(), bytes, "{expected}");
            assert_eq!(
                Decimal::parse(expected.as_bytes()).unwrap().to_bytes(),
                bytes,
                "{expected}"
            );
        }
    }

    #[test]
    fn representations_that_are_not_canonical_have_a_value() {
        assert_eq!(
            text(Decimal::from_bytes(bits(0x6c10_0000_0000_0000, 0))),
            "0"
        );
        assert_eq!(
            text(Decimal::from_bytes(bits(0xec10_0000_dead_beef, 7))),
            "-0"
        );
        assert_eq!(
            text(Decimal::from_bytes(bits(0x6c11_ffff_ffff_ffff, u64::MAX))),
            "0E+3"
        );
        assert_eq!(
            text(Decimal::from_bytes(bits(0x3041_ffff_ffff_ffff, u64::MAX))),
            "0"
        );
        assert_eq!(
            text(Decimal::from_bytes(bits(0xfe00_0000_0000_0000, 1))),
            "NaN"
        );
        assert_eq!(
            text(Decimal::from_bytes(bits(0x7a00_0000_0000_0000, 1))),
            "Infinity"
        );
    }

    #[test]
    fn text_of_other_forms_is_read_unless_it_would_round() {
        let same = |left: &str, right: &str| {
            assert_eq!(
                Decimal::parse(left.as_bytes()),
                Decimal::parse(right.as_bytes()),
                "{left}"
            );
            assert!(Decimal::parse(left.as_bytes()).is_some(), "{left}");
        };
        same("-100E-10", "-1.00E-8");
        same("1e3", "1E+3");
        same(".1", "0.1");
        same("1.", "1");
        same("+inf", "Infinity");
        same("10E+6111", "1.0E+6112");
        same("1E+6112", "10E+6111");
        same("0E+7000", "0E+6111");
        same("0E-99999999999999999999", "0E-6176");
        same("10E-6177", "1E-6176");
        same(
            "12345678901234567890123456789012340",
            "1234567890123456789012345678901234E+1",
        );
        for refused in [
            "",
            "-",
            ".",
            "E5",
            "1E",
            "1E+",
            "1x",
            "0x1",
            "1.2.3",
            "1E+6145",
            "1E-6177",
            " 1",
            "12345678901234567890123456789012345",
        ] {
            assert_eq!(Decimal::parse(refused.as_bytes()), None, "{refused}");
        }
    }
}
