//! The value of `--topics`: names of topics, and patterns with `*`.

/// The prefix of internal topics: those of Kafka, oplog-producer and oplog-consumer.
const INTERNAL: &str = "__";

/// Names of topics, and patterns in which `*` stands for any characters.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TopicPatterns {
    patterns: Vec<String>,
    text: String,
}

impl TopicPatterns {
    /// Checks names and patterns.
    ///
    /// # Errors
    /// Returns a message for the operator if one of them cannot be the name of a topic that is
    /// read.
    pub fn new(patterns: &[String]) -> Result<Self, String> {
        let mut checked = Vec::new();
        for pattern in patterns.iter().map(|pattern| pattern.trim()) {
            let is_plain = |byte: u8| byte.is_ascii_alphanumeric() || b"._-*".contains(&byte);
            if pattern.is_empty() || !pattern.bytes().all(is_plain) {
                return Err(format!(
                    "{pattern:?} is not a topic name or pattern: use letters, digits, '.', '_' and '-', and \
                     '*' for any characters"
                ));
            }
            if pattern.starts_with(INTERNAL) {
                return Err(format!(
                    "{pattern:?} begins with {INTERNAL}: internal topics are never read"
                ));
            }
            checked.push(pattern.to_owned());
        }
        let text = checked.join(",");
        Ok(Self {
            patterns: checked,
            text,
        })
    }

    /// Returns true if the topic is one of the names or matches one of the patterns. Internal
    /// topics match no pattern.
    #[must_use]
    pub fn include(&self, topic: &str) -> bool {
        let mut patterns = self.patterns.iter();
        !topic.starts_with(INTERNAL) && patterns.any(|pattern| matches(pattern, topic))
    }

    /// Returns the names and patterns that match none of these topics.
    #[must_use]
    pub fn unmatched<'p>(&'p self, topics: &[&str]) -> Vec<&'p str> {
        let is_missing = |pattern: &&str| !topics.iter().any(|topic| matches(pattern, topic));
        let patterns = self.patterns.iter().map(String::as_str);
        patterns.filter(is_missing).collect()
    }

    /// Returns a regular expression for each name and pattern.
    pub(super) fn expressions(&self) -> Vec<String> {
        let expression = |pattern: &String| {
            let escaped = pattern.replace('.', "\\.").replace('*', ".*");
            format!("^{escaped}$")
        };
        self.patterns.iter().map(expression).collect()
    }

    /// Returns the names and patterns as they were given, separated by commas.
    #[must_use]
    pub fn text(&self) -> &str {
        &self.text
    }
}

/// The topics that librdkafka ignores as if they did not exist: the value of its `topic.blacklist`.
pub(crate) const INTERNAL_TOPICS: &str = "^__.*";

fn matches(pattern: &str, name: &str) -> bool {
    let Some((first, rest)) = pattern.split_once('*') else {
        return pattern == name;
    };
    let Some(mut name) = name.strip_prefix(first) else {
        return false;
    };
    let mut parts: Vec<&str> = rest.split('*').collect();
    let last = parts.pop().unwrap_or_default();
    for part in parts {
        match name.split_once(part) {
            Some((_, after)) => name = after,
            None => return false,
        }
    }
    name.ends_with(last)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn patterns(patterns: &[&str]) -> Result<TopicPatterns, String> {
        let owned: Vec<String> = patterns.iter().map(|it| (*it).to_owned()).collect();
        TopicPatterns::new(&owned)
    }

    #[test]
    fn a_star_stands_for_any_characters() {
        let table = [
            ("a.b", "a.b", true),
            ("a.b", "a.bc", false),
            ("a.*", "a.b.c", true),
            ("a.*", "ab.c", false),
            ("*.c", "a.b.c", true),
            ("*.c", "c", false),
            ("a*b*c", "a.b.c", true),
            ("a*b*c", "abc", true),
            ("a*b*c", "acb", false),
            ("a*a", "a", false),
            ("*", "a.b", true),
            ("*", "__consumer_offsets", false),
        ];
        for (pattern, topic, expected) in table {
            let patterns = patterns(&[pattern]).unwrap();
            assert_eq!(patterns.include(topic), expected, "{pattern} {topic}");
        }
    }

    #[test]
    fn names_become_expressions_and_bad_ones_are_refused() {
        let two = patterns(&["a.b", " inventory.* "]).unwrap();
        assert_eq!(two.expressions(), ["^a\\.b$", "^inventory\\..*$"]);
        assert_eq!(two.text(), "a.b,inventory.*");
        assert_eq!(two.unmatched(&["a.b"]), ["inventory.*"]);
        for bad in ["", "a b", "^a", "__a", "__*"] {
            assert!(patterns(&[bad]).is_err(), "{bad}");
        }
    }
}
