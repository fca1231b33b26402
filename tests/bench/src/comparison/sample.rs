//! Processor time and memory of a process, as Linux reports them.

use std::fs;
use std::time::Duration;

pub(super) use oplog_relay_kit::services::peak_kib;

/// The unit of times in `/proc/<id>/stat`. Linux reports 100 of them per second to user space,
/// whatever the kernel's own timer frequency is.
const TICK: Duration = Duration::from_millis(10);

/// A sample of a process.
#[derive(Debug, Clone, Copy)]
pub(super) struct Sample {
    /// True if the process has ended and its parent has not waited for it yet.
    pub(super) ended: bool,
    /// User and system time of all its threads so far.
    pub(super) cpu: Duration,
    parent: u32,
}

/// Samples a process.
pub(super) fn sample(id: u32) -> Option<Sample> {
    let stat = fs::read_to_string(format!("/proc/{id}/stat")).ok()?;
    // The name, which precedes the fields, may contain spaces and parentheses.
    let (_, fields) = stat.rsplit_once(") ")?;
    let fields: Vec<&str> = fields.split(' ').collect();
    let number = |place: usize| fields.get(place)?.parse::<u32>().ok();
    Some(Sample {
        // The first thread may end before the others.
        ended: matches!(*fields.first()?, "Z" | "X") && number(17)? <= 1,
        parent: number(1)?,
        cpu: TICK * (number(11)? + number(12)?),
    })
}

/// Returns a child of this process that runs the program with this name.
pub(super) fn child(name: &str) -> Option<u32> {
    let ids = fs::read_dir("/proc").ok()?.filter_map(|entry| {
        let id = entry.ok()?.file_name().to_str()?.parse::<u32>().ok()?;
        let comm = fs::read_to_string(format!("/proc/{id}/comm")).ok()?;
        (comm.trim_end() == name).then_some(id)
    });
    let me = std::process::id();
    ids.into_iter()
        .find(|id| sample(*id).is_some_and(|sample| sample.parent == me))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_process_can_sample_itself() {
        let me = std::process::id();
        let sample = sample(me).expect("a sample");
        assert!(!sample.ended);
        assert!(peak_kib(me).expect("memory") > 100);
    }
}
