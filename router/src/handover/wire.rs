//! What two processes tell each other over the handover socket: lines of JSON, one of which carries the listeners.

use std::io::{self, IoSlice, IoSliceMut};
use std::mem::MaybeUninit;
use std::net::{SocketAddr, TcpListener};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::time::Duration;

use rustix::net::{
    RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer, SendAncillaryMessage, SendFlags,
};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use tokio::io::Interest;
use tokio::net::UnixStream;
use tokio::time::timeout;

use crate::drain::Predecessor;

/// The format of these messages. Processes of two formats do not hand over.
pub(super) const FORMAT: u32 = 1;
/// The longest line.
const LINE_MAX_BYTES: usize = 256 * 1024;
/// Listeners that are passed at once.
pub(super) const SOCKETS_MAX: usize = 2_048;
/// Handles in one message of the kernel's, which takes 253 at the most.
const SOCKETS_PER_MESSAGE: usize = 128;
/// Bytes that are read at once.
const READ_BYTES: usize = 8 * 1024;
/// How long a line may take to be written, and one that is due to come.
pub(super) const LINE_MS: u64 = 2_000;

#[cfg(any(target_os = "linux", target_os = "android"))]
const RECEIVE: RecvFlags = RecvFlags::CMSG_CLOEXEC;
#[cfg(not(any(target_os = "linux", target_os = "android")))]
const RECEIVE: RecvFlags = RecvFlags::empty();

/// Who speaks.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(super) struct Speaker {
    pub(super) format: u32,
    pub(super) process: u32,
    pub(super) version: String,
}

impl Speaker {
    pub(super) fn this() -> Self {
        Self { format: FORMAT, process: std::process::id(), version: env!("CARGO_PKG_VERSION").to_owned() }
    }

    pub(super) fn check(&self) -> Result<(), String> {
        let Self { format, process, version } = self;
        if *format == FORMAT {
            return Ok(());
        }
        Err(format!(
            "process {process} (version {version}) hands over in format {format}, version {} in format {FORMAT}: end one \
             before the other is started",
            env!("CARGO_PKG_VERSION")
        ))
    }
}

/// What the one that begins says.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum FromSuccessor {
    /// It asks for the listeners.
    Hello(Speaker),
    /// It accepts from the listeners on these addresses.
    Serving {
        /// Those that were passed and taken.
        addresses: Vec<SocketAddr>,
    },
}

/// What the one that ends says.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum FromPredecessor {
    /// The listeners, one address for each handle that comes with the line.
    Offer { from: Speaker, sockets: Vec<SocketAddr> },
    /// There is nothing to take, and why.
    Refused(String),
    /// It goes on itself, and why.
    Withdrawn(String),
    /// It accepts nothing more: how its drain goes, and those of its own predecessors.
    Draining(Vec<Predecessor>),
}

/// A connection between the two.
pub(super) struct Wire {
    stream: UnixStream,
    read: Vec<u8>,
    sockets: Vec<OwnedFd>,
}

impl Wire {
    pub(super) fn new(stream: UnixStream) -> Self {
        Self { stream, read: Vec::new(), sockets: Vec::new() }
    }

    /// Sends a line.
    pub(super) async fn send(&self, line: &impl Serialize) -> io::Result<()> {
        self.send_with(line, &[]).await
    }

    /// Sends a line, and handles with it.
    pub(super) async fn send_with(&self, line: &impl Serialize, sockets: &[&TcpListener]) -> io::Result<()> {
        let mut bytes = serde_json::to_vec(line)?;
        bytes.push(b'\n');
        if bytes.len() > LINE_MAX_BYTES || sockets.len() > SOCKETS_MAX {
            return Err(io::Error::new(io::ErrorKind::InvalidInput, "more than is passed at once"));
        }
        let handles: Vec<BorrowedFd<'_>> = sockets.iter().map(|socket| socket.as_fd()).collect();
        let written = async {
            let mut left = bytes.as_slice();
            // The handles come with the first bytes, one byte for each message but the last.
            for part in handles.chunks(SOCKETS_PER_MESSAGE) {
                let sent = self.write(&left[..1], part).await?;
                left = &left[sent..];
            }
            while !left.is_empty() {
                left = &left[self.write(left, &[]).await?..];
            }
            Ok(())
        };
        timeout(Duration::from_millis(LINE_MS), written).await.unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into()))
    }

    async fn write(&self, bytes: &[u8], handles: &[BorrowedFd<'_>]) -> io::Result<usize> {
        let send = || {
            let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(SOCKETS_PER_MESSAGE))];
            let mut control = SendAncillaryBuffer::new(&mut space);
            if !handles.is_empty() && !control.push(SendAncillaryMessage::ScmRights(handles)) {
                return Err(io::ErrorKind::InvalidInput.into());
            }
            let sent = rustix::net::sendmsg(&self.stream, &[IoSlice::new(bytes)], &mut control, SendFlags::NOSIGNAL);
            Ok(sent?)
        };
        self.stream.async_io(Interest::WRITABLE, send).await
    }

    /// The next line; `None` when the other one has gone. Nothing is lost when the future is dropped.
    pub(super) async fn receive<T: DeserializeOwned>(&mut self) -> io::Result<Option<T>> {
        loop {
            if let Some(end) = self.read.iter().position(|byte| *byte == b'\n') {
                let line: Vec<u8> = self.read.drain(..=end).collect();
                return Ok(Some(serde_json::from_slice(&line)?));
            }
            if self.read.len() > LINE_MAX_BYTES || self.sockets.len() > SOCKETS_MAX {
                return Err(io::Error::new(io::ErrorKind::InvalidData, "a line or a number of listeners is too large"));
            }
            let mut bytes = [0; READ_BYTES];
            let (length, sockets) = match self.stream.async_io(Interest::READABLE, || self.take(&mut bytes)).await {
                Ok(taken) => taken,
                // It has gone with something of ours unread.
                Err(error) if error.kind() == io::ErrorKind::ConnectionReset => return Ok(None),
                Err(error) => return Err(error),
            };
            if length == 0 {
                return Ok(None);
            }
            self.read.extend_from_slice(&bytes[..length]);
            self.sockets.extend(sockets);
        }
    }

    fn take(&self, bytes: &mut [u8]) -> io::Result<(usize, Vec<OwnedFd>)> {
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(SOCKETS_PER_MESSAGE))];
        let mut control = RecvAncillaryBuffer::new(&mut space);
        let received = rustix::net::recvmsg(&self.stream, &mut [IoSliceMut::new(bytes)], &mut control, RECEIVE)?;
        let mut sockets = Vec::new();
        for message in control.drain() {
            if let RecvAncillaryMessage::ScmRights(handles) = message {
                sockets.extend(handles);
            }
        }
        Ok((received.bytes, sockets))
    }

    /// The handles that came so far.
    pub(super) fn sockets(&mut self) -> Vec<OwnedFd> {
        std::mem::take(&mut self.sockets)
    }

    /// Whether the other process belongs to the user of this one, or to root.
    pub(super) fn is_of_our_user(&self) -> io::Result<bool> {
        let theirs = self.stream.peer_cred()?.uid();
        Ok(theirs == 0 || theirs == rustix::process::geteuid().as_raw())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pair() -> (Wire, Wire) {
        let (one, other) = UnixStream::pair().expect("a pair");
        (Wire::new(one), Wire::new(other))
    }

    #[tokio::test]
    async fn a_line_brings_all_its_listeners_in_order() {
        let listeners: Vec<TcpListener> =
            (0..SOCKETS_PER_MESSAGE + 3).map(|_| TcpListener::bind("127.0.0.1:0").expect("bound")).collect();
        let sockets: Vec<SocketAddr> = listeners.iter().map(|one| one.local_addr().expect("bound")).collect();
        let (old, mut new) = pair();
        let offer = FromPredecessor::Offer { from: Speaker::this(), sockets: sockets.clone() };
        old.send_with(&offer, &listeners.iter().collect::<Vec<_>>()).await.expect("sent");
        old.send(&FromPredecessor::Refused("second".into())).await.expect("sent");
        let offer = new.receive().await.expect("received");
        assert!(matches!(offer, Some(FromPredecessor::Offer { sockets: told, .. }) if told == sockets));
        let passed: Vec<SocketAddr> =
            new.sockets().into_iter().map(|fd| TcpListener::from(fd).local_addr().expect("a listener")).collect();
        assert_eq!(passed, sockets);
        assert!(matches!(new.receive().await, Ok(Some(FromPredecessor::Refused(why))) if why == "second"));
        drop(old);
        assert!(matches!(new.receive::<FromPredecessor>().await, Ok(None)));
    }

    #[tokio::test]
    async fn a_line_without_end_is_not_kept() {
        let (old, mut new) = pair();
        let endless = async { while old.write(&[b'x'; READ_BYTES], &[]).await.is_ok() {} };
        let received = tokio::select! {
            () = endless => panic!("it is written for ever"),
            received = new.receive::<FromSuccessor>() => received,
        };
        assert_eq!(received.expect_err("too long").kind(), io::ErrorKind::InvalidData);
    }

    #[test]
    fn another_format_is_refused_with_what_to_do() {
        let other = Speaker { format: FORMAT + 1, ..Speaker::this() };
        assert!(other.check().expect_err("refused").contains("end one before the other is started"));
        assert!(Speaker::this().check().is_ok());
    }
}
