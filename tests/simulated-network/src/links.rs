//! What becomes of connections while their hosts are cut off from each other.
//!
//! The simulated network loses what is sent meanwhile, and sends nothing again. So a connection stands still until the
//! cut is over, and is then reset, as a kernel does in the end. (Links that are held lose nothing: they are what
//! becomes of a cut that is short.)

use crate::world::Host;
use cellway_machine::Duplex;
use std::collections::BTreeMap;
use std::future::Future;
use std::io;
use std::pin::Pin;
use std::sync::{LazyLock, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::sync::watch;

type Pair = (u8, u8);

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
struct Link {
    is_cut: bool,
    /// How often a cut has ended.
    resets: u64,
}

static LINKS: LazyLock<Mutex<BTreeMap<Pair, watch::Sender<Link>>>> = LazyLock::new(Mutex::default);

fn links() -> MutexGuard<'static, BTreeMap<Pair, watch::Sender<Link>>> {
    LINKS.lock().unwrap_or_else(PoisonError::into_inner)
}

fn pair(one: Host, other: Host) -> Pair {
    let (one, other) = (one.number(), other.number());
    (one.min(other), one.max(other))
}

fn link(one: Host, other: Host) -> watch::Receiver<Link> {
    links().entry(pair(one, other)).or_default().subscribe()
}

/// They are cut off from each other.
pub(crate) fn cut(one: Host, other: Host) {
    links().entry(pair(one, other)).or_default().send_modify(|link| link.is_cut = true);
}

/// They no longer are.
pub(crate) fn mend(one: Host, other: Host) {
    links().entry(pair(one, other)).or_default().send_if_modified(|link| {
        let was_cut = std::mem::take(&mut link.is_cut);
        link.resets += u64::from(was_cut);
        was_cut
    });
}

/// Waits while they are cut off from each other.
pub(crate) async fn while_cut(one: Host, other: Host) {
    // The sender lives as long as the process.
    let _ = link(one, other).wait_for(|link| !link.is_cut).await;
}

/// A connection that is reset when a cut of its link is over.
pub(crate) struct Cuttable<S> {
    stream: S,
    reset: Pin<Box<dyn Future<Output = ()> + Send>>,
    is_reset: bool,
}

impl<S: Duplex> Cuttable<S> {
    pub(crate) fn new(stream: S, one: Host, other: Host) -> Self {
        let mut link = link(one, other);
        let resets = link.borrow().resets;
        let reset = Box::pin(async move {
            let _ = link.wait_for(|link| link.resets > resets).await;
        });
        Self { stream, reset, is_reset: false }
    }

    fn check(&mut self, cx: &mut Context<'_>) -> io::Result<()> {
        self.is_reset = self.is_reset || self.reset.as_mut().poll(cx).is_ready();
        if self.is_reset { Err(io::ErrorKind::ConnectionReset.into()) } else { Ok(()) }
    }
}

impl<S: Duplex> AsyncRead for Cuttable<S> {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        self.check(cx)?;
        Pin::new(&mut self.stream).poll_read(cx, buf)
    }
}

impl<S: Duplex> AsyncWrite for Cuttable<S> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        if self.is_reset {
            return Poll::Ready(Err(io::ErrorKind::ConnectionReset.into()));
        }
        Pin::new(&mut self.stream).poll_write(cx, buf)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}
