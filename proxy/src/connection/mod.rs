//! One client's connection, from the accepted socket to the protocol that it speaks: the PROXY header where one is
//! demanded, the TLS handshake, then HTTP/2 if
//! it was agreed on or its preface comes, else HTTP/1.1. All of that has one deadline.

use std::future::poll_fn;
use std::io;
use std::net::SocketAddr;
use std::pin::{Pin, pin};
use std::rc::Rc;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::{sleep, timeout};
use tokio_rustls::TlsAcceptor;

use crate::addresses::{Addresses, Counted};
use crate::boxed::pinned;
use crate::clock::InTurns;
use crate::http1::{HEAD_READ_BYTES, Input};
use crate::http2;
use crate::io::Io;
use crate::proxy_protocol::NoClient;
use crate::serve::{Handler, Peer, Protocol, ServeOptions, ThreadContext};
use crate::socket::{Socket, SocketHandle};
use crate::tls::{PeerTls, UnderWay};

pub(crate) mod http1;

/// What begins every HTTP/2 connection in clear.
const HTTP2_PREFACE: &[u8; 24] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
/// How long a connection that has not begun yet may go on once the shutdown has.
const LATE_OPENING_MS: u64 = 250;

/// A connection as it was accepted.
pub(crate) struct Accepted {
    pub(crate) tcp: cellway_machine::Accepted,
    pub(crate) address: SocketAddr,
    /// Who is connected already.
    pub(crate) addresses: Arc<Addresses>,
}

/// What a connection is served with.
pub(crate) struct Served<H> {
    pub(crate) handler: Rc<H>,
    pub(crate) options: Rc<ServeOptions>,
    pub(crate) context: Rc<ThreadContext>,
    pub(crate) socket: SocketHandle,
    pub(crate) address: SocketAddr,
    pub(crate) tls: Option<Rc<PeerTls>>,
    /// Goes with the connection into a tunnel.
    pub(crate) counted: Counted,
}

impl<H> Served<H> {
    /// Who sends the requests of this connection.
    pub(crate) fn peer(&self) -> Peer {
        let tls = self.tls.clone();
        Peer { address: self.address, protocol: Protocol::Http1, tls, malformed: None, hold: None, room: None }
    }
}

/// Serves the connection until it ends.
pub(crate) async fn drive<H: Handler>(
    accepted: Accepted,
    handler: Rc<H>,
    options: Rc<ServeOptions>,
    context: Rc<ThreadContext>,
) {
    let address = accepted.address;
    let Opened { io, mut input, socket, protocol, address, tls, counted } =
        match open_in_time(accepted, &options, &context).await {
            Ok(opened) => opened,
            Err(error) => return tracing::debug!(%address, %error, "a client's connection did not come about"),
        };
    let served = Served { handler, options, context, socket, address, tls, counted };
    match protocol {
        Protocol::Http1 => http1::serve(io, input, served).await,
        // In a task of its own, as it is by far the larger one, and this one ends.
        Protocol::Http2 => {
            let tasks = served.context.tasks.clone();
            tasks.spawn_local(InTurns(pinned(|| http2::serve(io.behind(input.take_all()), served))));
        }
    }
}

/// [`open`] within its time, unless all ends before.
async fn open_in_time(
    accepted: Accepted,
    options: &ServeOptions,
    context: &ThreadContext,
) -> Result<Opened, NotOpened> {
    let mut opening = pin!(open(accepted, options));
    // The first bytes may be there already: what bounds the time is made where they have to be waited for.
    if let Poll::Ready(opened) = poll_fn(|cx| Poll::Ready(opening.as_mut().poll(cx))).await {
        return opened;
    }
    tokio::select! {
        biased;
        opened = timeout(Duration::from_millis(options.opening_ms), opening) => opened.unwrap_or(Err(NotOpened::Silent)),
        () = shut(context) => Err(NotOpened::Shutdown),
    }
}

/// A client whose first request is on its way as the shutdown begins gets its answer.
async fn shut(context: &ThreadContext) {
    context.shutdown.cancelled().await;
    sleep(Duration::from_millis(LATE_OPENING_MS)).await;
}

struct Opened {
    io: Io,
    /// What was read of it already.
    input: Input,
    socket: SocketHandle,
    protocol: Protocol,
    address: SocketAddr,
    tls: Option<Rc<PeerTls>>,
    counted: Counted,
}

/// Why there is nothing to serve.
#[derive(Debug, thiserror::Error)]
enum NotOpened {
    #[error("the connection failed")]
    Io(#[from] io::Error),
    #[error("whom the connection is for was not told")]
    NoClient(#[from] NoClient),
    #[error("the address has as many connections as it may")]
    TooMany,
    #[error("the client fell silent")]
    Silent,
    #[error("nobody listens any more")]
    Shutdown,
}

async fn open(accepted: Accepted, options: &ServeOptions) -> Result<Opened, NotOpened> {
    let Accepted { tcp, mut address, addresses } = accepted;
    let (socket, handle) = if let Some(proxy_protocol) = &options.proxy_protocol {
        let mut tcp = tcp.watched()?;
        address = proxy_protocol.client(&mut tcp, address).await?;
        Socket::new(tcp)
    } else {
        Socket::accepted(tcp)
    };
    let counted = addresses.count(address.ip()).ok_or(NotOpened::TooMany)?;
    let Some(tls) = &options.tls else {
        let mut io = Io::Clear(socket);
        let (protocol, input) = protocol_in_clear(&mut io).await?;
        return Ok(Opened { io, input, socket: handle, protocol, address, tls: None, counted });
    };
    let under_way = UnderWay::new(&*tls.handshakes);
    let shaken = TlsAcceptor::from(tls.handshakes.config()).accept(socket).await;
    under_way.ended(&shaken);
    let stream = shaken?;
    let agreed = stream.get_ref().1.alpn_protocol() == Some(b"h2".as_slice());
    let protocol = if agreed { Protocol::Http2 } else { Protocol::Http1 };
    let facts = Rc::new(PeerTls::of(&stream, tls.covers.clone()));
    let (io, input) = (Io::Accepted(Box::new(stream)), Input::default());
    Ok(Opened { io, input, socket: handle, protocol, address, tls: Some(facts), counted })
}

/// Reads the first bytes, and sees in them what the connection speaks.
async fn protocol_in_clear(io: &mut Io) -> io::Result<(Protocol, Input)> {
    let mut input = Input::default();
    loop {
        let length = poll_fn(|cx| input.poll_read_head(io, cx, HEAD_READ_BYTES)).await?;
        let preface = &HTTP2_PREFACE[..input.len().min(HTTP2_PREFACE.len())];
        if length == 0 || !input.starts_with(preface) {
            return Ok((Protocol::Http1, input));
        }
        if preface.len() == HTTP2_PREFACE.len() {
            return Ok((Protocol::Http2, input));
        }
    }
}

/// Watches the bytes that come in.
pub(crate) trait Tap {
    /// Takes what was read; says whether it may be passed on.
    fn take(&mut self, bytes: &[u8]) -> bool;

    /// Ready when more may be read.
    fn poll_break(&mut self, cx: &mut Context<'_>) -> Poll<()>;
}

/// What passes by a tap at once, however large the buffer of the reader has grown.
pub(crate) const READ_MAX_BYTES: usize = 16 * 1024;

/// A connection whose incoming bytes pass by a tap.
pub(crate) struct Tapped<I, T> {
    pub(crate) io: I,
    pub(crate) tap: T,
}

impl<I: AsyncRead + Unpin, T: Tap + Unpin> AsyncRead for Tapped<I, T> {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        ready!(self.tap.poll_break(cx));
        let before = buf.filled().len();
        let polled = if buf.remaining() <= READ_MAX_BYTES {
            Pin::new(&mut self.io).poll_read(cx, buf)
        } else {
            let mut part = ReadBuf::new(buf.initialize_unfilled_to(READ_MAX_BYTES));
            let polled = Pin::new(&mut self.io).poll_read(cx, &mut part);
            let length = part.filled().len();
            buf.advance(length);
            polled
        };
        if self.tap.take(&buf.filled()[before..]) {
            return polled;
        }
        // Whoever owns the tap is polled again, finds why, and ends the connection.
        buf.set_filled(before);
        cx.waker().wake_by_ref();
        Poll::Pending
    }
}

impl<I: AsyncWrite + Unpin, T: Unpin> AsyncWrite for Tapped<I, T> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.io).poll_write(cx, buf)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.io).poll_write_vectored(cx, bufs)
    }

    fn is_write_vectored(&self) -> bool {
        self.io.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_shutdown(cx)
    }
}
