//! A router process takes the place of another: no connection is refused or reset, and the one before drains in sight.

use cellway_end_to_end::alone::{Backend, Placed, RouterAlone};
use cellway_end_to_end::certificates::{Handshakes, Issuer};
use cellway_end_to_end::eventually;
use cellway_end_to_end::process::Process;
use cellway_end_to_end::replaced::Crowd;
use futures_util::StreamExt;
use rustix::process::Signal;
use std::net::SocketAddr;
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;
use std::time::{Duration, Instant};
use tempfile::TempDir;
use tokio::net::TcpListener;
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::tungstenite::client::IntoClientRequest;
use tokio_tungstenite::tungstenite::protocol::frame::coding::CloseCode;

const HOST: &str = "acme.cells.localhost";
const UPGRADES: usize = 20;
/// A process with these threads follows one with those before: each way, more and fewer than sockets.
const THREADS: [usize; 5] = [2, 1, 4, 3, 2];
/// Answered to each kind of client between two upgrades, so that each falls into traffic.
const REQUESTS_BETWEEN: usize = 10;
/// The test's own client keeps idle connections: they are ended soon.
const IMPATIENT: &str = "handover_delay_ms: 500\n";
/// The longest time for a process to end: less than what it may take for those that do not end by themselves.
const END: Duration = Duration::from_secs(8);

/// Where a test's routers hand over.
struct Place(TempDir);

impl Place {
    fn take() -> Self {
        Self(tempfile::tempdir().expect("a directory"))
    }

    fn path(&self) -> PathBuf {
        self.0.path().join("router.sock")
    }

    /// Lines of a configuration.
    fn lines(&self, more: &str) -> String {
        format!("handover: {}\n{more}", self.path().display())
    }

    /// Lines of one that never gets ready: it finds no routes.
    fn lines_of_unready(&self, more: &str) -> String {
        let nothing = self.0.path().join("nothing").display().to_string();
        self.lines(&format!("snapshot: {nothing}.snapshot\nfeed: {{file: {nothing}.jsonl}}\n{more}"))
    }
}

async fn has_logged(process: &Process, words: &str) {
    eventually(words, async || process.log().contains(words).then_some(())).await;
}

/// Starts the next process and waits until it serves; what is left is the one before.
async fn upgrade(router: &mut RouterAlone) -> Process {
    let next = router.start_next();
    has_logged(&next, "this router can be replaced").await;
    std::mem::replace(&mut router.process, next)
}

#[tokio::test(flavor = "multi_thread")]
async fn twenty_upgrades_under_load_refuse_and_reset_nothing_and_fail_no_request() {
    let (place, backend, issuer) = (Place::take(), Backend::start(Duration::from_millis(2)).await, Issuer::default());
    issuer.file(&issuer.issue(HOST, 90));
    let front = issuer.path("front").display().to_string();
    let tls = format!("tls: {{certificates: [{{certificate: {front}.crt, key: {front}.key}}]}}\n");
    let mut router = RouterAlone::start(&backend, &place.lines(&tls)).await;
    let crowd = Crowd::start(router.address());
    let browser = issuer.client(HOST, router.https_address());
    let handshakes = Handshakes::start(&browser, 1);
    let begun = Instant::now();
    for number in 1..=UPGRADES {
        router.configure(&place.lines(&format!("{tls}threads: {}\n", THREADS[number % THREADS.len()])));
        let mut before = upgrade(&mut router).await;
        crowd.more(REQUESTS_BETWEEN).await;
        assert_eq!(before.wait(END).code(), Some(0), "{}", before.log());
    }
    let took = begun.elapsed();
    let (shaken, failed) = handshakes.stop().await;
    assert!(failed.is_empty(), "{} of {shaken} requests over HTTPS: {:?}", failed.len(), failed.first());
    let (answered, failed) = crowd.stop().await;
    assert!(failed.is_empty(), "{} of {answered:?}: {:?}", failed.len(), &failed[..failed.len().min(3)]);
    let mode = std::fs::metadata(place.path()).expect("the socket is there").permissions().mode();
    assert_eq!(mode & 0o777, 0o600, "only its owner may ask");
    println!("{UPGRADES} upgrades in {took:?}: {answered:?} requests, {shaken} over HTTPS; 0 refused, reset or failed");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_websocket_of_the_router_before_lives_until_the_drain_tells_it_to_connect_again() {
    let place = Place::take();
    let cell = Placed { cell: "a".to_owned(), endpoint: silent_websockets().await, tenants: vec!["acme".to_owned()] };
    let mut router = RouterAlone::launch(&[cell], &place.lines("drain_ms: 4000\n"), None).await;
    let mut request = format!("ws://{}/", router.address()).into_client_request().expect("an address");
    request.headers_mut().insert("host", HOST.parse().expect("a host"));
    let (mut socket, _) = tokio_tungstenite::connect_async(request).await.expect("a WebSocket");
    let mut before = upgrade(&mut router).await;
    let last = tokio::time::timeout(END, socket.next()).await.expect("it is told in time");
    let Some(Ok(Message::Close(Some(close)))) = last else { panic!("no Close frame: {last:?}") };
    assert_eq!(close.code, CloseCode::Restart);
    drop(socket);
    assert_eq!(before.wait(END).code(), Some(0), "{}", before.log());
}

/// A cell that opens WebSockets and says nothing.
async fn silent_websockets() -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
    let address = listener.local_addr().expect("an address");
    tokio::spawn(async move {
        while let Ok((tcp, _)) = listener.accept().await {
            tokio::spawn(async move {
                if let Ok(mut socket) = tokio_tungstenite::accept_async(tcp).await {
                    while let Some(Ok(_)) = socket.next().await {}
                }
            });
        }
    });
    address
}

#[tokio::test(flavor = "multi_thread")]
async fn the_drain_of_the_router_before_is_shown_by_the_one_that_serves() {
    let (place, backend) = (Place::take(), Backend::start(Duration::from_secs(6)).await);
    let mut router = RouterAlone::start(&backend, &place.lines("")).await;
    let crowd = Crowd::of_one_request(router.address()).await;
    eventually("a request is under way", async || (router.metric("requests_open").await? == 1.0).then_some(())).await;
    let mut before = upgrade(&mut router).await;
    let shown = router.cli(&["status", "-o", "json"]);
    let shown: serde_json::Value = serde_json::from_slice(&shown.stdout).expect("JSON on stdout");
    let drain = &shown["predecessors"][0];
    assert_eq!((&drain["process"], &shown["draining"]), (&before.id().into(), &false.into()), "{shown}");
    assert_eq!((&drain["streams"], &drain["tenants"]), (&1.into(), &1.into()), "{shown}");
    assert!(drain["connections"].as_u64() >= Some(1) && drain["seconds_left"].as_f64() > Some(1.0), "{shown}");
    let table = String::from_utf8(router.cli(&["status"]).stdout).expect("text");
    assert!(table.contains(&format!("process {}", before.id())), "{table}");
    let (_, failed) = crowd.stop().await;
    assert!(failed.is_empty(), "what was under way is answered: {failed:?}");
    assert_eq!(before.wait(END).code(), Some(0), "{}", before.log());
    let gone = async || router.status().await?["predecessors"].as_array()?.is_empty().then_some(());
    eventually("the drain is over, and not shown any more", gone).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_drain_ends_at_its_deadline_whatever_is_left() {
    let (place, backend) = (Place::take(), Backend::start(Duration::from_secs(60)).await);
    let lines = place.lines("handover_delay_ms: 500\ndrain_ms: 500\n");
    let mut router = RouterAlone::start(&backend, &lines).await;
    let _crowd = Crowd::of_one_request(router.address()).await;
    eventually("a request is under way", async || (router.metric("requests_open").await? == 1.0).then_some(())).await;
    let mut before = upgrade(&mut router).await;
    assert_eq!(before.wait(END).code(), Some(0), "{}", before.log());
    assert!(before.log().contains("the time to drain is over"), "{}", before.log());
}

#[tokio::test(flavor = "multi_thread")]
async fn routers_that_drain_at_once_are_all_shown_and_a_signal_spares_their_delay() {
    let (place, backend) = (Place::take(), Backend::start(Duration::from_secs(60)).await);
    let mut router = RouterAlone::start(&backend, &place.lines("drain_ms: 500\n")).await;
    let (mut drained, mut crowds) = (Vec::new(), Vec::new());
    for _ in 0..2 {
        crowds.push(Crowd::of_one_request(router.address()).await);
        let is_under_way = async || {
            let shown = router.status().await?;
            (shown["draining"] == false && shown["requests_open"] == 1).then_some(())
        };
        eventually("a request is under way", is_under_way).await;
        drained.insert(0, upgrade(&mut router).await);
    }
    let ids: Vec<u64> = drained.iter().map(|process| u64::from(process.id())).collect();
    let are_shown = async || {
        let shown = router.status().await?;
        let processes = shown["predecessors"].as_array()?.iter().filter_map(|one| one["process"].as_u64());
        (processes.collect::<Vec<_>>() == ids).then_some(())
    };
    eventually("both drains are shown", are_shown).await;
    for process in &mut drained {
        assert_eq!(process.end(Signal::TERM).code(), Some(0), "{}", process.log());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_router_that_ends_by_a_signal_shows_its_own_drain() {
    let backend = Backend::start(Duration::from_secs(3)).await;
    let mut router = RouterAlone::start(&backend, "drain_delay_ms: 1000\n").await;
    let crowd = Crowd::of_one_request(router.address()).await;
    eventually("a request is under way", async || (router.metric("requests_open").await? == 1.0).then_some(())).await;
    assert!(router.status().await.expect("a status")["drain"].is_null());
    router.process.signal(Signal::TERM);
    let drain = async || router.status().await.map(|shown| shown["drain"].clone()).filter(|drain| drain.is_object());
    let drain = eventually("the drain is shown", drain).await;
    assert_eq!((&drain["streams"], &drain["tenants"]), (&1.into(), &1.into()), "{drain}");
    assert!(drain["seconds_left"].as_f64() > Some(1.0), "{drain}");
    assert!(crowd.stop().await.1.is_empty());
    assert_eq!(router.process.wait(END).code(), Some(0), "{}", router.process.log());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_new_router_that_dies_or_is_not_ready_changes_nothing() {
    let (place, backend) = (Place::take(), Backend::start(Duration::from_millis(2)).await);
    let mut router = RouterAlone::start(&backend, &place.lines("handover_ready_ms: 2000\n")).await;
    let crowd = Crowd::start(router.address());
    router.configure(&place.lines_of_unready(""));
    let mut killed = router.start_next();
    has_logged(&killed, "the listeners of a router were passed").await;
    crowd.more(REQUESTS_BETWEEN).await;
    killed.kill();
    has_logged(&router.process, "ended before it served").await;
    // It has more time than the one that runs allows.
    let mut late = router.start_next();
    assert_eq!(late.wait(END).code(), Some(1), "{}", late.log());
    assert!(late.log().contains("goes on serving"), "{}", late.log());
    assert!(router.process.log().contains("did not serve within 2000 ms"), "{}", router.process.log());
    // It gives up by itself.
    router.configure(&place.lines_of_unready("handover_ready_ms: 500\n"));
    let mut early = router.start_next();
    assert_eq!(early.wait(END).code(), Some(1), "{}", early.log());
    assert!(early.log().contains("no routes within 500 ms"), "{}", early.log());
    crowd.more(REQUESTS_BETWEEN).await;
    let (answered, failed) = crowd.stop().await;
    assert!(failed.is_empty(), "{} of {answered:?}: {:?}", failed.len(), failed.first());
    router.configure(&place.lines(""));
    let mut before = upgrade(&mut router).await;
    assert_eq!(before.wait(END).code(), Some(0), "{}", before.log());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_new_router_goes_on_alone_when_the_one_before_dies() {
    let (place, backend) = (Place::take(), Backend::start(Duration::from_millis(2)).await);
    let mut router = RouterAlone::start(&backend, &place.lines(IMPATIENT)).await;
    router.configure(&place.lines_of_unready(IMPATIENT));
    let next = router.start_next();
    has_logged(&next, "the listeners of a router were passed").await;
    let mut before = std::mem::replace(&mut router.process, next);
    before.kill();
    // Nobody is refused meanwhile: the listeners live on.
    has_logged(&router.process, "going on alone").await;
    assert_eq!(router.ask("acme").await, Some(503), "no routes yet");
    has_logged(&router.process, "this router can be replaced").await;
    router.configure(&place.lines(IMPATIENT));
    let mut before = upgrade(&mut router).await;
    // The connection that was kept has one more answer of the one before.
    eventually("acme is served", async || (router.ask("acme").await? == 200).then_some(())).await;
    assert_eq!(before.wait(END).code(), Some(0), "{}", before.log());
}

#[tokio::test(flavor = "multi_thread")]
async fn of_two_new_routers_the_second_is_refused_and_says_why() {
    let (place, backend) = (Place::take(), Backend::start(Duration::from_millis(2)).await);
    let mut router = RouterAlone::start(&backend, &place.lines(IMPATIENT)).await;
    router.configure(&place.lines_of_unready(IMPATIENT));
    let mut first = router.start_next();
    has_logged(&first, "the listeners of a router were passed").await;
    let mut second = router.start_next();
    assert!(!second.wait(END).success());
    assert!(second.log().contains("another router is taking over at this moment"), "{}", second.log());
    assert_eq!(router.ask("acme").await, Some(200), "neither disturbs the one that runs");
    first.kill();
    router.configure(&place.lines(IMPATIENT));
    has_logged(&router.process, "ended before it served").await;
    let mut before = upgrade(&mut router).await;
    assert_eq!(before.wait(END).code(), Some(0), "{}", before.log());
}
