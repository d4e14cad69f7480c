//! A body that goes out on an HTTP/2 stream, no faster than the peer's window opens.

use std::future::poll_fn;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use h2::{Reason, SendStream};
use http_body::{Body, Frame};
use tokio::time::{Instant, timeout_at};

use super::Room;
use crate::body::BodyError;

/// What is asked of the window at once: one frame.
const WINDOW_ASKED_BYTES: usize = 16 * 1024;

/// What a peer has to take of the data at hand within the patience of its sender: less is a drip, not a slow peer.
const TAKEN_MIN_BYTES: usize = 1024;

/// Why a body was not sent to its end.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Unsent {
    /// The peer wants no more of it.
    #[error("the peer has reset the stream")]
    Reset(Reason),
    /// The stream or its connection is gone.
    #[error("the stream failed")]
    Stream(#[from] h2::Error),
    /// The peer opened no window for too long.
    #[error("the peer has taken nothing for too long")]
    Stalled,
    /// Where the body comes from broke off.
    #[error("the body broke off")]
    Body(#[source] BodyError),
}

/// What bounds the sending of a body.
#[derive(Clone, Copy, Default)]
pub(crate) struct Bounds<'a> {
    /// How long the peer may take nothing, or nearly nothing; for ever without it.
    pub(crate) patience: Option<Duration>,
    /// What all streams of the connection may queue.
    pub(crate) room: Option<&'a Room>,
}

/// Sends all of `body` and ends the stream. What cannot be sent to its end resets the stream, so that the peer never
/// takes a part for the whole.
pub(crate) async fn send_body<B>(
    body: Pin<&mut B>,
    stream: &mut SendStream<Bytes>,
    bounds: Bounds<'_>,
) -> Result<(), Unsent>
where
    B: Body<Data = Bytes, Error = BodyError>,
{
    let sent = send_frames(body, stream, bounds).await;
    match &sent {
        Err(Unsent::Body(error)) => stream.send_reset(reason_after(error)),
        Err(Unsent::Stalled) => stream.send_reset(Reason::CANCEL),
        Ok(()) | Err(Unsent::Reset(_) | Unsent::Stream(_)) => {}
    }
    sent
}

/// Who has cancelled is not taken for one that failed.
fn reason_after(error: &BodyError) -> Reason {
    let cancelled = error.downcast_ref().and_then(h2::Error::reason) == Some(Reason::CANCEL);
    if cancelled { Reason::CANCEL } else { Reason::INTERNAL_ERROR }
}

async fn send_frames<B>(mut body: Pin<&mut B>, stream: &mut SendStream<Bytes>, bounds: Bounds<'_>) -> Result<(), Unsent>
where
    B: Body<Data = Bytes, Error = BodyError>,
{
    while let Some(frame) = next_frame(body.as_mut(), stream).await? {
        match frame.into_data() {
            Ok(data) => {
                let last = body.is_end_stream();
                send_data(data, last, stream, bounds).await?;
                if last {
                    return Ok(());
                }
            }
            Err(frame) => {
                if let Ok(trailers) = frame.into_trailers() {
                    stream.reserve_capacity(0);
                    return Ok(stream.send_trailers(trailers)?);
                }
            }
        }
    }
    Ok(stream.send_data(Bytes::new(), true)?)
}

/// The next frame, unless the peer resets the stream before it comes.
async fn next_frame<B>(mut body: Pin<&mut B>, stream: &mut SendStream<Bytes>) -> Result<Option<Frame<Bytes>>, Unsent>
where
    B: Body<Data = Bytes, Error = BodyError>,
{
    poll_fn(|cx| {
        if let Poll::Ready(frame) = body.as_mut().poll_frame(cx) {
            return Poll::Ready(frame.transpose().map_err(Unsent::Body));
        }
        stream.poll_reset(cx).map(|reset| Err(reset.map_or_else(Unsent::Stream, Unsent::Reset)))
    })
    .await
}

async fn send_data(
    mut data: Bytes,
    last: bool,
    stream: &mut SendStream<Bytes>,
    bounds: Bounds<'_>,
) -> Result<(), Unsent> {
    if data.is_empty() && last {
        return Ok(stream.send_data(data, true)?);
    }
    // Since the peer was waited for, or has taken enough.
    let mut deadline = None;
    let mut taken = 0;
    while !data.is_empty() {
        // Asked for only with data at hand, so that an idle stream pins none of the connection's window.
        stream.reserve_capacity(data.len().min(WINDOW_ASKED_BYTES));
        let opened = match (poll_fn(|cx| Poll::Ready(poll_window(stream, bounds.room, cx))).await, bounds.patience) {
            (Poll::Ready(opened), _) => opened?,
            (Poll::Pending, None) => window(stream, bounds.room).await?,
            (Poll::Pending, Some(patience)) => {
                let deadline = *deadline.get_or_insert_with(|| Instant::now() + patience);
                timeout_at(deadline, window(stream, bounds.room)).await.map_err(|_| Unsent::Stalled)??
            }
        };
        let part = data.split_to(opened.min(data.len()));
        taken += part.len();
        if taken >= TAKEN_MIN_BYTES {
            (taken, deadline) = (0, None);
        }
        let part = bounds.room.map_or_else(|| part.clone(), |room| room.queue(part.clone()));
        stream.send_data(part, last && data.is_empty())?;
    }
    Ok(())
}

/// How much may be sent now; waits until it is something.
async fn window(stream: &mut SendStream<Bytes>, room: Option<&Room>) -> Result<usize, Unsent> {
    poll_fn(|cx| poll_window(stream, room, cx)).await
}

fn poll_window(
    stream: &mut SendStream<Bytes>,
    room: Option<&Room>,
    cx: &mut Context<'_>,
) -> Poll<Result<usize, Unsent>> {
    if let Poll::Ready(reset) = stream.poll_reset(cx) {
        return Poll::Ready(Err(reset.map_or_else(Unsent::Stream, Unsent::Reset)));
    }
    loop {
        let capacity = stream.capacity();
        if capacity > 0 {
            // The queue empties as the socket takes what has its window already, whatever the other streams do.
            return room.map_or(Poll::Ready(()), |room| room.poll_queue(cx)).map(|()| Ok(capacity));
        }
        match stream.poll_capacity(cx) {
            Poll::Ready(Some(Ok(_))) => {}
            Poll::Ready(Some(Err(error))) => return Poll::Ready(Err(Unsent::Stream(error))),
            Poll::Ready(None) => return Poll::Ready(Err(Unsent::Reset(Reason::CANCEL))),
            Poll::Pending => return Poll::Pending,
        }
    }
}
