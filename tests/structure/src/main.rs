//! Fails if files of different folders of a crate import each other in a cycle.
//!
//! A file imports another one if a path in its code (`use crate::…`, `super::…`, or a path in an
//! expression) leads into that file's module. Code under `#[cfg(test)]` does not count, and neither
//! does a parent that declares a child. `name.rs` belongs to the folder `name` if that exists.
//!
//! A re-exported item counts as one of the module that defines it. The analysis is textual and does
//! not expand macros.
#![allow(
    clippy::print_stdout,
    clippy::print_stderr,
    reason = "this program reports to the terminal"
)]

mod cycles;
mod modules;
mod paths;

use std::collections::BTreeMap;
use std::path::Path;
use std::process::ExitCode;

use crate::cycles::cycles;
use crate::modules::{Module, modules_of};
use crate::paths::{Name, paths_in};

/// Source folders of the crates that are checked.
const CRATES: [&str; 4] = ["core/src", "runtime/src", "producer/src", "consumer/src"];

fn main() -> ExitCode {
    let mut found = 0;
    for source in CRATES {
        match report(Path::new(source)) {
            Ok(count) => found += count,
            Err(error) => {
                eprintln!("{source}: {error}");
                return ExitCode::FAILURE;
            }
        }
    }
    if found > 0 {
        eprintln!("{found} import cycles lead through several folders");
        return ExitCode::FAILURE;
    }
    ExitCode::SUCCESS
}

/// Prints the cycles of a crate that lead through several folders; returns their number.
fn report(source: &Path) -> std::io::Result<usize> {
    let modules = modules_of(source)?;
    let by_path: BTreeMap<&[String], usize> = modules
        .iter()
        .enumerate()
        .map(|(index, module)| (module.path.as_slice(), index))
        .collect();
    let imports: Vec<Vec<usize>> = modules
        .iter()
        .map(|module| imports_of(module, &modules, &by_path))
        .collect();
    let mut found = 0;
    for cycle in cycles(&imports) {
        let mut folders: Vec<&str> = cycle
            .iter()
            .filter_map(|index| modules.get(*index))
            .map(|module| module.folder.as_str())
            .collect();
        folders.sort_unstable();
        folders.dedup();
        if folders.len() < 2 {
            continue;
        }
        found += 1;
        println!(
            "{}: a cycle through {}",
            source.display(),
            folders.join(", ")
        );
        for line in edges_of(&cycle, &imports, &modules) {
            println!("    {line}");
        }
    }
    Ok(found)
}

/// Returns the modules that a module's code imports, by index; never the module itself.
fn imports_of(
    module: &Module,
    modules: &[Module],
    by_path: &BTreeMap<&[String], usize>,
) -> Vec<usize> {
    let own = by_path.get(module.path.as_slice());
    let targets = paths_in(&module.code)
        .into_iter()
        .filter_map(|path| absolute(&path, &module.path))
        .filter_map(|path| definition_of(path, modules, by_path))
        .filter(|target| Some(target) != own);
    let mut imports: Vec<usize> = targets.collect();
    imports.sort_unstable();
    imports.dedup();
    imports
}

/// Returns the module that defines the target of a path from the root of the crate.
fn definition_of(
    mut path: Vec<String>,
    modules: &[Module],
    by_path: &BTreeMap<&[String], usize>,
) -> Option<usize> {
    // Each iteration follows one re-export. No item is re-exported more often than there are
    // modules.
    for _ in 0..modules.len() {
        let (length, index) = (0..=path.len())
            .rev()
            .find_map(|length| Some((length, *by_path.get(path.get(..length)?)?)))?;
        let module = modules.get(index)?;
        let Some(item) = path.get(length) else {
            return Some(index);
        };
        let reexported = module
            .reexports
            .iter()
            .find(|reexported| reexported.last() == Some(item))
            .and_then(|reexported| absolute(reexported, &module.path));
        match reexported {
            Some(next) if next != path => path = next,
            _ => return Some(index),
        }
    }
    None
}

/// Returns a path from the root of the crate; `None` for a path into another crate.
fn absolute(path: &[Name], module: &[String]) -> Option<Vec<String>> {
    let (first, rest) = path.split_first()?;
    let mut base = match first.as_str() {
        "crate" => Vec::new(),
        "self" => module.to_vec(),
        "super" => module.get(..module.len().checked_sub(1)?)?.to_vec(),
        _ => return None,
    };
    for name in rest {
        if name == "super" {
            base.pop()?;
        } else if name != "self" {
            base.push(name.clone());
        }
    }
    Some(base)
}

/// Returns the imports of a cycle that lead from one folder into another.
fn edges_of(cycle: &[usize], imports: &[Vec<usize>], modules: &[Module]) -> Vec<String> {
    let mut lines = Vec::new();
    for from in cycle {
        for to in imports.get(*from).into_iter().flatten() {
            let (Some(importing), Some(imported)) = (modules.get(*from), modules.get(*to)) else {
                continue;
            };
            if cycle.contains(to) && importing.folder != imported.folder {
                lines.push(format!("{} imports {}", importing.file, imported.file));
            }
        }
    }
    lines
}
