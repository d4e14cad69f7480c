//! Logs go to stderr: for people on a terminal, JSON lines otherwise.

use std::io::IsTerminal;
use tracing_subscriber::EnvFilter;

/// Sets what is logged, and how.
const VARIABLE: &str = "CELLWAY_LOG";

/// Changes what is logged while the process runs.
pub(crate) struct LogLevel(Option<Box<dyn Fn(EnvFilter) + Send + Sync>>);

impl LogLevel {
    /// Logs what `wanted` says from now on; $CELLWAY_LOG goes before it.
    pub(super) fn set(&self, wanted: &str) -> anyhow::Result<()> {
        match &self.0 {
            Some(set) => set(filter(wanted)?),
            None => tracing::debug!("{VARIABLE} says what is logged"),
        }
        Ok(())
    }
}

/// Sets up logging for the process. `default` is used without $CELLWAY_LOG, as in `info` or `warn,cellway_router=debug`.
pub(crate) fn start(default: &str) -> anyhow::Result<LogLevel> {
    let wanted = std::env::var(VARIABLE).ok().filter(|value| !value.is_empty());
    let first = filter(wanted.as_deref().unwrap_or(default)).map_err(|error| match wanted {
        Some(_) => anyhow::anyhow!("{VARIABLE}: {error}"),
        None => error,
    })?;
    let builder = tracing_subscriber::fmt().with_env_filter(first).with_writer(std::io::stderr);
    let set: Box<dyn Fn(EnvFilter) + Send + Sync> = if std::io::stderr().is_terminal() {
        let builder = builder.compact().with_filter_reloading();
        let handle = builder.reload_handle();
        builder.init();
        Box::new(move |filter| drop(handle.reload(filter)))
    } else {
        let builder = builder.json().flatten_event(true).with_filter_reloading();
        let handle = builder.reload_handle();
        builder.init();
        Box::new(move |filter| drop(handle.reload(filter)))
    };
    Ok(LogLevel(wanted.is_none().then_some(set)))
}

/// What `text` lets through.
pub(super) fn filter(text: &str) -> anyhow::Result<EnvFilter> {
    EnvFilter::try_new(text)
        .map_err(|_| anyhow::anyhow!("{text:?} is not a filter such as `info` or `warn,cellway_router=debug`"))
}
