//! The schema registry: the ids of the schemas of Avro topics.
//!
//! The registry is asked once for each subject and process. Any registry with the REST interface of
//! Confluent's Schema Registry will do.

mod error;
mod subject;

pub use error::RegistryError;
pub use subject::Subjects;

use std::collections::BTreeMap;
use std::fmt;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use apache_avro::Schema;
use apache_avro::schema_compatibility::SchemaCompatibility;
use oplog_relay_core::format::avro::{KEY_SCHEMA, SchemaIds, VALUE_SCHEMA};
use oplog_relay_runtime::config::Secret;
use rustls::crypto::{CryptoProvider, ring};
use schema_registry_converter::async_impl::schema_registry::{
    SrSettings, get_schema_by_subject_and_version, perform_sr_call, post_schema,
};
use schema_registry_converter::error::SRCError;
use schema_registry_converter::schema_registry_common::{SchemaType, SrCall, SuppliedSchema};

use crate::registry::subject::Part;

/// Maximum time of a request, including the connection.
const TIMEOUT: Duration = Duration::from_secs(10);

/// How the program identifies itself to a registry.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum RegistryLogin {
    /// Not at all.
    None,
    /// By a user name and a password (HTTP basic authentication).
    Basic {
        /// The user name.
        user: String,
        /// The password.
        password: Secret,
    },
    /// By a bearer token.
    Bearer(Secret),
}

/// The settings of a registry.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RegistryConfig {
    /// The addresses. They are tried in this order.
    pub urls: Vec<String>,
    /// The login.
    pub login: RegistryLogin,
    /// Certificates of authorities in PEM that are trusted besides those of the system.
    pub authorities: Option<Vec<u8>>,
    /// The names of the subjects.
    pub subjects: Subjects,
    /// True if schemas that are missing are registered.
    pub registers: bool,
}

/// A schema registry.
pub struct SchemaRegistry {
    settings: SrSettings,
    subjects: Subjects,
    registers: bool,
    /// The ids of schemas, by subject.
    known: Mutex<BTreeMap<String, u32>>,
}

impl fmt::Debug for SchemaRegistry {
    // The settings contain the credentials.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SchemaRegistry")
            .field("subjects", &self.subjects)
            .field("registers", &self.registers)
            .finish_non_exhaustive()
    }
}

impl SchemaRegistry {
    /// Creates a client, without connecting.
    ///
    /// # Errors
    /// [`RegistryError::Client`] if the certificates cannot be used.
    pub fn new(config: &RegistryConfig) -> Result<Self, RegistryError> {
        // Only the first provider of a process counts, and another client may have installed it.
        drop(CryptoProvider::install_default(ring::default_provider()));
        let mut client = reqwest::Client::builder().connect_timeout(TIMEOUT);
        if let Some(pem) = &config.authorities {
            let authorities = reqwest::Certificate::from_pem_bundle(pem);
            let authorities = authorities.map_err(|error| RegistryError::client(&error))?;
            client = client.tls_certs_merge(authorities);
        }
        let mut urls = config
            .urls
            .iter()
            .map(|url| url.trim_end_matches('/').to_owned());
        let mut settings = SrSettings::new_builder(urls.next().unwrap_or_default());
        for url in urls {
            settings.add_url(url);
        }
        match &config.login {
            RegistryLogin::None => {}
            RegistryLogin::Basic { user, password } => {
                settings.set_basic_authorization(user, Some(password.expose()));
            }
            RegistryLogin::Bearer(token) => {
                settings.set_token_authorization(token.expose());
            }
        }
        let settings = settings.set_timeout(TIMEOUT).build_with(client);
        Ok(Self {
            settings: settings.map_err(|error| RegistryError::client(&error))?,
            subjects: config.subjects,
            registers: config.registers,
            known: Mutex::default(),
        })
    }

    /// Returns the ids of a topic's schemas, and registers those that are missing if that is wanted.
    ///
    /// # Errors
    /// [`RegistryError`] if the registry does not answer, refuses a schema, or has none and schemas are
    /// not registered.
    pub async fn ids_of(&self, topic: &str) -> Result<SchemaIds, RegistryError> {
        Ok(SchemaIds {
            key: self.id(topic, Part::Key, KEY_SCHEMA).await?,
            value: self.id(topic, Part::Value, VALUE_SCHEMA).await?,
        })
    }

    async fn id(&self, topic: &str, part: Part, schema: &str) -> Result<u32, RegistryError> {
        let subject = self.subjects.name(topic, part);
        let known = self.known().get(&subject).copied();
        if let Some(id) = known {
            return Ok(id);
        }
        let asked = match self.registers {
            true => self.register(&subject, schema).await,
            false => self.find(&subject, schema).await,
        };
        let id = asked.map_err(|error| RegistryError::refused(&subject, topic, &error));
        let id = match id {
            Err(error) if error.is_incompatible() || error.is_missing() => {
                Err(error.with_reason(self.compare_latest(&subject, schema).await))
            }
            id => id,
        }?;
        tracing::info!(subject, topic, id, "the schema is in the registry");
        self.known().insert(subject, id);
        Ok(id)
    }

    async fn register(&self, subject: &str, schema: &str) -> Result<u32, SRCError> {
        let supplied = SuppliedSchema::new(None, SchemaType::Avro, schema.to_owned());
        let registered = post_schema(&self.settings, subject.to_owned(), supplied).await?;
        Ok(registered.id)
    }

    /// Returns the id of a schema that a subject has.
    async fn find(&self, subject: &str, schema: &str) -> Result<u32, SRCError> {
        let body = serde_json::json!({ "schema": schema, "schemaType": "AVRO" }).to_string();
        let call = SrCall::PostForVersion(subject, &body);
        let found = perform_sr_call(&self.settings, call).await?;
        found.id.ok_or_else(|| {
            SRCError::non_retryable_without_cause("the answer has no id of a schema")
        })
    }

    /// Describes how the latest schema of a subject differs, for the operator.
    async fn compare_latest(&self, subject: &str, schema: &str) -> Option<String> {
        let latest = get_schema_by_subject_and_version(&self.settings, subject, None).await;
        let latest = latest.ok()?;
        let version = latest
            .version
            .map_or_else(String::new, |version| version.to_string());
        let ours = Schema::parse_str(schema).ok()?;
        let text = match Schema::parse_str(&latest.schema) {
            Err(error) => {
                format!("version {version} of the subject is not an Avro schema: {error}")
            }
            Ok(latest) => match SchemaCompatibility::can_read(&ours, &latest) {
                Ok(_) => format!("readers of version {version} of the subject could read it"),
                Err(error) => {
                    format!("readers of version {version} of the subject cannot read it: {error}")
                }
            },
        };
        Some(text)
    }

    fn known(&self) -> std::sync::MutexGuard<'_, BTreeMap<String, u32>> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
