//! Many connections of many addresses, each kept open.

use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::time::Duration;
use tokio::net::{TcpSocket, TcpStream};
use tokio::task::JoinSet;
use tokio::time::timeout;

/// Connections that are opened at a time: below what a listener's backlog holds.
const AT_A_TIME: usize = 256;
/// How long connecting may take.
const CONNECT_MS: u64 = 10_000;
/// Connections of one address.
pub const PER_ADDRESS: usize = 500;

/// The connections.
pub struct Crowd {
    /// Those that were taken.
    pub members: Vec<TcpStream>,
    /// Connections that failed.
    pub refused: usize,
}

impl Crowd {
    /// Opens so many, which say nothing.
    pub async fn gather(router: SocketAddr, count: usize) -> Self {
        let (mut members, mut refused) = (Vec::with_capacity(count), 0);
        let mut opening = JoinSet::new();
        for number in 0..count {
            if opening.len() >= AT_A_TIME {
                keep(opening.join_next().await, &mut members, &mut refused);
            }
            opening.spawn(connect(router, number / PER_ADDRESS));
        }
        while let Some(opened) = opening.join_next().await {
            keep(Some(opened), &mut members, &mut refused);
        }
        Self { members, refused }
    }

    /// Says this on every connection, as far as its socket takes it at once; says how many are broken.
    pub fn say(&self, bytes: &[u8]) -> usize {
        let broken =
            |tcp: &&TcpStream| tcp.try_write(bytes).is_err_and(|error| error.kind() != io::ErrorKind::WouldBlock);
        self.members.iter().filter(broken).count()
    }

    /// How many the router has closed; reads what came.
    pub fn closed(&self) -> usize {
        self.members.iter().filter(|member| is_closed(member)).count()
    }

    /// Waits until all are closed, at most so long; says how many are.
    pub async fn closed_within(&self, limit: Duration) -> usize {
        let until = tokio::time::Instant::now() + limit;
        loop {
            let closed = self.closed();
            if closed == self.members.len() || tokio::time::Instant::now() >= until {
                return closed;
            }
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    }
}

type Opened = Result<io::Result<TcpStream>, tokio::task::JoinError>;

fn keep(opened: Option<Opened>, members: &mut Vec<TcpStream>, refused: &mut usize) {
    match opened {
        Some(Ok(Ok(tcp))) => members.push(tcp),
        Some(_) => *refused += 1,
        None => {}
    }
}

/// Connects from the loopback address of this number.
pub async fn connect(router: SocketAddr, address: usize) -> io::Result<TcpStream> {
    let socket = TcpSocket::new_v4()?;
    let last = u8::try_from(address % 250 + 2).unwrap_or(2);
    socket.bind(SocketAddr::from((Ipv4Addr::new(127, 0, 1, last), 0)))?;
    let connected = timeout(Duration::from_millis(CONNECT_MS), socket.connect(router)).await;
    connected.map_err(|_| io::Error::from(io::ErrorKind::TimedOut))?
}

/// Whether the other side has closed it; what came before that is thrown away.
pub fn is_closed(tcp: &TcpStream) -> bool {
    let mut scrap = [0; 16 * 1024];
    loop {
        match tcp.try_read(&mut scrap) {
            Ok(0) => return true,
            Ok(_) => {}
            Err(error) => return error.kind() != io::ErrorKind::WouldBlock,
        }
    }
}
