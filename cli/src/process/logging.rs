//! Logs go to stderr: for people on a terminal, JSON lines otherwise.

use std::io::IsTerminal;
use tracing_subscriber::EnvFilter;

/// Sets what is logged, and how.
const VARIABLE: &str = "CELLWAY_LOG";

/// Sets up logging for the process. `default` is used without $CELLWAY_LOG, as in `info` or `warn,cellway_router=debug`.
pub(crate) fn start(default: &str) -> anyhow::Result<()> {
    let wanted = std::env::var(VARIABLE).ok().filter(|value| !value.is_empty());
    let filter = EnvFilter::try_new(wanted.as_deref().unwrap_or(default)).map_err(|error| {
        anyhow::anyhow!("{VARIABLE} is not a filter such as `info` or `warn,cellway_router=debug`: {error}")
    })?;
    let builder = tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr);
    if std::io::stderr().is_terminal() {
        builder.compact().init();
    } else {
        builder.json().flatten_event(true).init();
    }
    Ok(())
}
