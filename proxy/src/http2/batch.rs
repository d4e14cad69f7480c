//! What is written to a connection by frames, in batches: `h2` writes and flushes each frame of data by itself, and would
//! make a system call of each, over TLS a record, too.

use std::cell::RefCell;
use std::io;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, ready};

use bytes::{Buf, BufMut, BytesMut};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

/// What is gathered: as much as one record of TLS takes.
const BATCH_BYTES: usize = 16 * 1024;

/// The connection as its writer sees it. A flush writes nothing once [`Batches::begin`] was called.
pub(super) struct Batched<I>(Rc<RefCell<State<I>>>);

/// Another hold on it, of whoever knows when a batch is whole.
pub(super) struct Batches<I>(Rc<RefCell<State<I>>>);

struct State<I> {
    io: I,
    gathered: BytesMut,
    gathers: bool,
    /// Something was written and not flushed: TLS takes more than the socket does.
    unflushed: bool,
}

impl<I> Batched<I> {
    pub(super) fn new(io: I) -> (Self, Batches<I>) {
        let state = Rc::new(RefCell::new(State { io, gathered: BytesMut::new(), gathers: false, unflushed: false }));
        (Self(Rc::clone(&state)), Batches(state))
    }
}

impl<I: AsyncWrite + Unpin> Batches<I> {
    /// From now on flushes wait for [`Batches::poll_write`].
    pub(super) fn begin(&self) {
        self.0.borrow_mut().gathers = true;
    }

    /// Writes what was gathered. Whoever sees that it takes longer need do nothing: it goes on with the next call.
    pub(super) fn poll_write(&self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.0.borrow_mut().poll_out(cx)
    }
}

impl<I: AsyncWrite + Unpin> State<I> {
    fn poll_gathered(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        while !self.gathered.is_empty() {
            self.unflushed = true;
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
        ready!(self.poll_gathered(cx))?;
        if self.unflushed {
            ready!(Pin::new(&mut self.io).poll_flush(cx))?;
            self.unflushed = false;
        }
        Poll::Ready(Ok(()))
    }

    fn poll_take(&mut self, cx: &mut Context<'_>, slices: &[io::IoSlice<'_>]) -> Poll<io::Result<usize>> {
        let offered: usize = slices.iter().map(|slice| slice.len()).sum();
        if self.gathered.len() + offered > BATCH_BYTES {
            ready!(self.poll_gathered(cx))?;
        }
        if offered > BATCH_BYTES {
            self.unflushed = true;
            return Pin::new(&mut self.io).poll_write_vectored(cx, slices);
        }
        if self.gathered.is_empty() {
            self.gathered.reserve(BATCH_BYTES);
        }
        slices.iter().for_each(|slice| self.gathered.put_slice(slice));
        Poll::Ready(Ok(offered))
    }
}

impl<I: AsyncRead + Unpin> AsyncRead for Batched<I> {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0.borrow_mut().io).poll_read(cx, buf)
    }
}

impl<I: AsyncWrite + Unpin> AsyncWrite for Batched<I> {
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

    async fn pair() -> (TcpStream, TcpStream) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let ours = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
        (ours, listener.accept().await.unwrap().0)
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

    /// Takes all that is written, as TLS does, and lets go of it at every other flush.
    #[derive(Default)]
    struct Hoard {
        taken: usize,
        out: usize,
        was_asked: bool,
    }

    impl AsyncWrite for Hoard {
        fn poll_write(mut self: Pin<&mut Self>, _: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
            self.taken += bytes.len();
            Poll::Ready(Ok(bytes.len()))
        }

        fn poll_flush(mut self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
            self.was_asked = !self.was_asked;
            if self.was_asked {
                return Poll::Pending;
            }
            self.out = self.taken;
            Poll::Ready(Ok(()))
        }

        fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
            Poll::Ready(Ok(()))
        }
    }

    #[test]
    fn what_tls_has_taken_is_flushed_until_the_socket_has_it() {
        let mut cx = Context::from_waker(std::task::Waker::noop());
        let (mut batched, batches) = Batched::new(Hoard::default());
        batches.begin();
        for (frame, out) in [(vec![0; 10], 10), (vec![0; 2 * BATCH_BYTES], 10 + 2 * BATCH_BYTES)] {
            assert!(
                matches!(Pin::new(&mut batched).poll_write(&mut cx, &frame), Poll::Ready(Ok(length)) if length == frame.len())
            );
            assert!(batches.poll_write(&mut cx).is_pending(), "the socket is full");
            assert!(batches.poll_write(&mut cx).is_ready(), "nothing more is written, and it goes on");
            assert_eq!(batches.0.borrow().io.out, out);
        }
    }
}
