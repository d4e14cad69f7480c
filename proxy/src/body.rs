//! The bodies that go out: towards a cell as [`RequestBody`], towards a client as [`ResponseBody`].

use std::cell::Cell;
use std::pin::Pin;
use std::rc::Rc;
use std::sync::Arc;
use std::task::{Context, Poll, Waker, ready};

use bytes::Bytes;
use http_body::{Body, Frame, SizeHint};
use parking_lot::Mutex;

use crate::held::{HeldBody, HeldHandle};
use crate::http2::Room;
use crate::hygiene;
use crate::incoming::IncomingBody;
use crate::pool::PooledBody;
use crate::socket::SocketHandle;

/// Why a body broke off.
pub type BodyError = Box<dyn std::error::Error + Send + Sync>;

/// What becomes of the connection when the source of a request's body breaks off.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum OnBreak {
    /// It is closed: the peer sees a request that was cut.
    Close,
    /// Only its write side is shut, and the peer is heard to the end: it answers, or closes. For who must know when
    /// the peer has ended the request. HTTP/2 has no such half for a part of a body: there the peer is sent nothing
    /// more, and ends the request by its own time limit.
    HalfClose,
}

/// Slows a body down. Nothing is kept meanwhile: the source is not asked.
pub trait Pace {
    /// Ready once more bytes may pass. The wait must be bounded.
    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<()>;
    /// Bytes have passed.
    fn passed(&mut self, bytes: usize);
}

/// What was handed to a connection and is not written yet, of a body whose client sends many at a time: as long as
/// there is some, no more of it is read. What the client sends meanwhile waits in its window.
#[derive(Clone, Default)]
struct Unsent(Arc<Mutex<Outgoing>>);

#[derive(Default)]
struct Outgoing {
    frames: usize,
    waiting: Option<Waker>,
}

struct Counted {
    bytes: Bytes,
    unsent: Unsent,
}

impl Unsent {
    fn poll_ready(&self, cx: &mut Context<'_>) -> Poll<()> {
        let mut outgoing = self.0.lock();
        if outgoing.frames == 0 {
            return Poll::Ready(());
        }
        outgoing.waiting = Some(cx.waker().clone());
        Poll::Pending
    }

    fn count(&self, bytes: Bytes) -> Bytes {
        if bytes.is_empty() {
            return bytes;
        }
        self.0.lock().frames += 1;
        Bytes::from_owner(Counted { bytes, unsent: self.clone() })
    }
}

impl AsRef<[u8]> for Counted {
    fn as_ref(&self) -> &[u8] {
        &self.bytes
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        let waiting = {
            let mut outgoing = self.unsent.0.lock();
            outgoing.frames -= 1;
            outgoing.waiting.take()
        };
        if let Some(waiting) = waiting {
            waiting.wake();
        }
    }
}

enum Source {
    Empty,
    Kept(Option<Bytes>),
    Held(HeldBody),
    Streamed(IncomingBody),
    /// Broken off from our side.
    Gone,
}

/// A request's body on its way out.
pub struct RequestBody {
    source: Source,
    on_break: OnBreak,
    broken: bool,
    socket: Option<SocketHandle>,
    sent_bytes: Option<Rc<Cell<u64>>>,
    pace: Option<Box<dyn Pace>>,
    /// What its client's connection may keep, and what of this body is on its way.
    room: Option<(Room, Unsent)>,
    until: Option<Pin<Box<dyn Future<Output = ()>>>>,
}

impl RequestBody {
    fn of(source: Source) -> Self {
        Self {
            source,
            on_break: OnBreak::Close,
            broken: false,
            socket: None,
            sent_bytes: None,
            pace: None,
            room: None,
            until: None,
        }
    }

    /// No body.
    pub fn empty() -> Self {
        Self::of(Source::Empty)
    }

    /// A body kept in memory: the same bytes can be given to any number of requests.
    pub fn kept(bytes: Bytes) -> Self {
        Self::of(if bytes.is_empty() { Source::Empty } else { Source::Kept(Some(bytes)) })
    }

    /// A body that waits for its release.
    pub fn held(body: HeldBody) -> Self {
        Self::of(Source::Held(body))
    }

    /// A body passed through as it comes.
    pub fn streamed(body: IncomingBody) -> Self {
        Self::of(Source::Streamed(body))
    }

    /// Says what happens when the source breaks off; [`OnBreak::Close`] unless said.
    #[must_use]
    pub fn on_break(mut self, on_break: OnBreak) -> Self {
        self.on_break = on_break;
        self
    }

    /// Adds every byte that the connection takes to `counter`.
    #[must_use]
    pub fn counted_by(mut self, counter: Rc<Cell<u64>>) -> Self {
        self.sent_bytes = Some(counter);
        self
    }

    /// Breaks off, as if its source had, when `end` is over before the body is. It is dropped as soon as the body is over.
    #[must_use]
    pub fn until(mut self, end: impl Future<Output = ()> + 'static) -> Self {
        self.until = Some(Box::pin(end));
        self
    }

    /// Passes as `pace` says.
    #[must_use]
    pub fn paced_by(mut self, pace: Option<Box<dyn Pace>>) -> Self {
        self.pace = pace;
        self
    }

    /// Keeps the exchange within what its client's connection may keep.
    #[must_use]
    pub fn within(mut self, room: Option<Room>) -> Self {
        self.room = room.map(|room| (room, Unsent::default()));
        self
    }

    pub(crate) fn room(&self) -> Option<Room> {
        self.room.as_ref().map(|(room, _)| room.clone())
    }

    /// What releases the body, if it waits for that.
    pub(crate) fn held_handle(&self) -> Option<HeldHandle> {
        match &self.source {
            Source::Held(body) => Some(body.handle()),
            Source::Empty | Source::Kept(_) | Source::Streamed(_) | Source::Gone => None,
        }
    }

    /// Says what connection it is to be sent on.
    pub(crate) fn attach(&mut self, socket: &SocketHandle) {
        if self.on_break == OnBreak::HalfClose {
            self.socket = Some(socket.clone());
        }
    }

    fn poll_source(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        match &mut self.source {
            Source::Empty => Poll::Ready(None),
            Source::Kept(bytes) => Poll::Ready(bytes.take().map(|bytes| Ok(Frame::data(bytes)))),
            Source::Held(body) => Pin::new(body).poll_frame(cx),
            Source::Streamed(body) => Pin::new(body).poll_frame(cx),
            Source::Gone => Poll::Ready(Some(Err("the body was cut here".into()))),
        }
    }

    /// Whether it has to break off from our side.
    fn is_cut(&mut self, cx: &mut Context<'_>) -> bool {
        let Some(end) = &mut self.until else { return false };
        if end.as_mut().poll(cx).is_pending() {
            return false;
        }
        self.until = None;
        self.source = Source::Gone;
        true
    }
}

impl std::fmt::Debug for RequestBody {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let source = match &self.source {
            Source::Empty => "empty",
            Source::Kept(_) => "kept",
            Source::Held(_) => "held",
            Source::Streamed(_) => "streamed",
            Source::Gone => "gone",
        };
        f.debug_struct("RequestBody").field("source", &source).field("on_break", &self.on_break).finish_non_exhaustive()
    }
}

impl Body for RequestBody {
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        if self.broken {
            return Poll::Pending;
        }
        if !self.is_cut(cx)
            && let Some(pace) = &mut self.pace
        {
            ready!(pace.poll_ready(cx));
        }
        if let Some((_, unsent)) = &self.room {
            ready!(unsent.poll_ready(cx));
        }
        match self.poll_source(cx) {
            Poll::Ready(Some(Ok(frame))) => {
                let frame = match &self.room {
                    Some((_, unsent)) => frame.map_data(|data| unsent.count(data)),
                    None => frame,
                };
                let length = frame.data_ref().map_or(0, Bytes::len);
                if let Some(counter) = &self.sent_bytes {
                    counter.set(counter.get() + length as u64);
                }
                if let Some(pace) = &mut self.pace {
                    pace.passed(length);
                }
                if self.is_end_stream() {
                    self.until = None;
                }
                Poll::Ready(Some(Ok(without_reserved_trailers(frame))))
            }
            // A body that fails ends its connection or stream. One that never goes on keeps the peer's answer coming.
            Poll::Ready(Some(Err(_))) if self.on_break == OnBreak::HalfClose => {
                if let Some(socket) = &self.socket {
                    socket.half_close();
                }
                self.broken = true;
                Poll::Pending
            }
            other => {
                if other.is_ready() {
                    self.until = None;
                }
                other
            }
        }
    }

    fn is_end_stream(&self) -> bool {
        match &self.source {
            Source::Empty => true,
            Source::Kept(bytes) => bytes.is_none(),
            Source::Held(body) => body.is_end_stream(),
            Source::Streamed(body) => body.is_end_stream() && !self.broken,
            Source::Gone => false,
        }
    }

    fn size_hint(&self) -> SizeHint {
        match &self.source {
            Source::Empty => SizeHint::with_exact(0),
            Source::Kept(bytes) => SizeHint::with_exact(bytes.as_ref().map_or(0, |bytes| bytes.len() as u64)),
            Source::Held(body) => body.size_hint(),
            Source::Streamed(body) => body.size_hint(),
            Source::Gone => SizeHint::default(),
        }
    }
}

/// A response's body on its way to a client.
pub enum ResponseBody {
    /// Nothing.
    Empty,
    /// Bytes that are all here.
    Full(Option<Bytes>),
    /// What a pooled connection yields. Boxed: it lies in the futures of all who pass it on.
    Pooled(Box<PooledBody>),
    /// Anything else.
    Boxed(Pin<Box<dyn Body<Data = Bytes, Error = BodyError>>>),
}

impl ResponseBody {
    /// Bytes that are all here.
    pub fn full(bytes: impl Into<Bytes>) -> Self {
        let bytes = bytes.into();
        if bytes.is_empty() { Self::Empty } else { Self::Full(Some(bytes)) }
    }

    /// A body of another type.
    pub fn boxed<B>(body: B) -> Self
    where
        B: Body<Data = Bytes> + 'static,
        B::Error: Into<BodyError>,
    {
        Self::Boxed(Box::pin(http_body_util::BodyExt::map_err(body, Into::into)))
    }
}

impl From<PooledBody> for ResponseBody {
    fn from(body: PooledBody) -> Self {
        Self::Pooled(Box::new(body))
    }
}

impl Body for ResponseBody {
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        let polled = match &mut *self {
            Self::Empty => Poll::Ready(None),
            Self::Full(bytes) => Poll::Ready(bytes.take().map(|bytes| Ok(Frame::data(bytes)))),
            Self::Pooled(body) => Pin::new(&mut **body).poll_frame(cx),
            Self::Boxed(body) => body.as_mut().poll_frame(cx),
        };
        polled.map(|frame| frame.map(|frame| frame.map(without_reserved_trailers)))
    }

    fn is_end_stream(&self) -> bool {
        match self {
            Self::Empty => true,
            Self::Full(bytes) => bytes.is_none(),
            Self::Pooled(body) => body.is_end_stream(),
            Self::Boxed(body) => body.is_end_stream(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match self {
            Self::Empty => SizeHint::with_exact(0),
            Self::Full(bytes) => SizeHint::with_exact(bytes.as_ref().map_or(0, |bytes| bytes.len() as u64)),
            Self::Pooled(body) => body.size_hint(),
            Self::Boxed(body) => body.size_hint(),
        }
    }
}

fn without_reserved_trailers(frame: Frame<Bytes>) -> Frame<Bytes> {
    match frame.into_trailers() {
        Ok(mut trailers) => {
            hygiene::strip_trailers(&mut trailers);
            Frame::trailers(trailers)
        }
        Err(frame) => frame,
    }
}
