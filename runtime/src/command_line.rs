//! What the command lines of both programs have in common, and how a program is run.

use std::{io, process};

use clap::{Args, Parser};

use super::config::{Faults, parse_layered};
use super::exit::ExitCode;
use super::telemetry::{LogFormat, LogOptions};

/// How to log. Logs go to standard error.
#[derive(Debug, Clone, Args)]
pub struct LogArguments {
    /// text or json.
    #[arg(long, value_name = "FORMAT", default_value = "text")]
    pub log_format: String,
    /// error, warn, info, debug, trace, or directives such as info,librdkafka=debug.
    #[arg(long, value_name = "LEVEL", default_value = "info")]
    pub log_level: String,
}

impl LogArguments {
    /// Checks the format; the level is checked when logging begins.
    pub fn check(&self, faults: &mut Faults) -> Option<LogOptions> {
        let format = faults.take_or("--log-format", self.log_format.parse::<LogFormat>())?;
        Some(LogOptions {
            format,
            level: self.log_level.clone(),
        })
    }
}

/// The command `health`.
#[derive(Debug, Clone, Args)]
pub struct HealthArguments {
    /// The address that the instance serves HTTP at.
    #[arg(long, value_name = "ADDRESS", default_value = "127.0.0.1:9100")]
    pub http: String,
}

/// What stands at the end of a program's help: the layers of its options, and its exit codes.
#[must_use]
pub fn after_help() -> String {
    format!(
        "Every flag --some-name may be given as OPLOG_SOME_NAME in the environment or as \
         some_name in the TOML file named by --config; flags win over the environment, the \
         environment over the file.\n\n{}",
        ExitCode::table()
    )
}

/// Reads the arguments and runs the program with them, on a runtime with a thread for each core.
///
/// # Errors
/// When standard error is closed, or no runtime can be had.
pub fn run<A: Parser, F: Future<Output = ExitCode>>(
    main: impl FnOnce(A) -> F,
) -> io::Result<process::ExitCode> {
    let arguments = match parse_layered::<A>(&[]) {
        Ok(arguments) => arguments,
        Err(error) => {
            error.print()?;
            return Ok(error.exit_code().into());
        }
    };
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()?;
    let code = runtime.block_on(main(arguments));
    // Threads that a stuck server holds must not hold the end.
    runtime.shutdown_background();
    Ok(code.into())
}
