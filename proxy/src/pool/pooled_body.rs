//! The body of an answer, which holds its connection until it was read.

use std::cell::Cell;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::Bytes;
use http::Response;
use http_body::{Body, Frame, SizeHint};
use tokio::time::{Instant, Sleep, sleep_until};

use super::http2::Ticket;
use super::share::Share;
use super::{Chore, Chores, Connection, Ended, PoolLimits, switches};
use crate::body::BodyError;
use crate::http2::Room;
use crate::incoming::IncomingBody;

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
    Http2 { _ticket: Ticket, _share: Option<Share>, limits: PoolLimits, chores: Chores },
}

/// The body of a pooled connection's answer.
pub struct PooledBody {
    inner: Option<IncomingBody>,
    connection: Option<Carrier>,
    ended: Option<Ended>,
    on_drop: OnDrop,
    silence: Option<Silence>,
    /// Asked about at each wait and each frame: an answer that flows is cut as well.
    until: Option<Instant>,
    /// What the client's connection may keep; nothing bounds it where it carries one answer at a time.
    room: Option<Room>,
}

impl PooledBody {
    pub(super) fn of_response(
        response: Response<IncomingBody>,
        carrier: Carrier,
        room: Option<Room>,
    ) -> Response<Self> {
        let upgraded = switches(response.status());
        response.map(|inner| {
            let at_end = inner.is_end_stream();
            let mut body = Self::new(Some(inner), carrier, None);
            body.room = room;
            if at_end && !upgraded {
                body.finish();
            }
            body
        })
    }

    fn new(inner: Option<IncomingBody>, connection: Carrier, ended: Option<Ended>) -> Self {
        Self {
            inner,
            connection: Some(connection),
            ended,
            on_drop: OnDrop::Close,
            silence: None,
            until: None,
            room: None,
        }
    }

    /// Breaks off with [`Silent`] when it is waited for so long while no byte goes either way; `sent_bytes` counts
    /// those of the request. Without this, a peer may be silent for as long as it likes.
    pub fn limit_silence(&mut self, limit: Duration, sent_bytes: Rc<Cell<u64>>) {
        let sent_before = sent_bytes.get();
        self.silence = Some(Silence { limit, sent_bytes, sent_before, since: None, timer: None });
    }

    /// Breaks off with [`TooLong`] when it is still being read after `limit`, at the latest at its next frame after that
    /// (or when its silence is over).
    pub fn limit_time(&mut self, limit: Duration) {
        self.until = Instant::now().checked_add(limit);
    }

    /// Says what happens when it is dropped before its end; [`OnDrop::Close`] unless said.
    pub fn on_drop(&mut self, on_drop: OnDrop) {
        self.on_drop = on_drop;
    }

    /// Reads the rest and throws it away.
    pub async fn drain(mut self) {
        while let Some(Ok(_)) = std::future::poll_fn(|cx| Pin::new(&mut self).poll_frame(cx)).await {}
    }

    /// Whether the connection was switched to another protocol: the body only keeps its place in the pool.
    pub(crate) fn is_connected(&self) -> bool {
        self.connection.is_some()
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
        self.inner = None;
        self.connection = None;
        self.ended = None;
        self.until = None;
        Poll::Ready(Some(Err(error)))
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

impl Body for PooledBody {
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        if self.until.is_some_and(|until| Instant::now() >= until) {
            return self.break_off(Box::new(TooLong));
        }
        if let (Some(room), Some(Carrier::Http1(connection))) = (&self.room, &self.connection) {
            connection.socket.read_at_most(Some(room.read_bytes()));
        }
        let Some(inner) = self.inner.as_mut() else { return Poll::Ready(None) };
        let polled = Pin::new(&mut *inner).poll_frame(cx);
        let at_end = inner.is_end_stream();
        match polled {
            Poll::Pending => self.poll_silence(cx),
            Poll::Ready(Some(Ok(frame))) => {
                if let Some(silence) = &mut self.silence {
                    silence.since = None;
                }
                if at_end {
                    self.finish();
                }
                let frame = match &self.room {
                    Some(room) => frame.map_data(|data| room.keep(data)),
                    None => frame,
                };
                Poll::Ready(Some(Ok(frame)))
            }
            Poll::Ready(Some(Err(error))) => {
                self.connection = None;
                self.ended = None;
                Poll::Ready(Some(Err(error)))
            }
            Poll::Ready(None) => {
                self.finish();
                Poll::Ready(None)
            }
        }
    }

    fn is_end_stream(&self) -> bool {
        self.inner.as_ref().is_none_or(Body::is_end_stream)
    }

    fn size_hint(&self) -> SizeHint {
        self.inner.as_ref().map_or_else(|| SizeHint::with_exact(0), Body::size_hint)
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
            (OnDrop::HangUpAndDrain, Carrier::Http2 { .. }) => limits.hung_up_ms,
            _ => limits.abandoned_ms,
        };
        let (inner, ended) = (self.inner.take(), self.ended.take());
        if let Carrier::Http1(connection) = &connection {
            connection.socket.read_at_most(None);
        }
        let rest = Self::new(inner, connection, ended);
        let _ = chores.send(Chore::Drain(Box::new(rest), Duration::from_millis(limit_ms)));
    }
}
