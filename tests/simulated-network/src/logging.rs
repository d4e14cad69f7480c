//! What our processes log, as lines of the simulation's log.

use std::io::{self, Write};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;
use tracing_subscriber::EnvFilter;
use tracing_subscriber::fmt::MakeWriter;
use tracing_subscriber::fmt::format::Writer;
use tracing_subscriber::fmt::time::FormatTime;

static NOW_MS: AtomicU64 = AtomicU64::new(0);

/// So late is it.
pub(crate) fn is_now(now: Duration) {
    NOW_MS.store(u64::try_from(now.as_millis()).unwrap_or(u64::MAX), Ordering::Relaxed);
}

struct Simulated;

impl FormatTime for Simulated {
    fn format_time(&self, writer: &mut Writer<'_>) -> std::fmt::Result {
        let now_ms = NOW_MS.load(Ordering::Relaxed);
        write!(writer, "{:>6}.{:03}", now_ms / 1_000, now_ms % 1_000)
    }
}

struct Lines;

impl<'a> MakeWriter<'a> for Lines {
    type Writer = Self;

    fn make_writer(&'a self) -> Self {
        Self
    }
}

impl Write for Lines {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        io::stdout().write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        io::stdout().flush()
    }
}

/// Begins. Verbosely, all that our processes have to say; else what they warn of.
pub(crate) fn start(is_verbose: bool) {
    let level = if is_verbose { "debug" } else { "info" };
    let ours = ["api", "cell_agent", "control_plane", "proxy", "router", "store"];
    let ours: Vec<String> = ours.iter().map(|package| format!("cellway_{package}={level}")).collect();
    // The spans name the hosts.
    let filter = EnvFilter::new(format!("off,turmoil=info,turmoil[node]=info,{}", ours.join(",")));
    tracing_subscriber::fmt().with_env_filter(filter).with_timer(Simulated).with_ansi(false).with_writer(Lines).init();
}
