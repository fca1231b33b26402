//! Configuration: flags over environment over one TOML file over defaults.
//!
//! A flag `--some-name` is `some_name` in the file and `OPLOG_SOME_NAME` in the environment, with
//! no exception and nothing to declare: programs write clap derive structs and call
//! [`parse_layered`]. What nobody knows is an error in every layer, and all faults are reported at
//! once, because an operator who corrects them one by one loses a deployment for each.

mod fault;
mod layer;
mod secret;
mod suggest;
mod value;

pub use fault::{ConfigError, Fault, Faults};
pub use layer::{parse_layered, parse_layered_from};
pub use secret::{Secret, SecretError, redact_uri, resolve_secret};
pub use value::{Start, parse_bytes, parse_duration, parse_start};
