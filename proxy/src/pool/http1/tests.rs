//! Peers and requests that break off, or speak out of turn.

use std::time::Duration;

use bytes::Bytes;
use http::Request;
use http_body::Body;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::oneshot;
use tokio::task::LocalSet;

use super::*;
use crate::incoming::IncomingBody;
use crate::pool::FAILED_IN_A_ROW;
use crate::socket::{Socket, SocketHandle};
use crate::{Pool, PoolLimits};

const PATIENCE: Duration = Duration::from_secs(10);

/// A connection on which the peer has said this already.
async fn connected(said: &[u8]) -> (Wire, SocketHandle, TcpStream) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let ours = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
    let (mut peer, _) = listener.accept().await.unwrap();
    if !said.is_empty() {
        peer.write_all(said).await.unwrap();
        ours.readable().await.unwrap();
    }
    let (socket, handle) = Socket::new(ours.into());
    (Wire::new(Io::Clear(socket)), handle, peer)
}

/// A part of a body, then nothing until it breaks off.
struct Part {
    data: Option<Bytes>,
    breaks: oneshot::Receiver<()>,
}

impl Body for Part {
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        match self.data.take() {
            Some(data) => Poll::Ready(Some(Ok(Frame::data(data)))),
            None => Pin::new(&mut self.breaks).poll(cx).map(|_| Some(Err("broken off".into()))),
        }
    }
}

/// A request that breaks off when the sender is dropped.
fn post() -> (Request<RequestBody>, oneshot::Sender<()>) {
    let (until, breaks) = oneshot::channel();
    let body = IncomingBody::made_of(Part { data: Some(Bytes::from_static(b"part")), breaks });
    (Request::post("/").header("host", "a").body(RequestBody::streamed(body)).unwrap(), until)
}

#[tokio::test]
async fn a_peer_that_speaks_before_it_is_asked_is_not_asked() {
    let said = b"HTTP/1.1 200 OK\r\ncontent-length: 5\r\n\r\nwrong";
    let (mut wire, handle, mut peer) = connected(said).await;
    let (head, body) = Request::get("/").header("host", "a").body(RequestBody::empty()).unwrap().into_parts();
    assert!(matches!(wire.send(RequestHead::of(&head), Box::new(body), 1024).await, Err(Unanswered::NotSent(..))));
    drop((wire, handle));
    let mut seen = Vec::new();
    // It may see a reset: what it said was never read.
    let _ = peer.read_to_end(&mut seen).await;
    assert_eq!(seen, b"");
}

#[tokio::test]
async fn a_request_that_breaks_off_within_its_answer_is_seen_to_be_cut_at_once() {
    let (mut wire, _handle, mut peer) = connected(b"").await;
    let local = LocalSet::new();
    let answering = tokio::spawn(async move {
        peer.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 500\r\n\r\n").await.unwrap();
        let mut seen = Vec::new();
        peer.read_to_end(&mut seen).await.unwrap();
        seen
    });
    local
        .run_until(async {
            let (request, until) = post();
            let (head, body) = request.into_parts();
            assert_eq!(wire.send(RequestHead::of(&head), Box::new(body), 1024).await.unwrap().status, 200);
            drop(until);
            // Nobody takes the answer meanwhile.
            let seen = tokio::time::timeout(PATIENCE, answering).await.unwrap().unwrap();
            assert!(seen.ends_with(b"chunked\r\n\r\n4\r\npart\r\n"), "{:?}", String::from_utf8_lossy(&seen));
        })
        .await;
}

#[tokio::test]
async fn a_clients_broken_upload_is_no_fault_of_its_cell() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let app = listener.local_addr().unwrap();
    LocalSet::new()
        .run_until(async {
            let pool = Pool::new(PoolLimits::default());
            for _ in 0..2 * FAILED_IN_A_ROW {
                let (request, _) = post();
                let Err(error) = pool.send(app, request).await else { panic!("it was answered") };
                assert!(error.is_of_request_body());
            }
            assert!(!pool.is_shunned(&app.into()));
        })
        .await;
}
