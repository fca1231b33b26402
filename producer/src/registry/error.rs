//! The reasons why a registry gives no id.

use schema_registry_converter::error::SRCError;

/// A registry that gives no id of a schema.
#[derive(Debug, thiserror::Error)]
pub enum RegistryError {
    /// The client cannot be created.
    #[error("the client of the schema registry cannot be created: {0}")]
    Client(String),
    /// The registry does not answer, or has a fault of its own. A later attempt may succeed.
    #[error(
        "the schema registry gave no id for subject {subject} of topic {topic}: {reason}. Nothing is \
         written to the topic until it does"
    )]
    Unavailable {
        /// The subject.
        subject: String,
        /// The topic.
        topic: String,
        /// The text of the registry or its client.
        reason: String,
    },
    /// The registry refuses the credentials.
    #[error(
        "the schema registry refuses access to subject {subject} of topic {topic}: {reason}. Check \
         --registry-login and --registry-token, and what the account may do"
    )]
    Credentials {
        /// The subject.
        subject: String,
        /// The topic.
        topic: String,
        /// The text of the registry or its client.
        reason: String,
    },
    /// The subject has no such schema, and schemas are not registered.
    #[error(
        "the schema registry has no subject {subject} with this version's schema for topic {topic} \
         ({reason}). Register schemas/{file}, or start with --registry-auto-register true"
    )]
    Missing {
        /// The subject.
        subject: String,
        /// The topic.
        topic: String,
        /// The file with the schema.
        file: &'static str,
        /// The text of the registry, and how the latest schema differs.
        reason: String,
    },
    /// The schema breaks the compatibility rule of its subject.
    #[error(
        "the schema registry refuses this version's schema as subject {subject} of topic {topic}: \
         {reason}. Change the compatibility rule of the subject, delete the subject, or start under \
         another --topic-prefix or with other --registry-subjects"
    )]
    Incompatible {
        /// The subject.
        subject: String,
        /// The topic.
        topic: String,
        /// The text of the registry, and how the latest schema differs.
        reason: String,
    },
    /// The answer is not that of a registry.
    #[error(
        "the answer to a request for subject {subject} of topic {topic} is not that of a schema \
         registry: {reason}. Check --registry-url"
    )]
    Nonsense {
        /// The subject.
        subject: String,
        /// The topic.
        topic: String,
        /// The text of the client.
        reason: String,
    },
}

impl RegistryError {
    pub(super) fn client(error: &dyn std::error::Error) -> Self {
        Self::Client(with_causes(error))
    }

    /// Classifies the error of a request by the HTTP status, which the client gives in its text only.
    pub(super) fn refused(subject: &str, topic: &str, error: &SRCError) -> Self {
        let (subject, topic) = (subject.to_owned(), topic.to_owned());
        let reason = describe(error);
        let status = error.error.split_once("failed with status ");
        let status = status.and_then(|(_, rest)| rest.get(..3)?.parse::<u16>().ok());
        match status {
            None if error.retriable => Self::Unavailable {
                subject,
                topic,
                reason,
            },
            None => Self::Nonsense {
                subject,
                topic,
                reason,
            },
            Some(401 | 403) => Self::Credentials {
                subject,
                topic,
                reason,
            },
            Some(404) => Self::Missing {
                file: file_of(&subject),
                subject,
                topic,
                reason,
            },
            Some(409 | 422) => Self::Incompatible {
                subject,
                topic,
                reason,
            },
            Some(408 | 429 | 500..) => Self::Unavailable {
                subject,
                topic,
                reason,
            },
            Some(_) => Self::Nonsense {
                subject,
                topic,
                reason,
            },
        }
    }

    pub(super) const fn is_incompatible(&self) -> bool {
        matches!(self, Self::Incompatible { .. })
    }

    pub(super) const fn is_missing(&self) -> bool {
        matches!(self, Self::Missing { .. })
    }

    /// Returns true if a later attempt may succeed without a change of the configuration. A refusal of
    /// the credentials may pass as well: they may be changed on the registry's side.
    #[must_use]
    pub const fn is_transient(&self) -> bool {
        matches!(self, Self::Unavailable { .. })
    }

    /// Adds what is known of the latest schema of the subject.
    pub(super) fn with_reason(mut self, more: Option<String>) -> Self {
        if let (Self::Missing { reason, .. } | Self::Incompatible { reason, .. }, Some(more)) =
            (&mut self, more)
        {
            reason.push_str("; ");
            reason.push_str(&more);
        }
        self
    }
}

fn file_of(subject: &str) -> &'static str {
    match subject.ends_with("key") || subject.ends_with("DocumentKey") {
        true => "document-key.avsc",
        false => "change-event.avsc",
    }
}

fn describe(error: &SRCError) -> String {
    match &error.cause {
        Some(cause) => format!("{}: {cause}", error.error),
        None => error.error.clone(),
    }
}

fn with_causes(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut next = error.source();
    while let Some(cause) = next {
        text = format!("{text}: {cause}");
        next = cause.source();
    }
    text
}
