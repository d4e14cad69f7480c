//! The first SIGINT or SIGTERM asks for an orderly end, the second one gets an abrupt one.

use anyhow::Context;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio_util::sync::CancellationToken;

/// The exit code of an abrupt end, as shells have it for SIGINT.
const INTERRUPTED: i32 = 130;

/// A token that is cancelled by the first signal.
pub(super) fn shutdown() -> anyhow::Result<CancellationToken> {
    let mut interrupt = signal(SignalKind::interrupt()).context("cannot listen for SIGINT")?;
    let mut terminate = signal(SignalKind::terminate()).context("cannot listen for SIGTERM")?;
    let token = CancellationToken::new();
    let asked = token.clone();
    tokio::spawn(async move {
        let mut next = async || tokio::select! { _ = interrupt.recv() => {}, _ = terminate.recv() => {} };
        next().await;
        asked.cancel();
        next().await;
        std::process::exit(INTERRUPTED);
    });
    Ok(token)
}

/// SIGHUPs: the configuration is to be read again.
pub(super) fn hangups() -> anyhow::Result<Signal> {
    signal(SignalKind::hangup()).context("cannot listen for SIGHUP")
}
