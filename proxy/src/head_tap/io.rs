//! A connection whose incoming bytes are checked by a [`HeadTap`], and cut off at the first fault; and the last word that
//! it says.

use std::io;
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock};
use std::task::{Context, Poll, ready};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use super::{HeadTap, Stop};
use crate::hygiene::BadRequest;

/// What is known of a connection on both sides of hyper.
#[derive(Clone, Default)]
pub(crate) struct Notes(Arc<Noted>);

#[derive(Default)]
struct Noted {
    /// The first fault of its requests.
    fault: OnceLock<(u64, BadRequest)>,
    /// It ends because whoever serves it wants it to.
    parting: AtomicBool,
}

impl Notes {
    /// The fault of the request with this number, from 0.
    pub(crate) fn fault_of(&self, number: u64) -> Option<BadRequest> {
        self.0.fault.get().filter(|(first, _)| number >= *first).map(|(_, fault)| *fault)
    }

    /// As the connection ends, its farewell is to be said.
    pub(crate) fn part(&self) {
        self.0.parting.store(true, Ordering::Relaxed);
    }
}

/// The connection. `T` goes wherever it goes, into a tunnel too.
pub(crate) struct CheckedIo<I, T> {
    io: I,
    tap: HeadTap,
    notes: Notes,
    /// After a fault: what is still to be read in place of the rest.
    ending: Option<&'static [u8]>,
    /// What is left to say at the end.
    farewell: &'static [u8],
    _kept: T,
}

impl<I, T> CheckedIo<I, T> {
    pub(crate) fn new(io: I, farewell: &'static [u8], kept: T) -> (Self, Notes) {
        let notes = Notes::default();
        let checked = Self { io, tap: HeadTap::new(), notes: notes.clone(), ending: None, farewell, _kept: kept };
        (checked, notes)
    }

    /// Whether the farewell belongs here: not into a tunnel, nor after bytes that made no sense.
    fn says_farewell(&self) -> bool {
        let parting = self.notes.0.parting.load(Ordering::Relaxed);
        parting && self.ending.is_none() && !self.tap.is_tunnel()
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
                let _ = self.notes.0.fault.set(fault);
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

    /// hyper ends a connection in good order only when each answer that it began is written to its end, so the farewell
    /// can be taken for the answer to nothing but a request that was not read.
    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        while !self.farewell.is_empty() && self.says_farewell() {
            let left = self.farewell;
            let written = ready!(Pin::new(&mut self.io).poll_write(cx, left));
            // A peer that is gone needs none.
            self.farewell = &left[written.unwrap_or(left.len())..];
        }
        Pin::new(&mut self.io).poll_shutdown(cx)
    }
}
