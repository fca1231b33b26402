//! Which groups have committed offsets: Kafka forgets them some time after a group's last member left.

use bson::doc;

use super::Catalog;

impl Catalog {
    /// Whether the group has committed offsets of the prefix's topics before. Targets of earlier
    /// versions have no such note: there the commands that ran tell it.
    ///
    /// # Errors
    /// What the driver says.
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
    /// What the driver says.
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
