//! A WebSocket inside an HTTP/2 stream (RFC 8441), as a connection that can be read and written.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use h2::{RecvStream, SendStream};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

/// What is written at once.
const WRITE_MAX_BYTES: usize = 16 * 1024;

/// The client's half of a tunnel.
pub(crate) struct Tunnel {
    incoming: RecvStream,
    outgoing: SendStream<Bytes>,
    unread: Bytes,
}

impl Tunnel {
    pub(super) fn new(incoming: RecvStream, outgoing: SendStream<Bytes>) -> Self {
        Self { incoming, outgoing, unread: Bytes::new() }
    }
}

impl AsyncRead for Tunnel {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        while self.unread.is_empty() {
            match ready!(self.incoming.poll_data(cx)) {
                Some(Ok(data)) => self.unread = data,
                Some(Err(error)) => return Poll::Ready(Err(into_io(error))),
                None => return Poll::Ready(Ok(())),
            }
        }
        let length = self.unread.len().min(buf.remaining());
        let part = self.unread.split_to(length);
        buf.put_slice(&part);
        // Fails only on a stream that is over, whose window nobody needs.
        let _ = self.incoming.flow_control().release_capacity(length);
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Tunnel {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        if buf.is_empty() {
            return Poll::Ready(Ok(0));
        }
        if let Poll::Ready(reset) = self.outgoing.poll_reset(cx) {
            return Poll::Ready(Err(reset.map_or_else(into_io, |_| io::ErrorKind::ConnectionReset.into())));
        }
        self.outgoing.reserve_capacity(buf.len().min(WRITE_MAX_BYTES));
        loop {
            let capacity = match self.outgoing.capacity() {
                0 => match ready!(self.outgoing.poll_capacity(cx)) {
                    Some(Ok(0)) => continue,
                    Some(Ok(capacity)) => capacity,
                    Some(Err(error)) => return Poll::Ready(Err(into_io(error))),
                    None => return Poll::Ready(Err(io::ErrorKind::BrokenPipe.into())),
                },
                capacity => capacity,
            };
            let length = capacity.min(buf.len());
            self.outgoing.send_data(Bytes::copy_from_slice(&buf[..length]), false).map_err(into_io)?;
            return Poll::Ready(Ok(length));
        }
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(self.outgoing.send_data(Bytes::new(), true).map_err(into_io))
    }
}

fn into_io(error: h2::Error) -> io::Error {
    if error.is_io() {
        error.into_io().unwrap_or_else(|| io::ErrorKind::BrokenPipe.into())
    } else {
        io::Error::other(error)
    }
}
