//! The parts of a program that have metrics and a health of their own, such as the sources that a
//! producer follows.

use std::collections::BTreeMap;
use std::collections::btree_map::Entry;

use prometheus::Registry;
use prometheus::proto::MetricFamily;

use super::Health;

/// The metrics and the health of a part of a program.
#[derive(Debug, Clone)]
pub struct Part {
    /// The name before the reason why the part is not live or not ready; `None` if the part is the
    /// whole program.
    pub name: Option<String>,
    /// The metrics. If a program has several parts, they differ in a label.
    pub registry: Registry,
    /// The health.
    pub health: Health,
}

impl Part {
    /// Returns the only part of a program.
    #[must_use]
    pub const fn whole(registry: Registry, health: Health) -> Self {
        Self {
            name: None,
            registry,
            health,
        }
    }
}

/// Returns the metrics of all parts, each name once, as the exposition format requires.
pub(super) fn gather(parts: &[Part]) -> Vec<MetricFamily> {
    let mut families = BTreeMap::<String, MetricFamily>::new();
    for mut family in parts.iter().flat_map(|part| part.registry.gather()) {
        match families.entry(family.name().to_owned()) {
            Entry::Vacant(vacant) => {
                vacant.insert(family);
            }
            Entry::Occupied(mut known) => {
                known.get_mut().mut_metric().extend(family.take_metric());
            }
        }
    }
    families.into_values().collect()
}

/// Returns `Ok` if the check of every part succeeds.
///
/// # Errors
/// The reasons of all parts whose check fails, one per line.
pub(super) fn check(
    parts: &[Part],
    mut check: impl FnMut(&Health) -> Result<(), String>,
) -> Result<(), String> {
    let failed = parts.iter().filter_map(|part| {
        let reason = check(&part.health).err()?;
        Some(match &part.name {
            None => reason,
            Some(name) => format!("{name}: {reason}"),
        })
    });
    let reasons: Vec<String> = failed.collect();
    if reasons.is_empty() {
        return Ok(());
    }
    Err(reasons.join("\n"))
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;

    use prometheus::{IntCounter, TextEncoder};

    use super::*;

    fn part(name: &str, count: u64) -> Part {
        let label = HashMap::from([("source".to_owned(), name.to_owned())]);
        let registry = Registry::new_custom(None, Some(label)).unwrap();
        let counter = IntCounter::new("oplog_test_entries_total", "Entries.").unwrap();
        counter.inc_by(count);
        registry.register(Box::new(counter)).unwrap();
        Part {
            name: Some(name.to_owned()),
            ..Part::whole(registry, Health::default())
        }
    }

    #[test]
    fn a_metric_of_several_parts_is_described_once() {
        let families = gather(&[part("a", 3), part("b", 4)]);
        let text = TextEncoder::new().encode_to_string(&families).unwrap();
        assert_eq!(text.matches("# TYPE oplog_test_entries_total").count(), 1);
        assert!(
            text.contains("oplog_test_entries_total{source=\"a\"} 3\n"),
            "{text}"
        );
        assert!(
            text.contains("oplog_test_entries_total{source=\"b\"} 4\n"),
            "{text}"
        );
    }

    #[test]
    fn a_program_is_ready_if_all_of_its_parts_are() {
        let parts = [part("a", 0), part("b", 0)];
        let ready = || check(&parts, Health::ready);
        assert_eq!(ready(), Err("a: starting\nb: starting".to_owned()));
        parts[0].health.set_ready(true, "");
        assert_eq!(ready(), Err("b: starting".to_owned()));
        parts[1].health.set_ready(true, "");
        assert_eq!(ready(), Ok(()));
    }
}
