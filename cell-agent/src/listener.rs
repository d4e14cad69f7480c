//! A small HTTP server for what is not the gate: the admin pages, and other agents' transfers.

use bytes::Bytes;
use cellway_api::identity::Identity;
use cellway_machine::{Bound, TcpStream};
use futures_util::future::BoxFuture;
use http::{Request, Response};
use http_body_util::Full;
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use std::convert::Infallible;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::sync::Semaphore;
use tokio::task::JoinSet;
use tokio_rustls::TlsAcceptor;

/// Connections at a time; further ones wait in the kernel.
const CONNECTIONS_MAX: usize = 256;

/// How long a client may take for a head, and be idle before one.
const HEAD_TIMEOUT_MS: u64 = 30_000;

/// The longest TLS handshake.
const HANDSHAKE_MS: u64 = 5_000;

/// The longest head.
const HEAD_MAX_BYTES: usize = 16 * 1024;

/// The pause after accepting failed, mostly for want of file descriptors.
const ACCEPT_PAUSE_MS: u64 = 50;

/// What answers requests. The identity is that of the client's certificate; none without TLS.
pub(crate) type Answer =
    Arc<dyn Fn(Option<Identity>, Request<Incoming>) -> BoxFuture<'static, Response<Full<Bytes>>> + Send + Sync>;

/// Serves until it is dropped, over TLS with an acceptor.
pub(crate) async fn serve(listener: Bound, tls: Option<TlsAcceptor>, answer: Answer) -> io::Result<Infallible> {
    let listener = listener.start()?;
    let room = Arc::new(Semaphore::new(CONNECTIONS_MAX));
    let mut connections = JoinSet::new();
    loop {
        let place = Arc::clone(&room).acquire_owned().await.map_err(io::Error::other)?;
        // Those that have ended.
        while connections.try_join_next().is_some() {}
        match listener.accept().await {
            Ok((stream, address)) => {
                let (answer, tls) = (Arc::clone(&answer), tls.clone());
                connections.spawn(async move {
                    match tls {
                        None => drive(stream, None, answer).await,
                        Some(tls) => shake_hands(tls, stream, address, answer).await,
                    }
                    drop(place);
                });
            }
            Err(error) => {
                tracing::warn!(%error, "cannot accept a connection");
                tokio::time::sleep(Duration::from_millis(ACCEPT_PAUSE_MS)).await;
            }
        }
    }
}

async fn shake_hands(tls: TlsAcceptor, stream: TcpStream, address: SocketAddr, answer: Answer) {
    match tokio::time::timeout(Duration::from_millis(HANDSHAKE_MS), tls.accept(stream)).await {
        Ok(Ok(stream)) => {
            let shown = stream.get_ref().1.peer_certificates().and_then(|chain| chain.first());
            match shown.and_then(|certificate| Identity::of_certificate(certificate).ok()) {
                Some(peer) => drive(stream, Some(peer), answer).await,
                // The handshake lets no such client through.
                None => tracing::warn!(%address, "a client without an identity is refused"),
            }
        }
        Ok(Err(error)) => tracing::warn!(%address, %error, "a TLS handshake was refused"),
        Err(_) => tracing::debug!(%address, "a TLS handshake took too long"),
    }
}

async fn drive(stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static, peer: Option<Identity>, answer: Answer) {
    let service = service_fn(move |request| {
        let answered = answer(peer.clone(), request);
        async move { Ok::<_, Infallible>(answered.await) }
    });
    let served = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(Duration::from_millis(HEAD_TIMEOUT_MS))
        .max_header_size(HEAD_MAX_BYTES)
        .serve_connection(TokioIo::new(stream), service)
        .await;
    if let Err(error) = served {
        tracing::debug!(%error, "a connection ended with an error");
    }
}
