//! The folder that servers are installed into once: `.cache/` at the root of the repository.
//!
//! An installation is keyed by a hash of its inputs. Tests run as parallel processes, so a lock
//! file makes one of them install while the others wait.

use std::fs::{self, File};
use std::hash::{DefaultHasher, Hasher};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Instant;

use anyhow::{Context, Result, bail};

/// Returns the root of the repository.
pub(crate) fn repository() -> &'static Path {
    let kit = Path::new(env!("CARGO_MANIFEST_DIR"));
    kit.ancestors().nth(2).unwrap_or(kit)
}

/// Returns the cache folder, which is created if it is missing.
pub(crate) fn root() -> Result<PathBuf> {
    let root = match std::env::var_os("OPLOG_RELAY_CACHE") {
        Some(path) => std::path::absolute(path)?,
        None => repository().join(".cache"),
    };
    fs::create_dir_all(&root).with_context(|| format!("cannot create {}", root.display()))?;
    Ok(root)
}

/// Returns a hash that is the same in every process of one build.
pub(crate) fn hash(inputs: &[&[u8]]) -> u64 {
    let mut hasher = DefaultHasher::new();
    for input in inputs {
        hasher.write_usize(input.len());
        hasher.write(input);
    }
    hasher.finish()
}

/// Returns the folder of an installation, which `install` creates if it does not exist yet.
pub(crate) fn installed(
    name: &str,
    inputs: &[&str],
    install: impl FnOnce(&Path) -> Result<()>,
) -> Result<PathBuf> {
    let root = root()?;
    let bytes: Vec<&[u8]> = inputs.iter().map(|input| input.as_bytes()).collect();
    let folder = root.join(format!("{name}-{:016x}", hash(&bytes)));
    // This file is written last: a folder without it is left from an interrupted installation.
    let complete = folder.join("complete");
    if complete.exists() {
        return Ok(folder);
    }
    let lock = File::create(root.join(format!("{name}.lock")))?;
    lock.lock()?;
    if complete.exists() {
        return Ok(folder);
    }
    if folder.exists() {
        fs::remove_dir_all(&folder)?;
    }
    fs::create_dir_all(&folder)?;
    let started = Instant::now();
    eprintln!("installing {name} (once) ...");
    install(&folder).with_context(|| format!("cannot install {name}"))?;
    File::create(&complete)?;
    eprintln!("installed {name} in {:.1?}", started.elapsed());
    Ok(folder)
}

/// Copies the jars of the folder's `pom.xml` into its subfolder `libs`.
pub(crate) fn copy_jars(folder: &Path) -> Result<()> {
    let libraries = format!("-DoutputDirectory={}", folder.join("libs").display());
    run(Command::new("mvn")
        .current_dir(folder)
        .args(["-q", "-B", "dependency:copy-dependencies"])
        .arg(libraries))?;
    Ok(())
}

/// Runs a build tool to its end; its output is shown only when it fails.
pub(crate) fn run(command: &mut Command) -> Result<Vec<u8>> {
    let program = command.get_program().to_string_lossy().into_owned();
    let output = command
        .output()
        .with_context(|| format!("cannot run {program}: is it installed?"))?;
    if !output.status.success() {
        bail!(
            "{program} failed ({}):\n{}{}",
            output.status,
            String::from_utf8_lossy(&output.stdout),
            String::from_utf8_lossy(&output.stderr),
        );
    }
    Ok(output.stdout)
}
