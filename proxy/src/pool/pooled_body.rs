//! The body of an answer, which holds its connection until it was read.

use std::cell::Cell;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::Bytes;
use http::Response;
use http::response::Parts;
use http_body::{Body, Frame, SizeHint};
use tokio::time::{Instant, Sleep, sleep_until};

use super::http2::{SharedAnswer, Ticket};
use super::share::Share;
use super::{Chore, Chores, Connection, Ended, PoolLimits, switches};
use crate::body::BodyError;
use crate::boxed::boxed;
use crate::http2::{Room, RoomShare};
use crate::io::Io;

/// What is read of an answer at once.
const READ_BYTES: usize = 32 * 1024;
/// Frames of an answer that flows between two looks at the clock.
const FRAMES_PER_LOOK: u8 = 8;

/// What happens to an answer that is dropped before its end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum OnDrop {
    /// The connection is closed.
    Close,
    /// The rest is read and thrown away, so that the peer's end of the request is seen.
    Drain,
    /// As [`OnDrop::Drain`], after the peer was told, by shutting the write side, that nobody listens any more: for
    /// answers that would never end by themselves.
    HangUpAndDrain,
    /// As [`OnDrop::HangUpAndDrain`], for as long as [`OnDrop::Drain`]: for who must know when the peer has ended the
    /// request, although it would have had more to say.
    HangUpAndWait,
}

/// The peer fell silent within its answer.
#[derive(Debug, thiserror::Error)]
#[error("the peer has sent nothing more of its answer for too long")]
pub struct Silent;

/// The answer took longer than any may.
#[derive(Debug, thiserror::Error)]
#[error("the answer has taken longer than any may")]
pub struct TooLong;

/// How long the peer may be silent while its answer is waited for.
struct Silence {
    limit: Duration,
    sent_bytes: Rc<Cell<u64>>,
    sent_before: u64,
    since: Option<Instant>,
    /// Made at the first silence: most answers are there at once.
    timer: Option<Pin<Box<Sleep>>>,
}

/// What an answer comes on.
pub(super) enum Carrier {
    /// A connection of its own.
    Http1(Connection),
    /// A stream of a shared one. Its end is the stream's, which dropping the answer resets.
    Http2 {
        answer: Rc<SharedAnswer>,
        _ticket: Ticket,
        _share: Option<Share>,
        _window: Option<RoomShare>,
        limits: PoolLimits,
        chores: Chores,
    },
}

impl Carrier {
    fn poll_frame(&mut self, cx: &mut Context<'_>, read_bytes: usize) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        match self {
            Self::Http1(connection) => connection.wire.poll_frame(cx, read_bytes).map_err(Into::into),
            Self::Http2 { answer, .. } => answer.poll_frame(cx),
        }
    }

    fn held_bytes(&self) -> usize {
        match self {
            Self::Http1(connection) => connection.wire.held_bytes(),
            // Bounded by the window of its connection.
            Self::Http2 { .. } => 0,
        }
    }

    fn is_at_end(&self) -> bool {
        match self {
            Self::Http1(connection) => connection.wire.is_at_end(),
            Self::Http2 { answer, .. } => answer.is_end_stream(),
        }
    }
}

/// The body of a pooled connection's answer.
pub struct PooledBody {
    /// `None` once the answer has ended, or broken off.
    connection: Option<Carrier>,
    /// Why it broke off, until that was told.
    broken: Option<BodyError>,
    ended: Option<Ended>,
    on_drop: OnDrop,
    silence: Option<Silence>,
    /// Asked about at each wait and now and then between: an answer that flows is cut as well.
    until: Option<Instant>,
    frames_to_look: u8,
    /// What the client's connection may keep, and of it what is read of this answer and not taken; nothing bounds it
    /// where it carries one answer at a time.
    room: Option<(Room, RoomShare)>,
}

impl PooledBody {
    pub(super) fn of_answer(head: Parts, carrier: Carrier, room: Option<Room>) -> Box<Response<Self>> {
        let over = carrier.is_at_end() && !switches(head.status);
        let mut answer = boxed(|| Response::from_parts(head, Self::new(carrier, None)));
        let body = answer.body_mut();
        body.room = room.map(|room| {
            let share = room.keep_some();
            (room, share)
        });
        body.count_held();
        if over {
            body.finish();
        }
        answer
    }

    fn new(connection: Carrier, ended: Option<Ended>) -> Self {
        Self {
            connection: Some(connection),
            broken: None,
            ended,
            on_drop: OnDrop::Close,
            silence: None,
            until: None,
            frames_to_look: FRAMES_PER_LOOK,
            room: None,
        }
    }

    /// The whole body, if it has come already, over HTTP/1.1 and with a stated length: its connection is then free. `count`
    /// is told its length before the answer is over.
    pub fn take_whole(&mut self, count: impl FnOnce(u64)) -> Option<Bytes> {
        let Some(Carrier::Http1(connection)) = &self.connection else { return None };
        let data = connection.wire.take_rest()?;
        count(data.len() as u64);
        self.finish();
        self.count_held();
        Some(match &self.room {
            Some((room, _)) => room.keep(data),
            None => data,
        })
    }

    /// Breaks off with [`Silent`] when it is waited for so long while no byte goes either way; `sent_bytes` counts
    /// those of the request. Without this, a peer may be silent for as long as it likes. Who asks for more before it has sent
    /// on what has come waits from then on.
    pub fn limit_silence(&mut self, limit: Duration, sent_bytes: Rc<Cell<u64>>) {
        let sent_before = sent_bytes.get();
        self.silence = Some(Silence { limit, sent_bytes, sent_before, since: None, timer: None });
    }

    /// Breaks off with [`TooLong`] when it is still being read after `until`, at the latest a few frames after that (or when
    /// its silence is over).
    pub fn limit_time(&mut self, until: Option<Instant>) {
        self.until = until;
    }

    /// Says what happens when it is dropped before its end; [`OnDrop::Close`] unless said.
    pub fn on_drop(&mut self, on_drop: OnDrop) {
        self.on_drop = on_drop;
    }

    /// Reads the rest and throws it away.
    pub async fn drain(mut self) {
        while let Some(Ok(_)) = std::future::poll_fn(|cx| Pin::new(&mut self).poll_frame(cx)).await {}
    }

    /// It goes on for as long as its two sides like, a WebSocket or an event stream: over HTTP/1.1 its connection is counted
    /// among those that last, so that requests have its place. Where there are as many as there may be, it keeps that.
    pub fn leave_requests(&mut self) {
        if let Some(Carrier::Http1(connection)) = &mut self.connection {
            connection.leave_requests();
        }
    }

    /// After a `101`: the connection, with what came behind the answer. The body goes on keeping its place in the pool.
    pub(crate) fn switch(&mut self) -> Option<Io> {
        self.room = None;
        self.leave_requests();
        match &self.connection {
            Some(Carrier::Http1(connection)) => connection.wire.switch(),
            Some(Carrier::Http2 { .. }) | None => None,
        }
    }

    pub(super) fn on_end(&mut self, ended: Ended) {
        // A body that has ended keeps no connection; dropping the notice sends it.
        if self.connection.is_some() {
            self.ended = Some(ended);
        }
    }

    /// Closes the connection if it has been silent for too long.
    fn poll_silence(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        if self.silence.as_mut().is_none_or(|silence| silence.poll_over(cx).is_pending()) {
            return Poll::Pending;
        }
        self.break_off(Box::new(Silent))
    }

    fn break_off(&mut self, error: BodyError) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        self.connection = None;
        self.ended = None;
        self.until = None;
        Poll::Ready(Some(Err(error)))
    }

    fn count_held(&mut self) {
        if let Some((_, share)) = &mut self.room {
            share.resize(self.connection.as_ref().map_or(0, Carrier::held_bytes));
        }
    }

    /// Called once the whole answer was read.
    fn finish(&mut self) {
        if let Some(Carrier::Http1(connection)) = self.connection.take() {
            connection.give_back();
        }
        self.ended = None;
    }
}

impl Silence {
    /// Whether the silence has lasted too long. Called when nothing is there.
    fn poll_over(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        let mut since = *self.since.get_or_insert_with(Instant::now);
        loop {
            let limit = self.limit;
            let timer = self.timer.get_or_insert_with(|| Box::pin(sleep_until(since + limit)));
            ready!(timer.as_mut().poll(cx));
            let sent = self.sent_bytes.get();
            if sent != self.sent_before {
                self.sent_before = sent;
                since = Instant::now();
                self.since = Some(since);
            } else if timer.deadline() >= since + limit {
                return Poll::Ready(());
            }
            timer.as_mut().reset(since + limit);
        }
    }
}

impl PooledBody {
    fn poll_next(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        if let Some(error) = self.broken.take() {
            return Poll::Ready(Some(Err(error)));
        }
        if self.frames_to_look == 0 {
            self.frames_to_look = FRAMES_PER_LOOK;
            if self.until.is_some_and(|until| Instant::now() >= until) {
                return self.break_off(Box::new(TooLong));
            }
        }
        let read_bytes = self.room.as_ref().map_or(READ_BYTES, |(room, _)| room.read_bytes());
        let Some(connection) = self.connection.as_mut() else { return Poll::Ready(None) };
        let polled = connection.poll_frame(cx, read_bytes);
        let at_end = connection.is_at_end();
        match polled {
            Poll::Pending => {
                self.frames_to_look = 0;
                self.poll_silence(cx)
            }
            Poll::Ready(Some(Ok(frame))) => {
                self.frames_to_look = self.frames_to_look.saturating_sub(1);
                if let Some(silence) = &mut self.silence {
                    silence.since = None;
                }
                if at_end {
                    self.finish();
                }
                let frame = match &self.room {
                    Some((room, _)) => frame.map_data(|data| room.keep(data)),
                    None => frame,
                };
                Poll::Ready(Some(Ok(frame)))
            }
            Poll::Ready(Some(Err(error))) => {
                self.connection = None;
                self.ended = None;
                // Told one poll later: who sends it on may drop what it has not written at an error, and the client would
                // see nothing at all of an answer that was cut.
                self.broken = Some(error);
                cx.waker().wake_by_ref();
                Poll::Pending
            }
            Poll::Ready(None) => {
                self.finish();
                Poll::Ready(None)
            }
        }
    }
}

impl Body for PooledBody {
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        let polled = self.poll_next(cx);
        self.count_held();
        polled
    }

    fn is_end_stream(&self) -> bool {
        self.broken.is_none() && self.connection.as_ref().is_none_or(Carrier::is_at_end)
    }

    fn size_hint(&self) -> SizeHint {
        match &self.connection {
            Some(Carrier::Http1(connection)) => connection.wire.size_hint(),
            Some(Carrier::Http2 { answer, .. }) => answer.size_hint(),
            None if self.broken.is_some() => SizeHint::default(),
            None => SizeHint::with_exact(0),
        }
    }
}

impl Drop for PooledBody {
    fn drop(&mut self) {
        let Some(connection) = self.connection.take() else { return };
        if self.on_drop == OnDrop::Close {
            return;
        }
        let (limits, chores) = match &connection {
            Carrier::Http1(connection) => (*connection.limits(), connection.chores.clone()),
            Carrier::Http2 { limits, chores, .. } => (*limits, chores.clone()),
        };
        let limit_ms = match (self.on_drop, &connection) {
            (OnDrop::HangUpAndDrain, Carrier::Http1(connection)) => {
                connection.socket.half_close();
                limits.hung_up_ms
            }
            (OnDrop::HangUpAndWait, Carrier::Http1(connection)) => {
                connection.socket.half_close();
                limits.abandoned_ms
            }
            (OnDrop::HangUpAndDrain, Carrier::Http2 { .. }) => limits.hung_up_ms,
            _ => limits.abandoned_ms,
        };
        let rest = Self::new(connection, self.ended.take());
        let _ = chores.send(Chore::Drain(Box::new(rest), Duration::from_millis(limit_ms)));
    }
}
