//! A body that comes in: a client's request or a peer's answer, over HTTP/1.1 or HTTP/2.

use std::pin::Pin;
use std::task::{Context, Poll};

use bytes::Bytes;
use http_body::{Body, Frame, SizeHint};

use crate::body::BodyError;
use crate::connection::http1::ReceivedBody;
use crate::http2::Received;

/// The body. Nothing is read from its connection beyond a bounded window until it is asked for.
pub struct IncomingBody(Wire);

enum Wire {
    Empty,
    Http1(ReceivedBody),
    Http2(Received),
    #[cfg(test)]
    Made(Pin<Box<dyn Body<Data = Bytes, Error = BodyError> + Send>>),
}

impl IncomingBody {
    /// No body.
    pub(crate) fn empty() -> Self {
        Self(Wire::Empty)
    }

    #[cfg(test)]
    pub(crate) fn made_of(body: impl Body<Data = Bytes, Error = BodyError> + Send + 'static) -> Self {
        Self(Wire::Made(Box::pin(body)))
    }
}

impl From<ReceivedBody> for IncomingBody {
    fn from(body: ReceivedBody) -> Self {
        Self(Wire::Http1(body))
    }
}

impl From<Received> for IncomingBody {
    fn from(body: Received) -> Self {
        Self(Wire::Http2(body))
    }
}

impl Body for IncomingBody {
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        match &mut self.0 {
            Wire::Empty => Poll::Ready(None),
            Wire::Http1(body) => body.poll_frame(cx),
            Wire::Http2(body) => body.poll_frame(cx),
            #[cfg(test)]
            Wire::Made(body) => body.as_mut().poll_frame(cx),
        }
    }

    fn is_end_stream(&self) -> bool {
        match &self.0 {
            Wire::Empty => true,
            Wire::Http1(body) => body.is_end_stream(),
            Wire::Http2(body) => body.is_end_stream(),
            #[cfg(test)]
            Wire::Made(body) => body.is_end_stream(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match &self.0 {
            Wire::Empty => SizeHint::with_exact(0),
            Wire::Http1(body) => body.size_hint(),
            Wire::Http2(body) => body.size_hint(),
            #[cfg(test)]
            Wire::Made(body) => body.size_hint(),
        }
    }
}
