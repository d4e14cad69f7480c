//! Honest load: many tenants' requests at a fixed rate, whatever becomes of them, each timed from when it was due.

use std::collections::BTreeMap;
use std::io;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::task::{JoinHandle, JoinSet};
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;

/// After this long an answer counts as none.
const PATIENCE_MS: u64 = 10_000;
/// The longest answer that is read.
const ANSWER_MAX_BYTES: usize = 64 * 1024;
/// How long a connection is kept for the next request: below the router's own patience.
const KEPT_MS: u64 = 2_000;

/// A part of the run.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Phase {
    /// Not counted.
    WarmUp,
    /// Nothing else goes on.
    Quiet,
    /// Under attack.
    During,
    /// After the attack.
    After,
}

/// What came of the requests of one phase.
#[derive(Debug, Clone, Default)]
pub struct Seen {
    /// Requests that were due.
    pub asked: usize,
    /// Answered with 200 and the words of their own tenant.
    pub good: usize,
    /// What came instead, and how often.
    pub bad: BTreeMap<String, usize>,
    took_ms: Vec<f64>,
}

impl Seen {
    /// The share that was good; all of nothing is.
    pub fn good_percent(&self) -> f64 {
        if self.asked == 0 { 100.0 } else { self.good as f64 * 100.0 / self.asked as f64 }
    }

    /// The time below which this share of the good answers came.
    pub fn percentile_ms(&self, share: f64) -> f64 {
        let rank = (self.took_ms.len() as f64 * share).ceil() as usize;
        self.took_ms.get(rank.saturating_sub(1)).copied().unwrap_or(0.0)
    }
}

struct Record {
    phase: Phase,
    took: Duration,
    came: Result<(), String>,
}

struct Shared {
    router: SocketAddr,
    hosts: Vec<String>,
    idle: Mutex<Vec<(TcpStream, Instant)>>,
    records: Mutex<Vec<Record>>,
    phase: Mutex<Phase>,
    number: AtomicUsize,
    path: String,
    is_good: fn(&str, &str) -> bool,
}

/// The load, until it is finished.
pub struct Honest {
    shared: Arc<Shared>,
    stop: CancellationToken,
    task: JoinHandle<()>,
}

impl Honest {
    /// Begins to ask for these hosts in turn, `per_second` times altogether, in cells that answer with the host.
    pub fn start(router: SocketAddr, hosts: Vec<String>, per_second: u32) -> Self {
        let names_host = |answer: &str, host: &str| {
            answer.ends_with(&format!("\r\n\r\n{host}")) && answer.starts_with("HTTP/1.1 200")
        };
        Self::start_at(router, hosts, per_second, "/honest", names_host)
    }

    /// The same for another path; `is_good` tells of an answer, and the host that was asked for, whether it is.
    pub fn start_at(
        router: SocketAddr,
        hosts: Vec<String>,
        per_second: u32,
        path: &str,
        is_good: fn(&str, &str) -> bool,
    ) -> Self {
        let shared = Arc::new(Shared {
            router,
            hosts,
            idle: Mutex::default(),
            records: Mutex::default(),
            phase: Mutex::new(Phase::WarmUp),
            number: AtomicUsize::new(0),
            path: path.to_owned(),
            is_good,
        });
        let stop = CancellationToken::new();
        let task = tokio::spawn(ask_all(Arc::clone(&shared), per_second, stop.clone()));
        Self { shared, stop, task }
    }

    /// What is due from now on belongs to this phase.
    pub fn enter(&self, phase: Phase) {
        *lock(&self.shared.phase) = phase;
    }

    /// Stops, waits for the last answers, and says what came of each phase.
    pub async fn finish(self) -> BTreeMap<Phase, Seen> {
        self.stop.cancel();
        self.task.await.expect("the load does not panic");
        let mut all = BTreeMap::<Phase, Seen>::new();
        for record in lock(&self.shared.records).drain(..) {
            let seen = all.entry(record.phase).or_default();
            seen.asked += 1;
            match record.came {
                Ok(()) => {
                    seen.good += 1;
                    seen.took_ms.push(record.took.as_secs_f64() * 1_000.0);
                }
                Err(what) => *seen.bad.entry(what).or_default() += 1,
            }
        }
        for seen in all.values_mut() {
            seen.took_ms.sort_by(f64::total_cmp);
        }
        all
    }
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

async fn ask_all(shared: Arc<Shared>, per_second: u32, stop: CancellationToken) {
    let (begun, mut asked) = (Instant::now(), JoinSet::new());
    for number in 0.. {
        let due = begun + Duration::from_secs(1) * number / per_second;
        tokio::select! {
            () = tokio::time::sleep_until(due.into()) => {}
            () = stop.cancelled() => break,
        }
        asked.spawn(ask(Arc::clone(&shared), due));
        while asked.try_join_next().is_some() {}
    }
    while asked.join_next().await.is_some() {}
}

async fn ask(shared: Arc<Shared>, due: Instant) {
    let phase = *lock(&shared.phase);
    let host = &shared.hosts[shared.number.fetch_add(1, Ordering::Relaxed) % shared.hosts.len()];
    let came = match timeout(Duration::from_millis(PATIENCE_MS), exchange(&shared, host)).await {
        Err(_) => Err("no answer in time".to_owned()),
        Ok(Err(error)) => Err(error.kind().to_string()),
        Ok(Ok(answer)) if (shared.is_good)(&answer, host) => Ok(()),
        Ok(Ok(answer)) => Err(answer.lines().next().unwrap_or_default().to_owned()),
    };
    lock(&shared.records).push(Record { phase, took: due.elapsed(), came });
}

async fn exchange(shared: &Shared, host: &str) -> io::Result<String> {
    let fresh = |kept: &(TcpStream, Instant)| kept.1.elapsed() < Duration::from_millis(KEPT_MS);
    let kept = {
        let mut idle = lock(&shared.idle);
        idle.retain(fresh);
        idle.pop()
    };
    let reused = kept.is_some();
    let mut tcp = match kept {
        Some((tcp, _)) => tcp,
        None => connect(shared.router).await?,
    };
    let mut answer = talk(&mut tcp, &shared.path, host).await;
    if reused && answer.is_err() {
        // Closed while it lay idle, as any client has to expect.
        tcp = connect(shared.router).await?;
        answer = talk(&mut tcp, &shared.path, host).await;
    }
    let answer = answer?;
    if answer.starts_with("HTTP/1.1 200") {
        lock(&shared.idle).push((tcp, Instant::now()));
    }
    Ok(answer)
}

async fn connect(router: SocketAddr) -> io::Result<TcpStream> {
    let tcp = TcpStream::connect(router).await?;
    tcp.set_nodelay(true)?;
    Ok(tcp)
}

async fn talk(tcp: &mut TcpStream, path: &str, host: &str) -> io::Result<String> {
    tcp.write_all(format!("GET {path} HTTP/1.1\r\nhost: {host}\r\n\r\n").as_bytes()).await?;
    read_answer(tcp).await
}

/// An answer with a `Content-Length`, head and body.
pub async fn read_answer(tcp: &mut TcpStream) -> io::Result<String> {
    let mut answer = Vec::new();
    loop {
        if tcp.read_buf(&mut answer).await? == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        let text = String::from_utf8_lossy(&answer);
        if let Some((head, body)) = text.split_once("\r\n\r\n")
            && body.len() >= content_length(head)
        {
            return Ok(text.into_owned());
        }
        if answer.len() > ANSWER_MAX_BYTES {
            return Err(io::ErrorKind::InvalidData.into());
        }
    }
}

fn content_length(head: &str) -> usize {
    let head = head.to_ascii_lowercase();
    let value = head.lines().find_map(|line| line.strip_prefix("content-length:"));
    value.and_then(|value| value.trim().parse().ok()).unwrap_or(0)
}
