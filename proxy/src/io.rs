//! A connection's bytes, in clear or out of TLS, as one type.

use std::io;
use std::mem::MaybeUninit;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use crate::socket::Socket;

/// The bytes. TLS is boxed: it is large, and a connection in clear should not pay for it.
pub(crate) enum Io {
    Clear(Socket),
    /// In clear, and some of it was read already.
    Begun(Box<Begun>),
    Accepted(Box<tokio_rustls::server::TlsStream<Socket>>),
    Connected(Box<tokio_rustls::client::TlsStream<Socket>>),
}

/// A connection, and what comes before the rest of it.
pub(crate) struct Begun {
    early: Bytes,
    io: Io,
}

impl Io {
    /// The connection with these bytes before what comes of it.
    pub(crate) fn behind(self, early: Bytes) -> Self {
        if early.is_empty() { self } else { Self::Begun(Box::new(Begun { early, io: self })) }
    }

    /// Tells the peer that nothing more comes, also where TLS has not said so.
    pub(crate) fn half_close(&self) {
        match self {
            Self::Clear(socket) => socket.handle().half_close(),
            Self::Begun(begun) => begun.io.half_close(),
            Self::Accepted(tls) => tls.get_ref().0.handle().half_close(),
            Self::Connected(tls) => tls.get_ref().0.handle().half_close(),
        }
    }
}

impl Io {
    /// Ready where a read may find something. TLS knows only by reading.
    pub(crate) fn poll_may_read(&self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self {
            Self::Clear(socket) => socket.poll_may_read(cx),
            Self::Begun(_) | Self::Accepted(_) | Self::Connected(_) => Poll::Ready(Ok(())),
        }
    }
}

impl Io {
    /// Reads into `bytes`, and gives `take` what was read; says how much that was.
    pub(crate) fn poll_read_into(
        &mut self,
        cx: &mut Context<'_>,
        bytes: &mut [MaybeUninit<u8>],
        mut take: impl FnMut(&[u8]),
    ) -> Poll<io::Result<usize>> {
        if let Self::Clear(socket) = self {
            return socket.poll_recv(cx, bytes, &mut take);
        }
        let mut read = ReadBuf::uninit(bytes);
        ready!(Pin::new(self).poll_read(cx, &mut read))?;
        take(read.filled());
        Poll::Ready(Ok(read.filled().len()))
    }
}

impl Begun {
    fn poll_read(&mut self, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        if self.early.is_empty() {
            return Pin::new(&mut self.io).poll_read(cx, buf);
        }
        let length = self.early.len().min(buf.remaining());
        buf.put_slice(&self.early.split_to(length));
        if self.early.is_empty() {
            // Even an empty rest would keep what it was read into.
            self.early = Bytes::new();
        }
        Poll::Ready(Ok(()))
    }
}

impl AsyncRead for Io {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        match &mut *self {
            Self::Clear(io) => Pin::new(io).poll_read(cx, buf),
            Self::Begun(begun) => begun.poll_read(cx, buf),
            Self::Accepted(io) => Pin::new(io).poll_read(cx, buf),
            Self::Connected(io) => Pin::new(io).poll_read(cx, buf),
        }
    }
}

impl AsyncWrite for Io {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        match &mut *self {
            Self::Clear(io) => Pin::new(io).poll_write(cx, buf),
            Self::Begun(begun) => Pin::new(&mut begun.io).poll_write(cx, buf),
            Self::Accepted(io) => Pin::new(io).poll_write(cx, buf),
            Self::Connected(io) => Pin::new(io).poll_write(cx, buf),
        }
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        match &mut *self {
            Self::Clear(io) => Pin::new(io).poll_write_vectored(cx, bufs),
            Self::Begun(begun) => Pin::new(&mut begun.io).poll_write_vectored(cx, bufs),
            Self::Accepted(io) => Pin::new(io).poll_write_vectored(cx, bufs),
            Self::Connected(io) => Pin::new(io).poll_write_vectored(cx, bufs),
        }
    }

    fn is_write_vectored(&self) -> bool {
        match self {
            Self::Clear(io) => io.is_write_vectored(),
            Self::Begun(begun) => begun.io.is_write_vectored(),
            Self::Accepted(io) => io.is_write_vectored(),
            Self::Connected(io) => io.is_write_vectored(),
        }
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match &mut *self {
            Self::Clear(io) => Pin::new(io).poll_flush(cx),
            Self::Begun(begun) => Pin::new(&mut begun.io).poll_flush(cx),
            Self::Accepted(io) => Pin::new(io).poll_flush(cx),
            Self::Connected(io) => Pin::new(io).poll_flush(cx),
        }
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match &mut *self {
            Self::Clear(io) => Pin::new(io).poll_shutdown(cx),
            Self::Begun(begun) => Pin::new(&mut begun.io).poll_shutdown(cx),
            Self::Accepted(io) => Pin::new(io).poll_shutdown(cx),
            Self::Connected(io) => Pin::new(io).poll_shutdown(cx),
        }
    }
}
