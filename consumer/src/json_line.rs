//! One line of a report: a JSON object whose first field is its kind.

use oplog_relay_core::document::Element;
use oplog_relay_core::json::{Mode, write_string, write_value};

/// A line that is being written.
#[derive(Debug, Clone)]
pub struct JsonLine(Vec<u8>);

impl JsonLine {
    /// Starts a line of the given kind.
    #[must_use]
    pub fn new(kind: &str) -> Self {
        Self(format!("{{\"kind\":\"{kind}\"").into_bytes())
    }

    fn name(&mut self, name: &str) {
        self.0.extend_from_slice(b",\"");
        self.0.extend_from_slice(name.as_bytes());
        self.0.extend_from_slice(b"\":");
    }

    /// Adds a string.
    #[must_use]
    pub fn text(mut self, name: &str, value: &str) -> Self {
        self.name(name);
        write_string(value.as_bytes(), &mut self.0);
        self
    }

    /// Adds a number.
    #[must_use]
    pub fn number(mut self, name: &str, value: impl itoa::Integer) -> Self {
        self.name(name);
        let mut digits = itoa::Buffer::new();
        self.0.extend_from_slice(digits.format(value).as_bytes());
        self
    }

    /// Adds a value in canonical Extended JSON, or null if the value is damaged.
    #[must_use]
    pub fn value(mut self, name: &str, value: Element<'_>) -> Self {
        self.name(name);
        let start = self.0.len();
        if write_value(value, Mode::Canonical, &mut self.0).is_err() {
            self.0.truncate(start);
            self.0.extend_from_slice(b"null");
        }
        self
    }

    /// Adds a value that is already JSON, or null.
    #[must_use]
    pub fn json(mut self, name: &str, value: Option<&str>) -> Self {
        self.name(name);
        self.0.extend_from_slice(value.unwrap_or("null").as_bytes());
        self
    }

    /// Adds an array of strings.
    #[must_use]
    pub fn texts(mut self, name: &str, values: &[String]) -> Self {
        self.name(name);
        self.0.push(b'[');
        for (index, value) in values.iter().enumerate() {
            if index > 0 {
                self.0.push(b',');
            }
            write_string(value.as_bytes(), &mut self.0);
        }
        self.0.push(b']');
        self
    }

    /// Returns the line with its newline.
    #[must_use]
    pub fn finish(mut self) -> Vec<u8> {
        self.0.extend_from_slice(b"}\n");
        self.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use oplog_relay_core::document::kind;

    #[test]
    fn a_line_is_one_json_object() {
        let id = Element {
            name: b"_id",
            kind: kind::INT32,
            value: &[7, 0, 0, 0],
        };
        let line = JsonLine::new("different").text("ns", "a.\"b");
        let line = line.value("_id", id).number("range", 3_u64);
        let line = line.texts("paths", &["x.0".to_owned(), "y".to_owned()]);
        let text = String::from_utf8(line.json("target", None).finish()).unwrap();
        assert_eq!(
            text,
            "{\"kind\":\"different\",\"ns\":\"a.\\\"b\",\"_id\":{\"$numberInt\":\"7\"},\"range\":3,\
             \"paths\":[\"x.0\",\"y\"],\"target\":null}\n"
        );
    }
}
