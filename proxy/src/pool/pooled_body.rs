//! The body of an answer, which holds its connection until it was read.

use std::pin::Pin;
use std::task::{Context, Poll};

use bytes::Bytes;
use http::Response;
use http_body::{Body, Frame, SizeHint};
use hyper::body::Incoming;

use super::{Chore, Connection, Ended, switches};
use crate::body::BodyError;

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

/// The body of a pooled connection's answer.
pub struct PooledBody {
    inner: Option<Incoming>,
    connection: Option<Connection>,
    ended: Option<Ended>,
    on_drop: OnDrop,
}

impl PooledBody {
    pub(super) fn of_response(response: Response<Incoming>, connection: Connection) -> Response<Self> {
        let upgraded = switches(response.status());
        response.map(|inner| {
            let at_end = inner.is_end_stream();
            let mut body =
                Self { inner: Some(inner), connection: Some(connection), ended: None, on_drop: OnDrop::Close };
            if at_end && !upgraded {
                body.finish();
            }
            body
        })
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

    /// Called once the whole answer was read.
    fn finish(&mut self) {
        if let Some(connection) = self.connection.take() {
            connection.give_back();
        }
        self.ended = None;
    }
}

impl Body for PooledBody {
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        let Some(inner) = self.inner.as_mut() else { return Poll::Ready(None) };
        let polled = Pin::new(&mut *inner).poll_frame(cx);
        let at_end = inner.is_end_stream();
        match polled {
            Poll::Pending => Poll::Pending,
            Poll::Ready(Some(Ok(frame))) => {
                if at_end {
                    self.finish();
                }
                Poll::Ready(Some(Ok(frame)))
            }
            Poll::Ready(Some(Err(error))) => {
                self.connection = None;
                self.ended = None;
                Poll::Ready(Some(Err(error.into())))
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
        if self.on_drop == OnDrop::HangUpAndDrain {
            connection.socket.half_close();
        }
        let chores = connection.chores.clone();
        let (inner, ended) = (self.inner.take(), self.ended.take());
        let rest = Self { inner, connection: Some(connection), ended, on_drop: OnDrop::Close };
        let _ = chores.send(Chore::Drain(rest));
    }
}
