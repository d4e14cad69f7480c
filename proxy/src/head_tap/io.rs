//! A connection whose incoming bytes are checked by a [`HeadTap`], and cut off at the first fault.

use std::io;
use std::pin::Pin;
use std::sync::{Arc, OnceLock};
use std::task::{Context, Poll, ready};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use super::{HeadTap, Stop};
use crate::hygiene::BadRequest;

/// The fault of a connection's requests, once there is one.
#[derive(Clone, Default)]
pub(crate) struct Faults(Arc<OnceLock<(u64, BadRequest)>>);

impl Faults {
    /// The fault of the request with this number, from 0.
    pub(crate) fn of(&self, number: u64) -> Option<BadRequest> {
        self.0.get().filter(|(first, _)| number >= *first).map(|(_, fault)| *fault)
    }
}

/// The connection. `T` goes wherever it goes, into a tunnel too.
pub(crate) struct CheckedIo<I, T> {
    io: I,
    tap: HeadTap,
    faults: Faults,
    /// After a fault: what is still to be read in place of the rest.
    ending: Option<&'static [u8]>,
    _kept: T,
}

impl<I, T> CheckedIo<I, T> {
    pub(crate) fn new(io: I, kept: T) -> (Self, Faults) {
        let faults = Faults::default();
        let checked = Self { io, tap: HeadTap::new(), faults: faults.clone(), ending: None, _kept: kept };
        (checked, faults)
    }
}

impl<I: AsyncRead + Unpin, T: Unpin> AsyncRead for CheckedIo<I, T> {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        match self.ending {
            // hyper ends the connection after what it was given, and needs no wake-up for that.
            Some([]) => return Poll::Pending,
            Some(ending) => {
                self.ending = Some(put(buf, ending));
                return Poll::Ready(Ok(()));
            }
            None => {}
        }
        let before = buf.filled().len();
        ready!(Pin::new(&mut self.io).poll_read(cx, buf))?;
        if let Some(Stop { keep, ending, fault }) = self.tap.feed(&buf.filled()[before..]) {
            if let Some(fault) = fault {
                // The first fault is the last.
                let _ = self.faults.0.set(fault);
            }
            buf.set_filled(before + keep);
            self.ending = Some(put(buf, ending));
        }
        Poll::Ready(Ok(()))
    }
}

/// Puts what there is room for, and gives the rest.
fn put(buf: &mut ReadBuf<'_>, bytes: &'static [u8]) -> &'static [u8] {
    let (now, later) = bytes.split_at(bytes.len().min(buf.remaining()));
    buf.put_slice(now);
    later
}

impl<I: AsyncWrite + Unpin, T: Unpin> AsyncWrite for CheckedIo<I, T> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.io).poll_write(cx, buf)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.io).poll_write_vectored(cx, bufs)
    }

    fn is_write_vectored(&self) -> bool {
        self.io.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_shutdown(cx)
    }
}
