//! Dates as ISO 8601 in the proleptic Gregorian calendar.

const MILLIS_PER_DAY: i64 = 86_400_000;
const DAYS_PER_ERA: i64 = 146_097;
/// The number of days from 0000-03-01, the start of the years in the arithmetic below, to
/// 1970-01-01.
const DAYS_TO_EPOCH: i64 = 719_468;
/// The first millisecond of the year 10000.
const END: i64 = 253_402_300_800_000;

/// Writes a date between 1970 and 9999 as `2012-12-24T12:15:30.501Z`; a fraction of zero is
/// omitted. Returns false, and writes nothing, if the date is outside that range.
pub(super) fn write(millis: i64, out: &mut Vec<u8>) -> bool {
    if !(0..END).contains(&millis) {
        return false;
    }
    let (year, month, day) = civil(millis / MILLIS_PER_DAY);
    let time = millis % MILLIS_PER_DAY;
    let mut text = *b"0000-00-00T00:00:00.000Z";
    let [
        y1,
        y2,
        y3,
        y4,
        _,
        m1,
        m2,
        _,
        d1,
        d2,
        _,
        h1,
        h2,
        _,
        n1,
        n2,
        _,
        s1,
        s2,
        _,
        f1,
        f2,
        f3,
        _,
    ] = &mut text;
    set_digits(year, [y1, y2, y3, y4]);
    set_digits(month, [m1, m2]);
    set_digits(day, [d1, d2]);
    set_digits(time / 3_600_000, [h1, h2]);
    set_digits(time / 60_000 % 60, [n1, n2]);
    set_digits(time / 1000 % 60, [s1, s2]);
    set_digits(time % 1000, [f1, f2, f3]);
    if time % 1000 == 0 {
        let (seconds, _) = text.split_at(19);
        out.extend_from_slice(seconds);
        out.push(b'Z');
    } else {
        out.extend_from_slice(&text);
    }
    true
}

fn set_digits<const N: usize>(mut value: i64, places: [&mut u8; N]) {
    for place in places.into_iter().rev() {
        *place = b'0' + u8::try_from(value % 10).expect("a digit of a number that is not negative");
        value /= 10;
    }
}

/// Returns year, month and day of a day counted from 1970-01-01. The day must not be negative.
fn civil(day: i64) -> (i64, i64, i64) {
    let shifted = day + DAYS_TO_EPOCH;
    let era = shifted / DAYS_PER_ERA;
    let day_of_era = shifted % DAYS_PER_ERA;
    let year_of_era =
        (day_of_era - day_of_era / 1460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let month_from_march = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * month_from_march + 2) / 5 + 1;
    let month = (month_from_march + 2) % 12 + 1;
    (era * 400 + year_of_era + i64::from(month <= 2), month, day)
}

/// Returns the day, counted from 1970-01-01, of a date from the year 0 on.
fn day_number(year: i64, month: i64, day: i64) -> i64 {
    // An offset of one era (400 years) keeps January and February of the year 0 positive.
    let year = year + 400 - i64::from(month <= 2);
    let year_of_era = year % 400;
    let month_from_march = (month + 9) % 12;
    let day_of_year = (153 * month_from_march + 2) / 5 + day - 1;
    let day_of_era = year_of_era * 365 + year_of_era / 4 - year_of_era / 100 + day_of_year;
    (year / 400 - 1) * DAYS_PER_ERA + day_of_era - DAYS_TO_EPOCH
}

/// Reads `YYYY-MM-DDTHH:MM:SS`, an optional fraction with millisecond precision, and `Z` or an
/// offset (`+HH:MM`, `+HHMM`).
pub(super) fn parse(text: &[u8]) -> Option<i64> {
    let mut rest = text;
    let year = number(&mut rest, 4)?;
    let month = number(skip(&mut rest, b'-')?, 2).filter(|month| (1..=12).contains(month))?;
    let day = number(skip(&mut rest, b'-')?, 2).filter(|day| *day >= 1)?;
    let hour = number(skip(&mut rest, b'T')?, 2).filter(|hour| *hour < 24)?;
    let minute = number(skip(&mut rest, b':')?, 2).filter(|minute| *minute < 60)?;
    let second = number(skip(&mut rest, b':')?, 2).filter(|second| *second < 60)?;
    let fraction = if skip(&mut rest, b'.').is_some() {
        fraction(&mut rest)?
    } else {
        0
    };
    let offset = offset(rest)?;
    let (next_year, next_month) = if month == 12 {
        (year + 1, 1)
    } else {
        (year, month + 1)
    };
    let first = day_number(year, month, 1);
    if day > day_number(next_year, next_month, 1) - first {
        return None;
    }
    let minutes = ((first + day - 1) * 24 + hour) * 60 + minute - offset;
    Some((minutes * 60 + second) * 1000 + fraction)
}

fn skip<'r, 't>(rest: &'r mut &'t [u8], byte: u8) -> Option<&'r mut &'t [u8]> {
    *rest = rest.strip_prefix(&[byte])?;
    Some(rest)
}

fn number(rest: &mut &[u8], digits: usize) -> Option<i64> {
    let (text, tail) = rest.split_at_checked(digits)?;
    *rest = tail;
    text.iter().try_fold(0, |number, digit| {
        digit
            .is_ascii_digit()
            .then(|| number * 10 + i64::from(digit - b'0'))
    })
}

/// Returns the milliseconds of a fraction, or `None` if it has no digits or is more precise
/// than a millisecond.
fn fraction(rest: &mut &[u8]) -> Option<i64> {
    let end = rest
        .iter()
        .position(|byte| !byte.is_ascii_digit())
        .unwrap_or(rest.len());
    let (digits, tail) = rest
        .split_at_checked(end)
        .filter(|(digits, _)| !digits.is_empty())?;
    *rest = tail;
    if digits.iter().skip(3).any(|digit| *digit != b'0') {
        return None;
    }
    let three = digits
        .iter()
        .copied()
        .chain(std::iter::repeat(b'0'))
        .take(3);
    Some(three.fold(0, |number, digit| number * 10 + i64::from(digit - b'0')))
}

/// Returns the minutes of an offset from UTC.
fn offset(text: &[u8]) -> Option<i64> {
    let (sign, digits) = match text {
        b"Z" => return Some(0),
        [b'+', digits @ ..] => (1, digits),
        [b'-', digits @ ..] => (-1, digits),
        _ => return None,
    };
    let mut rest = digits;
    let hours = number(&mut rest, 2).filter(|hours| *hours < 24)?;
    let rest = rest.strip_prefix(b":").unwrap_or(rest);
    let mut rest = rest;
    let minutes = number(&mut rest, 2).filter(|minutes| *minutes < 60)?;
    rest.is_empty().then_some(sign * (hours * 60 + minutes))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn text(millis: i64) -> Option<String> {
        let mut out = Vec::new();
        write(millis, &mut out).then(|| String::from_utf8(out).unwrap())
    }

    #[test]
    fn dates_from_1970_to_9999_have_a_text() {
        assert_eq!(text(0).unwrap(), "1970-01-01T00:00:00Z");
        assert_eq!(text(1_356_351_330_501).unwrap(), "2012-12-24T12:15:30.501Z");
        assert_eq!(text(1_356_351_330_001).unwrap(), "2012-12-24T12:15:30.001Z");
        assert_eq!(text(951_782_400_000).unwrap(), "2000-02-29T00:00:00Z");
        assert_eq!(text(END - 1).unwrap(), "9999-12-31T23:59:59.999Z");
        assert_eq!(text(END), None);
        assert_eq!(text(-1), None);
        assert_eq!(text(i64::MIN), None);
    }

    #[test]
    fn every_day_reads_back() {
        for day in 0..END / MILLIS_PER_DAY {
            let millis = day * MILLIS_PER_DAY + day * 7919 % MILLIS_PER_DAY;
            assert_eq!(parse(text(millis).unwrap().as_bytes()), Some(millis));
        }
    }

    #[test]
    fn offsets_and_fractions_are_read() {
        let noon = 1_356_350_400_000;
        assert_eq!(parse(b"2012-12-24T12:00:00Z"), Some(noon));
        assert_eq!(parse(b"2012-12-24T13:30:00+01:30"), Some(noon));
        assert_eq!(parse(b"2012-12-24T11:00:00-0100"), Some(noon));
        assert_eq!(parse(b"2012-12-24T12:00:00.5Z"), Some(noon + 500));
        assert_eq!(parse(b"2012-12-24T12:00:00.500000Z"), Some(noon + 500));
        assert_eq!(parse(b"1969-12-31T23:59:59.999Z"), Some(-1));
        assert_eq!(parse(b"0000-01-01T00:00:00Z"), Some(-62_167_219_200_000));
    }

    #[test]
    fn invalid_dates_are_refused() {
        for text in [
            "",
            "2012",
            "2012-13-01T00:00:00Z",
            "2011-02-29T00:00:00Z",
            "2012-02-00T00:00:00Z",
            "2012-12-24T24:00:00Z",
            "2012-12-24T12:00:00",
            "2012-12-24T12:00:00.Z",
            "2012-12-24T12:00:00.0001Z",
            "2012-12-24T12:00:00Zx",
            "2012-12-24T12:00:00+1",
            "2012-12-24 12:00:00Z",
        ] {
            assert_eq!(parse(text.as_bytes()), None, "{text}");
        }
    }
}
