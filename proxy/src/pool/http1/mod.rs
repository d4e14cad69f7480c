//! HTTP/1.1 towards a peer: one exchange at a time, in the task of whoever asks.
//!
//! An exchange that waits keeps its state and no buffer, so that what a client can pin by stalling many answers stays
//! small (decision 28). Heads are read by `httparse`; lengths and chunks are read here, strictly.

use std::cell::RefCell;
use std::future::poll_fn;
use std::io::{self, ErrorKind};
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, Waker, ready};

use bytes::Bytes;
use http::response::Parts as AnswerHead;
use http::{HeaderMap, Method, StatusCode};
use http_body::{Frame, SizeHint};
use tokio::io::AsyncWrite;
use tokio::task::{AbortHandle, spawn_local};

mod answer;
mod upload;

use answer::Head;
use upload::Upload;

use crate::body::{BodyError, RequestBody};
use crate::held::HeldHandle;
pub use crate::http1::Malformed;
use crate::http1::{Input, Length, Piece, Stuck};
use crate::io::Io;
use crate::pool::head::Head as RequestHead;

/// The longest head of an answer.
const HEAD_MAX_BYTES: usize = 64 * 1024;
/// Interim answers before the one that counts.
const INTERIM_MAX: usize = 100;

/// An answer that was read from bytes at hand.
#[derive(Debug)]
pub struct ReadAnswer {
    /// Its head.
    pub head: AnswerHead,
    /// Its body.
    pub body: Vec<u8>,
    /// Its trailers, if it has any.
    pub trailers: Option<HeaderMap>,
    /// How many bytes follow it.
    pub left_bytes: usize,
}

/// Reads the answer to a GET that `bytes` begin with, as if they arrived in parts of `part_bytes` and the connection
/// then ended; `None` if it is not whole. What a connection does, without one: for tests and fuzzing.
pub fn read_answer(bytes: &[u8], part_bytes: usize) -> Result<Option<ReadAnswer>, Malformed> {
    let (mut input, mut more) = Input::in_parts(bytes, part_bytes);
    let mut head = loop {
        match answer::take_head(&mut input, false)? {
            Some(head) => break head,
            None if !more(&mut input) => return Ok(None),
            None => {}
        }
    };
    let (mut body, mut trailers) = (Vec::new(), None);
    loop {
        match head.length.next(&mut input)? {
            Piece::Data(data) => body.extend_from_slice(&data),
            Piece::Trailers(fields) => trailers = Some(fields),
            Piece::Missing if more(&mut input) => {}
            Piece::Missing if !matches!(head.length, Length::ToTheEnd) => return Ok(None),
            Piece::Missing | Piece::End => break,
        }
    }
    while more(&mut input) {}
    Ok(Some(ReadAnswer { head: head.parts, body, trailers, left_bytes: input.len() }))
}

/// Why an exchange failed.
#[derive(Debug, thiserror::Error)]
pub enum Broken {
    /// The peer closed the connection instead of answering.
    #[error("the connection was closed before the answer")]
    Closed,
    /// The peer closed the connection, or the request broke off, within the answer.
    #[error("the connection was closed within the answer")]
    Cut,
    /// The connection broke.
    #[error("the connection broke")]
    Io(#[from] io::Error),
    /// The answer cannot be understood.
    #[error("the answer cannot be read: {0}")]
    Malformed(#[from] Malformed),
    /// The head of the answer is too long, or there are too many interim answers before it.
    #[error("the head of the answer is longer than {HEAD_MAX_BYTES} bytes, or one of more than {INTERIM_MAX}")]
    HeadTooLong,
    /// The request's own body broke off.
    #[error("the request's body broke off")]
    Body(#[source] BodyError),
}

/// A request without an answer.
#[derive(Debug)]
pub(super) enum Unanswered {
    /// No byte of it was written.
    NotSent(Box<RequestBody>, Broken),
    /// The connection ended before a byte of an answer came.
    Lost(Broken),
    Failed(Broken),
}

/// A connection.
pub(super) struct Wire {
    state: Rc<RefCell<State>>,
    /// What goes on sending a request whose answer has begun.
    uploading: Option<AbortHandle>,
}

struct State {
    /// `None` once the request has broken off, or the connection was switched to another protocol.
    io: Option<Io>,
    input: Input,
    /// The request, until all of it was sent.
    upload: Option<Upload>,
    /// What is left of the answer.
    length: Length,
    keeps_alive: bool,
    /// Who waits for the answer, or for the end of the upload.
    waiting: Option<Waker>,
}

impl Wire {
    pub(super) fn new(io: Io) -> Self {
        let (input, length) = (Input::default(), Length::Over);
        let state = State { io: Some(io), input, upload: None, length, keeps_alive: true, waiting: None };
        Self { state: Rc::new(RefCell::new(state)), uploading: None }
    }

    /// Sends a request and waits for the head of its answer; reads at most `read_bytes` at once for it.
    pub(super) async fn send(
        &mut self,
        head: RequestHead<'_>,
        body: Box<RequestBody>,
        read_bytes: usize,
    ) -> Result<AnswerHead, Unanswered> {
        self.uploading = None;
        let mut waited = AwaitedHead::of(head, &body);
        let quiet =
            poll_fn(|cx| Poll::Ready(self.state.borrow_mut().poll_head(cx, &mut waited, read_bytes).is_pending()));
        if !quiet.await || waited.came {
            // Who speaks before it is asked would answer the wrong question; who has hung up answers none.
            return Err(Unanswered::NotSent(body, Broken::Closed));
        }
        self.state.borrow_mut().upload = Some(Upload::new(head, body));
        // Why the request cannot be written any further.
        let mut not_written = None;
        match poll_fn(|cx| self.state.borrow_mut().poll_answer(cx, &mut not_written, &mut waited, read_bytes)).await {
            Ok(parts) => {
                self.upload_on();
                Ok(parts)
            }
            Err(error) => Err(self.unanswered(not_written, waited.came, error)),
        }
    }

    fn unanswered(&self, not_written: Option<io::Error>, came: bool, error: Broken) -> Unanswered {
        let error = not_written.map_or(error, Broken::Io);
        match self.state.borrow_mut().upload.take().and_then(Upload::into_untouched) {
            Some(body) if !came => Unanswered::NotSent(body, error),
            _ if !came && is_closed(&error) => Unanswered::Lost(error),
            _ => Unanswered::Failed(error),
        }
    }

    /// Leaves the rest of the request to a task of its own: whoever takes the answer may take it slowly.
    fn upload_on(&mut self) {
        if self.state.borrow().upload.is_none() {
            return;
        }
        let state = Rc::downgrade(&self.state);
        let uploading = spawn_local(poll_fn(move |cx| {
            let Some(state) = state.upgrade() else { return Poll::Ready(()) };
            state.borrow_mut().poll_upload_on(cx)
        }));
        self.uploading = Some(uploading.abort_handle());
    }

    /// The next part of the answer's body; reads at most `read_bytes` at once for it.
    pub(super) fn poll_frame(
        &self,
        cx: &mut Context<'_>,
        read_bytes: usize,
    ) -> Poll<Option<Result<Frame<Bytes>, Broken>>> {
        self.state.borrow_mut().poll_frame(cx, read_bytes).map(Result::transpose)
    }

    /// What is left of the answer, if its length was stated, all of it has come, and the request is sent.
    pub(super) fn take_rest(&self) -> Option<Bytes> {
        let mut state = self.state.borrow_mut();
        let State { input, length, upload, .. } = &mut *state;
        if upload.is_some() || !matches!(length, Length::Known(left) if *left <= input.len() as u64) {
            return None;
        }
        match length.next(input) {
            Ok(Piece::Data(data)) => Some(data),
            _ => None,
        }
    }

    pub(super) fn is_at_end(&self) -> bool {
        self.state.borrow().length.is_over()
    }

    /// What is left of the answer.
    pub(super) fn size_hint(&self) -> SizeHint {
        self.state.borrow().length.hint()
    }

    /// The memory that is kept of an answer that was read and not taken.
    pub(super) fn held_bytes(&self) -> usize {
        self.state.borrow().input.held_bytes()
    }

    /// Whether another request may be sent: both sides stand at the start of a message.
    pub(super) fn is_free(&self) -> bool {
        let state = self.state.borrow();
        let over = state.length.is_over() && state.upload.is_none();
        over && state.keeps_alive && state.input.is_empty() && state.io.is_some()
    }

    /// Whether the request is still being sent, although its answer may have ended.
    pub(super) fn is_still_sending(&self) -> bool {
        self.state.borrow().upload.is_some()
    }

    /// Waits until the request was sent to its end, or broke off.
    pub(super) async fn sent(&self) {
        poll_fn(|cx| {
            let mut state = self.state.borrow_mut();
            if state.upload.is_none() {
                return Poll::Ready(());
            }
            state.waiting = Some(cx.waker().clone());
            Poll::Pending
        })
        .await;
    }

    /// After a `101`: the connection, with what came behind the answer.
    pub(super) fn switch(&self) -> Option<Io> {
        let mut state = self.state.borrow_mut();
        // What is left of a request would be missing from the tunnel, or stand in it.
        if state.upload.is_some() {
            return None;
        }
        Some(state.io.take()?.behind(state.input.take_all()))
    }
}

impl Drop for Wire {
    fn drop(&mut self) {
        if let Some(uploading) = &self.uploading {
            uploading.abort();
        }
    }
}

/// Whether the peer has closed the connection, as peers do with one that was idle.
fn is_closed(error: &Broken) -> bool {
    match error {
        Broken::Closed => true,
        Broken::Io(error) => {
            // The last one is the end of TLS without its goodbye.
            matches!(error.kind(), ErrorKind::ConnectionReset | ErrorKind::BrokenPipe | ErrorKind::UnexpectedEof)
        }
        _ => false,
    }
}

/// What is known while the head of an answer is waited for.
struct AwaitedHead {
    to_head: bool,
    /// Told of `100 Continue`.
    asks: Option<HeldHandle>,
    /// Bytes in which no line has ended.
    scanned: usize,
    interim: usize,
    /// A byte of an answer has come.
    came: bool,
}

impl AwaitedHead {
    fn of(head: RequestHead<'_>, body: &RequestBody) -> Self {
        let asks = head.expects.then(|| body.held_handle()).flatten();
        Self { to_head: head.method == Method::HEAD, asks, scanned: 0, interim: 0, came: false }
    }
}

impl State {
    /// Sends, and looks for the head of the answer meanwhile.
    fn poll_answer(
        &mut self,
        cx: &mut Context<'_>,
        not_written: &mut Option<io::Error>,
        waited: &mut AwaitedHead,
        read_bytes: usize,
    ) -> Poll<Result<AnswerHead, Broken>> {
        if not_written.is_none() {
            match self.poll_upload(cx) {
                Poll::Ready(Err(Stuck::Body(error))) => return Poll::Ready(Err(Broken::Body(error))),
                Poll::Ready(Err(Stuck::Io(error))) => *not_written = Some(error),
                Poll::Ready(Ok(())) | Poll::Pending => {}
            }
        }
        // A peer may answer and close before it has read everything, so an answer is looked for all the same.
        self.poll_head(cx, waited, read_bytes)
    }

    fn poll_upload(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Stuck>> {
        let (Some(upload), Some(io)) = (&mut self.upload, &mut self.io) else { return Poll::Ready(Ok(())) };
        let sent = ready!(upload.poll(io, cx));
        match &sent {
            Ok(()) => self.upload = None,
            Err(_) => self.keeps_alive = false,
        }
        Poll::Ready(sent)
    }

    /// [`State::poll_upload`] beside who takes the answer.
    fn poll_upload_on(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        let sent = ready!(self.poll_upload(cx));
        self.upload = None;
        if let Err(Stuck::Body(error)) = sent {
            tracing::debug!(%error, "a request broke off within its answer");
            // The peer sees a request that was cut, and nobody takes what it says after that for an answer to it.
            if let Some(mut io) = self.io.take() {
                let _ = Pin::new(&mut io).poll_shutdown(cx);
                // TLS may wait for a full socket.
                io.half_close();
            }
        }
        if let Some(waiting) = self.waiting.take() {
            waiting.wake();
        }
        Poll::Ready(())
    }

    fn poll_head(
        &mut self,
        cx: &mut Context<'_>,
        waited: &mut AwaitedHead,
        read_bytes: usize,
    ) -> Poll<Result<AnswerHead, Broken>> {
        loop {
            while let Some(head) = self.take_head(waited)? {
                if head.parts.status.is_informational() && head.parts.status != StatusCode::SWITCHING_PROTOCOLS {
                    waited.interim += 1;
                    if let Some(asks) = waited.asks.as_ref().filter(|_| head.parts.status == StatusCode::CONTINUE) {
                        asks.release();
                    }
                    continue;
                }
                self.length = head.length;
                // After a 101 it speaks something else, whatever becomes of the answer.
                self.keeps_alive &= head.keeps_alive && head.parts.status != StatusCode::SWITCHING_PROTOCOLS;
                return Poll::Ready(Ok(head.parts));
            }
            if self.input.len() >= HEAD_MAX_BYTES || waited.interim > INTERIM_MAX {
                return Poll::Ready(Err(Broken::HeadTooLong));
            }
            let Some(io) = &mut self.io else { return Poll::Ready(Err(Broken::Closed)) };
            if ready!(self.input.poll_read_head(io, cx, read_bytes))? == 0 {
                return Poll::Ready(Err(Broken::Closed));
            }
            waited.came = true;
        }
    }

    /// Looks for a head only where a line has ended: one that comes byte by byte is not read over and over.
    fn take_head(&mut self, waited: &mut AwaitedHead) -> Result<Option<Head>, Malformed> {
        if !self.input[waited.scanned..].contains(&b'\n') {
            waited.scanned = self.input.len();
            return Ok(None);
        }
        let head = answer::take_head(&mut self.input, waited.to_head)?;
        waited.scanned = if head.is_some() { 0 } else { self.input.len() };
        Ok(head)
    }

    fn poll_frame(&mut self, cx: &mut Context<'_>, read_bytes: usize) -> Poll<Result<Option<Frame<Bytes>>, Broken>> {
        loop {
            match self.length.next(&mut self.input)? {
                Piece::Data(data) => return Poll::Ready(Ok(Some(Frame::data(data)))),
                Piece::Trailers(trailers) => return Poll::Ready(Ok(Some(Frame::trailers(trailers)))),
                Piece::End => return Poll::Ready(Ok(None)),
                Piece::Missing => {}
            }
            let Some(io) = &mut self.io else { return Poll::Ready(Err(Broken::Cut)) };
            let read = match self.input.poll_read(io, cx, read_bytes) {
                Poll::Ready(read) => read?,
                Poll::Pending => {
                    if self.upload.is_some() {
                        self.waiting = Some(cx.waker().clone());
                    }
                    return Poll::Pending;
                }
            };
            if read == 0 {
                self.keeps_alive = false;
                return Poll::Ready(match self.length {
                    Length::ToTheEnd => {
                        self.length = Length::Over;
                        Ok(None)
                    }
                    _ => Err(Broken::Cut),
                });
            }
        }
    }
}

#[cfg(test)]
mod tests;
