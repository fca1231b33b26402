//! The files of a crate as modules.

use std::fs;
use std::io;
use std::path::Path;

use crate::paths::{Name, reexports_in};

/// A source file.
#[derive(Debug)]
pub(crate) struct Module {
    /// The path below the source folder.
    pub(crate) file: String,
    /// The folder that it belongs to; empty for the root.
    pub(crate) folder: String,
    /// The names from the root of the crate; empty for the root itself.
    pub(crate) path: Vec<String>,
    /// The text, without comments and without the part after `#[cfg(test)]`.
    pub(crate) code: String,
    /// The paths of the items that it re-exports.
    pub(crate) reexports: Vec<Vec<Name>>,
}

/// Reads all files of a source folder except tests.
pub(crate) fn modules_of(source: &Path) -> io::Result<Vec<Module>> {
    let mut modules = Vec::new();
    collect(source, &mut Vec::new(), &mut modules)?;
    Ok(modules)
}

fn collect(folder: &Path, path: &mut Vec<String>, modules: &mut Vec<Module>) -> io::Result<()> {
    let mut entries: Vec<_> = fs::read_dir(folder)?.collect::<Result<_, _>>()?;
    entries.sort_by_key(fs::DirEntry::path);
    for entry in entries {
        let name = entry.file_name().to_string_lossy().into_owned();
        if entry.file_type()?.is_dir() {
            if name != "tests" {
                path.push(name);
                collect(&entry.path(), path, modules)?;
                path.pop();
            }
            continue;
        }
        let Some(stem) = name.strip_suffix(".rs").filter(|stem| *stem != "tests") else {
            continue;
        };
        let mut module = path.clone();
        if !matches!(stem, "mod" | "lib" | "main") {
            module.push(stem.to_owned());
        }
        let has_folder = entry.path().with_extension("").is_dir();
        let folder = if has_folder { &module } else { &*path };
        let code = code_of(&fs::read_to_string(entry.path())?);
        modules.push(Module {
            file: [path.as_slice(), std::slice::from_ref(&name)]
                .concat()
                .join("/"),
            folder: folder.join("/"),
            path: module.clone(),
            reexports: reexports_in(&code),
            code,
        });
    }
    Ok(())
}

/// Returns the text without comments and tests. Tests are at the end of a file.
fn code_of(text: &str) -> String {
    let end = text.find("#[cfg(test)]\nmod ").unwrap_or(text.len());
    let code = text.get(..end).unwrap_or_default();
    let lines = code
        .lines()
        .filter(|line| !line.trim_start().starts_with("//"));
    lines.collect::<Vec<_>>().join("\n")
}
