//! The published JSON Schema of the change event, to judge events by.

use anyhow::{Result, bail, ensure};
use jsonschema::Validator;
use serde_json::Value;

const CHANGE_EVENT: &str = include_str!("../../schemas/change-event.schema.json");

/// A schema that was compiled.
#[derive(Debug)]
pub struct ChangeEventSchema(Validator);

impl ChangeEventSchema {
    /// Compiles the schema of the project.
    ///
    /// # Errors
    /// When it is no valid schema.
    pub fn load() -> Result<ChangeEventSchema> {
        let schema: Value = serde_json::from_str(CHANGE_EVENT)?;
        ensure!(jsonschema::draft202012::meta::is_valid(&schema));
        Ok(ChangeEventSchema(jsonschema::draft202012::new(&schema)?))
    }

    /// Checks an event.
    ///
    /// # Errors
    /// Everything that is wrong with it, with the event.
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
