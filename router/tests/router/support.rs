//! A router fed by hand, a gate that does as it is told, and a client that sees every byte.

use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use bytes::Bytes;
use cellway_core::hostname::Hostname;
use cellway_core::ids::Revision;
use cellway_router::feed::lines;
use cellway_router::{FeedEvent, FeedSource, Router, RouterConfig};
use http::{HeaderMap, Request, Response, StatusCode};
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use parking_lot::Mutex;
use prometheus::Registry;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::mpsc;
use tokio::task::JoinHandle;
use tokio::time::{sleep, timeout};
use tokio_util::sync::CancellationToken;

/// What `/bytes` of a gate answers with.
pub(crate) const BYTES: usize = 300_000;
pub(crate) const PATIENCE: Duration = Duration::from_secs(10);

pub(crate) fn config() -> RouterConfig {
    let mut config = RouterConfig::new(vec![Hostname::from_text("cells.localhost").unwrap()]);
    config.threads = 2;
    config.serve.drain_ms = 500;
    // Stand-ins of cells take a knock for a request.
    config.knock_every_ms = None;
    config
}

pub(crate) struct TestRouter {
    pub(crate) address: SocketAddr,
    pub(crate) admin: SocketAddr,
    pub(crate) registry: Registry,
    pub(crate) shutdown: CancellationToken,
    pub(crate) task: JoinHandle<()>,
    events: mpsc::Sender<FeedEvent>,
    revision: AtomicU64,
}

pub(crate) struct Fed {
    pub(crate) address: SocketAddr,
    pub(crate) admin: SocketAddr,
    pub(crate) registry: Registry,
    pub(crate) shutdown: CancellationToken,
    pub(crate) task: JoinHandle<()>,
}

pub(crate) fn start_with(config: RouterConfig, feed: FeedSource) -> Fed {
    let router = Router::bind(config).unwrap();
    let (address, admin) = (router.local_addr(), router.admin_addr());
    let (registry, shutdown) = (Registry::new(), CancellationToken::new());
    let run = router.run(feed, registry.clone(), shutdown.clone());
    let task = tokio::spawn(async move { run.await.unwrap() });
    Fed { address, admin, registry, shutdown, task }
}

impl TestRouter {
    /// A router that waits for its first listing.
    pub(crate) fn start(config: RouterConfig) -> Self {
        let (events, told) = mpsc::channel(16);
        let Fed { address, admin, registry, shutdown, task } = start_with(config, FeedSource::Events(told));
        Self { address, admin, registry, shutdown, task, events, revision: AtomicU64::new(0) }
    }

    /// A router that knows `text`.
    pub(crate) async fn knowing(config: RouterConfig, text: &str) -> Self {
        let router = Self::start(config);
        router.list(text).await;
        router
    }

    /// Tells a whole listing, and waits until it is applied.
    pub(crate) async fn list(&self, text: &str) {
        let contents = lines::parse(text).unwrap();
        self.tell(|revision| FeedEvent::Snapshot { contents, unreadable: Vec::new(), revision, cluster: None }).await;
    }

    /// Tells changes, and waits until they are applied.
    pub(crate) async fn change(&self, text: &str) {
        let changes = lines::parse(text).unwrap();
        self.tell(|revision| FeedEvent::Changes { changes, revision }).await;
    }

    async fn tell(&self, event: impl FnOnce(Revision) -> FeedEvent) {
        let revision = self.revision.fetch_add(1, Ordering::SeqCst) + 1;
        self.events.send(event(Revision(revision))).await.unwrap();
        self.until("feed_revision", |reached| reached >= revision as f64).await;
    }

    pub(crate) async fn lose_feed(&self) {
        self.events.send(FeedEvent::Lost { reason: "a test".into() }).await.unwrap();
        self.until("feed_synced", |synced| synced == 0.0).await;
    }

    pub(crate) async fn until(&self, name: &str, wanted: impl Fn(f64) -> bool) {
        until(|| wanted(metric(&self.registry, name))).await;
    }

    pub(crate) fn metric(&self, name: &str) -> f64 {
        metric(&self.registry, name)
    }
}

pub(crate) async fn until(mut condition: impl FnMut() -> bool) {
    let reached = timeout(PATIENCE, async {
        while !condition() {
            sleep(Duration::from_millis(2)).await;
        }
    });
    reached.await.expect("a condition is reached in time");
}

/// The value of a metric, summed over its labels; of a histogram, its count.
pub(crate) fn metric(registry: &Registry, name: &str) -> f64 {
    let name = format!("cellway_router_{name}");
    let families = registry.gather();
    let family = families.iter().find(|family| family.name() == name);
    let value = |metric: &prometheus::proto::Metric| {
        metric.get_counter().get_value()
            + metric.get_gauge().get_value()
            + metric.get_histogram().get_sample_count() as f64
    };
    family.map_or(0.0, |family| family.get_metric().iter().map(value).sum())
}

pub(crate) fn cell(name: &str, gates: &[&Gate]) -> String {
    let endpoints: Vec<String> = gates.iter().map(|gate| format!("\"{}\"", gate.address)).collect();
    format!("{{\"cell\":\"{name}\",\"endpoints\":[{}],\"kind\":\"agent\"}}\n", endpoints.join(","))
}

pub(crate) fn origin(name: &str, address: SocketAddr) -> String {
    format!("{{\"cell\":\"{name}\",\"endpoints\":[\"{address}\"],\"kind\":\"origin\"}}\n")
}

pub(crate) fn placed(tenant: &str, cell: &str, epoch: u64) -> String {
    format!("{{\"tenant\":\"{tenant}\",\"cell\":\"{cell}\",\"epoch\":{epoch}}}\n")
}

pub(crate) fn held(tenant: &str, cell: &str, epoch: u64) -> String {
    format!("{{\"tenant\":\"{tenant}\",\"cell\":\"{cell}\",\"epoch\":{epoch},\"held\":true}}\n")
}

/// What a gate received and admitted.
#[derive(Debug, Clone)]
pub(crate) struct Admitted {
    pub(crate) line: String,
    pub(crate) headers: HeaderMap,
    pub(crate) body: Bytes,
}

/// A gate with an app behind it, both in one.
pub(crate) struct Gate {
    pub(crate) address: SocketAddr,
    state: Arc<GateState>,
    task: JoinHandle<()>,
}

#[derive(Default)]
struct GateState {
    verdict: Mutex<Option<String>>,
    admitted: Mutex<Vec<Admitted>>,
    refused: AtomicU64,
    let_go: CancellationToken,
}

impl Gate {
    /// An open gate.
    pub(crate) async fn open() -> Self {
        Self::at("127.0.0.1:0".parse().unwrap()).await
    }

    pub(crate) async fn at(address: SocketAddr) -> Self {
        let listener = TcpListener::bind(address).await.unwrap();
        let address = listener.local_addr().unwrap();
        let state = Arc::new(GateState::default());
        let serving = Arc::clone(&state);
        let task = tokio::spawn(async move {
            let mut connections = tokio::task::JoinSet::new();
            loop {
                let (tcp, _) = listener.accept().await.unwrap();
                let state = Arc::clone(&serving);
                let service = service_fn(move |request| answer(Arc::clone(&state), request));
                connections
                    .spawn(hyper::server::conn::http1::Builder::new().serve_connection(TokioIo::new(tcp), service));
            }
        });
        Self { address, state, task }
    }

    /// A gate that refuses everything with this verdict.
    pub(crate) async fn saying(verdict: &str) -> Self {
        let gate = Self::open().await;
        gate.say(Some(verdict));
        gate
    }

    pub(crate) fn say(&self, verdict: Option<&str>) {
        *self.state.verdict.lock() = verdict.map(str::to_owned);
    }

    pub(crate) fn admitted(&self) -> Vec<Admitted> {
        self.state.admitted.lock().clone()
    }

    /// Answers whoever asks for `/waits`, from now on at once.
    pub(crate) fn let_go(&self) {
        self.state.let_go.cancel();
    }

    pub(crate) fn refused(&self) -> u64 {
        self.state.refused.load(Ordering::SeqCst)
    }
}

impl Drop for Gate {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn answer(state: Arc<GateState>, request: Request<Incoming>) -> Result<Response<Full<Bytes>>, Infallible> {
    let verdict = state.verdict.lock().clone();
    if let Some(verdict) = verdict {
        state.refused.fetch_add(1, Ordering::SeqCst);
        let refusal = Response::builder().status(421).header("x-cellway-verdict", verdict);
        return Ok(refusal.body(Full::default()).unwrap());
    }
    let (head, body) = request.into_parts();
    let Ok(body) = body.collect().await else {
        return Ok(Response::builder().status(StatusCode::BAD_REQUEST).body(Full::default()).unwrap());
    };
    let path = head.uri.path().to_owned();
    let line = format!("{} {}", head.method, head.uri);
    state.admitted.lock().push(Admitted { line, headers: head.headers, body: body.to_bytes() });
    let response = Response::builder().header("x-app", "1").header("x-cellway-cost", "7");
    Ok(match path.as_str() {
        "/own-421" => response.status(421).body("mine".into()).unwrap(),
        "/slow" => {
            sleep(Duration::from_millis(400)).await;
            response.body("slow".into()).unwrap()
        }
        "/waits" => {
            state.let_go.cancelled().await;
            response.body("waited".into()).unwrap()
        }
        "/bytes" => response.body(vec![b'x'; BYTES].into()).unwrap(),
        _ => response.body("ok".into()).unwrap(),
    })
}

/// A connection of a client.
pub(crate) struct Client {
    pub(crate) tcp: TcpStream,
    bytes: Vec<u8>,
}

/// An answer as a client sees it.
#[derive(Debug, Clone)]
pub(crate) struct Answer {
    pub(crate) status: u16,
    pub(crate) head: String,
    pub(crate) body: Vec<u8>,
}

impl Answer {
    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        let wanted = |line: &&str| line.split_once(':').is_some_and(|(field, _)| field.eq_ignore_ascii_case(name));
        Some(self.head.lines().find(wanted)?.split_once(':')?.1.trim())
    }

    pub(crate) fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }
}

impl Client {
    pub(crate) async fn connect(address: SocketAddr) -> Self {
        Self { tcp: TcpStream::connect(address).await.unwrap(), bytes: Vec::new() }
    }

    pub(crate) async fn send(&mut self, text: &str) {
        self.tcp.write_all(text.as_bytes()).await.unwrap();
    }

    pub(crate) async fn ask(&mut self, text: &str) -> Answer {
        self.send(text).await;
        self.answer().await.unwrap()
    }

    /// Whether more bytes came.
    async fn more(&mut self) -> bool {
        let mut buffer = [0; 16 * 1024];
        let length = timeout(PATIENCE, self.tcp.read(&mut buffer)).await.expect("bytes in time").unwrap_or(0);
        self.bytes.extend_from_slice(&buffer[..length]);
        length > 0
    }

    async fn line_end(&mut self, end: &[u8]) -> Option<Vec<u8>> {
        loop {
            if let Some(at) = self.bytes.windows(end.len()).position(|window| window == end) {
                let rest = self.bytes.split_off(at + end.len());
                return Some(std::mem::replace(&mut self.bytes, rest));
            }
            if !self.more().await {
                return None;
            }
        }
    }

    async fn exactly(&mut self, length: usize) -> Option<Vec<u8>> {
        while self.bytes.len() < length {
            if !self.more().await {
                return None;
            }
        }
        let rest = self.bytes.split_off(length);
        Some(std::mem::replace(&mut self.bytes, rest))
    }

    pub(crate) async fn head(&mut self) -> Option<Answer> {
        loop {
            let head = String::from_utf8(self.line_end(b"\r\n\r\n").await?).unwrap();
            let status: u16 = head.split(' ').nth(1).unwrap().parse().unwrap();
            if status != 100 {
                return Some(Answer { status, head, body: Vec::new() });
            }
        }
    }

    /// The next answer; `None` if the connection ended before its end.
    pub(crate) async fn answer(&mut self) -> Option<Answer> {
        let mut answer = self.head().await?;
        if let Some(length) = answer.header("content-length") {
            answer.body = self.exactly(length.parse().unwrap()).await?;
        } else if answer.header("transfer-encoding").is_some() {
            loop {
                let size = String::from_utf8(self.line_end(b"\r\n").await?).unwrap();
                let size = usize::from_str_radix(size.trim(), 16).unwrap();
                let chunk = self.exactly(size + 2).await?;
                answer.body.extend_from_slice(&chunk[..size]);
                if size == 0 {
                    break;
                }
            }
        }
        Some(answer)
    }

    /// Whether the connection is closed without another byte.
    pub(crate) async fn is_closed(&mut self) -> bool {
        self.bytes.is_empty() && !self.more().await
    }
}

pub(crate) fn get(tenant: &str, path: &str) -> String {
    format!("GET {path} HTTP/1.1\r\nhost: {tenant}.cells.localhost\r\n\r\n")
}

pub(crate) fn post(tenant: &str, body: &str) -> String {
    let length = body.len();
    format!("POST /post HTTP/1.1\r\nhost: {tenant}.cells.localhost\r\ncontent-length: {length}\r\n\r\n{body}")
}

pub(crate) async fn ask(address: SocketAddr, text: &str) -> Answer {
    Client::connect(address).await.ask(text).await
}

/// Asks in a task of its own.
pub(crate) fn asking(address: SocketAddr, text: String) -> JoinHandle<Answer> {
    tokio::spawn(async move { ask(address, &text).await })
}
