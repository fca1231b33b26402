//! The settings of the schema registry, from the arguments that describe it.

use oplog_relay_core::format::Format;
use oplog_relay_runtime::config::{Faults, Secret, resolve_secret};

use crate::config::arguments::RegistryArguments;
use crate::registry::{RegistryConfig, RegistryLogin};

/// Returns the settings if the format has schemas, or adds the faults of the arguments.
pub(super) fn check_registry(
    arguments: &RegistryArguments,
    format: Option<Format>,
    faults: &mut Faults,
) -> Option<RegistryConfig> {
    let has_schemas = format.is_some_and(Format::has_schemas);
    if arguments.registry_url.is_empty() {
        if has_schemas {
            faults.add("--registry-url", "is required with --format avro");
        }
        return None;
    }
    if format.is_some() && !has_schemas {
        faults.add("--registry-url", "can only be used with --format avro");
    }
    for url in &arguments.registry_url {
        check_url(url, faults);
    }
    let login = check_login(arguments, faults);
    let authorities = arguments.registry_ca.as_deref().map(|path| {
        let read = std::fs::read(path);
        faults.take_or(
            "--registry-ca",
            read.map_err(|error| format!("{path} cannot be read: {}", error.kind())),
        )
    });
    let subjects = faults.take_or("--registry-subjects", arguments.registry_subjects.parse());
    Some(RegistryConfig {
        urls: arguments.registry_url.clone(),
        login: login?,
        authorities: match authorities {
            Some(read) => Some(read?),
            None => None,
        },
        subjects: subjects?,
        registers: arguments.registry_auto_register,
    })
}

fn check_url(url: &str, faults: &mut Faults) {
    let rest = url.strip_prefix("http://");
    let rest = rest.or_else(|| url.strip_prefix("https://"));
    match rest {
        None | Some("") => faults.add(
            "--registry-url",
            "must begin with http:// or https:// and name a host",
        ),
        // Addresses appear in logs and errors.
        Some(rest) if rest.contains('@') => faults.add(
            "--registry-url",
            "must not contain a user and a password; give them with --registry-login",
        ),
        Some(_) => {}
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
            Some(RegistryLogin::Bearer(token))
        }
        (None, None) => Some(RegistryLogin::None),
    }
}
