//! Formats figures beside their goals, with a note that says whether the goals were met.

/// The largest permitted memory of a program with its default settings, in MiB.
pub(super) const MOST_MIB: f64 = 256.0;
/// The same limit for documents of 16 MB.
pub(super) const MOST_MIB_LARGE: f64 = 512.0;

/// Returns `met`, or the names of the missed goals.
pub(super) fn verdict(goals: &[(&str, bool)]) -> String {
    let missed: Vec<&str> = goals
        .iter()
        .filter_map(|(goal, met)| (!met).then_some(*goal))
        .collect();
    if missed.is_empty() {
        return "met".to_owned();
    }
    format!("missed: {}", missed.join(", "))
}

/// Formats a figure beside its upper limit.
pub(super) fn at_most(what: &str, figure: f64, limit: f64, unit: &str) -> String {
    let verdict = verdict(&[("limit", figure <= limit)]);
    format!("{what:<46} {figure:>9.2} {unit:<9} at most  {limit:>6.2}  {verdict}")
}

/// Formats a figure beside its lower limit.
pub(super) fn at_least(what: &str, figure: f64, limit: f64) -> String {
    let verdict = verdict(&[("limit", figure >= limit)]);
    format!(
        "{what:<46} {figure:>9.2} {:<9} at least {limit:>6.2}  {verdict}",
        ""
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn missed_goals_are_named() {
        assert_eq!(verdict(&[("ratio", true), ("memory", true)]), "met");
        assert_eq!(
            verdict(&[("ratio", true), ("memory", false)]),
            "missed: memory"
        );
        assert!(at_least("x", 0.89, 0.9).ends_with("missed: limit"));
        assert!(at_most("x", 1.0, 1.0, "%").ends_with("met"));
    }
}
