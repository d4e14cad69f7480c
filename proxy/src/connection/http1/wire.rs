//! The bytes of a client's connection: the head that comes next, and the body of the request that is being served.
//!
//! They are shared by the connection's task, which reads heads and writes answers, and by whoever reads the body, maybe
//! in a task of its own.

use std::cell::RefCell;
use std::io;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, Waker, ready};

use bytes::{Bytes, BytesMut};
use http::StatusCode;
use http_body::{Frame, SizeHint};
use tokio::io::AsyncWrite;

use super::head_check::{Cut, HeadCheck, Refused};
use super::request::{self, RequestHead};
use crate::body::BodyError;
use crate::http1::{HEAD_READ_BYTES, Input, Length, Malformed, Piece};
use crate::hygiene::BadRequest;
use crate::io::Io;

/// What is read of a body at once.
const BODY_READ_BYTES: usize = 16 * 1024;
const CONTINUE: &[u8] = b"HTTP/1.1 100 Continue\r\n\r\n";

/// Why a request's body broke off.
#[derive(Debug, thiserror::Error)]
enum Broken {
    #[error("the client closed the connection within its request")]
    Cut,
    #[error("the connection broke within the request")]
    Io(#[from] io::Error),
    #[error("the request's body cannot be read: {0}")]
    Malformed(#[from] Malformed),
    #[error("the request is over")]
    Over,
}

/// What came where a head was expected.
pub(super) enum Came {
    /// One, and what is wrong with it.
    Head(RequestHead, Option<BadRequest>),
    /// What makes no sense.
    Refused(StatusCode),
    /// None, and none is waited for any more.
    Over,
    /// The end of the connection.
    End,
}

/// The connection.
#[derive(Clone)]
pub(super) struct Wire(Rc<RefCell<State>>);

struct State {
    /// `None` once the connection has become a tunnel.
    io: Option<Io>,
    input: Input,
    check: HeadCheck,
    /// How many requests there were.
    number: u64,
    /// What is left of the body of the last one.
    length: Length,
    /// What is to be said before more of it is read.
    invitation: &'static [u8],
    /// What was said of it may still be with TLS.
    unflushed: bool,
    has_reader: bool,
    /// Who waits until the body is read, or wanted no more.
    waiting: Option<Waker>,
    /// Who waits for more of the body: a socket that is dropped wakes nobody.
    reading: Option<Waker>,
}

impl Wire {
    /// A connection of which `input` has come.
    pub(super) fn new(io: Io, input: Input) -> Self {
        Self(Rc::new(RefCell::new(State {
            io: Some(io),
            input,
            check: HeadCheck::new(),
            number: 0,
            length: Length::Over,
            invitation: b"",
            unflushed: false,
            has_reader: false,
            waiting: None,
            reading: None,
        })))
    }

    /// Waits for the next head.
    pub(super) fn poll_head(&self, cx: &mut Context<'_>) -> Poll<Came> {
        self.0.borrow_mut().poll_head(cx)
    }

    /// Waits until the client has ended its side after its request. Once it has sent something else, that is not seen.
    pub(super) fn poll_left(&self, cx: &mut Context<'_>) -> Poll<()> {
        self.0.borrow_mut().poll_left(cx)
    }

    /// Whether no byte of a next head has come.
    pub(super) fn is_idle(&self) -> bool {
        self.0.borrow().input.is_empty()
    }

    /// The body of the request whose head has come.
    pub(super) fn body(&self, length: Length, expects: bool) -> ReceivedBody {
        let mut state = self.0.borrow_mut();
        state.number += 1;
        (state.has_reader, state.invitation) = (!length.is_over(), if expects { CONTINUE } else { b"" });
        state.length = length;
        ReceivedBody { state: Rc::clone(&self.0), number: state.number }
    }

    /// What is left of an invitation that has begun, and has to be said before an answer.
    pub(super) fn rest_of_invitation(&self) -> &'static [u8] {
        let left = self.0.borrow().invitation;
        if left.len() < CONTINUE.len() { left } else { b"" }
    }

    /// Whether the body has ended, or is still being read, as the answer begins. What has come of one that nobody wants is
    /// thrown away.
    pub(super) fn ends_body(&self, cx: &mut Context<'_>) -> bool {
        let mut state = self.0.borrow_mut();
        // Nobody is invited any more once the answer has begun.
        let was_invited = state.invitation.is_empty();
        state.invitation = b"";
        if !state.length.is_over() && !state.has_reader && was_invited {
            state.skip_what_has_come(cx);
        }
        // Whether a body comes that nobody was invited to send, only the client knows.
        state.length.is_over() || state.has_reader && was_invited
    }

    /// Waits until the body was read, or is wanted no more; says which.
    pub(super) fn poll_read_whole(&self, cx: &mut Context<'_>) -> Poll<bool> {
        let mut state = self.0.borrow_mut();
        if state.length.is_over() {
            return Poll::Ready(true);
        }
        if !state.has_reader {
            state.skip_what_has_come(cx);
            return Poll::Ready(state.length.is_over());
        }
        state.waiting = Some(cx.waker().clone());
        Poll::Pending
    }

    /// Where answers are written. The connection is borrowed only meanwhile: an answer's body may be what another task
    /// reads from here.
    pub(super) fn writer(&self) -> Writer<'_> {
        Writer(&self.0)
    }

    /// Writes these bytes.
    pub(super) fn poll_write_all(&self, bytes: &mut &[u8], cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let mut writer = self.writer();
        while !bytes.is_empty() {
            match ready!(Pin::new(&mut writer).poll_write(cx, bytes))? {
                0 => return Poll::Ready(Err(io::ErrorKind::WriteZero.into())),
                written => *bytes = &bytes[written..],
            }
        }
        Pin::new(&mut writer).poll_flush(cx)
    }

    /// Tells the client that nothing more comes.
    pub(super) fn poll_shut_down(&self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.writer()).poll_shutdown(cx)
    }

    /// Closes the connection.
    pub(super) fn close(&self) {
        let mut state = self.0.borrow_mut();
        state.io = None;
        state.stop_waiting();
        if let Some(reading) = state.reading.take() {
            reading.wake();
        }
    }

    /// The connection, to become a tunnel, with what has come behind the head.
    pub(super) fn take(&self) -> Option<Io> {
        let mut state = self.0.borrow_mut();
        Some(state.io.take()?.behind(state.input.take_all()))
    }
}

impl State {
    fn poll_head(&mut self, cx: &mut Context<'_>) -> Poll<Came> {
        loop {
            self.skip_empty_lines();
            if !self.input.is_empty() && *self.input != *b"\r" {
                match self.check.check(&self.input) {
                    Ok(None) => {}
                    Ok(Some(length)) => return Poll::Ready(self.take_head(length)),
                    Err(refused) => return Poll::Ready(self.refuse(refused)),
                }
            }
            let Some(io) = &mut self.io else { return Poll::Ready(Came::End) };
            match ready!(self.input.poll_read_head(io, cx, HEAD_READ_BYTES)) {
                Ok(0) => return Poll::Ready(Came::End),
                Ok(_) => {}
                Err(error) => {
                    tracing::debug!(%error, "a client's connection ended with an error");
                    return Poll::Ready(Came::End);
                }
            }
        }
    }

    /// Empty lines before a request are no part of it.
    fn skip_empty_lines(&mut self) {
        while self.input.starts_with(b"\r\n") {
            self.input.skip(2);
        }
    }

    fn poll_left(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        if !self.length.is_over() {
            self.waiting = Some(cx.waker().clone());
            return Poll::Pending;
        }
        while self.input.is_empty() || *self.input == *b"\r" {
            let Some(io) = &mut self.io else { return Poll::Ready(()) };
            // One byte tells as much as many, which would be kept for as long as the answer lasts.
            match ready!(self.input.poll_read_head(io, cx, 1)) {
                Ok(0) | Err(_) => return Poll::Ready(()),
                Ok(_) => self.skip_empty_lines(),
            }
        }
        Poll::Pending
    }

    fn take_head(&mut self, length: usize) -> Came {
        self.check = HeadCheck::new();
        match request::read(&self.input.split(length)) {
            Ok(head) => Came::Head(head, None),
            Err(status) => Came::Refused(status),
        }
    }

    fn refuse(&self, refused: Refused) -> Came {
        let Refused::Fault(Cut { keep, ending, why }) = refused else { return Came::Refused(StatusCode::BAD_REQUEST) };
        let mut head = BytesMut::with_capacity(keep + ending.len());
        head.extend_from_slice(&self.input[..keep]);
        head.extend_from_slice(ending);
        match request::read(&head.freeze()) {
            Ok(head) => Came::Head(RequestHead { length: Length::Over, ..head }, Some(why)),
            Err(status) => Came::Refused(status),
        }
    }

    fn poll_body(&mut self, cx: &mut Context<'_>) -> Poll<Result<Option<Frame<Bytes>>, Broken>> {
        loop {
            let piece = match self.length.next(&mut self.input)? {
                Piece::Missing => {
                    ready!(self.poll_more(cx))?;
                    continue;
                }
                Piece::Data(data) => Some(Frame::data(data)),
                Piece::Trailers(trailers) => Some(Frame::trailers(trailers)),
                Piece::End => None,
            };
            if self.length.is_over() {
                self.stop_waiting();
            }
            return Poll::Ready(Ok(piece));
        }
    }

    /// Reads more of a body.
    fn poll_more(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Broken>> {
        let io = self.io.as_mut().ok_or(Broken::Over)?;
        while !self.invitation.is_empty() {
            let written = ready!(Pin::new(&mut *io).poll_write(cx, self.invitation))?;
            (self.invitation, self.unflushed) = (&self.invitation[written..], true);
        }
        if self.unflushed {
            ready!(Pin::new(&mut *io).poll_flush(cx))?;
            self.unflushed = false;
        }
        let at_most = match self.length {
            Length::Known(left) => usize::try_from(left).unwrap_or(usize::MAX).min(BODY_READ_BYTES),
            _ => BODY_READ_BYTES,
        };
        match ready!(self.input.poll_read(io, cx, at_most))? {
            0 => Poll::Ready(Err(Broken::Cut)),
            _ => Poll::Ready(Ok(())),
        }
    }

    /// Throws away what is there of a body, read at once.
    fn skip_what_has_come(&mut self, cx: &mut Context<'_>) {
        let mut has_read = false;
        loop {
            match self.length.next(&mut self.input) {
                Ok(Piece::End) | Err(_) => return,
                Ok(Piece::Missing) if has_read || !matches!(self.poll_more(cx), Poll::Ready(Ok(()))) => return,
                Ok(Piece::Missing) => has_read = true,
                Ok(Piece::Data(_) | Piece::Trailers(_)) => {}
            }
        }
    }

    fn stop_waiting(&mut self) {
        if let Some(waiting) = self.waiting.take() {
            waiting.wake();
        }
    }
}

/// The body of a request. It reads nothing ahead.
pub(crate) struct ReceivedBody {
    state: Rc<RefCell<State>>,
    /// Which request it is of: those that follow on its connection are not its.
    number: u64,
}

impl ReceivedBody {
    pub(crate) fn poll_frame(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        let mut state = self.state.borrow_mut();
        if state.number != self.number {
            return Poll::Ready(None);
        }
        let polled = state.poll_body(cx);
        state.reading = polled.is_pending().then(|| cx.waker().clone());
        if matches!(polled, Poll::Ready(Err(_))) {
            // Nothing more can be read of it.
            state.has_reader = false;
            state.stop_waiting();
        }
        polled.map_err(Into::into).map(Result::transpose)
    }

    pub(crate) fn is_end_stream(&self) -> bool {
        let state = self.state.borrow();
        state.number != self.number || state.length.is_over()
    }

    pub(crate) fn size_hint(&self) -> SizeHint {
        let state = self.state.borrow();
        if state.number == self.number { state.length.hint() } else { SizeHint::with_exact(0) }
    }
}

impl Drop for ReceivedBody {
    fn drop(&mut self) {
        let mut state = self.state.borrow_mut();
        if state.number == self.number {
            (state.has_reader, state.reading) = (false, None);
            state.stop_waiting();
        }
    }
}

/// Writes to the connection, which it holds only meanwhile.
pub(super) struct Writer<'a>(&'a RefCell<State>);

impl Writer<'_> {
    fn with<T>(&self, poll: impl FnOnce(Pin<&mut Io>) -> Poll<io::Result<T>>) -> Poll<io::Result<T>> {
        match &mut self.0.borrow_mut().io {
            Some(io) => poll(Pin::new(io)),
            None => Poll::Ready(Err(io::ErrorKind::NotConnected.into())),
        }
    }
}

impl AsyncWrite for Writer<'_> {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        self.with(|io| io.poll_write(cx, bytes))
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        self.with(|io| io.poll_write_vectored(cx, slices))
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.with(|io| io.poll_flush(cx))
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.with(|io| io.poll_shutdown(cx))
    }
}

#[cfg(test)]
mod tests {
    use tokio::net::{TcpListener, TcpStream};

    use super::*;
    use crate::socket::Socket;

    #[tokio::test]
    async fn an_invitation_is_said_whole_or_not_at_all() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let ours = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
        let wire = Wire::new(Io::Clear(Socket::new(ours.into()).0), Input::default());
        let _body = wire.body(Length::Known(1), true);
        assert_eq!(wire.rest_of_invitation(), b"");
        wire.0.borrow_mut().invitation = &CONTINUE[9..];
        assert_eq!(wire.rest_of_invitation(), &CONTINUE[9..]);
        wire.0.borrow_mut().invitation = b"";
        assert_eq!(wire.rest_of_invitation(), b"");
    }
}
