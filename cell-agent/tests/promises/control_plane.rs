//! A control plane that says what the test wants and remembers what it hears.

use bytes::Bytes;
use cellway_api::agent::{Down, FactHeard, FactUp, FactsHeard, FactsUp, OrderDown, PlacementDown, Registered};
use cellway_api::problem::Problem;
use futures_util::stream::StreamExt;
use http::{Request, Response, StatusCode};
use http_body_util::{BodyExt, Either, Full, StreamBody};
use hyper::body::{Frame, Incoming};
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use parking_lot::Mutex;
use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::watch;
use tokio::task::JoinSet;

/// How often the test's control plane repeats its orders and beats.
const BEAT_MS: u64 = 100;

type LineBody = StreamBody<futures_util::stream::BoxStream<'static, Result<Frame<Bytes>, Infallible>>>;
type Answer = Response<Either<Full<Bytes>, LineBody>>;

#[derive(Default)]
pub(crate) struct Said {
    pub(crate) revision: u64,
    pub(crate) placements: Vec<(String, u64, PlacementDown)>,
    pub(crate) orders: Vec<OrderDown>,
    pub(crate) gates: Option<(u64, Vec<String>)>,
    pub(crate) refuses: bool,
    pub(crate) busy: bool,
    pub(crate) later: bool,
}

#[derive(Default)]
pub(crate) struct Heard {
    pub(crate) facts: Vec<FactUp>,
    pub(crate) instances: Vec<(String, u64)>,
    pub(crate) left: Vec<String>,
    /// Requests with facts of which none was taken.
    pub(crate) put_off: usize,
}

pub(crate) struct ControlPlane {
    pub(crate) address: SocketAddr,
    pub(crate) said: Arc<watch::Sender<Said>>,
    pub(crate) heard: Arc<Mutex<Heard>>,
    server: Mutex<Option<tokio::task::JoinHandle<()>>>,
}

impl ControlPlane {
    pub(crate) async fn start() -> Self {
        let said = Arc::new(watch::Sender::new(Said { revision: 10, ..Said::default() }));
        let plane =
            Self { address: "127.0.0.1:0".parse().unwrap(), said, heard: Arc::default(), server: Mutex::default() };
        plane.resume().await
    }

    async fn resume(mut self) -> Self {
        let listener = tokio::net::TcpListener::bind(self.address).await.unwrap();
        self.address = listener.local_addr().unwrap();
        let (said, heard) = (Arc::clone(&self.said), Arc::clone(&self.heard));
        *self.server.lock() = Some(tokio::spawn(async move {
            let mut connections = JoinSet::new();
            loop {
                let (stream, _) = listener.accept().await.unwrap();
                let (said, heard) = (Arc::clone(&said), Arc::clone(&heard));
                connections.spawn(async move {
                    let service = service_fn(move |request| {
                        let (said, heard) = (Arc::clone(&said), Arc::clone(&heard));
                        async move { Ok::<_, Infallible>(answer(request, &said, &heard).await) }
                    });
                    let http = hyper::server::conn::http1::Builder::new();
                    let _ = http.serve_connection(TokioIo::new(stream), service).await;
                });
            }
        }));
        self
    }

    /// Goes away, with all its connections.
    pub(crate) async fn stop(&self) {
        let server = self.server.lock().take().expect("it runs");
        server.abort();
        let _ = server.await;
    }

    /// The tenant is placed, as read at the next revision.
    pub(crate) fn place(&self, tenant: &str, cell: &str, epoch: u64, home: &str, hold: Option<&str>) {
        self.said.send_modify(|said| {
            said.revision += 1;
            let placement = PlacementDown::Placed {
                cell: cell.into(),
                uid: format!("uid-{cell}"),
                epoch,
                home: home.into(),
                hold: hold.map(Into::into),
            };
            said.placements.retain(|(known, ..)| known != tenant);
            said.placements.push((tenant.into(), said.revision, placement));
        });
    }

    pub(crate) fn order(&self, orders: Vec<OrderDown>) {
        self.said.send_modify(|said| said.orders = orders);
    }

    /// Waits for a fact that `matches`.
    pub(crate) async fn fact(&self, matches: impl Fn(&FactUp) -> bool) -> FactUp {
        for _ in 0..1_000 {
            if let Some(fact) = self.heard.lock().facts.iter().find(|fact| matches(fact)) {
                return fact.clone();
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        panic!("not heard; only: {:?}", self.heard.lock().facts);
    }

    pub(crate) fn has_heard(&self, matches: impl Fn(&FactUp) -> bool) -> bool {
        self.heard.lock().facts.iter().any(matches)
    }
}

async fn answer(request: Request<Incoming>, said: &Arc<watch::Sender<Said>>, heard: &Mutex<Heard>) -> Answer {
    let path = request.uri().path().to_owned();
    if path.ends_with("/stream") {
        return Response::new(Either::Right(lines(said.subscribe())));
    }
    let body = request.into_body().collect().await.unwrap().to_bytes();
    if path.ends_with("/instances") {
        let register: cellway_api::agent::Register = serde_json::from_slice(&body).unwrap();
        if said.borrow().refuses {
            return refusal();
        }
        if said.borrow().busy {
            return problem(503, "unavailable", "others were faster");
        }
        said.send_modify(|said| said.revision += 1);
        heard.lock().instances.push((register.instance.clone(), register.run));
        let revision = said.borrow().revision;
        let cell = path.split('/').nth(3).unwrap();
        return json(&Registered { uid: format!("uid-{cell}"), revision });
    }
    if path.ends_with("/facts") {
        let up: FactsUp = serde_json::from_slice(&body).unwrap();
        let (busy, later) = (said.borrow().busy, said.borrow().later);
        heard.lock().put_off += usize::from(busy || later);
        if busy {
            return problem(503, "unavailable", "others were faster");
        }
        if later {
            return json(&FactsHeard { results: up.facts.iter().map(|_| FactHeard::Later).collect() });
        }
        let results = up.facts.iter().map(|_| FactHeard::Recorded).collect();
        heard.lock().facts.extend(up.facts);
        return json(&FactsHeard { results });
    }
    if let Some(rest) = path.strip_suffix("/leave") {
        heard.lock().left.push(rest.rsplit('/').next().unwrap().to_owned());
    }
    json(&())
}

fn refusal() -> Answer {
    problem(409, "conflict", "run 1 is not above run 7")
}

fn problem(status: u16, kind: &str, title: &str) -> Answer {
    let mut response = json(&Problem { kind: kind.into(), status, title: title.into(), detail: None });
    *response.status_mut() = StatusCode::from_u16(status).unwrap();
    response
}

fn json(value: &impl serde::Serialize) -> Answer {
    Response::new(Either::Left(Full::new(serde_json::to_vec(value).unwrap().into())))
}

/// All placements, then a beat and whatever has changed.
fn lines(said: watch::Receiver<Said>) -> LineBody {
    let stream = futures_util::stream::unfold((said, 0_u64), |(mut said, told)| async move {
        if told > 0 {
            let _ = tokio::time::timeout(Duration::from_millis(BEAT_MS), said.changed()).await;
        }
        let now = said.borrow_and_update();
        let mut lines = Vec::new();
        for (tenant, read_at, placement) in now.placements.iter().filter(|(_, read_at, _)| told == 0 || *read_at > told)
        {
            // The first telling is a read of everything at the newest revision.
            let revision = if told == 0 { now.revision } else { *read_at };
            lines.push(Down::Placement { tenant: tenant.clone(), revision, placement: placement.clone() });
        }
        if told == 0 {
            lines.push(Down::Synced { revision: now.revision });
        }
        if let Some((revision, instances)) = now.gates.clone() {
            lines.push(Down::Gates { revision, instances });
        }
        lines.push(Down::Orders { orders: now.orders.clone() });
        lines.push(Down::Beat { leader: None });
        let told = now.revision;
        drop(now);
        let mut text = Vec::new();
        for line in lines {
            serde_json::to_writer(&mut text, &line).unwrap();
            text.push(b'\n');
        }
        Some((Ok(Frame::data(Bytes::from(text))), (said, told)))
    });
    StreamBody::new(stream.boxed())
}
