//! Listeners on one address: opened here, or taken over from another process, and given to the next one.

use std::io;
use std::net::{SocketAddr, TcpListener};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use cellway_machine::Bound;
use socket2::{Domain, SockRef, Socket as RawSocket, Type};
use tokio_util::sync::CancellationToken;

use crate::socket::{Keepalive, limit_unsent};

/// Connections that the kernel keeps until they are accepted.
pub(crate) const BACKLOG: i32 = 4_096;

/// How a client of which nothing is heard is asked whether it is there.
const KEEPALIVE: Keepalive = Keepalive { after_ms: 60_000, every_ms: 10_000, times: 6 };

/// Listeners on one address, for a number of threads.
pub struct Listeners {
    address: SocketAddr,
    sockets: Vec<Bound>,
    threads: usize,
    given: Arc<Given>,
}

impl Listeners {
    fn of(address: SocketAddr, sockets: Vec<Bound>, threads: usize) -> Self {
        Self { address, sockets, threads, given: Arc::default() }
    }

    /// The address, with the port that was chosen if port 0 was asked for.
    pub fn local_addr(&self) -> SocketAddr {
        self.address
    }

    /// How many threads will serve it.
    pub fn threads(&self) -> usize {
        self.threads
    }

    /// Listeners of another process on `address`, at least one. Each is served by a thread: closing one would reset what
    /// waits in its queue. Where there are fewer than threads, several threads accept from the same one.
    pub fn adopt(address: SocketAddr, sockets: Vec<TcpListener>, threads: usize) -> io::Result<Self> {
        let threads = threads.max(1);
        let mut bound = Vec::new();
        for socket in sockets {
            if socket.local_addr()? != address {
                return Err(io::Error::new(io::ErrorKind::InvalidInput, format!("not a listener on {address}")));
            }
            socket.set_nonblocking(true)?;
            prepare(SockRef::from(&socket))?;
            bound.push(Bound::from(socket));
        }
        let passed = bound.len();
        if passed == 0 {
            return Err(io::ErrorKind::InvalidInput.into());
        }
        for number in passed..threads {
            bound.extend(bound[number % passed].copy()?.map(Bound::from));
        }
        Ok(Self::of(address, bound, threads))
    }

    /// Other handles of the same listeners, to be passed to another process. The port stays open as long as they are.
    pub fn copies(&self) -> io::Result<Copies> {
        let mut sockets = Vec::new();
        for socket in &self.sockets {
            sockets.extend(socket.copy()?);
        }
        Ok(Copies { address: self.address, sockets, given: Arc::clone(&self.given) })
    }

    pub(crate) fn given(&self) -> Arc<Given> {
        Arc::clone(&self.given)
    }

    /// What each thread accepts from.
    pub(crate) fn into_threads(self) -> Vec<Vec<Bound>> {
        let mut threads: Vec<Vec<Bound>> = (0..self.threads).map(|_| Vec::new()).collect();
        for (number, socket) in self.sockets.into_iter().enumerate() {
            threads[number % self.threads].push(socket);
        }
        threads
    }
}

/// Handles of listeners, for another process.
pub struct Copies {
    address: SocketAddr,
    sockets: Vec<TcpListener>,
    given: Arc<Given>,
}

impl Copies {
    /// Where they listen.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// The handles.
    pub fn sockets(&self) -> &[TcpListener] {
        &self.sockets
    }

    /// Nothing more is accepted here; connections go on. `lives_on`: another process accepts from the same listeners;
    /// otherwise what waits in their queues is accepted first.
    pub fn give_away(self, lives_on: bool) {
        self.given.lives_on.store(lives_on, Ordering::Release);
        self.given.fired.cancel();
    }
}

/// Whether listeners were given to another process.
#[derive(Default)]
pub(crate) struct Given {
    fired: CancellationToken,
    lives_on: AtomicBool,
}

impl Given {
    pub(crate) async fn fired(&self) {
        self.fired.cancelled().await;
    }

    pub(crate) fn lives_on(&self) -> bool {
        self.lives_on.load(Ordering::Acquire)
    }
}

/// Opens `threads` listeners that share `address`. An address that another process serves is refused.
pub fn bind(address: SocketAddr, threads: usize) -> io::Result<Listeners> {
    if let Some(bound) = Bound::replaced(address)? {
        return Ok(Listeners::of(bound.local_addr()?, vec![bound], 1));
    }
    // Only the first bind goes without SO_REUSEPORT, so that it fails where anyone else listens; set afterwards, the
    // flag lets its siblings in.
    let first = open(address, false)?;
    let address = first.local_addr()?.as_socket().ok_or(io::ErrorKind::Unsupported)?;
    let mut raw = vec![first];
    if threads > 1 {
        raw[0].set_reuse_port(true)?;
    }
    for _ in 1..threads {
        raw.push(open(address, true)?);
    }
    for socket in &raw {
        socket.listen(BACKLOG)?;
    }
    let sockets: Vec<Bound> = raw.into_iter().map(|socket| TcpListener::from(socket).into()).collect();
    let threads = sockets.len();
    Ok(Listeners::of(address, sockets, threads))
}

fn open(address: SocketAddr, reuse_port: bool) -> io::Result<RawSocket> {
    let socket = RawSocket::new(Domain::for_address(address), Type::STREAM, Some(socket2::Protocol::TCP))?;
    socket.set_reuse_address(true)?;
    socket.set_reuse_port(reuse_port)?;
    socket.set_nonblocking(true)?;
    prepare(SockRef::from(&socket))?;
    socket.bind(&address.into())?;
    Ok(socket)
}

/// Sets what every connection of a listener is to have: each inherits it, which is cheaper than to set it on each.
fn prepare(listener: SockRef<'_>) -> io::Result<()> {
    listener.set_tcp_nodelay(true)?;
    KEEPALIVE.set(&listener)?;
    limit_unsent(&listener);
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_listener_of_another_process_has_a_thread_and_every_thread_a_listener() {
        let anywhere = SocketAddr::from(([127, 0, 0, 1], 0));
        for (passed, threads) in [(1, 3), (3, 1), (2, 3), (3, 2), (2, 2)] {
            let listeners = bind(anywhere, passed).expect("bound");
            let copies = listeners.copies().expect("copied");
            let sockets = copies.sockets().iter().map(|socket| socket.try_clone().expect("a handle")).collect();
            let adopted = Listeners::adopt(listeners.local_addr(), sockets, threads).expect("adopted");
            assert_eq!(adopted.threads(), threads);
            let by_thread = adopted.into_threads();
            assert!(by_thread.iter().all(|sockets| !sockets.is_empty()), "{passed} for {threads}");
            assert_eq!(by_thread.iter().map(Vec::len).sum::<usize>(), passed.max(threads));
        }
    }

    #[test]
    fn a_connection_has_what_its_listener_was_given() {
        let anywhere = SocketAddr::from(([127, 0, 0, 1], 0));
        let listeners = bind(anywhere, 1).expect("bound");
        let listener = listeners.copies().expect("copied").sockets.remove(0);
        listener.set_nonblocking(false).expect("set");
        let _client = std::net::TcpStream::connect(listeners.local_addr()).expect("connected");
        let (accepted, _) = listener.accept().expect("accepted");
        let accepted = SockRef::from(&accepted);
        assert!(accepted.tcp_nodelay().expect("told") && accepted.keepalive().expect("told"));
        assert_eq!(accepted.tcp_keepalive_time().expect("told").as_millis(), u128::from(KEEPALIVE.after_ms));
        #[cfg(target_os = "linux")]
        assert!(accepted.tcp_notsent_lowat().expect("told") < u32::MAX);
    }

    #[test]
    fn what_listens_elsewhere_is_not_adopted() {
        let anywhere = SocketAddr::from(([127, 0, 0, 1], 0));
        let (one, other) = (bind(anywhere, 1).expect("bound"), bind(anywhere, 1).expect("bound"));
        let sockets =
            one.copies().expect("copied").sockets().iter().map(|s| s.try_clone().expect("a handle")).collect();
        assert!(Listeners::adopt(other.local_addr(), sockets, 1).is_err());
        assert!(Listeners::adopt(one.local_addr(), Vec::new(), 1).is_err());
    }
}
