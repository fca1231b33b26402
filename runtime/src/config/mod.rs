//! Configuration: flags override the environment, which overrides one TOML file, which overrides
//! the defaults.
//!
//! A flag `--some-name` is `some_name` in the file and `OPLOG_SOME_NAME` in the environment,
//! without exceptions or declarations: programs define clap derive structs and call
//! [`parse_layered`]. Unknown names are errors in every layer. All faults are reported at once, so
//! that an operator can correct them together.
//!
//! # Modules
//!
//! - `layer` reads the layers below the command line
//! - `value` reads values with their own notation: sizes, durations, start points
//! - `secret` holds values that are never displayed
//! - `suggest` finds the known name that is nearest to a mistyped one
//! - `fault` collects the faults

mod fault;
mod layer;
mod secret;
mod suggest;
mod value;

pub use fault::{ConfigError, Fault, Faults};
pub use layer::{COMMAND_LINE_ONLY, parse_layered, parse_layered_from};
pub use secret::{Secret, SecretError, redact_uri, resolve_secret};
pub use value::{Start, parse_bytes, parse_duration, parse_start};
