//! Values with their own notation: sizes, durations, start points.

use std::fmt;
use std::str::FromStr;
use std::time::Duration;

use jiff::Timestamp;

/// Parses a size: digits and a unit, as in `16MiB`, `500kB`, `1GB`. The default unit is bytes.
///
/// # Errors
/// A message if the text is not a size, or exceeds 64 bits.
pub fn parse_bytes(text: &str) -> Result<u64, String> {
    let (number, unit) = number_and_unit(text);
    let factor: u64 = match unit {
        "" | "B" => 1,
        "k" | "kB" | "KB" => 1000,
        "M" | "MB" => 1_000_000,
        "G" | "GB" => 1_000_000_000,
        "Ki" | "KiB" => 1 << 10,
        "Mi" | "MiB" => 1 << 20,
        "Gi" | "GiB" => 1 << 30,
        _ => return Err("expected a size such as 16MiB, 500kB or 1048576".to_owned()),
    };
    number
        .parse::<u64>()
        .map_err(|_| "expected a size such as 16MiB, 500kB or 1048576".to_owned())?
        .checked_mul(factor)
        .ok_or_else(|| "the size is too large".to_owned())
}

/// Parses a duration: numbers with the units `ms`, `s`, `m` or `min`, `h`, `d`, as in `500ms` or
/// `1h30m`.
/// Only `0` needs no unit.
///
/// # Errors
/// A message if the text is not a duration, or exceeds 64 bits of milliseconds.
pub fn parse_duration(text: &str) -> Result<Duration, String> {
    let expected = || "expected a duration such as 500ms, 10s or 1h30m".to_owned();
    if text == "0" {
        return Ok(Duration::ZERO);
    }
    let mut rest = text;
    let mut total = 0_u64;
    while !rest.is_empty() {
        let (number, after) = number_and_unit(rest);
        let unit_end = after
            .find(|c: char| c.is_ascii_digit())
            .unwrap_or(after.len());
        let (unit, next) = after.split_at_checked(unit_end).ok_or_else(expected)?;
        let factor: u64 = match unit {
            "ms" => 1,
            "s" => 1000,
            "m" | "min" => 60_000,
            "h" => 3_600_000,
            "d" => 86_400_000,
            _ => return Err(expected()),
        };
        let number: u64 = number.parse().map_err(|_| expected())?;
        total = number
            .checked_mul(factor)
            .and_then(|ms| total.checked_add(ms))
            .ok_or_else(|| "the duration is too long".to_owned())?;
        rest = next;
    }
    if text.is_empty() {
        Err(expected())
    } else {
        Ok(Duration::from_millis(total))
    }
}

fn number_and_unit(text: &str) -> (&str, &str) {
    let end = text
        .find(|c: char| !c.is_ascii_digit())
        .unwrap_or(text.len());
    text.split_at_checked(end).unwrap_or((text, ""))
}

/// The start point if no position is saved.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Start {
    /// The oldest available entry.
    Oldest,
    /// The first entry after the current time.
    Now,
    /// The first entry at or after a time, in milliseconds since 1970.
    At(i64),
    /// The first entry at or after `<seconds>:<increment>`.
    Position {
        /// The seconds since 1970.
        seconds: u32,
        /// The increment within the second.
        increment: u32,
    },
}

impl FromStr for Start {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        parse_start(text)
    }
}

impl fmt::Display for Start {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Oldest => f.write_str("oldest"),
            Self::Now => f.write_str("now"),
            Self::At(millis) => match Timestamp::from_millisecond(*millis) {
                Ok(time) => time.fmt(f),
                Err(_) => write!(f, "{millis} ms after 1970"),
            },
            Self::Position { seconds, increment } => write!(f, "{seconds}:{increment}"),
        }
    }
}

/// Parses `oldest` (or `earliest`, as in Kafka), `now`, an RFC 3339 time or
/// `<seconds>:<increment>`.
///
/// # Errors
/// A message if the text is none of these.
pub fn parse_start(text: &str) -> Result<Start, String> {
    match text {
        "oldest" | "earliest" => return Ok(Start::Oldest),
        "now" => return Ok(Start::Now),
        _ => {}
    }
    if let Some((seconds, increment)) = text.split_once(':')
        && let (Ok(seconds), Ok(increment)) = (seconds.parse(), increment.parse())
    {
        return Ok(Start::Position { seconds, increment });
    }
    text.parse::<Timestamp>()
        .map(|time| Start::At(time.as_millisecond()))
        .map_err(|_| {
            "expected oldest, now, an RFC 3339 time such as 2026-01-31T14:03:00Z, or \
         <seconds>:<increment>"
                .to_owned()
        })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes() {
        assert_eq!(parse_bytes("0"), Ok(0));
        assert_eq!(parse_bytes("1048576"), Ok(1 << 20));
        assert_eq!(parse_bytes("16MiB"), Ok(16 << 20));
        assert_eq!(parse_bytes("500kB"), Ok(500_000));
        assert_eq!(parse_bytes("2GiB"), Ok(2 << 30));
        for bad in [
            "",
            "MiB",
            "1.5MiB",
            "-1",
            "16 MiB",
            "1TiB!",
            "99999999999999999999",
            "1é",
        ] {
            assert!(parse_bytes(bad).is_err(), "{bad}");
        }
        assert_eq!(
            parse_bytes("18446744073709551615k"),
            Err("the size is too large".to_owned())
        );
    }

    #[test]
    fn durations() {
        assert_eq!(parse_duration("0"), Ok(Duration::ZERO));
        assert_eq!(parse_duration("500ms"), Ok(Duration::from_millis(500)));
        assert_eq!(parse_duration("10s"), Ok(Duration::from_secs(10)));
        assert_eq!(parse_duration("2h"), Ok(Duration::from_secs(7200)));
        assert_eq!(parse_duration("1h30m"), Ok(Duration::from_secs(5400)));
        for bad in [
            "",
            "10",
            "s",
            "10 s",
            "1.5s",
            "-1s",
            "1h30",
            "1y",
            "99999999999999999d",
            "1é",
        ] {
            assert!(parse_duration(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn starts() {
        assert_eq!(parse_start("oldest"), Ok(Start::Oldest));
        assert_eq!("earliest".parse(), Ok(Start::Oldest));
        assert_eq!(parse_start("now"), Ok(Start::Now));
        assert_eq!(
            parse_start("1700000000:7"),
            Ok(Start::Position {
                seconds: 1_700_000_000,
                increment: 7
            })
        );
        assert_eq!(
            parse_start("2023-11-14T22:13:20.5Z"),
            Ok(Start::At(1_700_000_000_500))
        );
        assert_eq!(
            parse_start("2023-11-14T23:13:20+01:00"),
            Ok(Start::At(1_700_000_000_000))
        );
        for bad in [
            "",
            "yesterday",
            "1:2:3",
            "2023-11-14",
            "2023-11-14T22:13:20",
            "5000000000:1",
        ] {
            assert!(parse_start(bad).unwrap_err().contains("RFC 3339"), "{bad}");
        }
    }
}
