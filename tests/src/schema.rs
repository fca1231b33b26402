//! The published JSON Schemas, against which the tests validate events.

use anyhow::{Result, bail, ensure};
use jsonschema::Validator;
use serde_json::Value;

const CHANGE_EVENT: &str = include_str!("../../schemas/change-event.schema.json");
const DEBEZIUM: &str = include_str!("../../schemas/debezium.schema.json");

const LATEST_STATE: &str = include_str!("../../schemas/latest-state.schema.json");

/// A compiled schema.
#[derive(Debug)]
pub struct EventSchema(Validator);

impl EventSchema {
    /// Compiles the schema of change events.
    ///
    /// # Errors
    /// The schema is not valid.
    pub fn of_change_events() -> Result<EventSchema> {
        EventSchema::compile(CHANGE_EVENT)
    }

    /// Compiles the schema of Debezium's envelope.
    ///
    /// # Errors
    /// The schema is not valid.
    pub fn of_debezium() -> Result<EventSchema> {
        EventSchema::compile(DEBEZIUM)
    }

    /// Compiles the schema of the latest state of a document.
    ///
    /// # Errors
    /// The schema is not valid.
    pub fn of_latest_states() -> Result<EventSchema> {
        EventSchema::compile(LATEST_STATE)
    }

    fn compile(text: &str) -> Result<EventSchema> {
        let schema: Value = serde_json::from_str(text)?;
        ensure!(jsonschema::draft202012::meta::is_valid(&schema));
        Ok(EventSchema(jsonschema::draft202012::new(&schema)?))
    }

    /// Checks an event.
    ///
    /// # Errors
    /// All violations, with the event.
    pub fn check(&self, event: &Value) -> Result<()> {
        let faults: Vec<String> = self
            .0
            .iter_errors(event)
            .map(|fault| format!("{}: {fault}", fault.instance_path()))
            .collect();
        if !faults.is_empty() {
            bail!("{faults:#?} in {event}");
        }
        Ok(())
    }
}
