//! A TCP connection whose write side can be shut while another owns it, and whose loss can be seen without reading.

use std::io::{self, ErrorKind, Read};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd};
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use cellway_machine::{Accepted, TcpStream, give_up_after};
use parking_lot::Mutex;
use rustix::io::Errno;
use rustix::net::{RecvFlags, SendFlags};
use socket2::{SockRef, TcpKeepalive};
use tokio::io::{AsyncRead, AsyncWrite, Interest, ReadBuf};

/// How long a connection that was closed here is heard, and how much is read of it meanwhile.
const LINGER_MS: u64 = 1_000;
const LINGER_MAX_BYTES: usize = 4 * 1024 * 1024;

/// A peer that is gone is an error, not a signal.
#[cfg(not(target_vendor = "apple"))]
const SEND: SendFlags = SendFlags::NOSIGNAL;
#[cfg(target_vendor = "apple")]
const SEND: SendFlags = SendFlags::empty();

/// What the kernel takes of what is written ahead of what is on its way.
#[cfg(target_os = "linux")]
const UNSENT_MAX_BYTES: u32 = 128 * 1024;

/// Keeps what the kernel queues for a peer that does not read small; what is on its way is not limited.
pub(crate) fn limit_unsent(tcp: &SockRef<'_>) {
    // Best effort: without it a slow peer costs more memory of the machine, not of this process.
    #[cfg(target_os = "linux")]
    let _ = tcp.set_tcp_notsent_lowat(UNSENT_MAX_BYTES);
    #[cfg(not(target_os = "linux"))]
    let _ = tcp;
}

/// How a peer of which nothing is heard is asked whether it is there, by the kernel.
pub(crate) struct Keepalive {
    /// Silent for this long, it is asked …
    pub(crate) after_ms: u64,
    /// … this often …
    pub(crate) every_ms: u64,
    /// … and this many times before the connection counts as lost.
    pub(crate) times: u32,
}

impl Keepalive {
    pub(crate) fn set(&self, tcp: &SockRef<'_>) -> io::Result<()> {
        let keepalive = TcpKeepalive::new()
            .with_time(Duration::from_millis(self.after_ms))
            .with_interval(Duration::from_millis(self.every_ms))
            .with_retries(self.times);
        tcp.set_tcp_keepalive(&keepalive)
    }
}

struct Shared {
    tcp: Tcp,
    half_closed: AtomicBool,
}

/// A connection of which the runtime is told as it is first waited for. One that was accepted may have its first request
/// there already, and where that is the only one, nothing has to be waited for but its answer.
struct Tcp {
    watched: OnceLock<TcpStream>,
    /// `None` once it is watched.
    unwatched: Mutex<Option<Unwatched>>,
}

struct Unwatched {
    tcp: std::net::TcpStream,
    /// Only the first read is tried before the connection is watched: the runtime sees to it that a task which finds more
    /// each time gives way to others.
    is_unread: bool,
}

impl From<TcpStream> for Tcp {
    fn from(tcp: TcpStream) -> Self {
        Self { watched: tcp.into(), unwatched: Mutex::default() }
    }
}

impl From<Accepted> for Tcp {
    fn from(accepted: Accepted) -> Self {
        match accepted {
            Accepted::Kernel(tcp) => {
                let unwatched = Mutex::new(Some(Unwatched { tcp, is_unread: true }));
                Self { watched: OnceLock::new(), unwatched }
            }
            Accepted::Replaced(tcp) => TcpStream::Replaced(tcp).into(),
        }
    }
}

impl Tcp {
    /// From here on the runtime is told of it.
    fn watched(&self) -> io::Result<&TcpStream> {
        if let Some(tcp) = self.watched.get() {
            return Ok(tcp);
        }
        // Held meanwhile: of two that come at once, the second finds what the first has made.
        let mut unwatched = self.unwatched.lock();
        if let Some(Unwatched { tcp, .. }) = unwatched.take() {
            let tcp = Accepted::Kernel(tcp).watched();
            let tcp =
                tcp.inspect_err(|error| tracing::warn!(%error, "cannot wait for a client's connection; closing it"))?;
            // Nobody else sets it.
            let _ = self.watched.set(tcp);
        }
        self.watched.get().ok_or_else(|| ErrorKind::NotConnected.into())
    }

    /// What `read` gives, if it is the first and nothing has to be waited for.
    fn first_read<T>(&self, read: impl FnOnce(&std::net::TcpStream) -> io::Result<T>) -> Option<io::Result<T>> {
        self.unless_watched(|unwatched| {
            std::mem::take(&mut unwatched.is_unread).then(|| read(&unwatched.tcp)).filter(is_done)
        })
    }

    /// What `write` gives, if the connection is not watched and nothing has to be waited for.
    fn early_write<T>(&self, write: impl FnOnce(&std::net::TcpStream) -> io::Result<T>) -> Option<io::Result<T>> {
        self.unless_watched(|unwatched| Some(write(&unwatched.tcp)).filter(is_done))
    }

    fn unless_watched<T>(&self, act: impl FnOnce(&mut Unwatched) -> Option<T>) -> Option<T> {
        if self.watched.get().is_some() {
            return None;
        }
        self.unwatched.lock().as_mut().and_then(act)
    }

    /// Does what does not have to be waited for; nothing where another machine has the connection.
    fn with_raw<T>(&self, act: impl FnOnce(&SockRef<'_>) -> T) -> Option<T> {
        if let Some(tcp) = self.watched.get() {
            return tcp.kernel().map(|tcp| act(&SockRef::from(tcp)));
        }
        self.unless_watched(|unwatched| Some(act(&SockRef::from(&unwatched.tcp))))
    }
}

fn is_done<T>(tried: &io::Result<T>) -> bool {
    !tried.as_ref().is_err_and(|error| is_to_be_tried_again(error.kind()))
}

fn is_to_be_tried_again(error: ErrorKind) -> bool {
    matches!(error, ErrorKind::WouldBlock | ErrorKind::Interrupted)
}

/// The connection as its owner sees it.
pub(crate) struct Socket(Arc<Shared>);

/// Another hold on the same connection.
#[derive(Clone)]
pub(crate) struct SocketHandle(Arc<Shared>);

/// What an idle connection looks like from outside.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Idleness {
    /// Open, and nothing to read.
    Quiet,
    /// Closed, broken, or the peer spoke out of turn.
    Unusable,
}

impl Socket {
    pub(crate) fn new(tcp: TcpStream) -> (Self, SocketHandle) {
        Self::of(tcp.into())
    }

    /// One that was accepted just now.
    pub(crate) fn accepted(accepted: Accepted) -> (Self, SocketHandle) {
        Self::of(accepted.into())
    }

    fn of(tcp: Tcp) -> (Self, SocketHandle) {
        let shared = Arc::new(Shared { tcp, half_closed: AtomicBool::new(false) });
        (Self(Arc::clone(&shared)), SocketHandle(shared))
    }

    pub(crate) fn handle(&self) -> SocketHandle {
        SocketHandle(Arc::clone(&self.0))
    }
}

impl SocketHandle {
    /// Tells the peer that nothing more comes, and goes on reading. What is still written is discarded.
    pub(crate) fn half_close(&self) {
        if !self.0.half_closed.swap(true, Ordering::AcqRel) {
            if let Some(TcpStream::Replaced(tcp)) = self.0.tcp.watched.get() {
                tcp.shut();
            }
            // An error means that the peer is gone already, which reading will show.
            let _ = self.0.tcp.with_raw(|tcp| tcp.shutdown(std::net::Shutdown::Write));
        }
    }

    /// After the write side was shut: throws away what the peer still sends, until it closes too. To close a socket
    /// with bytes unread breaks the connection, and may take the last answer with it.
    pub(crate) async fn linger(&self) {
        if !self.0.half_closed.load(Ordering::Acquire) {
            return;
        }
        let Ok(TcpStream::Kernel(tcp)) = self.0.tcp.watched() else { return };
        let mut scrap = vec![0; 16 * 1024];
        let discard = async {
            let mut left = LINGER_MAX_BYTES;
            while tcp.readable().await.is_ok() {
                match tcp.try_read(&mut scrap) {
                    Err(error) if error.kind() == ErrorKind::WouldBlock => {}
                    Ok(count) if count > 0 && count < left => left -= count,
                    _ => return,
                }
            }
        };
        let _ = tokio::time::timeout(Duration::from_millis(LINGER_MS), discard).await;
    }

    /// Lets the kernel break the connection when the peer takes nothing of what waits for it for this long, or is not
    /// heard of meanwhile; never without a limit. [`SocketHandle::reset`] then returns.
    pub(crate) fn give_up_after(&self, limit: Option<Duration>) {
        // Best effort: without it the connection only stays longer.
        let _ = self.0.tcp.with_raw(|tcp| give_up_after(tcp, limit));
    }

    /// Asks the kernel, not the runtime, whose news may be a poll old.
    pub(crate) fn idleness(&self) -> Idleness {
        let is_quiet = match self.0.tcp.watched.get() {
            Some(TcpStream::Replaced(tcp)) => tcp.is_quiet(),
            _ => {
                let seen = self.0.tcp.with_raw(|tcp| tcp.peek(&mut [MaybeUninit::uninit()]));
                matches!(seen, Some(Err(error)) if error.kind() == ErrorKind::WouldBlock)
            }
        };
        if is_quiet { Idleness::Quiet } else { Idleness::Unusable }
    }

    /// Waits until the peer resets the connection. A peer that only stops writing is not seen: it may wait for its
    /// answer.
    pub(crate) async fn reset(&self) {
        // Another machine's connection tells its reader.
        let tcp = match self.0.tcp.watched() {
            Ok(TcpStream::Kernel(tcp)) => tcp,
            Ok(TcpStream::Replaced(_)) => return std::future::pending().await,
            Err(_) => return,
        };
        loop {
            match tcp.ready(Interest::ERROR).await {
                Err(_) => return,
                Ok(_) if !matches!(tcp.take_error(), Ok(None)) => return,
                // A stale report; the error may have been taken by a read or write, which then ends the connection.
                Ok(_) => std::future::pending().await,
            }
        }
    }
}

/// What the runtime is told of a read: one that did not fill its buffer has emptied the socket, and to report that as blocked
/// spares the system call that would only find it out.
fn emptied(read: Result<usize, Errno>, room: usize) -> io::Result<()> {
    match read {
        Ok(count) if count > 0 && count < room => Err(ErrorKind::WouldBlock.into()),
        Err(Errno::AGAIN) => Err(ErrorKind::WouldBlock.into()),
        _ => Ok(()),
    }
}

impl AsyncRead for Socket {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let read = self.0.tcp.first_read(|mut tcp| tcp.read(buf.initialize_unfilled()));
        if let Some(read) = read {
            return Poll::Ready(read.map(|count| buf.advance(count)));
        }
        let tcp = match self.0.tcp.watched()? {
            TcpStream::Kernel(tcp) => tcp,
            TcpStream::Replaced(tcp) => return tcp.poll_read(cx, buf),
        };
        loop {
            ready!(tcp.poll_read_ready(cx))?;
            let room = buf.remaining();
            let mut read = Err(ErrorKind::WouldBlock.into());
            let _ = tcp.try_io(Interest::READABLE, || {
                read = tcp.try_read_buf(buf);
                emptied(read.as_ref().map_or(Err(Errno::PERM), |count| Ok(*count)), room)
            });
            match read {
                Err(error) if error.kind() == ErrorKind::WouldBlock => {}
                Err(error) => return Poll::Ready(Err(error)),
                Ok(_) => return Poll::Ready(Ok(())),
            }
        }
    }
}

impl Socket {
    /// Ready where a read may find something.
    pub(crate) fn poll_may_read(&self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        if self.0.tcp.unless_watched(|unwatched| unwatched.is_unread.then_some(())).is_some() {
            return Poll::Ready(Ok(()));
        }
        match self.0.tcp.watched()? {
            TcpStream::Kernel(tcp) => tcp.poll_read_ready(cx),
            TcpStream::Replaced(_) => Poll::Ready(Ok(())),
        }
    }

    /// Reads into `bytes`, and gives `take` what was read. On Linux the system call is made without the C library, where it
    /// would be a point at which threads can be cancelled.
    pub(crate) fn poll_recv(
        &self,
        cx: &mut Context<'_>,
        bytes: &mut [MaybeUninit<u8>],
        take: &mut dyn FnMut(&[u8]),
    ) -> Poll<io::Result<usize>> {
        let room = bytes.len();
        let mut recv = |tcp: BorrowedFd<'_>, bytes: &mut [MaybeUninit<u8>]| {
            rustix::net::recv(tcp, bytes, RecvFlags::empty()).map(|((read, _), count)| {
                take(read);
                count
            })
        };
        if let Some(read) = self.0.tcp.first_read(|tcp| Ok(recv(tcp.as_fd(), bytes)?)) {
            return Poll::Ready(read);
        }
        let tcp = match self.0.tcp.watched()? {
            TcpStream::Kernel(tcp) => tcp,
            TcpStream::Replaced(tcp) => {
                let mut read = ReadBuf::uninit(bytes);
                ready!(tcp.poll_read(cx, &mut read))?;
                take(read.filled());
                return Poll::Ready(Ok(read.filled().len()));
            }
        };
        loop {
            ready!(tcp.poll_read_ready(cx))?;
            let mut read = Err(Errno::AGAIN);
            let _ = tcp.try_io(Interest::READABLE, || {
                read = recv(tcp.as_fd(), bytes);
                emptied(read, room)
            });
            match read {
                Err(Errno::AGAIN | Errno::INTR) => {}
                done => return Poll::Ready(done.map_err(Into::into)),
            }
        }
    }

    fn poll_try_write(
        &self,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
        write: impl Fn(BorrowedFd<'_>) -> Result<usize, Errno>,
    ) -> Poll<io::Result<usize>> {
        if self.0.half_closed.load(Ordering::Acquire) {
            return Poll::Ready(Ok(bufs.iter().map(|buf| buf.len()).sum()));
        }
        if let Some(written) = self.0.tcp.early_write(|tcp| Ok(write(tcp.as_fd())?)) {
            return Poll::Ready(written);
        }
        let tcp = match self.0.tcp.watched()? {
            TcpStream::Kernel(tcp) => tcp,
            TcpStream::Replaced(tcp) => {
                return tcp.poll_write(cx, bufs.iter().find(|buf| !buf.is_empty()).map_or(&[], |buf| buf));
            }
        };
        loop {
            ready!(tcp.poll_write_ready(cx))?;
            match tcp.try_io(Interest::WRITABLE, || Ok(write(tcp.as_fd())?)) {
                Err(error) if is_to_be_tried_again(error.kind()) => {}
                done => return Poll::Ready(done),
            }
        }
    }
}

impl AsyncWrite for Socket {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        // As in `poll_recv`.
        self.poll_try_write(cx, &[io::IoSlice::new(buf)], |tcp| rustix::net::send(tcp, buf, SEND))
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        self.poll_try_write(cx, bufs, |tcp| rustix::io::writev(tcp, bufs))
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.handle().half_close();
        Poll::Ready(Ok(()))
    }
}

#[cfg(test)]
mod tests {
    use std::future::poll_fn;
    use std::io::Write;
    use std::net::{TcpListener, TcpStream};

    use futures_util::FutureExt;
    use tokio::io::AsyncWriteExt;

    use super::*;

    /// A connection, both of whose sides are here.
    fn connection() -> (std::net::TcpStream, std::net::TcpStream) {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let client = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        let (accepted, _) = listener.accept().unwrap();
        accepted.set_nonblocking(true).unwrap();
        (client, accepted)
    }

    async fn read(socket: &Socket) -> io::Result<Vec<u8>> {
        let (mut bytes, mut taken) = ([MaybeUninit::uninit(); 16], Vec::new());
        poll_fn(|cx| socket.poll_recv(cx, &mut bytes, &mut |read| taken.extend_from_slice(read))).await?;
        Ok(taken)
    }

    #[tokio::test]
    async fn the_runtime_is_told_of_an_accepted_connection_only_where_something_has_to_be_waited_for() {
        let (mut client, accepted) = connection();
        let (mut socket, _handle) = Socket::accepted(Accepted::Kernel(accepted));
        client.write_all(b"GET").unwrap();
        assert_eq!(read(&socket).now_or_never().unwrap().unwrap(), b"GET");
        assert_eq!(socket.write(b"OK").now_or_never().unwrap().unwrap(), 2);
        assert!(socket.0.tcp.watched.get().is_none());
        client.write_all(b"GET").unwrap();
        assert!(read(&socket).now_or_never().is_none(), "from here on the runtime says when to read");
        assert!(socket.0.tcp.watched.get().is_some());
        assert_eq!(read(&socket).await.unwrap(), b"GET");
        client.read_exact(&mut [0; 2]).unwrap();
        drop(client);
        assert_eq!(read(&socket).await.unwrap(), b"");
    }

    #[tokio::test]
    async fn an_accepted_connection_whose_peer_takes_nothing_is_waited_for_and_its_loss_is_seen() {
        let (client, accepted) = connection();
        let (mut socket, handle) = Socket::accepted(Accepted::Kernel(accepted));
        let much = vec![0; 64 * 1024];
        let sending = async { while socket.write(&much).await.is_ok() {} };
        assert!(sending.now_or_never().is_none(), "what the kernel takes has an end");
        assert!(socket.0.tcp.watched.get().is_some());
        assert!(handle.reset().now_or_never().is_none());
        SockRef::from(&client).set_linger(Some(Duration::ZERO)).unwrap();
        drop(client);
        handle.reset().await;
    }
}
