//! WebSocket tunnels: after a real `101`, bytes are copied both ways until either side ends, or until both are told
//! that it is time to part (RFC 6455, section 7.1).

use std::cell::Cell;
use std::io;
use std::rc::Rc;
use std::time::Duration;

use http::{Extensions, HeaderMap, Response, StatusCode};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::sync::oneshot;
use tokio::time::{sleep, timeout};
use tokio_util::sync::CancellationToken;

use crate::addresses::Counted;
use crate::body::ResponseBody;
use crate::http2::Tunnel;
use crate::hygiene;
use crate::io::Io;
use crate::pool::PooledBody;

mod frames;
mod handshake;
mod promise;

use frames::Frames;
pub use handshake::accept_of;
pub(crate) use handshake::new_key;
pub(crate) use promise::Promise;

/// How long the other direction may go on after one has ended: time for the answer to a Close frame.
pub const LINGER_MS: u64 = 2_000;
/// How long both sides have to close once the client was told to: shorter than what a fence may take to drain.
pub const FAREWELL_MS: u64 = 500;
/// A whole Close frame with code 1012: the service restarts, connect again.
const CLOSE_FRAME: &[u8] = b"\x88\x11\x03\xf4service restart";
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

/// What ends a tunnel that its two sides would go on with.
#[derive(Debug, Clone, Default)]
pub struct TunnelEnd {
    /// The client is sent a Close frame (1012) as soon as the frame under way has ended; its answer is passed on. After
    /// [`FAREWELL_MS`] the tunnel is cut.
    pub goodbye: CancellationToken,
    /// The tunnel is cut at once.
    pub stop: CancellationToken,
}

/// The client's half of a tunnel, which comes once its request was answered with a switch.
pub struct ClientHalf(Half);

/// A client's connection after its `101`, which counts until its tunnel has ended.
pub(crate) struct Switched {
    pub(crate) io: Io,
    pub(crate) counted: Counted,
}

enum Half {
    Http1(oneshot::Receiver<Switched>),
    Http2(oneshot::Receiver<Tunnel>),
    /// It was taken, or not asked for.
    None,
}

/// A tunnel did not come about.
#[derive(Debug, thiserror::Error)]
#[error("the client's side was over before its WebSocket began")]
struct NotOpened;

trait Duplex: AsyncRead + AsyncWrite + Unpin {}
impl<T: AsyncRead + AsyncWrite + Unpin> Duplex for T {}

impl ClientHalf {
    async fn open(self) -> Result<(Box<dyn Duplex>, Option<Counted>), NotOpened> {
        match self.0 {
            Half::Http1(connection) => {
                let Switched { io, counted } = connection.await.map_err(|_| NotOpened)?;
                Ok((Box::new(io), Some(counted)))
            }
            Half::Http2(tunnel) => Ok((Box::new(tunnel.await.map_err(|_| NotOpened)?), None)),
            Half::None => Err(NotOpened),
        }
    }
}

/// The client's half of an upgrade, to be taken before its request is turned into another.
pub fn client_half(extensions: &mut Extensions) -> ClientHalf {
    if let Some(connection) = extensions.remove::<Promise<Switched>>().and_then(|promise| promise.take()) {
        return ClientHalf(Half::Http1(connection));
    }
    let tunnel = extensions.remove::<Promise<Tunnel>>().and_then(|promise| promise.take());
    ClientHalf(tunnel.map_or(Half::None, Half::Http2))
}

/// Whether an answer switches to the WebSocket that was asked for. Any other `101` is not to be passed on.
pub fn is_switch(status: StatusCode, headers: &HeaderMap) -> bool {
    status == StatusCode::SWITCHING_PROTOCOLS && hygiene::switches_to_websocket(headers)
}

/// Joins the two halves of an upgrade.
///
/// Gives the `101` to answer the client with, and the tunnel to run in a task of its own: it ends when either side
/// ends, or as `end` says. `response` must satisfy [`is_switch`]; its connection stays counted in its pool until the
/// tunnel ends.
pub fn tunnel(
    client: ClientHalf,
    response: Response<PooledBody>,
    bytes: Rc<TunnelBytes>,
    end: TunnelEnd,
) -> (Response<ResponseBody>, impl Future<Output = ()>) {
    let (answer, peer, place) = switched(response);
    let run = async move {
        drop(join(client, peer, &bytes, &end).await);
        drop(place);
    };
    (answer, run)
}

/// Like [`tunnel`], but it ends only when the peer has ended its side, or `patience` after the client's side is over:
/// the peer is told by shutting the write side, and what it still says is thrown away. Gives whether the peer ended.
pub fn tunnel_to_the_end(
    client: ClientHalf,
    response: Response<PooledBody>,
    bytes: Rc<TunnelBytes>,
    end: TunnelEnd,
    patience: Duration,
) -> (Response<ResponseBody>, impl Future<Output = bool>) {
    let (answer, peer, place) = switched(response);
    let run = async move {
        let ended = match join(client, peer, &bytes, &end).await {
            Some(peer) => timeout(patience, hang_up(peer)).await.is_ok(),
            None => true,
        };
        // Dropped last: it says that the request is over.
        drop(place);
        ended
    };
    (answer, run)
}

/// The answer for the client, the peer's half, and its connection's place in the pool.
fn switched(response: Response<PooledBody>) -> (Response<ResponseBody>, Option<Io>, PooledBody) {
    let (mut head, mut place) = response.into_parts();
    let peer = place.switch();
    hygiene::strip_response(&mut head.headers);
    hygiene::write_websocket(&mut head.headers);
    (Response::from_parts(head, ResponseBody::Empty), peer, place)
}

/// Copies both ways until either side ends, or as `end` says; the client is closed then. Gives back the peer's side,
/// unless it was never reached.
async fn join(client: ClientHalf, peer: Option<Io>, bytes: &TunnelBytes, end: &TunnelEnd) -> Option<Io> {
    let not_completed = |error: NotOpened| tracing::debug!(%error, "a WebSocket did not come about");
    let mut peer = peer?;
    let joined = async {
        let (client, _counted) = client.open().await?;
        relay(client, &mut peer, bytes, &end.goodbye).await;
        Ok::<_, NotOpened>(())
    };
    tokio::select! {
        result = joined => { let _ = result.map_err(not_completed); }
        () = overdue(&end.goodbye) => {}
        () = end.stop.cancelled() => {}
    }
    Some(peer)
}

async fn overdue(goodbye: &CancellationToken) {
    goodbye.cancelled().await;
    sleep(Duration::from_millis(FAREWELL_MS)).await;
}

/// Tells the peer that nobody is there any more, and waits until it has ended its side as well.
async fn hang_up(mut peer: impl AsyncRead + AsyncWrite + Unpin) {
    let mut buffer = vec![0; COPY_BUFFER_BYTES];
    // An error means that the peer is gone already, which reading shows.
    let _ = peer.shutdown().await;
    while !matches!(peer.read(&mut buffer).await, Ok(0) | Err(_)) {}
}

/// Copies both ways. When one direction ends, the other has [`LINGER_MS`] left.
async fn relay<A, B>(client: A, peer: B, bytes: &TunnelBytes, goodbye: &CancellationToken)
where
    A: AsyncRead + AsyncWrite,
    B: AsyncRead + AsyncWrite,
{
    let (client_read, client_write) = tokio::io::split(client);
    let (peer_read, peer_write) = tokio::io::split(peer);
    let up = Copy::new(client_read, peer_write, &bytes.up).copy_all();
    let down = Copy::new(peer_read, client_write, &bytes.down).copy_until(goodbye);
    tokio::pin!(up, down);
    let linger = Duration::from_millis(LINGER_MS);
    // Errors and ends are alike here: the other side gets the time to say goodbye.
    tokio::select! {
        _ = &mut up => { let _ = timeout(linger, down).await; }
        _ = &mut down => { let _ = timeout(linger, up).await; }
    }
}

/// One direction of a tunnel.
struct Copy<'a, R, W> {
    from: R,
    to: W,
    count: &'a Cell<u64>,
    buffer: Vec<u8>,
}

impl<'a, R: AsyncRead + Unpin, W: AsyncWrite + Unpin> Copy<'a, R, W> {
    fn new(from: R, to: W, count: &'a Cell<u64>) -> Self {
        Self { from, to, count, buffer: vec![0; COPY_BUFFER_BYTES] }
    }

    async fn copy_all(mut self) -> io::Result<()> {
        loop {
            let length = self.from.read(&mut self.buffer).await?;
            if length == 0 {
                return self.to.shutdown().await;
            }
            self.pass(length).await?;
        }
    }

    /// Copies until `goodbye`, then says it at the next boundary between two frames. What comes after that is thrown
    /// away: its end shows that the other side has heard of the goodbye as well.
    async fn copy_until(mut self, goodbye: &CancellationToken) -> io::Result<()> {
        let mut frames = Frames::default();
        loop {
            let length = tokio::select! {
                biased;
                () = goodbye.cancelled(), if frames.is_at_boundary() => break,
                length = self.from.read(&mut self.buffer) => length?,
            };
            let length = match goodbye.is_cancelled() {
                true => frames.take_one(&self.buffer[..length]),
                false => {
                    frames.take(&self.buffer[..length]);
                    length
                }
            };
            if length == 0 {
                return self.to.shutdown().await;
            }
            self.pass(length).await?;
        }
        if !frames.is_closed() {
            self.to.write_all(CLOSE_FRAME).await?;
            self.to.flush().await?;
        }
        while self.from.read(&mut self.buffer).await? > 0 {}
        self.to.shutdown().await
    }

    /// Writes what was read.
    async fn pass(&mut self, length: usize) -> io::Result<()> {
        self.to.write_all(&self.buffer[..length]).await?;
        self.to.flush().await?;
        self.count.set(self.count.get() + length as u64);
        Ok(())
    }
}
