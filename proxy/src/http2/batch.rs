//! What is written to a connection by frames, in batches: `h2` writes and flushes each frame of data by itself, and would
//! make a system call of each, over TLS a record, too.

use std::cell::RefCell;
use std::io;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, ready};

use bytes::{Buf, BufMut, BytesMut};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use crate::io::Io;

/// What is gathered: as much as one record of TLS takes.
const BATCH_BYTES: usize = 16 * 1024;

/// The connection as its writer sees it. A flush writes nothing once [`Batches::begin`] was called.
pub(super) struct Batched(Rc<RefCell<State>>);

/// Another hold on it, of whoever knows when a batch is whole.
pub(super) struct Batches(Rc<RefCell<State>>);

struct State {
    io: Io,
    gathered: BytesMut,
    gathers: bool,
}

impl Batched {
    pub(super) fn new(io: Io) -> (Self, Batches) {
        let state = Rc::new(RefCell::new(State { io, gathered: BytesMut::new(), gathers: false }));
        (Self(Rc::clone(&state)), Batches(state))
    }
}

impl Batches {
    /// From now on flushes wait for [`Batches::poll_write`].
    pub(super) fn begin(&self) {
        self.0.borrow_mut().gathers = true;
    }

    /// Writes what was gathered. Whoever sees that it takes longer need do nothing: it goes on with the next call.
    pub(super) fn poll_write(&self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.0.borrow_mut().poll_out(cx)
    }
}

impl State {
    fn poll_gathered(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        while !self.gathered.is_empty() {
            match ready!(Pin::new(&mut self.io).poll_write(cx, &self.gathered))? {
                0 => return Poll::Ready(Err(io::ErrorKind::WriteZero.into())),
                written => self.gathered.advance(written),
            }
        }
        // Who waits keeps no buffer.
        self.gathered = BytesMut::new();
        Poll::Ready(Ok(()))
    }

    fn poll_out(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        if self.gathered.is_empty() {
            return Poll::Ready(Ok(()));
        }
        ready!(self.poll_gathered(cx))?;
        Pin::new(&mut self.io).poll_flush(cx)
    }

    fn poll_take(&mut self, cx: &mut Context<'_>, slices: &[io::IoSlice<'_>]) -> Poll<io::Result<usize>> {
        let offered: usize = slices.iter().map(|slice| slice.len()).sum();
        if self.gathered.len() + offered > BATCH_BYTES {
            ready!(self.poll_gathered(cx))?;
        }
        if offered > BATCH_BYTES {
            return Pin::new(&mut self.io).poll_write_vectored(cx, slices);
        }
        if self.gathered.is_empty() {
            self.gathered.reserve(BATCH_BYTES);
        }
        slices.iter().for_each(|slice| self.gathered.put_slice(slice));
        Poll::Ready(Ok(offered))
    }
}

impl AsyncRead for Batched {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0.borrow_mut().io).poll_read(cx, buf)
    }
}

impl AsyncWrite for Batched {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        self.0.borrow_mut().poll_take(cx, &[io::IoSlice::new(bytes)])
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        self.0.borrow_mut().poll_take(cx, slices)
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let mut state = self.0.borrow_mut();
        if state.gathers { Poll::Ready(Ok(())) } else { state.poll_out(cx) }
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let mut state = self.0.borrow_mut();
        ready!(state.poll_out(cx))?;
        Pin::new(&mut state.io).poll_shutdown(cx)
    }
}

#[cfg(test)]
mod tests {
    use std::future::poll_fn;

    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::{TcpListener, TcpStream};

    use super::*;
    use crate::socket::Socket;

    async fn pair() -> (Io, TcpStream) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let ours = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
        (Io::Clear(Socket::new(ours.into()).0), listener.accept().await.unwrap().0)
    }

    #[tokio::test]
    async fn frames_that_are_flushed_one_by_one_go_out_together_and_in_order() {
        let (io, mut peer) = pair().await;
        let (mut batched, batches) = Batched::new(io);
        batched.write_all(b"settings ").await.unwrap();
        batched.flush().await.unwrap();
        let mut heard = vec![0; 64 * 1024];
        assert_eq!(peer.read(&mut heard).await.unwrap(), 9, "before batches begin a flush writes");
        batches.begin();
        let mut said = Vec::new();
        for frame in [vec![b'a'; 10], vec![b'b'; 9_000], vec![b'c'; 9_000], vec![b'd'; 20_000], vec![b'e'; 5]] {
            batched.write_all(&frame).await.unwrap();
            batched.flush().await.unwrap();
            said.extend_from_slice(&frame);
        }
        peer.read_exact(&mut heard[..38_010]).await.unwrap();
        let rest = tokio::time::timeout(std::time::Duration::from_millis(20), peer.read(&mut heard[38_010..]));
        assert!(rest.await.is_err(), "the batch is not whole");
        poll_fn(|cx| batches.poll_write(cx)).await.unwrap();
        peer.read_exact(&mut heard[38_010..38_015]).await.unwrap();
        assert_eq!(&heard[..38_015], said);
        batched.write_all(b"last").await.unwrap();
        batched.shutdown().await.unwrap();
        let mut last = String::new();
        peer.read_to_string(&mut last).await.unwrap();
        assert_eq!(last, "last", "a shutdown leaves nothing");
    }
}
