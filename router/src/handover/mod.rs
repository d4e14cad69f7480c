//! Renewal without a dropped connection: a router that starts takes the listeners of the one that runs, and that one
//! drains.
//!
//! The one that runs listens on a Unix socket. The one that starts connects there and gets the listening sockets
//! themselves; it gets ready, accepts from them, and says so; only then the one that ran stops to accept. Until that word
//! either of them may die: the other goes on. [`taking`] is the half of the one that starts, [`giving`] that of the one
//! that ends, `wire.rs` what they tell each other.

use std::fmt;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use cellway_proxy::{Copies, serve};
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep};
use tokio_util::sync::CancellationToken;

use crate::drain;
use crate::shared::Shared;
use giving::Giving;
use post::Post;
use taking::{Passed, Taking};

mod giving;
mod post;
pub(crate) mod taking;
mod wire;

pub use post::PATH_MAX_BYTES;

/// How long a router that starts may take to be ready, once it has the listeners of another.
pub const HANDOVER_READY_MS: u64 = 30_000;
/// How long kept connections of a router that was replaced may be idle before they are ended: a client that sends until
/// then is answered, and told to connect again. As long as they may be idle anyway.
pub const HANDOVER_DELAY_MS: u64 = serve::HEAD_TIMEOUT_MS;
/// The longest wait for the threads of this router to accept, before it says that it serves.
const ACCEPTING_MS: u64 = 5_000;
/// Between two looks at what is waited for.
const LOOK_MS: u64 = 5;

/// How a router is replaced, and replaces another.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HandoverConfig {
    /// The Unix socket: who starts asks there, and listens there from then on.
    pub path: PathBuf,
    /// How long the one that starts may take to be ready.
    pub ready_ms: u64,
    /// How long kept connections of the one that ends may be idle.
    pub delay_ms: u64,
}

impl HandoverConfig {
    /// At this path, with the default bounds.
    pub fn new(path: PathBuf) -> Self {
        Self { path, ready_ms: HANDOVER_READY_MS, delay_ms: HANDOVER_DELAY_MS }
    }
}

impl fmt::Display for HandoverConfig {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { path, ready_ms, delay_ms } = self;
        write!(f, "{}, ready in {ready_ms} ms, a delay of {delay_ms} ms", path.display())
    }
}

/// What a router has for handovers, from before it binds.
pub(crate) struct Office {
    config: HandoverConfig,
    post: Post,
    taking: Option<Taking>,
}

impl Office {
    /// Asks who runs for the listeners. Nothing is changed if this fails.
    pub(crate) async fn open(config: &HandoverConfig) -> anyhow::Result<(Self, Passed)> {
        let post = Post::open(&config.path)?;
        let (taking, passed) = match taking::ask(config).await? {
            Some((taking, passed)) => (Some(taking), passed),
            None => (None, Passed::default()),
        };
        Ok((Self { config: config.clone(), post, taking }, passed))
    }

    /// Whether there is one that runs.
    pub(crate) fn is_taking(&self) -> bool {
        self.taking.is_some()
    }

    /// All listeners are there: those passed that were not asked for are closed.
    pub(crate) fn has_bound(&mut self, passed: Passed) {
        if let Some(taking) = &mut self.taking {
            taking.took(passed);
        }
    }

    fn publish(&mut self) {
        let path = self.config.path.display();
        match self.post.publish() {
            Ok(()) => tracing::info!(%path, "this router can be replaced"),
            Err(error) => {
                tracing::error!(%path, %error, "the handover socket cannot be put there: this router cannot be replaced");
            }
        }
    }

    /// Waits until this router could serve. Until then the other one goes on, and if this fails.
    pub(crate) async fn until_ready(&mut self, shared: &Shared, shutdown: &CancellationToken) -> anyhow::Result<()> {
        if let Some(taking) = self.taking.take() {
            self.taking = taking.until_ready(shared, shutdown).await?;
        }
        if self.taking.is_none() {
            shared.may_save(true).await;
            // Before anybody can see that it serves: whoever starts next finds the socket.
            self.publish();
        }
        Ok(())
    }
}

/// A router's life beside serving: it takes over, hands over, and drains.
pub(crate) struct Life {
    pub(crate) shared: Arc<Shared>,
    pub(crate) office: Option<Office>,
    pub(crate) copies: Vec<Copies>,
    /// How many threads will accept.
    pub(crate) threads: usize,
    pub(crate) drain_ms: u64,
}

impl Life {
    /// Begins the drain when `shutdown` fires, or when another router serves; fires `stop` when connections are to end.
    pub(crate) async fn run(self, shutdown: &CancellationToken, stop: &CancellationToken) -> anyhow::Result<()> {
        let Self { shared, office, copies, threads, drain_ms } = self;
        let succeeded = async {
            let Some(office) = office else { return std::future::pending().await };
            let (mut giving, following) = office.take_over(&shared, copies, threads).await?;
            let successor = giving.until_replaced().await;
            anyhow::Ok((giving, successor, following))
        };
        let (giving, successor, _following) = tokio::select! {
            succeeded = succeeded => succeeded?,
            () = shutdown.cancelled() => {
                drain::on_shutdown(&shared, drain_ms, stop).await;
                return Ok(());
            }
        };
        giving.drain(successor, &shared, drain_ms, shutdown, stop).await;
        Ok(())
    }
}

impl Office {
    /// Says to the one before that this router serves, and listens in its place for the next one.
    async fn take_over(
        mut self,
        shared: &Arc<Shared>,
        copies: Vec<Copies>,
        threads: usize,
    ) -> anyhow::Result<(Giving, JoinSet<()>)> {
        let mut following = JoinSet::new();
        if let Some(taking) = self.taking.take() {
            until_accepting(shared, threads).await;
            if let Some(draining) = taking.serve().await? {
                following.spawn(draining.follow(Arc::clone(shared)));
            }
            shared.may_save(true).await;
            self.publish();
        }
        let Self { config, post, .. } = self;
        Ok((Giving::new(config, post, copies), following))
    }
}

async fn until_accepting(shared: &Shared, threads: usize) {
    let until = Instant::now() + Duration::from_millis(ACCEPTING_MS);
    while shared.threads.lock().len() < threads && Instant::now() < until {
        sleep(Duration::from_millis(LOOK_MS)).await;
    }
}
