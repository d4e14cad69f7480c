//! The access log: one JSON line per request, to a file or to stdout.
//!
//! A request's thread puts a compact record into a bounded queue and goes on; one thread writes what is there in
//! batches. Nothing waits for the log: what finds the queue full, or a disk that takes nothing, is dropped and counted.
//! `line.rs` is what a line says, `writer.rs` the thread.

use std::io;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{SyncSender, sync_channel};
use std::time::Duration;

use prometheus::IntCounter;
use tokio::sync::watch;

pub(crate) use line::{Ending, Record, Texts};
pub use line::{HEADER_MAX_BYTES, HOST_MAX_BYTES, METHOD_MAX_BYTES, PATH_MAX_BYTES};
use writer::{Message, Writer};

mod line;
mod writer;

/// Records that wait to be written, per process. With texts as long as they may be this is 40 MiB, usually 5.
pub const QUEUE_RECORDS_MAX: usize = 16_384;
/// How long the end of a router waits for the last lines.
pub const FINISH_MS: u64 = 1_000;

/// What is logged of requests, and where to.
#[derive(Debug, Clone, PartialEq)]
pub struct AccessLogConfig {
    /// Where the lines go.
    pub target: LogTarget,
    /// The share of requests that is logged, from 0 to 1.
    pub sample: f64,
    /// Whether answers of 500 and above, and those that broke off, are logged whatever the share.
    pub always_errors: bool,
    /// Whether queries are logged. They often hold what is nobody's business.
    pub query: bool,
}

/// Where lines go.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum LogTarget {
    /// To the process's standard output.
    Stdout,
    /// To the end of a file, which is opened again when the configuration is.
    File(PathBuf),
}

impl AccessLogConfig {
    /// Every request, without its query.
    pub fn new(target: LogTarget) -> Self {
        Self { target, sample: 1.0, always_errors: true, query: false }
    }
}

/// What the log counts.
#[derive(Clone)]
pub(crate) struct LogCounters {
    pub(crate) written: IntCounter,
    pub(crate) dropped_by_queue: IntCounter,
    pub(crate) dropped_by_disk: IntCounter,
}

/// An open log. Clones write to the same target.
#[derive(Clone)]
pub(crate) struct AccessLog {
    config: AccessLogConfig,
    queue: Arc<Queue>,
}

struct Queue {
    messages: SyncSender<Message>,
    state: Arc<QueueState>,
    counters: LogCounters,
    /// Its sender is the writer's.
    ended: watch::Receiver<()>,
}

/// What the writer is asked for, beside records.
#[derive(Default)]
struct QueueState {
    reopen: AtomicBool,
    finish: AtomicBool,
}

impl AccessLog {
    /// Opens the target and starts to write.
    pub(crate) fn open(config: AccessLogConfig, counters: LogCounters) -> io::Result<Self> {
        let (messages, waiting) = sync_channel(QUEUE_RECORDS_MAX);
        let (ending, ended) = watch::channel(());
        let state = Arc::new(QueueState::default());
        let writer = Writer::new(writer::open(&config.target)?, counters.clone());
        let for_writer = Arc::clone(&state);
        std::thread::Builder::new().name("access-log".to_owned()).spawn(move || {
            writer.run(&waiting, &for_writer);
            drop(ending);
        })?;
        Ok(Self { config, queue: Arc::new(Queue { messages, state, counters, ended }) })
    }

    /// The log under another configuration. Where only the target stays the same, it is opened again: it may have
    /// been moved away.
    pub(crate) fn configured(&self, config: AccessLogConfig) -> io::Result<Self> {
        if config.target != self.config.target {
            return Self::open(config, self.queue.counters.clone());
        }
        // An unusable path is an error here, before anything has changed.
        writer::open(&config.target)?;
        self.queue.ask(&self.queue.state.reopen);
        Ok(Self { config, queue: Arc::clone(&self.queue) })
    }

    /// Whether the line of a request that just began is wanted: `None` if not, else whether it was drawn.
    pub(crate) fn draw(&self) -> Option<bool> {
        let drawn = self.config.sample >= 1.0 || rand::random::<f64>() < self.config.sample;
        (drawn || self.config.always_errors).then_some(drawn)
    }

    pub(crate) fn shows_query(&self) -> bool {
        self.config.query
    }

    /// Hands a record over. Never waits.
    pub(crate) fn write(&self, record: Record) {
        if self.queue.messages.try_send(Message::Record(Box::new(record))).is_err() {
            self.queue.counters.dropped_by_queue.inc();
        }
    }

    /// Lets the writer write what waits and end; waits [`FINISH_MS`] for it.
    pub(crate) async fn finish(&self) {
        self.queue.ask(&self.queue.state.finish);
        let mut ended = self.queue.ended.clone();
        // An error is the end that is waited for.
        if tokio::time::timeout(Duration::from_millis(FINISH_MS), ended.changed()).await.is_err() {
            tracing::warn!("the access log could not be written to its end in time");
        }
    }
}

impl Queue {
    fn ask(&self, flag: &AtomicBool) {
        flag.store(true, Ordering::Release);
        // If the queue is full, the writer is awake and looks anyway.
        let _ = self.messages.try_send(Message::Look);
    }
}

#[cfg(test)]
mod tests;
