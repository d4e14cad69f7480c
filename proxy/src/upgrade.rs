//! WebSocket tunnels: after a real `101`, bytes are copied both ways until either side ends.

use std::cell::Cell;
use std::io;
use std::rc::Rc;
use std::time::Duration;

use http::{HeaderMap, Request, Response, StatusCode};
use hyper::upgrade::OnUpgrade;
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;

use crate::body::ResponseBody;
use crate::hygiene;
use crate::pool::PooledBody;

/// How long the other direction may go on after one has ended: time for the answer to a Close frame.
pub const LINGER_MS: u64 = 2_000;
/// What is read at once.
const COPY_BUFFER_BYTES: usize = 16 * 1024;

/// The bytes that passed through a tunnel so far.
#[derive(Debug, Default)]
pub struct TunnelBytes {
    /// From the client.
    pub up: Cell<u64>,
    /// To the client.
    pub down: Cell<u64>,
}

/// The client's half of an upgrade, to be taken before its request is turned into another.
pub fn client_half<B>(request: &mut Request<B>) -> OnUpgrade {
    hyper::upgrade::on(request)
}

/// Whether an answer switches to the WebSocket that was asked for. Any other `101` is not to be passed on.
pub fn is_switch(status: StatusCode, headers: &HeaderMap) -> bool {
    status == StatusCode::SWITCHING_PROTOCOLS && hygiene::switches_to_websocket(headers)
}

/// Joins the two halves of an upgrade.
///
/// Gives the `101` to answer the client with, and the tunnel to run in a task of its own: it ends when either side
/// ends or `stop` fires. `response` must satisfy [`is_switch`]; its connection stays counted in its pool until the
/// tunnel ends.
pub fn tunnel(
    client: OnUpgrade,
    mut response: Response<PooledBody>,
    bytes: Rc<TunnelBytes>,
    stop: CancellationToken,
) -> (Response<ResponseBody>, impl Future<Output = ()>) {
    let peer = hyper::upgrade::on(&mut response);
    let (mut head, place) = response.into_parts();
    debug_assert!(place.is_connected());
    hygiene::strip_response(&mut head.headers);
    hygiene::write_websocket(&mut head.headers);
    let run = async move {
        let joined = async {
            let (client, peer) = (client.await?, peer.await?);
            copy_both(TokioIo::new(client), TokioIo::new(peer), &bytes).await;
            Ok::<_, hyper::Error>(())
        };
        tokio::select! {
            result = joined => {
                if let Err(error) = result {
                    tracing::debug!(%error, "an upgrade was not completed");
                }
            }
            () = stop.cancelled() => {}
        }
        drop(place);
    };
    (Response::from_parts(head, ResponseBody::Empty), run)
}

/// Copies both ways. When one direction ends, the other has [`LINGER_MS`] left.
pub async fn copy_both<A, B>(client: A, peer: B, bytes: &TunnelBytes)
where
    A: AsyncRead + AsyncWrite,
    B: AsyncRead + AsyncWrite,
{
    let (client_read, client_write) = tokio::io::split(client);
    let (peer_read, peer_write) = tokio::io::split(peer);
    let up = copy_one(client_read, peer_write, &bytes.up);
    let down = copy_one(peer_read, client_write, &bytes.down);
    tokio::pin!(up, down);
    let linger = Duration::from_millis(LINGER_MS);
    // Errors and ends are alike here: the other side gets the time to say goodbye.
    tokio::select! {
        _ = &mut up => { let _ = timeout(linger, down).await; }
        _ = &mut down => { let _ = timeout(linger, up).await; }
    }
}

async fn copy_one(
    mut from: impl AsyncRead + Unpin,
    mut to: impl AsyncWrite + Unpin,
    count: &Cell<u64>,
) -> io::Result<()> {
    let mut buffer = vec![0; COPY_BUFFER_BYTES];
    loop {
        let length = from.read(&mut buffer).await?;
        if length == 0 {
            return to.shutdown().await;
        }
        to.write_all(&buffer[..length]).await?;
        to.flush().await?;
        count.set(count.get() + length as u64);
    }
}
