//! Suggestions ("did you mean"): the known name that is nearest to a mistyped one.

/// Returns the nearest of `known`, if it is near enough to be a typing error.
pub(super) fn nearest<'a>(name: &str, known: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    let limit = (name.chars().count() / 3).max(1);
    known
        .into_iter()
        .map(|candidate| (distance(name, candidate), candidate))
        .filter(|(distance, _)| *distance <= limit)
        .min()
        .map(|(_, candidate)| candidate)
}

/// Returns `" (did you mean …?)"`, or an empty text.
pub(super) fn hint<'a>(name: &str, known: impl IntoIterator<Item = &'a str>) -> String {
    nearest(name, known)
        .map(|found| format!(" (did you mean {found}?)"))
        .unwrap_or_default()
}

/// Returns the Levenshtein distance.
fn distance(a: &str, b: &str) -> usize {
    let b: Vec<char> = b.chars().collect();
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, from) in a.chars().enumerate() {
        let mut diagonal = i;
        let mut left = i + 1;
        for (cell, to) in row.iter_mut().skip(1).zip(&b) {
            let replaced = diagonal + usize::from(from != *to);
            diagonal = *cell;
            left = replaced.min(left + 1).min(*cell + 1);
            *cell = left;
        }
        if let Some(first) = row.first_mut() {
            *first = i + 1;
        }
    }
    row.last().copied().unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn distances() {
        assert_eq!(distance("", "abc"), 3);
        assert_eq!(distance("kitten", "sitting"), 3);
        assert_eq!(distance("partitions", "partitions"), 0);
        assert_eq!(distance("partition", "partitions"), 1);
    }

    #[test]
    fn only_typing_errors_get_a_suggestion() {
        let known = ["partitions", "prefix", "brokers"];
        assert_eq!(nearest("partitons", known), Some("partitions"));
        assert_eq!(nearest("colour", known), None);
        assert_eq!(hint("borkers", known), " (did you mean brokers?)");
        assert_eq!(hint("colour", known), "");
    }
}
