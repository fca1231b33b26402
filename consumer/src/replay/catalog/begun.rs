//! Records that a group has committed offsets. Kafka deletes the committed offsets of a group some
//! time after its last member has left; the note shows that they existed.

use bson::doc;

use super::Catalog;
use crate::replay::note::write_note;

impl Catalog {
    /// Returns true if the group has committed offsets for topics with this prefix before. Earlier
    /// versions did not write this note; on their targets, any command that the group ran proves it.
    ///
    /// # Errors
    /// Returns the driver's error.
    pub async fn has_begun(&self, prefix: &str) -> mongodb::error::Result<bool> {
        let name = doc! { "_id": self.begun_id(prefix) };
        if self.notes.find_one(name).await?.is_some() {
            return Ok(true);
        }
        // A note for another prefix shows that the group has run this version. The commands then do
        // not prove that it has committed offsets for this prefix.
        let of_any_prefix = doc! { "group": &self.group, "begun": true };
        let is_noted = self.notes.find_one(of_any_prefix).await?.is_some();
        Ok(!is_noted && self.has_commands())
    }

    /// Records that the group has committed offsets for topics with this prefix.
    ///
    /// # Errors
    /// Returns the driver's error.
    pub async fn note_begun(&self, prefix: &str) -> mongodb::error::Result<()> {
        let id = self.begun_id(prefix);
        let note = doc! { "_id": &id, "group": &self.group, "prefix": prefix, "begun": true };
        write_note(&self.notes, &id, note).await
    }

    fn begun_id(&self, prefix: &str) -> String {
        format!("{}/begun/{prefix}", self.group)
    }
}
