//! Listeners: bound first, so that their address is known, then started inside a runtime.

use crate::{Accept, Accepted, Made, TcpStream, replaced};
use std::future::poll_fn;
use std::io;
use std::net::SocketAddr;
use std::task::{Poll, ready};
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

/// A listener that is bound and does not accept yet.
pub struct Bound(Kind);

enum Kind {
    Kernel(std::net::TcpListener),
    Replaced(Box<dyn Accept>),
}

impl Bound {
    /// Binds an address; port 0 picks one.
    pub fn new(address: SocketAddr) -> io::Result<Self> {
        if let Some(bound) = Self::replaced(address)? {
            return Ok(bound);
        }
        let listener = std::net::TcpListener::bind(address)?;
        listener.set_nonblocking(true)?;
        Ok(listener.into())
    }

    /// Binds an address of the machine that took this one's place; `None` where none did.
    pub fn replaced(address: SocketAddr) -> io::Result<Option<Self>> {
        let bound = replaced().map(|machine| machine.bind(address)).transpose()?;
        Ok(bound.map(|listener| Self(Kind::Replaced(listener))))
    }

    /// The address, with the port that was picked.
    pub fn local_addr(&self) -> io::Result<SocketAddr> {
        match &self.0 {
            Kind::Kernel(listener) => listener.local_addr(),
            Kind::Replaced(listener) => Ok(listener.local_addr()),
        }
    }

    /// Another handle of the same listener: what waits in its queue goes to whoever accepts first, and it is closed when
    /// the last handle is. `None` where another machine took this one's place.
    pub fn copy(&self) -> io::Result<Option<std::net::TcpListener>> {
        match &self.0 {
            Kind::Kernel(listener) => listener.try_clone().map(Some),
            Kind::Replaced(_) => Ok(None),
        }
    }

    /// Begins to accept, inside a runtime.
    pub fn start(self) -> io::Result<TcpListener> {
        Ok(match self.0 {
            #[expect(
                deprecated,
                reason = "the successor is unsafe, for types whose descriptor may change; this one's cannot"
            )]
            Kind::Kernel(listener) => TcpListener::Kernel(AsyncFd::with_interest(listener, Interest::READABLE)?),
            Kind::Replaced(listener) => TcpListener::Replaced(listener),
        })
    }
}

/// Takes a listener that does not block.
impl From<std::net::TcpListener> for Bound {
    fn from(listener: std::net::TcpListener) -> Self {
        Self(Kind::Kernel(listener))
    }
}

/// A listener that accepts.
pub enum TcpListener {
    /// The kernel's.
    Kernel(AsyncFd<std::net::TcpListener>),
    /// Another machine's.
    Replaced(Box<dyn Accept>),
}

impl TcpListener {
    /// Where it listens.
    pub fn local_addr(&self) -> io::Result<SocketAddr> {
        match self {
            Self::Kernel(listener) => listener.get_ref().local_addr(),
            Self::Replaced(listener) => Ok(listener.local_addr()),
        }
    }

    /// The next connection, and whose it is.
    pub async fn accept(&self) -> io::Result<(TcpStream, SocketAddr)> {
        let (accepted, address) = self.accept_unwatched().await?;
        Ok((accepted.watched()?, address))
    }

    /// The same, for whoever first looks whether there is something to wait for.
    pub async fn accept_unwatched(&self) -> io::Result<(Accepted, SocketAddr)> {
        let listener = match self {
            Self::Kernel(listener) => listener,
            Self::Replaced(listener) => {
                let (stream, address) = listener.accept().await?;
                return Ok((Accepted::Replaced(Box::new(Made::new(stream))), address));
            }
        };
        poll_fn(|cx| {
            loop {
                if let Ok(accepted) = ready!(listener.poll_read_ready(cx))?.try_io(|listener| take(listener.get_ref()))
                {
                    return Poll::Ready(accepted.map(|(tcp, address)| (Accepted::Kernel(tcp), address)));
                }
            }
        })
        .await
    }

    /// Closes it, which would reset what it has not accepted yet: up to `max` of those are accepted first. The runtime's
    /// news may be a poll old, so the kernel is asked.
    pub fn into_waiting(self, max: usize) -> Vec<(Accepted, SocketAddr)> {
        let mut waiting = Vec::new();
        let Self::Kernel(listener) = self else { return waiting };
        let listener = listener.into_inner();
        while waiting.len() < max
            && let Ok((tcp, address)) = take(&listener)
        {
            waiting.push((Accepted::Kernel(tcp), address));
        }
        waiting
    }
}

/// The next connection that waits, which does not block either.
#[cfg(target_os = "linux")]
fn take(listener: &std::net::TcpListener) -> io::Result<(std::net::TcpStream, SocketAddr)> {
    use rustix::net::{SocketFlags, acceptfrom_with};
    let (tcp, address) = acceptfrom_with(listener, SocketFlags::CLOEXEC | SocketFlags::NONBLOCK)?;
    let address = address.map(SocketAddr::try_from).ok_or(io::ErrorKind::NotConnected)??;
    Ok((tcp.into(), address))
}

#[cfg(not(target_os = "linux"))]
fn take(listener: &std::net::TcpListener) -> io::Result<(std::net::TcpStream, SocketAddr)> {
    let (tcp, address) = listener.accept()?;
    tcp.set_nonblocking(true)?;
    Ok((tcp, address))
}
