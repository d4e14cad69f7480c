//! Stand-in cells: honest ones, slow ones, and ones that stall in the middle of things.

use std::future::poll_fn;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpSocket, TcpStream};
use tokio::sync::watch;
use tokio::task::{JoinHandle, JoinSet};
use tokio_tungstenite::tungstenite::handshake::derive_accept_key;

/// What is written at once of a large answer.
const PIECE_BYTES: usize = 64 * 1024;
/// What the kernel takes of an answer that nobody reads, and of a request: else thousands of them are gigabytes, and
/// filling those is what others wait for.
const BUFFER_BYTES: u32 = 64 * 1024;
const BACKLOG: u32 = 4_096;

/// How a cell answers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Manner {
    /// At once, with the name of the host that it was asked for.
    Whole,
    /// The same, so long after.
    After(Duration),
    /// With so many bytes.
    Large(usize),
    /// It opens WebSockets, in which nobody says anything.
    Opens,
    /// It speaks HTTP/2 and answers each call with a stream of messages, for as long as there is a window for them.
    Calls,
    /// It reads nothing, and takes no connections: the kernel does.
    Deaf,
    /// It reads the request and never answers.
    HeadNever,
    /// It begins a head.
    HeadHalf,
    /// It ends in the middle of the body.
    BodyStalls,
    /// It reads the head and nothing of the body, and does not answer.
    ReadsNoBody,
}

/// A cell.
pub struct Cell {
    /// Where it is.
    pub address: SocketAddr,
    manner: watch::Sender<Manner>,
    open: Arc<AtomicUsize>,
    open_most: Arc<AtomicUsize>,
    task: JoinHandle<()>,
}

impl Cell {
    /// Starts one.
    pub async fn start(manner: Manner) -> Self {
        let socket = TcpSocket::new_v4().expect("a socket");
        socket.set_send_buffer_size(BUFFER_BYTES).expect("a buffer");
        socket.set_recv_buffer_size(BUFFER_BYTES).expect("a buffer");
        socket.bind("127.0.0.1:0".parse().expect("an address")).expect("a free port");
        let listener = socket.listen(BACKLOG).expect("a listener");
        let address = listener.local_addr().expect("an address");
        let (sender, manner) = watch::channel(manner);
        let (open, open_most) = (Arc::<AtomicUsize>::default(), Arc::<AtomicUsize>::default());
        let counts = (Arc::clone(&open), Arc::clone(&open_most));
        let task = tokio::spawn(accept(listener, manner, counts));
        Self { address, manner: sender, open, open_most, task }
    }

    /// From now on it answers like this.
    pub fn behave(&self, manner: Manner) {
        self.manner.send_replace(manner);
    }

    /// The most connections that were open to it at a time.
    pub fn connections_most(&self) -> usize {
        self.open_most.load(Ordering::Relaxed)
    }

    /// Connections that are open to it.
    pub fn connections(&self) -> usize {
        self.open.load(Ordering::Relaxed)
    }
}

impl Drop for Cell {
    fn drop(&mut self) {
        self.task.abort();
    }
}

type Counts = (Arc<AtomicUsize>, Arc<AtomicUsize>);

async fn accept(listener: TcpListener, mut manner: watch::Receiver<Manner>, (open, most): Counts) {
    let mut served = JoinSet::new();
    loop {
        hears(&mut manner).await;
        tokio::select! {
            accepted = listener.accept() => {
                let Ok((tcp, _)) = accepted else { continue };
                most.fetch_max(open.fetch_add(1, Ordering::Relaxed) + 1, Ordering::Relaxed);
                let (open, manner) = (Arc::clone(&open), manner.clone());
                served.spawn(async move {
                    serve(tcp, manner).await;
                    open.fetch_sub(1, Ordering::Relaxed);
                });
            }
            _ = manner.changed() => {}
        }
        while served.try_join_next().is_some() {}
    }
}

/// Waits while the cell is deaf.
async fn hears(manner: &mut watch::Receiver<Manner>) {
    if manner.wait_for(|manner| *manner != Manner::Deaf).await.is_err() {
        std::future::pending().await
    }
}

async fn serve(mut tcp: TcpStream, mut manner: watch::Receiver<Manner>) {
    if *manner.borrow() == Manner::Calls {
        let _ = serve_calls(tcp).await;
        return;
    }
    let mut unread = Vec::new();
    loop {
        hears(&mut manner).await;
        let Some(head) = read_head(&mut tcp, &mut unread).await else { return };
        hears(&mut manner).await;
        let now = *manner.borrow_and_update();
        if now != Manner::ReadsNoBody && skip_body(&mut tcp, &mut unread, &head).await.is_none() {
            return;
        }
        if answer(&mut tcp, &head, now).await.is_none() {
            return;
        }
    }
}

async fn serve_calls(tcp: TcpStream) -> Result<(), h2::Error> {
    let mut connection = h2::server::handshake(tcp).await?;
    let mut calls = JoinSet::new();
    while let Some(call) = connection.accept().await {
        let (_, mut respond) = call?;
        let head = http::Response::builder().header("content-type", "application/grpc").body(()).expect("a head");
        let mut messages = respond.send_response(head, false)?;
        calls.spawn(async move {
            loop {
                messages.reserve_capacity(PIECE_BYTES);
                match poll_fn(|cx| messages.poll_capacity(cx)).await {
                    Some(Ok(length)) if messages.send_data(vec![b'x'; length].into(), false).is_ok() => {}
                    _ => return,
                }
            }
        });
    }
    Ok(())
}

async fn answer(tcp: &mut TcpStream, head: &str, manner: Manner) -> Option<()> {
    let host = field(head, "host").unwrap_or_default();
    let whole = format!("HTTP/1.1 200 OK\r\ncontent-length: {}\r\n\r\n{host}", host.len());
    match manner {
        Manner::Whole => tcp.write_all(whole.as_bytes()).await.ok(),
        Manner::Opens => {
            let accept = derive_accept_key(field(head, "sec-websocket-key").unwrap_or_default().as_bytes());
            let opened = format!(
                "HTTP/1.1 101 Switching Protocols\r\nconnection: upgrade\r\nupgrade: websocket\r\n\
                 sec-websocket-accept: {accept}\r\n\r\n"
            );
            tcp.write_all(opened.as_bytes()).await.ok()?;
            gone(tcp).await
        }
        Manner::After(delay) => {
            tokio::time::sleep(delay).await;
            tcp.write_all(whole.as_bytes()).await.ok()
        }
        Manner::Large(bytes) => {
            let head = format!("HTTP/1.1 200 OK\r\ncontent-length: {bytes}\r\n\r\n");
            tcp.write_all(head.as_bytes()).await.ok()?;
            let piece = vec![b'x'; PIECE_BYTES];
            let mut left = bytes;
            while left > 0 {
                tcp.write_all(&piece[..left.min(PIECE_BYTES)]).await.ok()?;
                left -= left.min(PIECE_BYTES);
            }
            Some(())
        }
        Manner::Calls | Manner::Deaf | Manner::HeadNever | Manner::ReadsNoBody => gone(tcp).await,
        Manner::HeadHalf => {
            tcp.write_all(b"HTTP/1.1 200 OK\r\ncontent-le").await.ok()?;
            gone(tcp).await
        }
        Manner::BodyStalls => {
            tcp.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 1000\r\n\r\nsome of it").await.ok()?;
            gone(tcp).await
        }
    }
}

/// Waits until the router gives the connection up, reading nothing of what it sends.
async fn gone(tcp: &TcpStream) -> Option<()> {
    while !matches!(tcp.ready(tokio::io::Interest::ERROR | tokio::io::Interest::READABLE).await,
        Ok(ready) if ready.is_read_closed() || ready.is_error())
    {
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    None
}

/// The next head; what came behind it stays in `unread`.
pub(super) async fn read_head(tcp: &mut TcpStream, unread: &mut Vec<u8>) -> Option<String> {
    loop {
        if let Some(end) = unread.windows(4).position(|bytes| bytes == b"\r\n\r\n") {
            let rest = unread.split_off(end + 4);
            let head = String::from_utf8_lossy(unread).into_owned();
            *unread = rest;
            return Some(head);
        }
        if tcp.read_buf(unread).await.ok()? == 0 {
            return None;
        }
    }
}

async fn skip_body(tcp: &mut TcpStream, unread: &mut Vec<u8>, head: &str) -> Option<()> {
    let mut left: usize = field(head, "content-length").and_then(|length| length.parse().ok()).unwrap_or(0);
    while left > 0 {
        let taken = left.min(unread.len());
        unread.drain(..taken);
        left -= taken;
        if left > 0 && tcp.read_buf(unread).await.ok()? == 0 {
            return None;
        }
    }
    Some(())
}

fn field<'a>(head: &'a str, name: &str) -> Option<&'a str> {
    let fields = head.lines().filter_map(|line| line.split_once(':'));
    fields.filter(|(key, _)| key.eq_ignore_ascii_case(name)).map(|(_, value)| value.trim()).next()
}
