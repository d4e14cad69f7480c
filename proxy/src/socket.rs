//! A TCP connection whose write side can be shut while another owns it, and whose loss can be seen without reading.

use std::io::{self, ErrorKind};
use std::mem::MaybeUninit;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use cellway_machine::TcpStream;
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
    tcp: TcpStream,
    half_closed: AtomicBool,
    /// Nothing was read of it, and the runtime has said nothing of it yet.
    is_fresh: AtomicBool,
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
        Self::of(tcp, false)
    }

    /// One that was accepted just now. Its first bytes are mostly there, so that they are not waited for before they are read.
    pub(crate) fn accepted(tcp: TcpStream) -> (Self, SocketHandle) {
        Self::of(tcp, true)
    }

    fn of(tcp: TcpStream, is_fresh: bool) -> (Self, SocketHandle) {
        let (half_closed, is_fresh) = (AtomicBool::new(false), AtomicBool::new(is_fresh));
        let shared = Arc::new(Shared { tcp, half_closed, is_fresh });
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
            match &self.0.tcp {
                // An error means that the peer is gone already, which reading will show.
                TcpStream::Kernel(tcp) => drop(SockRef::from(tcp).shutdown(std::net::Shutdown::Write)),
                TcpStream::Replaced(tcp) => tcp.shut(),
            }
        }
    }

    /// After the write side was shut: throws away what the peer still sends, until it closes too. To close a socket
    /// with bytes unread breaks the connection, and may take the last answer with it.
    pub(crate) async fn linger(&self) {
        if !self.0.half_closed.load(Ordering::Acquire) {
            return;
        }
        let TcpStream::Kernel(tcp) = &self.0.tcp else { return };
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
        self.0.tcp.give_up_after(limit);
    }

    /// Asks the kernel, not the runtime, whose news may be a poll old.
    pub(crate) fn idleness(&self) -> Idleness {
        let tcp = match &self.0.tcp {
            TcpStream::Kernel(tcp) => tcp,
            TcpStream::Replaced(tcp) if tcp.is_quiet() => return Idleness::Quiet,
            TcpStream::Replaced(_) => return Idleness::Unusable,
        };
        let mut byte = [MaybeUninit::uninit()];
        match SockRef::from(tcp).peek(&mut byte) {
            Err(error) if error.kind() == ErrorKind::WouldBlock => Idleness::Quiet,
            _ => Idleness::Unusable,
        }
    }

    /// Waits until the peer resets the connection. A peer that only stops writing is not seen: it may wait for its
    /// answer.
    pub(crate) async fn reset(&self) {
        // Another machine's connection tells its reader.
        let TcpStream::Kernel(tcp) = &self.0.tcp else { return std::future::pending().await };
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
        let tcp = match &self.0.tcp {
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
        match &self.0.tcp {
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
        let tcp = match &self.0.tcp {
            TcpStream::Kernel(tcp) => tcp,
            TcpStream::Replaced(tcp) => {
                let mut read = ReadBuf::uninit(bytes);
                ready!(tcp.poll_read(cx, &mut read))?;
                take(read.filled());
                return Poll::Ready(Ok(read.filled().len()));
            }
        };
        let room = bytes.len();
        let mut recv = || {
            rustix::net::recv(tcp, &mut *bytes, RecvFlags::empty()).map(|((read, _), count)| {
                take(read);
                count
            })
        };
        if self.0.is_fresh.load(Ordering::Relaxed) {
            self.0.is_fresh.store(false, Ordering::Relaxed);
            if let Ok(count) = recv() {
                return Poll::Ready(Ok(count));
            }
        }
        loop {
            ready!(tcp.poll_read_ready(cx))?;
            let mut read = Err(Errno::AGAIN);
            let _ = tcp.try_io(Interest::READABLE, || {
                read = recv();
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
        write: impl Fn(&tokio::net::TcpStream) -> io::Result<usize>,
    ) -> Poll<io::Result<usize>> {
        if self.0.half_closed.load(Ordering::Acquire) {
            return Poll::Ready(Ok(bufs.iter().map(|buf| buf.len()).sum()));
        }
        let tcp = match &self.0.tcp {
            TcpStream::Kernel(tcp) => tcp,
            TcpStream::Replaced(tcp) => {
                return tcp.poll_write(cx, bufs.iter().find(|buf| !buf.is_empty()).map_or(&[], |buf| buf));
            }
        };
        loop {
            ready!(tcp.poll_write_ready(cx))?;
            match write(tcp) {
                Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::Interrupted) => {}
                done => return Poll::Ready(done),
            }
        }
    }
}

impl AsyncWrite for Socket {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        // As in `poll_recv`.
        let send =
            |tcp: &tokio::net::TcpStream| tcp.try_io(Interest::WRITABLE, || Ok(rustix::net::send(tcp, buf, SEND)?));
        self.poll_try_write(cx, &[io::IoSlice::new(buf)], send)
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        self.poll_try_write(cx, bufs, |tcp| tcp.try_write_vectored(bufs))
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
    use std::io::Write;
    use std::net::{TcpListener, TcpStream};

    use super::*;

    /// What is read within one poll, in which the runtime has had no word from the kernel.
    fn read_at_once(begin: fn(cellway_machine::TcpStream) -> (Socket, SocketHandle)) -> Poll<Vec<u8>> {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let mut client = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        client.write_all(b"GET").unwrap();
        let (accepted, _) = listener.accept().unwrap();
        accepted.set_nonblocking(true).unwrap();
        let (socket, _handle) = begin(tokio::net::TcpStream::from_std(accepted).unwrap().into());
        let (mut bytes, mut taken) = ([MaybeUninit::uninit(); 16], Vec::new());
        let mut take = |read: &[u8]| taken.extend_from_slice(read);
        let read = socket.poll_recv(&mut Context::from_waker(std::task::Waker::noop()), &mut bytes, &mut take);
        read.map(|read| assert_eq!(read.unwrap(), 3)).map(|()| taken)
    }

    #[tokio::test]
    async fn what_came_with_a_connection_is_read_without_waiting_for_word_of_it() {
        assert_eq!(read_at_once(Socket::accepted), Poll::Ready(b"GET".to_vec()));
        assert_eq!(read_at_once(Socket::new), Poll::Pending, "word of it came too soon for this test to show anything");
    }
}
