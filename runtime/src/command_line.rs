//! The command-line arguments that both programs share, and the start of a program.

use std::time::Duration;
use std::{io, process};

use clap::{Args, Parser};

use super::config::{Faults, parse_duration, parse_layered};
use super::exit::ExitCode;
use super::http::{HttpAddress, ServeOptions};
use super::telemetry::{LogFormat, LogOptions};

/// The logging options. Logs go to standard error.
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
    /// Checks the format. The level is checked when logging starts.
    pub fn check(&self, faults: &mut Faults) -> Option<LogOptions> {
        let format = faults.take_or("--log-format", self.log_format.parse::<LogFormat>())?;
        Some(LogOptions {
            format,
            level: self.log_level.clone(),
        })
    }
}

/// The options of HTTP and of the report of stalls.
#[derive(Debug, Clone, Args)]
pub struct ServeArguments {
    /// Address at which to serve /metrics, /livez, /readyz and /status, or off.
    #[arg(long, value_name = "ADDRESS", default_value = "127.0.0.1:9100")]
    pub http: String,
    /// Time after which a stall is reported. /readyz answers 503 if nothing has moved for this long
    /// although work is pending, or if the source has not replied for this long, not even with an
    /// empty batch. /livez and /readyz answer 503 if the main loop has not run for this long. At
    /// least 5s; below 60s a request that Kafka answers late may be reported as a stall.
    #[arg(long, value_name = "DURATION", default_value = "60s")]
    pub stalled_after: String,
}

/// The shortest time after which a stall may be reported. A source reports every second, and the
/// statistics of librdkafka arrive every second.
const LEAST_STALLED: Duration = Duration::from_secs(5);

impl ServeArguments {
    /// Checks the values.
    pub fn check(&self, faults: &mut Faults) -> Option<ServeOptions> {
        let address = faults.take_or("--http", self.http.parse::<HttpAddress>());
        let stalled_after = parse_duration(&self.stalled_after).and_then(|given| {
            let is_enough = given >= LEAST_STALLED;
            is_enough
                .then_some(given)
                .ok_or_else(|| "must be at least 5s".to_owned())
        });
        let stalled_after = faults.take_or("--stalled-after", stalled_after);
        Some(ServeOptions {
            address: address?,
            stalled_after: stalled_after?,
        })
    }
}

/// The largest number of threads for work that blocks.
const MOST_BLOCKING_THREADS: usize = 4096;

/// The arguments of the `health` command.
#[derive(Debug, Clone, Args)]
pub struct HealthArguments {
    /// Address at which the instance serves HTTP.
    #[arg(long, value_name = "ADDRESS", default_value = "127.0.0.1:9100")]
    pub http: String,
}

/// Returns the end of a program's help: the configuration layers and the exit codes.
#[must_use]
pub fn after_help() -> String {
    format!(
        "Every flag --some-name may be given as OPLOG_SOME_NAME in the environment or as \
         some_name in the TOML file named by --config; flags override the environment, which \
         overrides the file.\n\n{}",
        ExitCode::table()
    )
}

/// Reads the arguments and runs the program with them, on a runtime with one thread per core.
///
/// # Errors
/// Returns an I/O error if the stream for help or errors is closed, or if the runtime cannot be
/// created.
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
        // Each source holds two of these threads for as long as it is followed. They are created when
        // they are needed.
        .max_blocking_threads(MOST_BLOCKING_THREADS)
        .build()?;
    let code = runtime.block_on(main(arguments));
    // A thread that is blocked by an unresponsive server must not delay the exit.
    runtime.shutdown_background();
    Ok(code.into())
}
