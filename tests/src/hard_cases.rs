#![doc = include_str!("../hard_cases.md")]

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;
    use std::fs;
    use std::path::Path;

    use anyhow::{Context, Result, ensure};

    const TABLE: &str = include_str!("../hard_cases.md");
    /// Number of rows in the table.
    const LINES: usize = 221;
    const REASONS: [&str; 3] = ["Cannot occur: ", "Not here: ", "Open: "];

    /// Returns the line and the cell of each row.
    fn rows() -> Vec<(&'static str, &'static str)> {
        let rows = TABLE.lines().filter_map(|line| line.strip_prefix("| "));
        let rows = rows.filter_map(|row| row.strip_suffix(" |")?.rsplit_once(" | "));
        rows.filter(|(line, _)| !matches!(*line, "line" | "---"))
            .collect()
    }

    /// Returns the names of all tests of this workspace, and of the cases made by hand.
    fn tests() -> Result<BTreeSet<String>> {
        let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
        let mut names = BTreeSet::new();
        for package in ["core", "runtime", "producer", "consumer", "tests"] {
            collect(&root.join(package), &mut names)?;
        }
        Ok(names)
    }

    fn collect(directory: &Path, names: &mut BTreeSet<String>) -> Result<()> {
        for entry in fs::read_dir(directory)? {
            let path = entry?.path();
            let extension = path.extension().and_then(|extension| extension.to_str());
            if path.is_dir() {
                collect(&path, names)?;
            } else if extension == Some("rs") {
                functions(&fs::read_to_string(&path)?, names);
            } else if extension == Some("json")
                && path.parent().is_some_and(|p| p.ends_with("made"))
            {
                let text = fs::read_to_string(&path)?;
                let cases = text
                    .lines()
                    .filter_map(|line| line.strip_prefix("{\"name\":\""));
                names.extend(cases.filter_map(|rest| Some(rest.split_once('"')?.0.to_owned())));
            }
        }
        Ok(())
    }

    /// Adds the names of the functions that have the attribute of a test.
    fn functions(text: &str, names: &mut BTreeSet<String>) {
        let mut is_test = false;
        for line in text.lines().map(str::trim) {
            if line.starts_with("#[") {
                is_test |= line.starts_with("#[test]") || line.starts_with("#[tokio::test");
            } else if let Some(rest) = line.split_once("fn ").map(|(_, rest)| rest)
                && std::mem::take(&mut is_test)
            {
                names.extend(rest.split_once('(').map(|(name, _)| name.to_owned()));
            } else if !line.is_empty() {
                // Attributes may span several lines.
                is_test &= !line.ends_with('}');
            }
        }
    }

    #[test]
    fn every_named_test_exists() -> Result<()> {
        let tests = tests()?;
        ensure!(
            tests.len() > 400,
            "found only {} tests in the workspace",
            tests.len()
        );
        let mut seen = BTreeSet::new();
        for (line, cell) in rows() {
            ensure!(seen.insert(line), "{line} is listed twice");
            if REASONS.iter().any(|reason| cell.starts_with(reason)) {
                continue;
            }
            // A cell may continue with a remark after the names.
            let named = cell.split_once("`: ").map_or(cell, |(named, _)| named);
            let named: Vec<&str> = named
                .split(", ")
                .map(|name| name.trim_matches('`'))
                .collect();
            let gone = named.iter().find(|name| !tests.contains(**name));
            ensure!(gone.is_none(), "{line}: no test {}", gone.context("gone")?);
        }
        ensure!(
            seen.len() == LINES,
            "the table has {} lines instead of {LINES}",
            seen.len()
        );
        Ok(())
    }
}
