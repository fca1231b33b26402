//! A record of the state topic that is saved without any entry.

use rdkafka::producer::BaseRecord;

use super::Publisher;
use crate::error::ProducerError;

impl Publisher {
    /// Adds a record of an internal topic to the open transaction, or begins one.
    ///
    /// # Errors
    /// The errors of [`Publisher::send`].
    pub fn save(&mut self, topic: &str, key: &str, value: &[u8]) -> Result<(), ProducerError> {
        self.begin()?;
        let record = BaseRecord::<[u8], [u8]>::to(topic)
            .partition(0)
            .key(key.as_bytes())
            .payload(value);
        let sent = self.producer.send(record);
        sent.map_err(|(error, _)| self.failed(&format!("sending to {topic}"), &error))?;
        self.count_sent(value.len());
        Ok(())
    }
}
