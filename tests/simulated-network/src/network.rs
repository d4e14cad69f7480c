//! The simulated network as the machine of our processes, and as the transport of their API and etcd clients.
//!
//! Our processes know each other by loopback addresses, 127.0.0.N for the host number N of [`Host`]; in the simulated
//! network each has an address of its own.

use crate::links::{Cuttable, while_cut};
use crate::world::Host;
use cellway_api::http::{Answer, NoAnswer};
use cellway_machine::{Accept, BoxFuture, Duplex, Machine, TcpStream};
use cellway_store::Connecting;
use etcd_client::{Channel, Client, ConnectOptions};
use futures_util::FutureExt;
use http_body_util::BodyExt;
use hyper_util::rt::TokioIo;
use std::io;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use tokio::runtime::{Handle, Id};
use tokio::time::timeout;
use tonic::transport::Endpoint;
use turmoil::net::{TcpListener, TcpStream as Simulated};

/// As the store tells its own clients.
const ETCD_TIMEOUT_MS: u64 = 2_000;
const KEEP_ALIVE_MS: u64 = 10_000;
const KEEP_ALIVE_TIMEOUT_MS: u64 = 5_000;

/// Puts the simulated network in the place of the machine's.
pub(crate) fn install() {
    cellway_machine::replace(Box::new(Network));
    cellway_api::http::replace_transport(call);
}

/// The address that our processes know a host by.
pub(crate) fn address(host: Host, port: u16) -> SocketAddr {
    SocketAddr::from((Ipv4Addr::new(127, 0, 0, host.number()), port))
}

fn known(address: SocketAddr) -> io::Result<Host> {
    let number = match address.ip() {
        IpAddr::V4(ip) if ip.is_loopback() => ip.octets()[3],
        _ => 0,
    };
    Host::numbered(number).ok_or_else(|| io::ErrorKind::AddrNotAvailable.into())
}

/// The host with this address in the simulated network.
fn simulated(address: SocketAddr) -> io::Result<Host> {
    let host = turmoil::reverse_lookup(address.ip()).and_then(|name| Host::named(&name));
    host.ok_or_else(|| io::ErrorKind::AddrNotAvailable.into())
}

struct Network;

impl Machine for Network {
    fn bind(&self, address: SocketAddr) -> io::Result<Box<dyn Accept>> {
        let bound = TcpListener::bind((Ipv4Addr::UNSPECIFIED, address.port())).now_or_never();
        let listener = bound.unwrap_or_else(|| Err(io::ErrorKind::WouldBlock.into()))?;
        let address = SocketAddr::new(address.ip(), listener.local_addr()?.port());
        Ok(Box::new(Listener { listener, address, host: known(address)? }))
    }

    fn connect(&self, address: SocketAddr) -> BoxFuture<'static, io::Result<Box<dyn Duplex>>> {
        Box::pin(async move {
            let (here, host) = (here()?, known(address)?);
            let connecting = Simulated::connect((host.name(), address.port())).await;
            // What is sent into a cut has no answer.
            while_cut(here, host).await;
            Ok(Box::new(Cuttable::new(connecting?, here, host)) as Box<dyn Duplex>)
        })
    }
}

/// Which host each runtime is of.
static RUNTIMES: Mutex<Vec<(Id, Host)>> = Mutex::new(Vec::new());

fn runtimes() -> MutexGuard<'static, Vec<(Id, Host)>> {
    RUNTIMES.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The runtime that asks is of this host.
pub(crate) fn runs(host: Host) {
    runtimes().push((Handle::current().id(), host));
}

/// The host that asks.
fn here() -> io::Result<Host> {
    let id = Handle::current().id();
    let host = runtimes().iter().find(|(known, _)| *known == id).map(|(_, host)| *host);
    host.ok_or_else(|| io::ErrorKind::AddrNotAvailable.into())
}

struct Listener {
    listener: TcpListener,
    address: SocketAddr,
    host: Host,
}

impl Accept for Listener {
    fn local_addr(&self) -> SocketAddr {
        self.address
    }

    fn accept(&self) -> BoxFuture<'_, io::Result<(Box<dyn Duplex>, SocketAddr)>> {
        Box::pin(async {
            let (stream, peer) = self.listener.accept().await?;
            let there = simulated(peer)?;
            let stream: Box<dyn Duplex> = Box::new(Cuttable::new(stream, self.host, there));
            Ok((stream, address(there, peer.port())))
        })
    }
}

/// One request to the API, on a connection of its own.
fn call(request: reqwest::Request) -> Answer {
    Box::pin(async move {
        let limit = request.timeout().copied();
        let answer = exchange(request);
        let Some(limit) = limit else { return Ok(answer.await?.map(reqwest::Body::wrap).into()) };
        // As reqwest has it, the limit is for the whole answer.
        let whole = async {
            let (head, body) = answer.await?.into_parts();
            let body = body.collect().await.map_err(io::Error::other)?.to_bytes();
            Ok(http::Response::from_parts(head, body).into())
        };
        timeout(limit, whole).await.unwrap_or_else(|_| Err(NoAnswer::Transport(io::ErrorKind::TimedOut.into())))
    })
}

async fn exchange(request: reqwest::Request) -> io::Result<http::Response<hyper::body::Incoming>> {
    let mut request = http::Request::try_from(request).map_err(io::Error::other)?;
    let authority = request.uri().authority().cloned().ok_or(io::ErrorKind::InvalidInput)?;
    let address: SocketAddr = authority.as_str().parse().map_err(io::Error::other)?;
    let path = request.uri().path_and_query().map_or("/", |path| path.as_str()).to_owned();
    *request.uri_mut() = path.parse().map_err(io::Error::other)?;
    let host = authority.as_str().parse().map_err(io::Error::other)?;
    request.headers_mut().insert(http::header::HOST, host);
    let stream = TcpStream::connect(address).await?;
    let (mut sender, connection) =
        hyper::client::conn::http1::handshake(TokioIo::new(stream)).await.map_err(io::Error::other)?;
    tokio::spawn(connection);
    sender.send_request(request).await.map_err(io::Error::other)
}

/// A client of the etcd at `endpoint`.
pub(crate) fn etcd(endpoint: &str, options: ConnectOptions) -> Connecting {
    let endpoint = endpoint.to_owned();
    Box::pin(async move {
        let endpoint = Endpoint::from_shared(endpoint)?
            .connect_timeout(Duration::from_millis(ETCD_TIMEOUT_MS))
            .http2_keep_alive_interval(Duration::from_millis(KEEP_ALIVE_MS))
            .keep_alive_timeout(Duration::from_millis(KEEP_ALIVE_TIMEOUT_MS))
            .keep_alive_while_idle(true);
        let connector = tower::service_fn(|uri: http::Uri| async move {
            let address: SocketAddr =
                uri.authority().ok_or(io::ErrorKind::InvalidInput)?.as_str().parse().map_err(io::Error::other)?;
            TcpStream::connect(address).await.map(TokioIo::new)
        });
        Client::from_channel(Channel::Tonic(endpoint.connect_with_connector_lazy(connector)), Some(options)).await
    })
}
