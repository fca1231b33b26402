//! The oplog window and the head-room of the saved position, as gauges and in `/status`.

use std::sync::Mutex;
use std::time::Duration;

use oplog_relay_core::position::Timestamp;
use oplog_relay_runtime::metrics::registered;
use prometheus::{GaugeVec, Registry};
use serde_json::{Value, json};

use super::names::opts;
use crate::oplog_window::OplogWindow;

/// What is known about the oplog of the source.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct KnownWindow {
    /// The window.
    pub window: OplogWindow,
    /// The saved position.
    pub position: Option<Timestamp>,
    /// The time until the position is lost at the present rates; `None` if the head-room does not
    /// shrink, or if the rates are not known yet.
    pub lost_in: Option<Duration>,
}

/// The gauges. Each is a family without labels, because a family can have no value and a single gauge
/// always has one.
#[derive(Debug)]
pub(super) struct OplogGauges {
    window: GaugeVec,
    head_room: GaugeVec,
    known: Mutex<Option<KnownWindow>>,
}

impl OplogGauges {
    pub(super) fn register(registry: &Registry) -> Result<Self, prometheus::Error> {
        let gauge = |name, help| registered(registry, GaugeVec::new(opts(name, help), &[])?);
        Ok(Self {
            window: gauge(
                "oplog_window_seconds",
                "Time between the oldest and the newest entry of the source's oplog; absent if the \
                 oplog cannot be read.",
            )?,
            head_room: gauge(
                "oplog_head_room_seconds",
                "Time between the oldest entry of the source's oplog and the saved position: below 0 \
                 the position is lost. Absent if the oplog cannot be read or no position is saved.",
            )?,
            known: Mutex::new(None),
        })
    }

    #[expect(
        clippy::cast_precision_loss,
        reason = "seconds of a timestamp have 32 bits"
    )]
    pub(super) fn set(&self, known: Option<KnownWindow>) {
        let window = known.map(|known| known.window.seconds());
        let head_room = known.and_then(|known| Some(known.window.head_room(known.position?)));
        for (gauge, value) in [(&self.window, window), (&self.head_room, head_room)] {
            match value {
                Some(value) => gauge.with_label_values::<&str>(&[]).set(value as f64),
                None => gauge.reset(),
            }
        }
        if let Ok(mut shown) = self.known.lock() {
            *shown = known;
        }
    }

    /// Returns the part of `/status`; null if nothing is known.
    pub(super) fn status(&self) -> Value {
        let known = self.known.lock().ok().and_then(|known| *known);
        known.map_or(Value::Null, |known| {
            let KnownWindow {
                window, position, ..
            } = known;
            json!({
                "oldest": window.oldest.to_string(),
                "newest": window.newest.to_string(),
                "window_seconds": window.seconds(),
                "head_room_seconds": position.map(|position| window.head_room(position)),
                "position_lost_in_seconds": known.lost_in.map(|left| left.as_secs()),
            })
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_unknown_has_no_gauge() {
        let registry = Registry::new();
        let gauges = OplogGauges::register(&registry).unwrap();
        let shown = || -> Vec<(String, f64)> {
            let families = registry.gather().into_iter();
            families
                .flat_map(|family| {
                    let name = family.name().to_owned();
                    let values = family
                        .get_metric()
                        .iter()
                        .map(|metric| metric.get_gauge().get_value());
                    values
                        .map(move |value| (name.clone(), value))
                        .collect::<Vec<_>>()
                })
                .collect()
        };
        assert_eq!(shown(), []);
        assert!(gauges.status().is_null());
        let window = OplogWindow {
            oldest: Timestamp::new(100, 1),
            newest: Timestamp::new(900, 1),
        };
        let known = KnownWindow {
            window,
            position: None,
            lost_in: None,
        };
        gauges.set(Some(known));
        let whole = ("oplog_producer_oplog_window_seconds".to_owned(), 800.0);
        assert_eq!(shown(), std::slice::from_ref(&whole));
        gauges.set(Some(KnownWindow {
            position: Some(Timestamp::new(400, 1)),
            lost_in: Some(Duration::from_secs(60)),
            ..known
        }));
        let left = ("oplog_producer_oplog_head_room_seconds".to_owned(), 300.0);
        assert_eq!(shown(), [left, whole]);
        assert_eq!(gauges.status()["position_lost_in_seconds"], 60);
        gauges.set(None);
        assert_eq!(shown(), []);
        assert!(gauges.status().is_null());
    }
}
