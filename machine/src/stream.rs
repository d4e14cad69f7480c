//! Connections.

use crate::made::Made;
use crate::{Duplex, replaced};
use socket2::SockRef;
use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

/// A connection.
#[derive(Debug)]
pub enum TcpStream {
    /// The kernel's.
    Kernel(tokio::net::TcpStream),
    /// Another machine's.
    Replaced(Box<Made>),
}

/// A connection that was accepted, and does not block. The runtime has not been told of it: one that ends soon may never
/// have to be waited for.
#[derive(Debug)]
pub enum Accepted {
    /// The kernel's.
    Kernel(std::net::TcpStream),
    /// Another machine's.
    Replaced(Box<Made>),
}

impl Accepted {
    /// One that can be waited for, inside a runtime.
    pub fn watched(self) -> io::Result<TcpStream> {
        Ok(match self {
            Self::Kernel(stream) => TcpStream::Kernel(tokio::net::TcpStream::from_std(stream)?),
            Self::Replaced(stream) => TcpStream::Replaced(stream),
        })
    }
}

/// As [`TcpStream::give_up_after`].
pub fn give_up_after(tcp: &SockRef<'_>, limit: Option<Duration>) {
    #[cfg(target_os = "linux")]
    let _ = tcp.set_tcp_user_timeout(limit);
    #[cfg(not(target_os = "linux"))]
    let _ = (tcp, limit);
}

impl TcpStream {
    /// Opens a connection.
    pub async fn connect(address: SocketAddr) -> io::Result<Self> {
        match replaced() {
            None => tokio::net::TcpStream::connect(address).await.map(Self::Kernel),
            Some(machine) => machine.connect(address).await.map(Self::made_of),
        }
    }

    fn made_of(stream: Box<dyn Duplex>) -> Self {
        Self::Replaced(Box::new(Made::new(stream)))
    }

    /// The kernel's connection, for what only it can do.
    pub fn kernel(&self) -> Option<&tokio::net::TcpStream> {
        match self {
            Self::Kernel(stream) => Some(stream),
            Self::Replaced(_) => None,
        }
    }

    /// Sends what is written at once.
    pub fn set_nodelay(&self) -> io::Result<()> {
        self.kernel().map_or(Ok(()), |stream| stream.set_nodelay(true))
    }

    /// Lets the kernel break the connection when the peer takes nothing of what waits for it for this long, or is not
    /// heard of meanwhile. Best effort.
    pub fn give_up_after(&self, limit: Option<Duration>) {
        if let Some(stream) = self.kernel() {
            give_up_after(&SockRef::from(stream), limit);
        }
    }

    /// The first bytes that come, which are not taken; none at the end.
    pub async fn peek(&self, buf: &mut [u8]) -> io::Result<usize> {
        match self {
            Self::Kernel(stream) => stream.peek(buf).await,
            Self::Replaced(stream) => stream.peek(buf).await,
        }
    }
}

impl From<tokio::net::TcpStream> for TcpStream {
    fn from(stream: tokio::net::TcpStream) -> Self {
        Self::Kernel(stream)
    }
}

impl AsyncRead for TcpStream {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Kernel(stream) => Pin::new(stream).poll_read(cx, buf),
            Self::Replaced(stream) => stream.poll_read(cx, buf),
        }
    }
}

impl AsyncWrite for TcpStream {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        match self.get_mut() {
            Self::Kernel(stream) => Pin::new(stream).poll_write(cx, buf),
            Self::Replaced(stream) => stream.poll_write(cx, buf),
        }
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        match self.get_mut() {
            Self::Kernel(stream) => Pin::new(stream).poll_write_vectored(cx, bufs),
            Self::Replaced(stream) => {
                let first = bufs.iter().find(|buf| !buf.is_empty()).map_or(&[][..], |buf| &buf[..]);
                stream.poll_write(cx, first)
            }
        }
    }

    fn is_write_vectored(&self) -> bool {
        self.kernel().is_some_and(AsyncWrite::is_write_vectored)
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Kernel(stream) => Pin::new(stream).poll_flush(cx),
            Self::Replaced(_) => Poll::Ready(Ok(())),
        }
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Kernel(stream) => Pin::new(stream).poll_shutdown(cx),
            Self::Replaced(stream) => {
                stream.shut();
                Poll::Ready(Ok(()))
            }
        }
    }
}
