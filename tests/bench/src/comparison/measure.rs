//! The measurement of one case, from the start of its process to its end.

use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};

use super::case::{Case, Place};
use super::sample::{child, peak_kib, sample};

const LIMIT: Duration = Duration::from_secs(900);
const INTERVAL: Duration = Duration::from_millis(5);
const GONE_WITHIN: Duration = Duration::from_secs(5);

/// The resources that a case used.
#[derive(Debug, Clone, Copy)]
pub(super) struct Measured {
    /// Number of entries that passed through.
    pub(super) entries: u64,
    /// Bytes of these entries in the source.
    pub(super) bytes: u64,
    /// Time from the start of the process to its end.
    pub(super) total: Duration,
    /// Time from the moment at which the process was connected until it ended.
    pub(super) steady: Duration,
    /// Processor time of the process.
    pub(super) cpu: Duration,
    /// Processor time of the broker during the case.
    pub(super) broker_cpu: Duration,
    /// Processor time, during the case, of the MongoDB server that is read or written.
    pub(super) server_cpu: Duration,
    /// Peak resident memory, in KiB.
    pub(super) peak_kib: u64,
}

impl Measured {
    /// Returns the number of entries a second from the moment at which the process was connected.
    /// The start is excluded, because its cost does not depend on the number of entries.
    pub(super) fn rate(&self) -> f64 {
        self.entries as f64 / self.steady.as_secs_f64().max(1e-9)
    }

    /// Returns the time until the process was connected.
    pub(super) fn start(&self) -> Duration {
        self.total.saturating_sub(self.steady)
    }

    /// Returns the peak resident memory, in MiB.
    pub(super) fn peak_mib(&self) -> f64 {
        self.peak_kib as f64 / 1024.0
    }
}

/// Runs a case and measures the resources that its process, the broker and the MongoDB server with
/// the process id `server` use for it.
pub(super) fn measure(case: Case, place: &Place<'_>, server: u32) -> Result<Measured> {
    let broker = child("java").context("the broker is not a child of this process")?;
    let cpu = |id| sample(id).map(|sample| sample.cpu).unwrap_or_default();
    let (broker_before, server_before) = (cpu(broker), cpu(server));
    let begin = Instant::now();
    let mut program = case.start(place)?;
    let mut connected = None;
    let mut peak = 0;
    let id = program.id();
    let (total, used) = loop {
        std::thread::sleep(INTERVAL);
        let now = begin.elapsed();
        ensure!(
            now < LIMIT,
            "{} is still running after {LIMIT:?}",
            case.name()
        );
        // A process that has ended remains visible until it is waited for, below.
        let sampled = sample(id).context("the case is gone")?;
        if sampled.ended {
            break (now, sampled.cpu);
        }
        peak = peak.max(peak_kib(id).unwrap_or_default());
        if connected.is_none() && program.stderr_text()?.contains(case.mark()) {
            connected = Some(now);
        }
    };
    let code = program.wait(GONE_WITHIN)?;
    let log = program.stderr_text()?;
    ensure!(code == 0, "{} ended with {code}:\n{log}", case.name());
    // A process may log the mark and end between two samples. Then all of its time counts.
    let is_connected = connected.is_some() || log.contains(case.mark());
    ensure!(is_connected, "{:?} was never logged", case.mark());
    Ok(Measured {
        entries: place.entries,
        bytes: place.bytes,
        total,
        steady: total.saturating_sub(connected.unwrap_or_default()),
        cpu: used,
        broker_cpu: cpu(broker).saturating_sub(broker_before),
        server_cpu: cpu(server).saturating_sub(server_before),
        peak_kib: peak,
    })
}
