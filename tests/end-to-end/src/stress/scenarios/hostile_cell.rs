//! A cell that answers with broken, ambiguous, early, doubled and cut-off bytes, to its own tenants (scenario 22).

use super::super::cells::read_head;
use super::super::crowd::connect;
use super::super::ground::{Ground, Needs, Scale, Shown, hostile_host};
use super::super::report::{Bound, Row};
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::{JoinHandle, JoinSet};
use tokio::time::timeout;

/// What no client may ever see: it stands behind the end of an answer.
const POISON: &str = "poison";
/// Clients of the hostile cell's tenants.
const CLIENTS: usize = 8;
/// Tenants of the hostile cell.
const TENANTS: usize = 2;
/// How long a client waits.
const PATIENCE_MS: u64 = 5_000;

/// Answers, in which `{id}` is the request's own path.
fn answers() -> Vec<String> {
    let ok = |fields: &str, body: &str| format!("HTTP/1.1 200 OK\r\n{fields}\r\n{body}");
    let whole = ok("content-length: 4\r\n", "{id}");
    let poison = ok("content-length: 6\r\n", POISON);
    vec![
        whole.clone(),
        // Doubled, and with bytes behind their end.
        format!("{whole}{poison}"),
        format!("{whole}{POISON}\r\n\r\n"),
        format!("HTTP/1.1 204 No Content\r\n\r\n{poison}"),
        format!("HTTP/1.1 304 Not Modified\r\ncontent-length: 6\r\n\r\n{poison}"),
        // Cut off.
        ok("content-length: 400\r\n", "{id}"),
        ok("transfer-encoding: chunked\r\n", "4\r\n{id}\r\n"),
        "HTTP/1.1 200 OK\r\ncontent-le".to_owned(),
        String::new(),
        // Ambiguous.
        ok("content-length: 4\r\ncontent-length: 10\r\n", &format!("{{id}}{POISON}")),
        ok("content-length: 4, 10\r\n", &format!("{{id}}{POISON}")),
        ok("content-length: +4\r\n", &format!("{{id}}{POISON}")),
        ok("content-length: 4\r\ntransfer-encoding: chunked\r\n", &format!("0\r\n\r\n{poison}")),
        ok("transfer-encoding: gzip, chunked\r\n", &format!("0\r\n\r\n{poison}")),
        ok("transfer-encoding: xchunked\r\n", POISON),
        ok("transfer-encoding: chunked\r\n", &format!("-4\r\n{POISON}")),
        ok("transfer-encoding: chunked\r\n", "ffffffffffffffff0\r\npoison"),
        // Broken.
        format!("HTTP/2.0 200 OK\r\ncontent-length: 6\r\n\r\n{POISON}"),
        format!("HTTP/1.1 99 What\r\ncontent-length: 6\r\n\r\n{POISON}"),
        format!("HTTP/1.1 101 Switching Protocols\r\nupgrade: x\r\nconnection: upgrade\r\n\r\n{POISON}"),
        ok("x-nul: a\0b\r\ncontent-length: 6\r\n", POISON),
        ok(": nameless\r\ncontent-length: 6\r\n", POISON),
        ok(" folded: x\r\ncontent-length: 6\r\n", POISON),
        format!("{POISON}\r\n\r\n"),
        "\0\u{1}\u{2}\r\n\r\n".to_owned(),
        ok(&format!("x-long: {}\r\ncontent-length: 6\r\n", "x".repeat(200_000)), POISON),
        ok(&"x-many: 1\r\n".repeat(5_000), POISON),
        format!("{}{whole}", "HTTP/1.1 103 Early Hints\r\n\r\n".repeat(2_000)),
    ]
}

/// The hostile cell. Now and then it speaks before it is asked.
struct Hostile {
    address: SocketAddr,
    answered: Arc<AtomicUsize>,
    task: JoinHandle<()>,
}

impl Hostile {
    async fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        let address = listener.local_addr().expect("an address");
        let answered = Arc::<AtomicUsize>::default();
        let counted = Arc::clone(&answered);
        let task = tokio::spawn(async move {
            for number in 0_usize.. {
                let Ok((tcp, _)) = listener.accept().await else { continue };
                tokio::spawn(misbehave(tcp, number, Arc::clone(&counted)));
            }
        });
        Self { address, answered, task }
    }
}

impl Drop for Hostile {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn misbehave(mut tcp: TcpStream, number: usize, answered: Arc<AtomicUsize>) {
    let (all, mut unread) = (answers(), Vec::new());
    if number % 5 == 4 {
        // Early.
        // To who asks first on this connection it is an answer like any other, and to nobody else.
        let _ = tcp.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 5\r\n\r\nearly").await;
    }
    while let Some(head) = read_head(&mut tcp, &mut unread).await {
        let id = head.split(' ').nth(1).unwrap_or("/").trim_start_matches('/').to_owned();
        let which = answered.fetch_add(1, Ordering::Relaxed) % all.len();
        let answer = all[which].replace("{id}", &id);
        if tcp.write_all(answer.as_bytes()).await.is_err() {
            return;
        }
        // Only some leave the connection in a state to go on with; the router has to know which.
        if which > 4 {
            return;
        }
    }
}

/// What the clients saw.
#[derive(Debug, Default, Clone, Copy)]
struct Saw {
    own: usize,
    refused: usize,
    cut: usize,
    poisoned: usize,
}

/// Its tenants ask it all the time, on connections that they keep.
pub async fn hostile(scale: Scale) -> Row {
    let cell = Hostile::start().await;
    let ground = Ground::prepare(scale, Needs { hostile: vec![cell.address; TENANTS], ..Needs::default() }).await;
    ground
        .under("hostile cell", async |ground| {
            let (until, mut clients) = (Instant::now() + scale.attack, JoinSet::new());
            for number in 0..CLIENTS {
                clients.spawn(ask_until(ground.address(), number, until));
            }
            let saw = clients.join_all().await.into_iter().fold(Saw::default(), |all, one| Saw {
                own: all.own + one.own,
                refused: all.refused + one.refused,
                cut: all.cut + one.cut,
                poisoned: all.poisoned + one.poisoned,
            });
            let answered = cell.answered.load(Ordering::Relaxed);
            let done = format!("{} kinds of answers, {answered} of them: {saw:?}", answers().len());
            let all_kinds = answered >= answers().len() * 2;
            let bounds = vec![
                Bound::new("each kind came twice or more", all_kinds),
                Bound::new(format!("poisoned: {} (none)", saw.poisoned), saw.poisoned == 0),
                Bound::new(format!("served as they should be: {} (some)", saw.own), saw.own > 0),
            ];
            (Shown { done, bounds, ..Shown::default() }, cell)
        })
        .await
}

async fn ask_until(router: SocketAddr, client: usize, until: Instant) -> Saw {
    let (mut saw, mut kept) = (Saw::default(), None);
    for number in 0_usize.. {
        if Instant::now() >= until {
            break;
        }
        let id = format!("{:04}", (client * 1_000 + number % 1_000) % 10_000);
        let mut tcp: TcpStream = match kept.take() {
            Some(tcp) => tcp,
            None => match connect(router, client).await {
                Ok(tcp) => tcp,
                Err(_) => continue,
            },
        };
        let request = format!("GET /{id} HTTP/1.1\r\nhost: {}\r\n\r\n", hostile_host(client % TENANTS));
        let _ = tcp.write_all(request.as_bytes()).await;
        let answer = timeout(Duration::from_millis(PATIENCE_MS), read(&mut tcp)).await.unwrap_or_default();
        let body = answer.split_once("\r\n\r\n").map_or("", |(_, body)| body);
        match answer.get(9..12).unwrap_or_default() {
            _ if answer.to_lowercase().contains(POISON) => saw.poisoned += 1,
            "200" if body.trim_start_matches("4\r\n").trim_end_matches("\r\n") == id => saw.own += 1,
            "200" | "" => saw.cut += 1,
            "204" | "304" => saw.own += 1,
            _ => saw.refused += 1,
        }
        if answer.get(9..12) == Some("200") && body == id {
            kept = Some(tcp);
        }
    }
    saw
}

/// Everything that comes until an answer is whole or the connection ends.
async fn read(tcp: &mut TcpStream) -> String {
    let mut came = Vec::new();
    loop {
        let text = String::from_utf8_lossy(&came).into_owned();
        if let Some((head, body)) = text.split_once("\r\n\r\n") {
            let head = head.to_ascii_lowercase();
            let length = head.lines().find_map(|line| line.strip_prefix("content-length:"));
            let length: Option<usize> = length.and_then(|length| length.trim().parse().ok());
            let bodiless = head.contains(" 204 ") || head.contains(" 304 ");
            if bodiless || length.is_some_and(|length| body.len() >= length) {
                return text;
            }
        }
        if !matches!(tcp.read_buf(&mut came).await, Ok(1..)) {
            return text;
        }
    }
}
