//! What our processes take of the machine that they run on: connections, listeners, and threads for what blocks.
//!
//! All of it is the kernel's, unless [`replace`] has put another in its place before anything was taken, as the
//! simulation does: its processes then share one thread and one network, and the same seed gives the same history.

mod listener;
mod made;
mod stream;

pub use listener::{Bound, TcpListener};
pub use made::Made;
pub use stream::{Accepted, TcpStream, give_up_after};

use std::future::Future;
use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::OnceLock;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::task::JoinError;

/// A future that is kept somewhere.
pub type BoxFuture<'a, T> = Pin<Box<dyn Future<Output = T> + Send + 'a>>;

/// A machine in the place of the one that we run on.
pub trait Machine: Send + Sync {
    /// Binds an address; port 0 picks one.
    fn bind(&self, address: SocketAddr) -> io::Result<Box<dyn Accept>>;

    /// Opens a connection.
    fn connect(&self, address: SocketAddr) -> BoxFuture<'static, io::Result<Box<dyn Duplex>>>;
}

/// The listener of such a machine.
pub trait Accept: Send + Sync {
    /// Where it listens.
    fn local_addr(&self) -> SocketAddr;

    /// The next connection.
    fn accept(&self) -> BoxFuture<'_, io::Result<(Box<dyn Duplex>, SocketAddr)>>;
}

/// A connection of such a machine.
pub trait Duplex: AsyncRead + AsyncWrite + Send + Unpin {}

impl<T: AsyncRead + AsyncWrite + Send + Unpin> Duplex for T {}

static REPLACED: OnceLock<Box<dyn Machine>> = OnceLock::new();

/// Puts another machine in the place of this one, for as long as the process lives. The first one stays.
pub fn replace(machine: Box<dyn Machine>) {
    let _ = REPLACED.set(machine);
}

fn replaced() -> Option<&'static dyn Machine> {
    REPLACED.get().map(|machine| &**machine)
}

/// Whether this machine was replaced: everything then runs on the thread that asks.
pub fn is_replaced() -> bool {
    replaced().is_some()
}

/// Runs what blocks on a thread for such work. It runs to its end even when the caller goes away.
pub async fn off_thread<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> Result<T, JoinError> {
    if is_replaced() {
        return Ok(work());
    }
    tokio::task::spawn_blocking(work).await
}
