//! A request body that stays with the client until the peer has admitted the request.

use std::cell::{Cell, RefCell};
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, Waker};

use bytes::Bytes;
use http_body::{Body, Frame, SizeHint};

use crate::body::BodyError;
use crate::incoming::IncomingBody;

/// The body as it goes into a request. It yields nothing, and reads nothing from the client, until its
/// [`HeldHandle`] releases it.
pub struct HeldBody {
    shared: Rc<Shared>,
    hint: SizeHint,
}

/// What stays with the caller.
#[derive(Clone)]
pub struct HeldHandle(Rc<Shared>);

struct Shared {
    state: RefCell<State>,
    sent_bytes: Cell<u64>,
}

struct State {
    body: Option<IncomingBody>,
    released: bool,
    touched: bool,
    finished: bool,
    /// The connection asked for more, and the client had sent none.
    starved: bool,
    waker: Option<Waker>,
}

/// The body was taken back while a connection still wanted it.
#[derive(Debug, thiserror::Error)]
#[error("the body was taken back before it was sent")]
pub struct TakenBack;

impl HeldBody {
    /// Holds `body`.
    pub fn new(body: IncomingBody) -> (Self, HeldHandle) {
        let hint = body.size_hint();
        let state =
            State { body: Some(body), released: false, touched: false, finished: false, starved: false, waker: None };
        let shared = Rc::new(Shared { state: RefCell::new(state), sent_bytes: Cell::new(0) });
        (Self { shared: Rc::clone(&shared), hint }, HeldHandle(shared))
    }

    pub(crate) fn handle(&self) -> HeldHandle {
        HeldHandle(Rc::clone(&self.shared))
    }
}

impl HeldHandle {
    /// Lets the body flow: the peer said `100 Continue`, or is one that is sent everything at once.
    pub fn release(&self) {
        let waker = {
            let mut state = self.0.state.borrow_mut();
            state.released = true;
            state.waker.take()
        };
        if let Some(waker) = waker {
            waker.wake();
        }
    }

    /// Whether it was released.
    pub fn is_released(&self) -> bool {
        self.0.state.borrow().released
    }

    /// The untouched body, to be held anew for another attempt; `None` once any of it was asked for. The
    /// [`HeldBody`] it is taken from fails, and with it the connection that it was given to.
    pub fn take_back(&self) -> Option<IncomingBody> {
        let (body, waker) = {
            let mut state = self.0.state.borrow_mut();
            if state.touched {
                return None;
            }
            (state.body.take(), state.waker.take())
        };
        if let Some(waker) = waker {
            waker.wake();
        }
        body
    }

    /// How many bytes the connection has taken.
    pub fn sent_bytes(&self) -> u64 {
        self.0.sent_bytes.get()
    }

    /// Whether the connection could take more, and the client has not sent it.
    pub fn is_starved(&self) -> bool {
        self.0.state.borrow().starved
    }

    /// Whether the connection has taken all of it.
    pub fn is_finished(&self) -> bool {
        self.0.state.borrow().finished
    }
}

impl Body for HeldBody {
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        let mut state = self.shared.state.borrow_mut();
        if !state.released {
            if state.body.is_none() {
                return Poll::Ready(Some(Err(Box::new(TakenBack))));
            }
            state.waker = Some(cx.waker().clone());
            return Poll::Pending;
        }
        let Some(body) = state.body.as_mut() else {
            return Poll::Ready(Some(Err(Box::new(TakenBack))));
        };
        let polled = Pin::new(&mut *body).poll_frame(cx);
        let at_end = body.is_end_stream();
        state.touched = true;
        state.starved = polled.is_pending();
        match polled {
            Poll::Pending => Poll::Pending,
            Poll::Ready(Some(Ok(frame))) => {
                state.finished = at_end;
                let length = frame.data_ref().map_or(0, Bytes::len);
                self.shared.sent_bytes.set(self.shared.sent_bytes.get() + length as u64);
                Poll::Ready(Some(Ok(frame)))
            }
            Poll::Ready(Some(Err(error))) => Poll::Ready(Some(Err(error))),
            Poll::Ready(None) => {
                state.finished = true;
                Poll::Ready(None)
            }
        }
    }

    fn is_end_stream(&self) -> bool {
        self.shared.state.borrow().body.as_ref().is_some_and(Body::is_end_stream)
    }

    fn size_hint(&self) -> SizeHint {
        self.hint
    }
}
