//! A Python that has a package, in a separate environment.

use std::path::PathBuf;
use std::process::Command;

use crate::services::cache;

/// Finds a Python with that package, or installs the package once. Returns `None` if the machine
/// does not have Python 3 or cannot install the package.
#[must_use]
pub fn python_with(package: &str) -> Option<PathBuf> {
    let folder = cache::installed("python", &[package], |folder| {
        cache::run(Command::new("python3").args(["-m", "venv"]).arg(folder))?;
        let pip = folder.join("bin/pip");
        cache::run(Command::new(pip).args(["install", "--quiet", package]))?;
        Ok(())
    });
    Some(folder.ok()?.join("bin/python"))
}
