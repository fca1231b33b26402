//! One case, from the start of its process to its end.

use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};

use super::case::{Case, Place};
use super::sample::{child, peak_kib, sample};

const LIMIT: Duration = Duration::from_secs(600);
const INTERVAL: Duration = Duration::from_millis(5);
const GONE_WITHIN: Duration = Duration::from_secs(5);

/// What a case took.
#[derive(Debug, Clone, Copy)]
pub(super) struct Measured {
    /// From the start of the process to its end.
    pub(super) total: Duration,
    /// From the moment that it was connected.
    pub(super) steady: Duration,
    /// Processor time of the process.
    pub(super) cpu: Duration,
    /// Processor time of the broker meanwhile.
    pub(super) broker_cpu: Duration,
    /// Processor time of the stub meanwhile.
    pub(super) stub_cpu: Duration,
    /// The most memory it had resident.
    pub(super) peak_kib: u64,
}

/// Runs a case.
pub(super) fn measure(case: Case, place: &Place<'_>, stub: u32) -> Result<Measured> {
    let broker = child("java").context("the broker is no child of this process")?;
    let cpu = |id| sample(id).map(|sample| sample.cpu).unwrap_or_default();
    let (broker_before, stub_before) = (cpu(broker), cpu(stub));
    let begin = Instant::now();
    let mut program = case.start(place)?;
    let mut connected = None;
    let mut peak = 0;
    let id = program.id();
    let (total, used) = loop {
        std::thread::sleep(INTERVAL);
        let now = begin.elapsed();
        ensure!(now < LIMIT, "{} still runs after {LIMIT:?}", case.name());
        // It stays to be seen until it is waited for, below.
        let looked = sample(id).context("the case is gone")?;
        if looked.ended {
            break (now, looked.cpu);
        }
        peak = peak.max(peak_kib(id).unwrap_or_default());
        if connected.is_none() && program.stderr_text()?.contains(case.mark()) {
            connected = Some(now);
        }
    };
    let code = program.wait(GONE_WITHIN)?;
    let told = program.stderr_text()?;
    ensure!(code == 0, "{} ended with {code}:\n{told}", case.name());
    let connected = connected.with_context(|| format!("{:?} was never said", case.mark()))?;
    Ok(Measured {
        total,
        steady: total.saturating_sub(connected),
        cpu: used,
        broker_cpu: cpu(broker).saturating_sub(broker_before),
        stub_cpu: cpu(stub).saturating_sub(stub_before),
        peak_kib: peak,
    })
}
