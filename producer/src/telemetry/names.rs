//! The names of the metrics.

use prometheus::Opts;

/// Returns the options of a metric of this program; `name` is without its prefix.
pub(super) fn opts(name: &str, help: &str) -> Opts {
    Opts::new(format!("oplog_producer_{name}"), help)
}
