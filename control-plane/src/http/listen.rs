//! The API's listeners: in clear, and over TLS with the handshakes beside each other.

use super::callers::{Caller, Proof};
use axum::extract::connect_info::Connected;
use axum::serve::{IncomingStream, Listener};
use cellway_api::identity::Identity;
use cellway_machine::{TcpListener, TcpStream};
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::{Semaphore, mpsc};
use tokio::task::JoinSet;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;

/// The longest handshake.
const HANDSHAKE_MS: u64 = 5_000;

/// Handshakes at a time; further connections wait in the kernel.
const HANDSHAKES_MAX: usize = 256;

/// Connections that have shaken hands and wait to be served.
const WAITING_MAX: usize = 16;

/// How long what was said to an agent may stay without the least sign of it: its host is gone, and it must not count as
/// reachable for the quarter of an hour that the kernel would go on trying.
const UNHEARD_MS: u64 = 10_000;

/// The pause after accepting failed, mostly for want of file descriptors.
const ACCEPT_PAUSE_MS: u64 = 50;

/// A listener in clear.
pub(super) struct Clear(pub(super) TcpListener);

impl Listener for Clear {
    type Io = TcpStream;
    type Addr = Caller;

    async fn accept(&mut self) -> (TcpStream, Caller) {
        let (stream, address) = accept(&self.0).await;
        (stream, Caller { address, proof: Proof::Loopback })
    }

    fn local_addr(&self) -> io::Result<Caller> {
        Ok(Caller { address: self.0.local_addr()?, proof: Proof::Loopback })
    }
}

/// A listener whose connections have shaken hands.
pub(super) struct Tls {
    address: SocketAddr,
    accepted: mpsc::Receiver<(TlsStream<TcpStream>, Caller)>,
    _handshakes: JoinSet<()>,
}

impl Tls {
    pub(super) fn start(listener: TcpListener, config: Arc<tokio_rustls::rustls::ServerConfig>) -> io::Result<Self> {
        let address = listener.local_addr()?;
        let (sender, accepted) = mpsc::channel(WAITING_MAX);
        let mut handshakes = JoinSet::new();
        handshakes.spawn(shake_hands(listener, TlsAcceptor::from(config), sender));
        Ok(Self { address, accepted, _handshakes: handshakes })
    }
}

impl Listener for Tls {
    type Io = TlsStream<TcpStream>;
    type Addr = Caller;

    async fn accept(&mut self) -> (TlsStream<TcpStream>, Caller) {
        match self.accepted.recv().await {
            Some(accepted) => accepted,
            None => std::future::pending().await,
        }
    }

    fn local_addr(&self) -> io::Result<Caller> {
        Ok(Caller { address: self.address, proof: Proof::None })
    }
}

impl Connected<IncomingStream<'_, Clear>> for Caller {
    fn connect_info(stream: IncomingStream<'_, Clear>) -> Self {
        stream.remote_addr().clone()
    }
}

impl Connected<IncomingStream<'_, Tls>> for Caller {
    fn connect_info(stream: IncomingStream<'_, Tls>) -> Self {
        stream.remote_addr().clone()
    }
}

async fn accept(listener: &TcpListener) -> (TcpStream, SocketAddr) {
    loop {
        match listener.accept().await {
            Ok((stream, address)) => {
                let _ = stream.set_nodelay();
                stream.give_up_after(Some(Duration::from_millis(UNHEARD_MS)));
                return (stream, address);
            }
            Err(error) => {
                tracing::warn!(%error, "cannot accept a connection");
                tokio::time::sleep(Duration::from_millis(ACCEPT_PAUSE_MS)).await;
            }
        }
    }
}

async fn shake_hands(
    listener: TcpListener,
    acceptor: TlsAcceptor,
    accepted: mpsc::Sender<(TlsStream<TcpStream>, Caller)>,
) {
    let room = Arc::new(Semaphore::new(HANDSHAKES_MAX));
    let mut handshakes = JoinSet::new();
    loop {
        let Ok(place) = Arc::clone(&room).acquire_owned().await else { return };
        while handshakes.try_join_next().is_some() {}
        let (stream, address) = accept(&listener).await;
        let (acceptor, accepted) = (acceptor.clone(), accepted.clone());
        handshakes.spawn(async move {
            let shaken = tokio::time::timeout(Duration::from_millis(HANDSHAKE_MS), acceptor.accept(stream)).await;
            match shaken {
                Ok(Ok(stream)) => {
                    let proof = proof(&stream);
                    let _ = accepted.send((stream, Caller { address, proof })).await;
                }
                Ok(Err(error)) => tracing::warn!(%address, %error, "a TLS handshake was refused"),
                Err(_) => tracing::debug!(%address, "a TLS handshake took too long"),
            }
            drop(place);
        });
    }
}

/// A certificate that got this far is of our CA, and has an identity.
fn proof(stream: &TlsStream<TcpStream>) -> Proof {
    let (_, session) = stream.get_ref();
    let identity = session.peer_certificates().and_then(|chain| Identity::of_certificate(chain.first()?).ok());
    identity.map_or(Proof::None, Proof::Certificate)
}
