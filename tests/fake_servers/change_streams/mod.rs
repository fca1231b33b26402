//! Change streams as a source: from the events on the wire to the entries that are sent.

mod events;
mod faults;
mod reading;
mod recorded;
mod resume;

use anyhow::Result;
use oplog_consumer::replay::plan::Planner;
use oplog_relay_core::document::Document;
use oplog_relay_core::entry::{Entry, Operation};
use oplog_relay_kit::event_server::{EventServer, Events, Role};
use oplog_relay_kit::model::{Model, Scenario, Version};

use reading::{Begin, LIMIT, Read, Reading, Until, config, read};

const MODE: &str = "--source-mode=change-stream";

/// Starts a server with the recorded events of a scenario; lookups find the final documents.
fn serve(scenario: &Scenario, role: Role) -> Result<EventServer> {
    let events = Events::new(scenario.events()?)?;
    Ok(EventServer::start(events, scenario.expected()?, role)?)
}

/// Replays entries into a model of a server, and returns its documents.
fn replayed(entries: &[Read]) -> Result<Model> {
    let mut model = Model::of(Version::V5_0);
    let planner = Planner::new(4);
    let mut planned = Vec::new();
    for read in entries {
        let entry = Entry::parse(Document::new(&read.entry)?)?;
        if entry.operation != Operation::Noop {
            planned.push((read.id, read.entry.clone()));
        }
    }
    for part in planned.chunks(500) {
        model.replay(&planner, part)?;
    }
    Ok(model)
}
