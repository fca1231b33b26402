//! The settings of the schema registry, from the arguments that describe it.

use oplog_relay_core::format::Format;
use oplog_relay_runtime::config::{Faults, Secret, resolve_secret};
use reqwest::Url;
use reqwest::header::HeaderValue;

use crate::config::arguments::RegistryArguments;
use crate::registry::{RegistryConfig, RegistryLogin};

/// Returns the settings of the registry, or adds the faults of the arguments. A registry is also
/// accepted when a stream changes from `--format avro` to another format, because the producer may
/// have to finish a transaction in Avro.
pub(super) fn check_registry(
    arguments: &RegistryArguments,
    format: Option<Format>,
    changes_routing: bool,
    faults: &mut Faults,
) -> Option<RegistryConfig> {
    let has_schemas = format.is_some_and(Format::has_schemas);
    let urls = &arguments.registry_url;
    if urls.is_empty() && has_schemas {
        faults.add("--registry-url", "is required with --format avro");
    }
    if !urls.is_empty() && format.is_some() && !has_schemas && !changes_routing {
        faults.add("--registry-url", "can only be used with --format avro");
    }
    for url in urls {
        if let Err(fault) = check_url(url) {
            faults.add("--registry-url", fault);
        }
    }
    let login = check_login(arguments, faults);
    let authorities = check_authorities(arguments, faults);
    let subjects = faults.take_or("--registry-subjects", arguments.registry_subjects.parse());
    if urls.is_empty() {
        add_needless(arguments, has_schemas, faults);
        return None;
    }
    Some(RegistryConfig {
        urls: urls.clone(),
        login: login?,
        authorities: authorities?,
        subjects: subjects?,
        registers: arguments.registry_auto_register,
    })
}

/// Adds faults for arguments that have no effect without the address of a registry, unless the
/// missing address `is_reported` already.
fn add_needless(arguments: &RegistryArguments, is_reported: bool, faults: &mut Faults) {
    let given = [
        ("--registry-login", arguments.registry_login.is_some()),
        ("--registry-token", arguments.registry_token.is_some()),
        ("--registry-ca", arguments.registry_ca.is_some()),
    ];
    for (flag, is_given) in given {
        if is_given && !is_reported {
            faults.add(flag, "needs --registry-url");
        }
    }
}

/// Checks an address. It appears in logs and errors, so it must not contain secrets.
fn check_url(text: &str) -> Result<(), &'static str> {
    let url = Url::parse(text).map_err(|_| "must be an address such as http://registry:8081")?;
    if !matches!(url.scheme(), "http" | "https") || !url.has_host() {
        return Err("must begin with http:// or https:// and name a host");
    }
    if !url.username().is_empty() || url.password().is_some() {
        return Err("must not contain a user and a password; give them with --registry-login");
    }
    if url.query().is_some() || url.fragment().is_some() {
        return Err("must not contain ? or #");
    }
    Ok(())
}

/// Returns the certificates. The result is `Some(None)` if no file is given.
#[expect(
    clippy::option_option,
    reason = "the outer None means that a fault was added"
)]
fn check_authorities(
    arguments: &RegistryArguments,
    faults: &mut Faults,
) -> Option<Option<Vec<u8>>> {
    let Some(path) = &arguments.registry_ca else {
        return Some(None);
    };
    let read = std::fs::read(path).map_err(|error| format!("{path}: {}", error.kind()));
    let read = faults.take_or("--registry-ca", read)?;
    match reqwest::Certificate::from_pem_bundle(&read) {
        Ok(certificates) if !certificates.is_empty() => Some(Some(read)),
        _ => {
            faults.add("--registry-ca", format!("{path} has no certificate in PEM"));
            None
        }
    }
}

fn check_login(arguments: &RegistryArguments, faults: &mut Faults) -> Option<RegistryLogin> {
    match (&arguments.registry_login, &arguments.registry_token) {
        (Some(_), Some(_)) => {
            faults.add("--registry-token", "cannot be used with --registry-login");
            None
        }
        (Some(login), None) => {
            let login = faults.take_or("--registry-login", resolve_secret(login))?;
            match login.expose().split_once(':') {
                Some((user, password)) if !user.is_empty() => Some(RegistryLogin::Basic {
                    user: user.to_owned(),
                    password: Secret::new(password),
                }),
                _ => {
                    faults.add("--registry-login", "must be user:password");
                    None
                }
            }
        }
        (None, Some(token)) => {
            let token = faults.take_or("--registry-token", resolve_secret(token))?;
            if token.expose().is_empty() || HeaderValue::from_str(token.expose()).is_err() {
                faults.add("--registry-token", "must be visible characters");
                return None;
            }
            Some(RegistryLogin::Bearer(token))
        }
        (None, None) => Some(RegistryLogin::None),
    }
}
