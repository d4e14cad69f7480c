//! A connection of a machine that was put in this one's place: what a kernel's connection can besides reading and
//! writing, made of these.

use crate::Duplex;
use std::collections::VecDeque;
use std::fmt;
use std::future::poll_fn;
use std::io;
use std::pin::Pin;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Waker, ready};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

/// How much is looked at ahead of the reader.
const AHEAD_BYTES: usize = 512;

/// The connection. Its reader and its writer need not be the same task.
pub struct Made(Mutex<Inner>);

struct Inner {
    stream: Box<dyn Duplex>,
    /// Read, but not taken yet.
    ahead: VecDeque<u8>,
    is_shut: bool,
}

impl fmt::Debug for Made {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Made")
    }
}

impl Made {
    pub(crate) fn new(stream: Box<dyn Duplex>) -> Self {
        Self(Mutex::new(Inner { stream, ahead: VecDeque::new(), is_shut: false }))
    }

    fn inner(&self) -> MutexGuard<'_, Inner> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Reads, as [`tokio::io::AsyncRead`] does.
    pub fn poll_read(&self, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let mut inner = self.inner();
        if inner.ahead.is_empty() {
            return Pin::new(&mut inner.stream).poll_read(cx, buf);
        }
        let count = buf.remaining().min(inner.ahead.len());
        let taken: Vec<u8> = inner.ahead.drain(..count).collect();
        buf.put_slice(&taken);
        Poll::Ready(Ok(()))
    }

    /// Writes, as [`tokio::io::AsyncWrite`] does.
    pub fn poll_write(&self, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.inner().stream).poll_write(cx, buf)
    }

    /// Tells the peer that nothing more comes. Reading goes on.
    pub fn shut(&self) {
        let mut inner = self.inner();
        if !std::mem::replace(&mut inner.is_shut, true) {
            let mut cx = Context::from_waker(Waker::noop());
            let _ = Pin::new(&mut inner.stream).poll_shutdown(&mut cx);
        }
    }

    /// The first bytes that come, which are not taken; none at the end.
    pub async fn peek(&self, buf: &mut [u8]) -> io::Result<usize> {
        poll_fn(|cx| self.poll_peek(cx)).await?;
        let inner = self.inner();
        let count = inner.ahead.len().min(buf.len());
        buf.iter_mut().zip(inner.ahead.iter()).for_each(|(to, from)| *to = *from);
        Ok(count)
    }

    /// Whether there is nothing to read, and no end either.
    pub fn is_quiet(&self) -> bool {
        let mut cx = Context::from_waker(Waker::noop());
        self.poll_peek(&mut cx).is_pending()
    }

    fn poll_peek(&self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let mut inner = self.inner();
        if !inner.ahead.is_empty() {
            return Poll::Ready(Ok(()));
        }
        let mut bytes = [0; AHEAD_BYTES];
        let mut read = ReadBuf::new(&mut bytes);
        ready!(Pin::new(&mut inner.stream).poll_read(cx, &mut read))?;
        inner.ahead.extend(read.filled());
        Poll::Ready(Ok(()))
    }
}
