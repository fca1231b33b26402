//! A record of the groups that have committed offsets. Kafka removes committed offsets some time
//! after the last member of a group has left.

use bson::doc;

use super::Catalog;

impl Catalog {
    /// Returns true if the group has committed offsets of the prefix's topics before. Targets
    /// written by earlier versions have no such note; for them, the commands that ran are the
    /// evidence.
    ///
    /// # Errors
    /// Returns the driver's error.
    pub async fn has_begun(&self, prefix: &str) -> mongodb::error::Result<bool> {
        let name = doc! { "_id": self.begun_id(prefix) };
        if self.notes.find_one(name).await?.is_some() {
            return Ok(true);
        }
        let of_any_prefix = doc! { "group": &self.group, "begun": true };
        let is_noted = self.notes.find_one(of_any_prefix).await?.is_some();
        Ok(!is_noted && self.has_commands())
    }

    /// Notes that the group has committed offsets of the prefix's topics.
    ///
    /// # Errors
    /// Returns the driver's error.
    pub async fn note_begun(&self, prefix: &str) -> mongodb::error::Result<()> {
        let id = self.begun_id(prefix);
        let note = doc! { "_id": &id, "group": &self.group, "prefix": prefix, "begun": true };
        let noted = self.notes.replace_one(doc! { "_id": id }, note);
        noted.upsert(true).await.map(drop)
    }

    fn begun_id(&self, prefix: &str) -> String {
        format!("{}/begun/{prefix}", self.group)
    }
}
