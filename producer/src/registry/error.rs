//! The reasons why a registry does not return the id of a schema.

use std::error::Error;

use schema_registry_converter::error::SRCError;
use schema_registry_converter::schema_registry_common::RawError;

/// A registry that does not return the id of a schema.
#[derive(Debug, thiserror::Error)]
pub enum RegistryError {
    /// The client cannot be created.
    #[error("the client of the schema registry cannot be created: {0}")]
    Client(String),
    /// The registry does not answer, or has an internal error. A later attempt may succeed.
    #[error(
        "the schema registry cannot be reached or has failed: {0}. The entries of this topic, and all \
         later ones, wait until it answers"
    )]
    Unavailable(Box<Refusal>),
    /// The registry refuses the credentials.
    #[error(
        "the schema registry refuses access for {refusal}. Check --registry-login or --registry-token, \
         and the rights of the account"
    )]
    Credentials {
        /// The answer.
        refusal: Box<Refusal>,
        /// True if this process had access before. The credentials may then be accepted again, for
        /// example after a rotation.
        had_access: bool,
    },
    /// The subject does not have the schema, and registration is switched off.
    #[error(
        "the schema registry does not have this version's schema: {refusal}. Register schemas/{file}, or \
         start with --registry-auto-register true"
    )]
    Missing {
        /// The answer.
        refusal: Box<Refusal>,
        /// The file with the schema.
        file: &'static str,
    },
    /// The schema breaks a rule of its subject.
    #[error(
        "the schema registry refuses this version's schema: {0}. Change the compatibility rule or the \
         mode of the subject, delete the subject, or start under another --topic-prefix or with other \
         --registry-subjects"
    )]
    Incompatible(Box<Refusal>),
    /// The answer does not come from a schema registry.
    #[error("the server that answered is not a schema registry: {0}. Check --registry-url")]
    NotARegistry(Box<Refusal>),
}

/// An answer without the id of a schema.
#[derive(Debug, thiserror::Error)]
#[error("subject {subject} of topic {topic} at {url}: {reason}")]
pub struct Refusal {
    /// The subject.
    pub subject: String,
    /// The topic.
    pub topic: String,
    /// The address of the registry.
    pub url: String,
    /// The text of the registry or its client.
    pub reason: String,
}

/// A request to a registry.
#[derive(Debug, Clone, Copy)]
pub(super) struct Question<'q> {
    pub(super) subject: &'q str,
    pub(super) topic: &'q str,
    pub(super) url: &'q str,
    /// The file with the schema.
    pub(super) file: &'static str,
    /// True if the registry was asked to register the schema.
    pub(super) registers: bool,
    /// True if this process had access before.
    pub(super) had_access: bool,
}

impl RegistryError {
    pub(super) fn client(error: &SRCError) -> Self {
        Self::Client(describe(error))
    }

    /// Classifies the error of a request.
    pub(super) fn of(question: Question<'_>, error: &SRCError) -> Self {
        let refusal = Box::new(Refusal {
            subject: question.subject.to_owned(),
            topic: question.topic.to_owned(),
            url: question.url.to_owned(),
            reason: describe(error),
        });
        match status_of(error) {
            None if is_network_error(error) => Self::Unavailable(refusal),
            None => Self::NotARegistry(refusal),
            Some(401 | 403) => Self::Credentials {
                refusal,
                had_access: question.had_access,
            },
            Some(404) if !question.registers && is_of_a_registry(error) => Self::Missing {
                refusal,
                file: question.file,
            },
            Some(409 | 422) => Self::Incompatible(refusal),
            Some(408 | 429 | 500..) => Self::Unavailable(refusal),
            Some(_) => Self::NotARegistry(refusal),
        }
    }

    /// Returns true if a later attempt may succeed with the same configuration.
    #[must_use]
    pub const fn is_transient(&self) -> bool {
        match self {
            Self::Unavailable(_) => true,
            Self::Credentials { had_access, .. } => *had_access,
            Self::Client(_)
            | Self::Missing { .. }
            | Self::Incompatible(_)
            | Self::NotARegistry(_) => false,
        }
    }

    /// Returns the refusal of a schema, to which a comparison with the latest schema may be added.
    pub(super) fn refused_schema(&mut self) -> Option<&mut Refusal> {
        match self {
            Self::Missing { refusal, .. } | Self::Incompatible(refusal) => Some(refusal),
            Self::Client(_)
            | Self::Unavailable(_)
            | Self::Credentials { .. }
            | Self::NotARegistry(_) => None,
        }
    }
}

/// Returns the HTTP status of an answer. The client's error has it only in its text.
fn status_of(error: &SRCError) -> Option<u16> {
    let (_, rest) = error.error.split_once("failed with status ")?;
    rest.get(..3)?.parse().ok()
}

/// Returns true if the body of an error response has an error code, as those of a schema registry
/// do.
fn is_of_a_registry(error: &SRCError) -> bool {
    let raw = error
        .source()
        .and_then(|source| source.downcast_ref::<RawError>());
    raw.is_some_and(|raw| raw.error_code != 0)
}

/// Returns true for a network error. A response that is not JSON is not a network error.
fn is_network_error(error: &SRCError) -> bool {
    let http = error
        .source()
        .and_then(|source| source.downcast_ref::<reqwest::Error>());
    let is_text = causes(error).any(<dyn Error>::is::<serde_json::Error>);
    http.is_some_and(|http| !http.is_builder()) && !is_text
}

/// Returns the text of an error with its causes.
fn describe(error: &SRCError) -> String {
    if error.source().is_none() {
        // The text of this error contains the whole request.
        return match error.error.starts_with("Could not get id") {
            true => "the response contains no schema id".to_owned(),
            false => error.error.clone(),
        };
    }
    let mut text = error.error.clone();
    for cause in causes(error) {
        text = format!("{text}: {cause}");
    }
    text
}

/// Returns the causes of an error, from the outermost to the innermost.
fn causes(error: &SRCError) -> impl Iterator<Item = &(dyn Error + 'static)> {
    let mut next = error.source();
    std::iter::from_fn(move || {
        let cause = next?;
        next = cause.source();
        Some(cause)
    })
}
