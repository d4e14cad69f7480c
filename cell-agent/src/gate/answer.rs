//! The app's answer on its way back: counted, and ended early where it is a stream that has to go.

use crate::gate::cut::{Download, DownloadCut};
use crate::gate::lease::{Patience, Waiting};
use crate::gate::stream_edge::StreamEdge;
use bytes::Bytes;
use cellway_proxy::{BodyError, OnDrop, PooledBody};
use http::{HeaderMap, HeaderValue};
use http_body::{Body, Frame, SizeHint};
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;
use tokio::time::{Sleep, sleep};
use tokio_util::sync::{CancellationToken, WaitForCancellationFutureOwned};
use tokio_util::task::AbortOnDropHandle;

/// How long a stream that has to end may take to come to the end of what it is in the middle of.
const EDGE_WAIT_MS: u64 = 100;

/// An answer to a gRPC call that takes longer is a stream of messages, and so is one with a second message.
const CALL_MS: u64 = 1_000;

/// How long the app may take to end a stream after it was hung up on: less than a fence may take to drain.
const STREAM_END_MS: u64 = 800;

const UNAVAILABLE: &str = "14";
const WHY: &str = "the tenant moves or the server restarts: call again";

/// An answer of more than this, or one that has to be waited for, may be cut.
const CUT_FROM_BYTES: u64 = 64 * 1024;

/// The body of the app's answer.
pub(crate) struct AnswerBody {
    /// Dropped before `waiting`, so that the app is heard of first.
    inner: Option<Download>,
    /// Cuts it, from when it takes long.
    cutter: Option<AbortOnDropHandle<()>>,
    /// Says when; `None` for an answer that began after the cut, for the app had only thought about it.
    cut: Option<CancellationToken>,
    edge: Option<StreamEdge>,
    phase: Phase,
    waiting: Waiting,
}

enum Phase {
    /// It ends by itself.
    Ordinary,
    /// A call, which is ordinary as long as it is short.
    Call(Pin<Box<Sleep>>),
    /// A stream, until it has to end.
    Stream(Pin<Box<WaitForCancellationFutureOwned>>),
    /// To be ended at the next edge, or when the time is over.
    Ending(Pin<Box<Sleep>>),
    /// Ended here.
    Ended,
}

impl AnswerBody {
    /// Whether the answer is a stream follows from its edges and, for calls, from what comes.
    pub(crate) fn new(inner: PooledBody, edge: Option<StreamEdge>, waiting: Waiting) -> Self {
        let cut = waiting.lease().cut().filter(|cut| !cut.is_cancelled());
        let inner = Some(Download::new(inner));
        let mut body = Self { inner, cutter: None, cut, edge, phase: Phase::Ordinary, waiting };
        match &body.edge {
            None => {}
            Some(StreamEdge::Events(_)) => body.become_stream(),
            Some(StreamEdge::Messages(_)) => body.phase = Phase::Call(Box::pin(sleep(Duration::from_millis(CALL_MS)))),
        }
        body
    }

    fn become_stream(&mut self) {
        // `None`: the app has ended it already.
        let Some(end) = self.waiting.lease().became_stream() else {
            self.phase = Phase::Ordinary;
            return;
        };
        self.cutter = None;
        if let Some(inner) = &self.inner {
            inner.with(|body| {
                body.leave_requests();
                body.on_drop(OnDrop::HangUpAndDrain);
            });
        }
        self.waiting.set_patience(Patience::FromNow(Duration::from_millis(STREAM_END_MS)));
        self.phase = Phase::Stream(Box::pin(end.cancelled_owned()));
    }

    /// What follows from time and from the word to end.
    fn advance(&mut self, cx: &mut Context<'_>) {
        if let Phase::Call(time) = &mut self.phase
            && time.as_mut().poll(cx).is_ready()
        {
            self.become_stream();
        }
        if let Phase::Stream(end) = &mut self.phase
            && end.as_mut().poll(cx).is_ready()
        {
            self.phase = Phase::Ending(Box::pin(sleep(Duration::from_millis(EDGE_WAIT_MS))));
        }
        if let Phase::Ending(time) = &mut self.phase
            && (self.edge.as_ref().is_none_or(StreamEdge::is_at_edge) || time.as_mut().poll(cx).is_ready())
        {
            self.phase = Phase::Ended;
            self.cutter = None;
            self.inner = None;
        }
    }

    /// From now on it may be cut, also while nobody reads it.
    fn may_be_cut(&mut self) {
        if self.cutter.is_none()
            && let (Some(inner), Some(cut)) = (&self.inner, &self.cut)
        {
            self.cutter = Some(inner.cut_by(cut.clone(), self.waiting.lease().clone()));
        }
    }

    /// Counts what comes, and cuts it at the edge where the stream is to end.
    fn pass(&mut self, mut data: Bytes) -> Bytes {
        if let Some(edge) = &mut self.edge {
            match self.phase {
                Phase::Ending(_) => data.truncate(edge.pass_to_edge(&data)),
                _ => edge.pass(&data),
            }
            if let (StreamEdge::Messages(messages), Phase::Call(_)) = (edge, &self.phase)
                && messages.begun > 1
            {
                self.become_stream();
            }
        }
        self.waiting.lease().add_down(data.len() as u64);
        data
    }

    /// The last word of a stream that was ended here.
    fn last_word(&mut self) -> Option<Frame<Bytes>> {
        let Some(StreamEdge::Messages(_)) = self.edge.take() else { return None };
        let mut trailers = HeaderMap::new();
        trailers.insert("grpc-status", HeaderValue::from_static(UNAVAILABLE));
        trailers.insert("grpc-message", HeaderValue::from_static(WHY));
        Some(Frame::trailers(trailers))
    }
}

impl Body for AnswerBody {
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        self.advance(cx);
        let Some(inner) = &self.inner else {
            return Poll::Ready(self.last_word().map(Ok));
        };
        // Asked at each poll, also before it may be cut: the last poll before that is the one that waits.
        if inner.was_cut(cx) {
            return Poll::Ready(Some(Err(Box::new(DownloadCut))));
        }
        let polled = inner.with(|body| Pin::new(body).poll_frame(cx)).unwrap_or(Poll::Ready(None));
        if polled.is_pending() || self.waiting.lease().down_bytes() >= CUT_FROM_BYTES {
            self.may_be_cut();
        }
        let Poll::Ready(Some(Ok(frame))) = polled else { return polled };
        Poll::Ready(Some(Ok(match frame.into_data() {
            Ok(data) => Frame::data(self.pass(data)),
            // The app has said its last word itself.
            Err(trailers) => {
                (self.edge, self.phase) = (None, Phase::Ordinary);
                trailers
            }
        })))
    }

    fn is_end_stream(&self) -> bool {
        match &self.inner {
            Some(inner) => inner.with(|body| body.is_end_stream()).unwrap_or(false),
            None => !matches!(self.edge, Some(StreamEdge::Messages(_))),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match &self.inner {
            // Any other may end before its length.
            Some(inner) if matches!(self.phase, Phase::Ordinary) => {
                inner.with(|body| body.size_hint()).unwrap_or_default()
            }
            _ => SizeHint::default(),
        }
    }
}
