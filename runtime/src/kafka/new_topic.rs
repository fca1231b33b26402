//! The settings of new topics: those that the data needs, as far as the cluster supports and allows
//! them.
//!
//! An older broker refuses a topic with a setting that it does not know, and a managed cluster
//! refuses a value above its limit. Both reply with one error code for the whole request. All
//! settings are therefore first validated together, in a request that does not create the topic.
//! If they are refused, each value is validated separately.

use std::fmt;

use rdkafka::error::RDKafkaErrorCode;

use super::admin::Admin;
use super::error::KafkaFailure;

/// The name of the setting that limits the size of a record batch.
pub const MAX_MESSAGE_BYTES: &str = "max.message.bytes";

/// A topic setting with its name and value.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TopicSetting {
    /// Its name.
    pub name: String,
    /// Its value.
    pub value: String,
}

impl TopicSetting {
    /// Creates a setting.
    pub fn new(name: impl Into<String>, value: impl Into<String>) -> Self {
        Self {
            name: name.into(),
            value: value.into(),
        }
    }
}

impl fmt::Display for TopicSetting {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}={}", self.name, self.value)
    }
}

/// A setting with the values to try, the best one first.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct WantedSetting {
    name: String,
    values: Vec<String>,
    fallback: Fallback,
}

/// The action if the cluster refuses all of the values.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Fallback {
    /// Fails, because the data needs the setting.
    Fail,
    /// Uses the broker's default.
    Default,
}

impl WantedSetting {
    /// Returns a required setting with its only value.
    #[must_use]
    pub fn needed(name: &str, value: &str) -> Self {
        Self {
            name: name.to_owned(),
            values: vec![value.to_owned()],
            fallback: Fallback::Fail,
        }
    }

    /// Returns a setting with several acceptable values, the best one first. If the cluster refuses
    /// all of them, its default applies.
    #[must_use]
    pub fn preferred<V: fmt::Display>(name: &str, values: impl IntoIterator<Item = V>) -> Self {
        Self {
            name: name.to_owned(),
            values: values.into_iter().map(|value| value.to_string()).collect(),
            fallback: Fallback::Default,
        }
    }

    /// Adds the operator's settings, which replace others of the same name.
    #[must_use]
    pub fn with_given(mut wanted: Vec<Self>, given: &[TopicSetting]) -> Vec<Self> {
        wanted.retain(|wanted| !given.iter().any(|given| given.name == wanted.name));
        let given = given.iter();
        wanted.extend(given.map(|given| Self::needed(&given.name, &given.value)));
        wanted
    }

    fn settings(&self) -> impl Iterator<Item = TopicSetting> {
        self.values.iter().map(|value| TopicSetting {
            name: self.name.clone(),
            value: value.clone(),
        })
    }
}

/// A topic to be created.
#[derive(Debug, Clone, Copy)]
pub struct NewTopicShape<'n> {
    /// Its name.
    pub name: &'n str,
    /// Its number of partitions.
    pub partitions: i32,
    /// Its replication factor; −1 selects the broker's default.
    pub replication_factor: i32,
}

impl Admin {
    /// Returns the settings with which the cluster would create a topic.
    ///
    /// # Errors
    /// [`KafkaFailure::SettingRefused`] if the cluster refuses a required setting; other errors if
    /// the cluster does not answer in time.
    pub async fn accepted_settings(
        &self,
        shape: NewTopicShape<'_>,
        wanted: &[WantedSetting],
    ) -> Result<Vec<TopicSetting>, KafkaFailure> {
        let best = wanted.iter().filter_map(|wanted| wanted.settings().next());
        let best: Vec<TopicSetting> = best.collect();
        let is_refused = self.refusal(shape, &best).await?.is_some();
        // A request that is refused even without settings has another fault, which the creation
        // itself reports.
        if !is_refused || self.refusal(shape, &[]).await?.is_some() {
            return Ok(best);
        }
        let mut accepted = Vec::with_capacity(wanted.len());
        for wanted in wanted {
            accepted.extend(self.accepted_value(shape, wanted).await?);
        }
        Ok(accepted)
    }

    /// Returns the first value of a setting that the cluster accepts, checking each value
    /// separately.
    async fn accepted_value(
        &self,
        shape: NewTopicShape<'_>,
        wanted: &WantedSetting,
    ) -> Result<Option<TopicSetting>, KafkaFailure> {
        let mut refused = None;
        for setting in wanted.settings() {
            let Some(code) = self.refusal(shape, std::slice::from_ref(&setting)).await? else {
                if let Some((preferred, code)) = refused {
                    tracing::warn!(
                        "Kafka refuses {preferred} for new topics ({code}); they are created with \
                         {setting}"
                    );
                }
                return Ok(Some(setting));
            };
            refused = refused.or(Some((setting, code)));
        }
        match (refused, wanted.fallback) {
            (Some((setting, code)), Fallback::Fail) => {
                Err(KafkaFailure::SettingRefused { setting, code })
            }
            (Some((preferred, code)), Fallback::Default) => {
                tracing::info!(
                    "Kafka refuses {preferred} for new topics ({code}); the broker's default applies"
                );
                Ok(None)
            }
            (None, _) => Ok(None),
        }
    }

    /// Returns the code with which the cluster refuses a topic because of its settings.
    async fn refusal(
        &self,
        shape: NewTopicShape<'_>,
        settings: &[TopicSetting],
    ) -> Result<Option<RDKafkaErrorCode>, KafkaFailure> {
        use RDKafkaErrorCode as Code;
        let NewTopicShape {
            name,
            partitions,
            replication_factor,
        } = shape;
        let code = self
            .validate_topic(name, partitions, replication_factor, settings)
            .await?;
        Ok(code.filter(|code| matches!(code, Code::InvalidConfig | Code::PolicyViolation)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn settings_of_the_operator_replace_the_defaults_and_are_required() {
        let wanted = vec![
            WantedSetting::needed("retention.ms", "-1"),
            WantedSetting::preferred(MAX_MESSAGE_BYTES, [100, 20]),
        ];
        let given = [TopicSetting {
            name: MAX_MESSAGE_BYTES.to_owned(),
            value: "7".to_owned(),
        }];
        let expected = [
            WantedSetting::needed("retention.ms", "-1"),
            WantedSetting::needed(MAX_MESSAGE_BYTES, "7"),
        ];
        assert_eq!(WantedSetting::with_given(wanted, &given), expected);
    }
}
