//! The oplog-consumer program: parses, starts the runtime, and ends with a code that means something.

use std::process;

use oplog_consumer::args::Arguments;
use oplog_relay_core::runtime::config::parse_layered;

fn main() -> anyhow::Result<process::ExitCode> {
    let arguments = match parse_layered::<Arguments>(&[]) {
        Ok(arguments) => arguments,
        Err(error) => {
            error.print()?;
            return Ok(error.exit_code().into());
        }
    };
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()?;
    let code = runtime.block_on(oplog_consumer::main(arguments));
    // Threads that a stuck server holds must not hold the end.
    runtime.shutdown_background();
    Ok(code.into())
}
