//! Python virtual environments, each with one package.

use std::path::PathBuf;
use std::process::Command;

use crate::services::cache;

/// Returns the interpreter of a virtual environment with `package`. The environment is created
/// on first use. Returns `None` if the machine does not have Python 3 or cannot install the package.
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
