//! The latencies of one reader.

use std::collections::BTreeMap;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// The span of commit times whose entries are measured, in milliseconds since 1970.
#[derive(Debug, Clone, Copy)]
pub(super) struct Span {
    begin: f64,
    end: f64,
}

impl Span {
    /// Returns a span that begins after `delay`.
    pub(super) fn starting_in(delay: Duration, length: Duration) -> Span {
        let begin = now_millis() + delay.as_secs_f64() * 1000.0;
        Span {
            begin,
            end: begin + length.as_secs_f64() * 1000.0,
        }
    }

    /// Returns its begin, in milliseconds since 1970.
    pub(super) const fn begin(&self) -> f64 {
        self.begin
    }

    pub(super) fn includes(&self, wall: i64) -> bool {
        (self.begin..self.end).contains(&(wall as f64))
    }

    pub(super) fn is_over(&self, wall: i64) -> bool {
        wall as f64 >= self.end
    }
}

/// Latencies in milliseconds, by the second in which the entry was committed.
#[derive(Debug, Default)]
pub(super) struct Times(BTreeMap<i64, Vec<f64>>);

impl Times {
    /// Adds an entry with its commit time, in milliseconds since 1970, and its latency.
    pub(super) fn add(&mut self, wall: i64, millis: f64) {
        self.0.entry(wall / 1000).or_default().push(millis);
    }

    fn sorted(&self) -> Vec<f64> {
        sorted(self.0.values().flatten().copied().collect())
    }

    /// Returns the latency that this percentage of the entries does not exceed.
    pub(super) fn quantile(&self, percent: usize) -> f64 {
        quantile(&self.sorted(), percent)
    }

    /// Returns the latencies of the seconds that `is_part` accepts. It receives the begin of a
    /// second, in milliseconds since 1970.
    pub(super) fn of(&self, is_part: impl Fn(i64) -> bool) -> Times {
        let seconds = self.0.iter();
        let part = seconds.filter(|(second, _)| is_part(**second * 1000));
        Times(part.map(|(second, all)| (*second, all.clone())).collect())
    }

    /// Formats the median of the worst second and the worst entry.
    pub(super) fn worst(&self) -> String {
        let all = self.0.values().flatten().copied();
        let entry = all.max_by(f64::total_cmp).unwrap_or(f64::NAN);
        format!("{:.1} / {entry:.1}", self.worst_second())
    }

    /// Returns the highest of the medians of all seconds, in milliseconds.
    pub(super) fn worst_second(&self) -> f64 {
        let medians = self
            .0
            .values()
            .map(|second| quantile(&sorted(second.clone()), 50));
        medians.max_by(f64::total_cmp).unwrap_or(f64::NAN)
    }

    /// Formats the latencies.
    pub(super) fn line(&self, what: &str) -> String {
        let all = self.sorted();
        format!(
            "{what:<52} {:>7} entries, p50 {:>6.1} ms, p99 {:>6.1} ms, worst second {:>6.1} ms",
            all.len(),
            quantile(&all, 50),
            quantile(&all, 99),
            self.worst_second()
        )
    }
}

fn sorted(mut values: Vec<f64>) -> Vec<f64> {
    values.sort_by(f64::total_cmp);
    values
}

/// Returns the smallest of the sorted values that at least this percentage of them does not exceed.
fn quantile(sorted: &[f64], percent: usize) -> f64 {
    let place = (sorted.len() * percent).div_ceil(100).max(1) - 1;
    sorted.get(place).copied().unwrap_or(f64::NAN)
}

/// Returns the time in milliseconds since 1970.
pub(super) fn now_millis() -> f64 {
    let now = SystemTime::now().duration_since(UNIX_EPOCH);
    now.map_or(0.0, |now| now.as_secs_f64() * 1000.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_quantile_is_one_of_the_values() {
        let values: Vec<f64> = (1..=200).map(f64::from).collect();
        assert_eq!(quantile(&values, 50).to_bits(), 100.0_f64.to_bits());
        assert_eq!(quantile(&values, 99).to_bits(), 198.0_f64.to_bits());
        assert!(quantile(&[], 50).is_nan());
    }

    #[test]
    fn the_worst_second_has_the_highest_median() {
        let mut times = Times::default();
        for (wall, millis) in [
            (1000, 5.0),
            (1500, 7.0),
            (2000, 9.0),
            (2100, 1.0),
            (2200, 1.0),
        ] {
            times.add(wall, millis);
        }
        assert_eq!(times.worst_second().to_bits(), 5.0_f64.to_bits());
        assert_eq!(times.quantile(99).to_bits(), 9.0_f64.to_bits());
    }
}
