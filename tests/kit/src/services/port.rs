//! TCP ports for servers that must return on the same port after a restart.
//!
//! A port that was free a moment ago may be taken a moment later: by a parallel test, or, in the
//! kernel's range for outgoing connections, by any connection while a server is down. So ports are
//! taken below that range, and each is held by a lock file for as long as its owner lives.

use std::fs::{self, File};
use std::net::TcpListener;

use anyhow::{Context, Result, bail};

use crate::services::cache;

/// The first port, below the kernel's range for outgoing connections (32768 and up on Linux).
const FIRST: u16 = 20_000;
const COUNT: u16 = 6_000;

/// A TCP port of 127.0.0.1 that no other test on this machine is given while it is held.
#[derive(Debug)]
pub struct Port {
    number: u16,
    /// The lock, which is released when its process ends, however that ends.
    _lock: File,
}

impl Port {
    /// Takes a free port.
    pub fn lease() -> Result<Port> {
        let directory = cache::root()?.join("ports");
        fs::create_dir_all(&directory)?;
        // Different processes, and different calls of one process, start at different ports.
        let start = cache::hash(&[
            &std::process::id().to_le_bytes(),
            format!("{:?}", std::time::SystemTime::now()).as_bytes(),
        ]);
        let start = u16::try_from(start % u64::from(COUNT))?;
        for step in 0..COUNT {
            let number = FIRST + (start + step) % COUNT;
            let path = directory.join(format!("{number}.lock"));
            let lock =
                File::create(&path).with_context(|| format!("cannot create {}", path.display()))?;
            if lock.try_lock().is_ok() && TcpListener::bind(("127.0.0.1", number)).is_ok() {
                return Ok(Port {
                    number,
                    _lock: lock,
                });
            }
        }
        bail!("no free port from {FIRST} to {}", FIRST + COUNT - 1)
    }

    /// Returns the port's number.
    #[must_use]
    pub fn number(&self) -> u16 {
        self.number
    }
}
