//! The schema registry: the ids of the schemas of Avro topics.
//!
//! The registry is asked once for each subject and process. Every registry with the REST interface
//! of Confluent's Schema Registry is supported.
//!
//! # Modules
//!
//! - `subject` names the subjects
//! - `error` has the reasons why a registry does not return an id

mod error;
mod subject;

pub use error::{Refusal, RegistryError};
pub use subject::Subjects;

use std::collections::BTreeMap;
use std::fmt;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use apache_avro::Schema;
use apache_avro::schema_compatibility::SchemaCompatibility;
use oplog_relay_core::format::avro::SchemaIds;
use oplog_relay_runtime::config::Secret;
use rustls::crypto::{CryptoProvider, ring};
use schema_registry_converter::async_impl::schema_registry::{
    SrSettings, get_schema_by_subject_and_version, perform_sr_call, post_schema,
};
use schema_registry_converter::error::SRCError;
use schema_registry_converter::schema_registry_common::{SchemaType, SrCall, SuppliedSchema};

use crate::registry::error::Question;
use crate::registry::subject::Part;

/// Maximum time of a request, including the connection.
const TIMEOUT: Duration = Duration::from_secs(10);

/// The credentials for a registry.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum RegistryLogin {
    /// No login.
    None,
    /// HTTP basic authentication.
    Basic {
        /// The user name.
        user: String,
        /// The password.
        password: Secret,
    },
    /// A bearer token.
    Bearer(Secret),
}

/// The settings of a registry.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RegistryConfig {
    /// The addresses. They are tried in this order.
    pub urls: Vec<String>,
    /// The login.
    pub login: RegistryLogin,
    /// The certificates, in PEM, of certificate authorities that are trusted in addition to those
    /// of the system.
    pub authorities: Option<Vec<u8>>,
    /// The names of the subjects.
    pub subjects: Subjects,
    /// True if schemas that are missing are registered.
    pub registers: bool,
}

/// A schema registry.
#[derive(Debug)]
pub struct SchemaRegistry {
    /// The addresses in the order in which they are tried; at least one.
    addresses: Vec<Address>,
    subjects: Subjects,
    registers: bool,
    /// The ids of schemas, by subject.
    known: Mutex<BTreeMap<String, u32>>,
}

/// One address of a registry.
struct Address {
    url: String,
    client: SrSettings,
}

impl fmt::Debug for Address {
    // The client contains the credentials.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Address")
            .field("url", &self.url)
            .finish_non_exhaustive()
    }
}

impl Address {
    fn new(url: &str, config: &RegistryConfig) -> Result<Self, RegistryError> {
        let url = url.trim_end_matches('/').to_owned();
        let mut client = reqwest::Client::builder().connect_timeout(TIMEOUT);
        if let Some(pem) = &config.authorities {
            let authorities = reqwest::Certificate::from_pem_bundle(pem);
            let authorities =
                authorities.map_err(|error| RegistryError::Client(error.to_string()))?;
            client = client.tls_certs_merge(authorities);
        }
        let mut settings = SrSettings::new_builder(url.clone());
        match &config.login {
            RegistryLogin::None => {}
            RegistryLogin::Basic { user, password } => {
                settings.set_basic_authorization(user, Some(password.expose()));
            }
            RegistryLogin::Bearer(token) => {
                settings.set_token_authorization(token.expose());
            }
        }
        let client = settings.set_timeout(TIMEOUT).build_with(client);
        let client = client.map_err(|error| RegistryError::client(&error))?;
        Ok(Self { url, client })
    }

    async fn register(&self, subject: &str, schema: &str) -> Result<u32, SRCError> {
        let supplied = SuppliedSchema::new(None, SchemaType::Avro, schema.to_owned());
        let registered = post_schema(&self.client, subject.to_owned(), supplied).await?;
        Ok(registered.id)
    }

    /// Returns the id of a schema that is registered under a subject.
    async fn find(&self, subject: &str, schema: &str) -> Result<u32, SRCError> {
        let body = serde_json::json!({ "schema": schema, "schemaType": "AVRO" }).to_string();
        let call = SrCall::PostForVersion(subject, &body);
        let found = perform_sr_call(&self.client, call).await?;
        found.id.ok_or_else(|| {
            SRCError::non_retryable_without_cause("the response contains no schema id")
        })
    }

    /// Describes to the operator how the latest schema of a subject differs from this version's.
    async fn compare_latest(&self, subject: &str, schema: &str) -> Option<String> {
        let latest = get_schema_by_subject_and_version(&self.client, subject, None).await;
        let latest = latest.ok()?;
        let version = latest.version.unwrap_or_default();
        let latest = match Schema::parse_str(&latest.schema) {
            Ok(latest) => latest,
            Err(error) => {
                return Some(format!("version {version} is not an Avro schema: {error}"));
            }
        };
        let ours = Schema::parse_str(schema).ok()?;
        let mut text = Vec::new();
        if let Err(error) = SchemaCompatibility::can_read(&latest, &ours) {
            text.push(format!(
                "this version's schema cannot read records of version {version} ({error})"
            ));
        }
        if let Err(error) = SchemaCompatibility::can_read(&ours, &latest) {
            text.push(format!(
                "version {version} cannot read records of this version's schema ({error})"
            ));
        }
        if text.is_empty() {
            text.push(format!("version {version} is compatible with it"));
        }
        Some(text.join("; "))
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
        let addresses = config.urls.iter().map(|url| Address::new(url, config));
        Ok(Self {
            addresses: addresses.collect::<Result<_, _>>()?,
            subjects: config.subjects,
            registers: config.registers,
            known: Mutex::default(),
        })
    }

    /// Returns the ids of a topic's schemas. Missing schemas are registered, unless registration is
    /// switched off.
    ///
    /// # Errors
    /// [`RegistryError`] if the registry does not answer, refuses the credentials or a schema, or
    /// is not a schema registry, or if a schema is missing and registration is switched off.
    pub async fn ids_of(&self, topic: &str) -> Result<SchemaIds, RegistryError> {
        Ok(SchemaIds {
            key: self.id(topic, Part::Key).await?,
            value: self.id(topic, Part::Value).await?,
        })
    }

    async fn id(&self, topic: &str, part: Part) -> Result<u32, RegistryError> {
        let subject = self.subjects.name(topic, part);
        let known = self.known().get(&subject).copied();
        if let Some(id) = known {
            return Ok(id);
        }
        let mut last = None;
        // The next address is tried only after a transient error. Any other answer is final.
        for address in &self.addresses {
            match self.ask(address, topic, &subject, part).await {
                Err(error) if error.is_transient() => last = Some(error),
                answer => {
                    let id = answer?;
                    tracing::info!(
                        subject,
                        topic,
                        id,
                        "found or registered the schema in the registry"
                    );
                    self.known().insert(subject, id);
                    return Ok(id);
                }
            }
        }
        Err(last.unwrap_or_else(|| RegistryError::Client("it has no address".to_owned())))
    }

    async fn ask(
        &self,
        address: &Address,
        topic: &str,
        subject: &str,
        part: Part,
    ) -> Result<u32, RegistryError> {
        let schema = part.schema();
        let answer = match self.registers {
            true => address.register(subject, schema).await,
            false => address.find(subject, schema).await,
        };
        let error = match answer {
            Ok(id) => return Ok(id),
            Err(error) => error,
        };
        let question = Question {
            subject,
            topic,
            url: &address.url,
            file: part.file(),
            registers: self.registers,
            had_access: !self.known().is_empty(),
        };
        let mut error = RegistryError::of(question, &error);
        if let Some(refusal) = error.refused_schema()
            && let Some(comparison) = address.compare_latest(subject, schema).await
        {
            refusal.reason = format!("{}; {comparison}", refusal.reason);
        }
        Err(error)
    }

    fn known(&self) -> MutexGuard<'_, BTreeMap<String, u32>> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
