//! The model of a compose file, loaded and checked by the library that Docker Compose itself uses.

use std::path::Path;
use std::process::Command;

use anyhow::Result;
use serde_json::Value;

use crate::services::cache;

/// Loads a compose file with full validation: a map from the name of each service to its command,
/// entrypoint, environment, health check and dependencies.
pub fn compose_services(path: &Path) -> Result<Value> {
    let module = cache::repository().join("tests/compose");
    let output = cache::run(
        Command::new("go")
            .current_dir(module)
            .env("GOWORK", "off")
            .args(["run", "."])
            .arg(std::path::absolute(path)?),
    )?;
    Ok(serde_json::from_slice(&output)?)
}
