//! What one client's HTTP/2 connection may keep in this process's memory, over all of its streams.
//!
//! A client can stall many answers at once, each with bytes at hand that it does not take. So what is read of a cell's
//! answer at once follows from what its client's connection keeps already: the first answers are read in large pieces,
//! and the more lies about, the smaller the pieces of all of them, down to a floor with which every answer still moves.
//! What was handed to the connection and waits for the socket is bounded for all streams together.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::{Context, Poll, Waker};

use bytes::Bytes;
use http::request::Parts;
use parking_lot::Mutex;

use super::STREAMS_MAX;

/// What all streams of a connection may keep, beyond the floors.
pub const KEPT_MAX_BYTES: usize = 64 * 1024;
/// What may wait for the socket, of all streams together.
pub const QUEUED_MAX_BYTES: usize = 64 * 1024;
/// What may be kept of requests' bodies, to be sent again, of all streams together.
pub const REPLAY_MAX_BYTES: usize = 256 * 1024;
/// What peers may send before it is read, of all streams together, in wide windows.
const WINDOWS_MAX_BYTES: usize = 60 * 1024;
/// What the heads of requests may take that are not answered, of all streams together: about 5 KiB each.
pub const HEADS_MAX_BYTES: usize = 512 * 1024;
/// What the smallest piece takes on its way out.
const PIECE_MIN_BYTES: usize = 512;
/// What a field takes beside its text.
const FIELD_BYTES: usize = 128;
/// Who may wait for the queue before all are asked whether they still do.
const WAITING_MAX: usize = 2 * STREAMS_MAX as usize;
/// What is read of one answer at once: at most, and at least.
pub(crate) const READ_MAX_BYTES: usize = 16 * 1024;
pub(crate) const READ_MIN_BYTES: usize = 1024;
/// The part of what is left that one answer may read at once, …
const READ_PART: usize = 4;
/// … and, before anything is known of it, for its head and little more: at most, and as a part.
const FIRST_READ_MAX_BYTES: usize = 2 * 1024;
const FIRST_READ_PART: usize = 32;

/// The room of one connection. Clones share it.
#[derive(Clone, Default)]
pub struct Room(Arc<State>);

#[derive(Default)]
struct State {
    kept: AtomicUsize,
    queued: AtomicUsize,
    replay: AtomicUsize,
    heads: AtomicUsize,
    windows: AtomicUsize,
    waiting: Mutex<Vec<Waker>>,
}

impl Room {
    /// What may be read of an answer now.
    pub(crate) fn read_bytes(&self) -> usize {
        (self.left_bytes() / READ_PART).clamp(READ_MIN_BYTES, READ_MAX_BYTES)
    }

    /// What may be read of an answer of which nothing is known.
    pub(crate) fn first_read_bytes(&self) -> usize {
        (self.left_bytes() / FIRST_READ_PART).clamp(READ_MIN_BYTES, FIRST_READ_MAX_BYTES)
    }

    fn left_bytes(&self) -> usize {
        KEPT_MAX_BYTES.saturating_sub(self.0.kept.load(Ordering::Relaxed))
    }

    /// A share of what may be kept to be sent again; given back when dropped.
    pub fn keep_to_replay(&self, bytes: usize) -> Option<RoomShare> {
        self.share(|state| &state.replay, bytes, REPLAY_MAX_BYTES)
    }

    /// A share for the head of a request that is not answered.
    pub(crate) fn keep_head(&self, head: &Parts) -> Option<RoomShare> {
        let fields = head.headers.iter().map(|(name, value)| name.as_str().len() + value.len() + FIELD_BYTES);
        let target = head.uri.path_and_query().map_or(0, |target| target.as_str().len());
        self.share(|state| &state.heads, target + fields.sum::<usize>(), HEADS_MAX_BYTES)
    }

    /// A share for an answer's window on a connection that it has with others. What has arrived in there is kept, taken or
    /// not, so past a few of them a client's answers get narrow ones, for which there is always room.
    pub(crate) fn keep_window(&self, bytes: usize) -> Option<RoomShare> {
        self.share(|state| &state.windows, bytes, WINDOWS_MAX_BYTES)
    }

    fn share(&self, of: fn(&State) -> &AtomicUsize, bytes: usize, max_bytes: usize) -> Option<RoomShare> {
        let taken = of(&self.0).fetch_update(Ordering::Relaxed, Ordering::Relaxed, |kept| {
            kept.checked_add(bytes).filter(|total| *total <= max_bytes)
        });
        taken.is_ok().then(|| RoomShare { room: self.clone(), of, bytes })
    }

    /// Counts these bytes until the last of them is dropped.
    pub(crate) fn keep(&self, bytes: Bytes) -> Bytes {
        if bytes.is_empty() {
            return bytes;
        }
        self.0.kept.fetch_add(cost(&bytes), Ordering::Relaxed);
        Bytes::from_owner(Kept { room: self.clone(), bytes })
    }

    /// A share of what all streams may keep, which follows what one of them does keep: see [`RoomShare::resize`].
    pub(crate) fn keep_some(&self) -> RoomShare {
        RoomShare { room: self.clone(), of: |state| &state.kept, bytes: 0 }
    }

    /// Ready once more may wait for the socket. One stream alone may always send: what it queues is bounded by itself.
    pub(crate) fn poll_queue(&self, cx: &mut Context<'_>) -> Poll<()> {
        if self.has_queue() {
            return Poll::Ready(());
        }
        let mut waiting = self.0.waiting.lock();
        // Streams that were reset while they waited leave theirs behind.
        let stale = if waiting.len() < WAITING_MAX { Vec::new() } else { std::mem::take(&mut *waiting) };
        if !waiting.iter().any(|waker| waker.will_wake(cx.waker())) {
            waiting.push(cx.waker().clone());
        }
        drop(waiting);
        stale.into_iter().for_each(Waker::wake);
        // It may have emptied meanwhile.
        if self.has_queue() { Poll::Ready(()) } else { Poll::Pending }
    }

    fn has_queue(&self) -> bool {
        self.0.queued.load(Ordering::Acquire) < QUEUED_MAX_BYTES
    }

    /// Counts these bytes as waiting for the socket until they are dropped.
    pub(crate) fn queue(&self, bytes: Bytes) -> Bytes {
        if bytes.is_empty() {
            return bytes;
        }
        self.0.queued.fetch_add(cost(&bytes), Ordering::AcqRel);
        Bytes::from_owner(Queued { room: self.clone(), bytes })
    }
}

/// What a piece takes: its bytes, or the frame and the owners around them.
fn cost(piece: &Bytes) -> usize {
    piece.len().max(PIECE_MIN_BYTES)
}

/// A share of what may be kept, given back when dropped.
pub struct RoomShare {
    room: Room,
    of: fn(&State) -> &AtomicUsize,
    bytes: usize,
}

impl RoomShare {
    /// Makes it the share of so many bytes, whatever the bound.
    pub(crate) fn resize(&mut self, bytes: usize) {
        let count = (self.of)(&self.room.0);
        count.fetch_add(bytes, Ordering::Relaxed);
        count.fetch_sub(std::mem::replace(&mut self.bytes, bytes), Ordering::Relaxed);
    }
}

impl Drop for RoomShare {
    fn drop(&mut self) {
        (self.of)(&self.room.0).fetch_sub(self.bytes, Ordering::Relaxed);
    }
}

struct Kept {
    room: Room,
    bytes: Bytes,
}

impl AsRef<[u8]> for Kept {
    fn as_ref(&self) -> &[u8] {
        &self.bytes
    }
}

impl Drop for Kept {
    fn drop(&mut self) {
        self.room.0.kept.fetch_sub(cost(&self.bytes), Ordering::Relaxed);
    }
}

struct Queued {
    room: Room,
    bytes: Bytes,
}

impl AsRef<[u8]> for Queued {
    fn as_ref(&self) -> &[u8] {
        &self.bytes
    }
}

impl Drop for Queued {
    fn drop(&mut self) {
        let state = &self.room.0;
        let before = state.queued.fetch_sub(cost(&self.bytes), Ordering::AcqRel);
        if before >= QUEUED_MAX_BYTES && self.room.has_queue() {
            // Woken outside the lock: a waker may run what locks again.
            let waiting = std::mem::take(&mut *state.waiting.lock());
            waiting.into_iter().for_each(Waker::wake);
        }
    }
}

#[cfg(test)]
mod tests;
