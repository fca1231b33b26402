//! The published JSON Schema of the change event, against which the tests validate events.

use anyhow::{Result, bail, ensure};
use jsonschema::Validator;
use serde_json::Value;

const CHANGE_EVENT: &str = include_str!("../../schemas/change-event.schema.json");

/// A compiled schema.
#[derive(Debug)]
pub struct ChangeEventSchema(Validator);

impl ChangeEventSchema {
    /// Compiles the schema of the project.
    ///
    /// # Errors
    /// The schema is not valid.
    pub fn load() -> Result<ChangeEventSchema> {
        let schema: Value = serde_json::from_str(CHANGE_EVENT)?;
        ensure!(jsonschema::draft202012::meta::is_valid(&schema));
        Ok(ChangeEventSchema(jsonschema::draft202012::new(&schema)?))
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
