//! The app behind every proxy: one thread, fixed answers, connections that are kept.

use std::net::SocketAddr;
use std::path::Path;
use std::rc::Rc;

use anyhow::Context;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::{LocalSet, spawn_local};

use crate::machine;
use crate::process::Process;

/// What is read at once.
const READ_BYTES: usize = 64 * 1024;

/// The bytes of its answers.
struct Answers {
    small: Vec<u8>,
    large: Vec<u8>,
    posted: Vec<u8>,
}

/// Starts it in a process of its own on this core, and waits until it listens.
pub(crate) fn start(core: usize, dir: &Path) -> anyhow::Result<(Process, SocketAddr)> {
    let [address] = machine::free_addresses()?;
    let own = std::env::current_exe().context("this program's own path")?;
    let mut process = Process::start("origin", core, &own, &["origin".to_owned(), address.to_string()], dir)?;
    process.listens_on(address)?;
    Ok((process, address))
}

/// Serves until it is killed.
pub(crate) fn run(listen: SocketAddr) -> anyhow::Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    LocalSet::new().block_on(&runtime, async {
        let listener = TcpListener::bind(listen).await.with_context(|| format!("cannot listen on {listen}"))?;
        let answers = Rc::new(Answers { small: answer(1024), large: answer(100 * 1024), posted: answer(2) });
        loop {
            let (tcp, _) = listener.accept().await?;
            tcp.set_nodelay(true)?;
            let answers = Rc::clone(&answers);
            // A proxy that leaves is no fault.
            spawn_local(async move { serve(tcp, &answers).await.ok() });
        }
    })
}

fn answer(length: usize) -> Vec<u8> {
    let mut bytes =
        format!("HTTP/1.1 200 OK\r\ncontent-type: text/plain\r\ncontent-length: {length}\r\n\r\n").into_bytes();
    bytes.resize(bytes.len() + length, b'x');
    bytes
}

async fn serve(mut tcp: TcpStream, answers: &Answers) -> std::io::Result<()> {
    let mut buffer = vec![0; READ_BYTES];
    let mut filled = 0;
    loop {
        let read = tcp.read(&mut buffer[filled..]).await?;
        if read == 0 {
            return Ok(());
        }
        filled += read;
        while let Some(request) = Request::of(&buffer[..filled]) {
            let answer = match (request.is_post, request.is_large) {
                (true, _) => &answers.posted,
                (_, true) => &answers.large,
                _ => &answers.small,
            };
            let here = request.length.min(filled);
            let mut missing = request.length - here;
            buffer.copy_within(here..filled, 0);
            filled -= here;
            while missing > 0 {
                let room = missing.min(READ_BYTES);
                let read = tcp.read(&mut buffer[..room]).await?;
                if read == 0 {
                    return Ok(());
                }
                missing -= read;
            }
            tcp.write_all(answer).await?;
        }
    }
}

/// A request whose head is here.
struct Request {
    is_post: bool,
    is_large: bool,
    /// Of head and body.
    length: usize,
}

impl Request {
    fn of(bytes: &[u8]) -> Option<Self> {
        let head = bytes.windows(4).position(|window| window == b"\r\n\r\n")? + 4;
        let is_post = bytes.starts_with(b"POST");
        let body = if is_post { content_length(&bytes[..head]) } else { 0 };
        Some(Self { is_post, is_large: bytes.starts_with(b"GET /100k"), length: head + body })
    }
}

fn content_length(head: &[u8]) -> usize {
    let text = String::from_utf8_lossy(head).to_ascii_lowercase();
    let value = text.lines().find_map(|line| line.strip_prefix("content-length:"));
    value.and_then(|value| value.trim().parse().ok()).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_request_ends_where_its_length_says() {
        let posted = Request::of(b"POST /16k HTTP/1.1\r\nContent-Length: 3\r\n\r\nabcGET").unwrap();
        assert!(posted.is_post);
        assert_eq!(posted.length, 44);
        let large = Request::of(b"GET /100k HTTP/1.1\r\n\r\n").unwrap();
        assert!(large.is_large && large.length == 22);
        assert!(Request::of(b"GET / HTTP/1.1\r\n").is_none());
    }
}
