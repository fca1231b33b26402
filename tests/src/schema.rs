//! The published JSON Schema of the change event, to judge events by.

use anyhow::{Result, bail, ensure};
use jsonschema::Validator;
use serde_json::Value;

const CHANGE_EVENT: &str = include_str!("../../schemas/change-event.schema.json");

/// A schema that was compiled.
#[derive(Debug)]
pub struct Schema(Validator);

impl Schema {
    /// The schema of the change event.
    ///
    /// # Errors
    /// When it is no valid schema.
    pub fn change_event() -> Result<Schema> {
        let schema: Value = serde_json::from_str(CHANGE_EVENT)?;
        ensure!(jsonschema::draft202012::meta::is_valid(&schema));
        Ok(Schema(jsonschema::draft202012::new(&schema)?))
    }

    /// Fails, with every fault, unless the text is an event of the schema.
    ///
    /// # Errors
    /// When it is not.
    pub fn expect(&self, text: &[u8]) -> Result<()> {
        let event: Value = serde_json::from_slice(text)?;
        let faults: Vec<String> = self
            .0
            .iter_errors(&event)
            .map(|fault| format!("{}: {fault}", fault.instance_path()))
            .collect();
        if !faults.is_empty() {
            bail!("{faults:#?} in {}", String::from_utf8_lossy(text));
        }
        Ok(())
    }
}
