//! The bounds of a pool: what one tenant may use, and how long what nobody waits for may last.

#![allow(clippy::unwrap_used, clippy::expect_used)]

use std::cell::Cell;
use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use bytes::Bytes;
use cellway_proxy::pool::{Destination, NotSent, SHARED_PER_ENDPOINT_MAX};
use cellway_proxy::{Head, OnDrop, Pool, PoolLimits, PooledBody, Protocol, RequestBody, Room, SendError};
use http::{HeaderValue, Request, Response};
use http_body_util::BodyExt;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;
use tokio::task::{LocalSet, spawn_local};
use tokio::time::{Instant, sleep, timeout};

const PATIENCE: Duration = Duration::from_secs(5);

/// An app that answers each request with `answer`, and then keeps its connections open whatever the other side does.
async fn app(answer: &'static str) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        loop {
            let (mut tcp, _) = listener.accept().await.unwrap();
            tokio::spawn(async move {
                while tcp.read(&mut [0; 4096]).await.is_ok_and(|length| length > 0) {
                    tcp.write_all(answer.as_bytes()).await.unwrap();
                }
                std::future::pending::<()>().await;
            });
        }
    });
    address
}

fn get() -> Request<RequestBody> {
    Request::builder().uri("/").header("host", "a").body(RequestBody::empty()).unwrap()
}

async fn ask(
    pool: &Pool,
    tenant: Option<&str>,
    app: impl Into<Destination>,
) -> Result<Response<PooledBody>, SendError> {
    let (head, body) = get().into_parts();
    pool.send_for(tenant, app, Head::of(&head), Box::new(body), tokio::time::Instant::now()).await.map(|answer| *answer)
}

async fn ask_to_last(pool: &Pool, tenant: &str, app: SocketAddr) -> Result<Response<PooledBody>, SendError> {
    let (mut head, body) = get().into_parts();
    head.headers.insert("accept", HeaderValue::from_static("text/event-stream"));
    let now = tokio::time::Instant::now();
    pool.send_for(Some(tenant), app, Head::of(&head), Box::new(body), now).await.map(|answer| *answer)
}

async fn until(condition: impl Fn() -> bool) {
    let reached = timeout(PATIENCE, async {
        while !condition() {
            sleep(Duration::from_millis(2)).await;
        }
    });
    reached.await.expect("a condition is reached in time");
}

const HALF: &str = "HTTP/1.1 200 OK\r\ncontent-length: 10\r\n\r\nhalf";
const WHOLE: &str = "HTTP/1.1 200 OK\r\ncontent-length: 4\r\n\r\ndone";

#[tokio::test]
async fn one_tenant_cannot_take_all_connections_of_an_endpoint() {
    let app = app(HALF).await;
    LocalSet::new()
        .run_until(async {
            let limits = PoolLimits { open_per_endpoint: 4, used_per_tenant: 2, wait_ms: 60, ..PoolLimits::default() };
            let pool = Pool::new(limits);
            let acme = Some("acme");
            let first = ask(&pool, acme, app).await.unwrap();
            let _second = ask(&pool, acme, app).await.unwrap();
            let began = Instant::now();
            let third = ask(&pool, acme, app).await;
            assert!(matches!(third, Err(SendError::NotSent { cause: NotSent::Exhausted(2), .. })));
            assert!(began.elapsed() >= Duration::from_millis(60), "it is waited for");
            assert!(ask(&pool, Some("beta"), app).await.is_ok());
            // Who waits gets the connection that comes free meanwhile.
            let waiting = pool.clone();
            let third = spawn_local(async move { ask(&waiting, acme, app).await.is_ok() });
            sleep(Duration::from_millis(10)).await;
            drop(first);
            assert!(third.await.unwrap());
        })
        .await;
}

/// Of a pool with few places, none of which is waited for long.
fn few(open_per_endpoint: usize, lasting_per_pool: usize) -> PoolLimits {
    PoolLimits { open_per_endpoint, used_per_tenant: 1, lasting_per_pool, wait_ms: 60, ..PoolLimits::default() }
}

#[tokio::test]
async fn what_lasts_leaves_its_place_to_requests_and_one_tenant_has_half_of_what_there_is_for_it() {
    let apps = [app(HALF).await, app(HALF).await];
    LocalSet::new()
        .run_until(async {
            let pool = Pool::new(few(2, 4));
            let mut lasting = Vec::new();
            for app in apps {
                let mut answer = ask(&pool, Some("acme"), app).await.unwrap();
                answer.body_mut().leave_requests();
                answer.body_mut().leave_requests();
                lasting.push(answer);
            }
            assert_eq!(apps.map(|app| pool.open_connections(app)), [0, 0]);
            let unseen = ask_to_last(&pool, "acme", apps[0]).await;
            assert!(matches!(unseen, Err(SendError::NotSent { cause: NotSent::Exhausted(4), .. })), "wherever they go");
            let mut unasked = ask(&pool, Some("acme"), apps[0]).await.unwrap();
            unasked.body_mut().leave_requests();
            assert!(ask(&pool, Some("acme"), apps[0]).await.is_err(), "it keeps its place");
            for _ in 0..2 {
                let mut answer = ask_to_last(&pool, "beta", apps[0]).await.unwrap();
                answer.body_mut().leave_requests();
                lasting.push(answer);
            }
            assert!(ask_to_last(&pool, "gamma", apps[1]).await.is_err(), "there are four");
            assert!(ask(&pool, Some("gamma"), apps[1]).await.is_ok(), "requests go on");
            lasting.remove(0);
            assert!(ask_to_last(&pool, "acme", apps[1]).await.is_ok(), "one has ended");
        })
        .await;
}

#[tokio::test]
async fn who_waits_for_a_place_has_the_one_of_an_answer_that_turns_out_to_last() {
    let app = app(HALF).await;
    for limits in [few(1, 4), few(2, 4)] {
        let limits = PoolLimits { wait_ms: PATIENCE.as_millis() as u64, ..limits };
        LocalSet::new()
            .run_until(async {
                let pool = Pool::new(limits);
                let mut lasting = ask(&pool, Some("acme"), app).await.unwrap();
                let waiting = pool.clone();
                let tenant = if limits.open_per_endpoint == 1 { "beta" } else { "acme" };
                let waits = spawn_local(async move { ask(&waiting, Some(tenant), app).await.is_ok() });
                sleep(Duration::from_millis(10)).await;
                assert!(!waits.is_finished());
                lasting.body_mut().leave_requests();
                assert!(timeout(PATIENCE / 2, waits).await.expect("it is woken").unwrap());
            })
            .await;
    }
}

#[tokio::test]
async fn a_connection_whose_answer_lasted_carries_requests_again_if_there_is_room() {
    let app = app(WHOLE).await;
    LocalSet::new()
        .run_until(async {
            let pool = Pool::new(PoolLimits { used_per_tenant: 2, ..few(1, 4) });
            let lasting = async || {
                let mut answer = ask(&pool, Some("acme"), app).await.unwrap();
                answer.body_mut().leave_requests();
                answer.into_body()
            };
            lasting().await.drain().await;
            assert_eq!(pool.open_connections(app), 1);
            let (first, second) = (lasting().await, ask(&pool, Some("acme"), app).await.unwrap());
            assert_eq!(pool.open_connections(app), 1);
            first.drain().await;
            assert_eq!(pool.open_connections(app), 1, "there was no room for it");
            second.into_body().drain().await;
            ask(&pool, Some("acme"), app).await.unwrap().into_body().drain().await;
            assert_eq!(pool.open_connections(app), 1);
        })
        .await;
}

#[tokio::test]
async fn a_pool_keeps_so_many_idle_connections_whatever_endpoints_they_go_to() {
    let apps = [app(WHOLE).await, app(WHOLE).await, app(WHOLE).await];
    LocalSet::new()
        .run_until(async {
            let pool = Pool::new(PoolLimits { idle_per_pool: 4, ..PoolLimits::default() }.of_threads(2, 100));
            let open = || apps.map(|app| pool.open_connections(app));
            for app in apps {
                ask(&pool, None, app).await.unwrap().into_body().drain().await;
            }
            assert_eq!(open(), [1, 1, 0], "two lie idle, and the third was closed");
            // A place goes to the newer one of the same endpoint.
            let both = [ask(&pool, None, apps[0]).await.unwrap(), ask(&pool, None, apps[0]).await.unwrap()];
            for answer in both {
                answer.into_body().drain().await;
            }
            assert_eq!(open(), [1, 1, 0]);
        })
        .await;
}

/// An app that speaks HTTP/2, takes so many requests at a time on a connection, and ends no answer.
async fn http2_app(streams: u32) -> Destination {
    http2_app_with_window(streams).await.0
}

/// The same, and what it may send on all of its answers while nobody takes any of them.
async fn http2_app_with_window(streams: u32) -> (Destination, Arc<AtomicUsize>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let window = Arc::<AtomicUsize>::default();
    let counted = Arc::clone(&window);
    tokio::spawn(async move {
        loop {
            let (tcp, _) = listener.accept().await.unwrap();
            let counted = Arc::clone(&counted);
            tokio::spawn(async move {
                let mut builder = h2::server::Builder::new();
                let Ok(mut connection) = builder.max_concurrent_streams(streams).handshake::<_, Bytes>(tcp).await
                else {
                    return;
                };
                let mut open = Vec::new();
                while let Some(Ok((_, mut respond))) = connection.accept().await {
                    let mut answer = respond.send_response(Response::new(()), false).unwrap();
                    answer.reserve_capacity(1024 * 1024);
                    counted.fetch_add(answer.capacity(), Ordering::Relaxed);
                    open.push(answer);
                }
            });
        }
    });
    (Destination::from(address).over(Protocol::Http2), window)
}

#[tokio::test]
async fn what_a_client_can_leave_lying_on_shared_connections_is_bounded_over_all_of_its_answers() {
    const ANSWERS: usize = 100;
    const LYING_MAX_BYTES: usize = 160 * 1024;
    let (app, window) = http2_app_with_window(100).await;
    LocalSet::new()
        .run_until(async {
            let pool = Pool::new(PoolLimits::default());
            let crowded = Room::default();
            let mut open = Vec::new();
            for _ in 0..ANSWERS {
                let request = get().map(|body| body.within(Some(crowded.clone())));
                open.push(pool.send(app.clone(), request).await.unwrap());
            }
            assert!((ANSWERS * 1024..=LYING_MAX_BYTES).contains(&window.load(Ordering::Relaxed)), "{window:?}");

            let before = window.load(Ordering::Relaxed);
            let alone = get().map(|body| body.within(Some(Room::default())));
            open.push(pool.send(app.clone(), alone).await.unwrap());
            let wide = window.load(Ordering::Relaxed) - before;
            assert!(wide > LYING_MAX_BYTES / ANSWERS * 2, "another client's answer may flow: {wide}");

            drop(open);
            let before = window.load(Ordering::Relaxed);
            let again = get().map(|body| body.within(Some(crowded.clone())));
            let _again = pool.send(app.clone(), again).await.unwrap();
            assert_eq!(window.load(Ordering::Relaxed) - before, wide, "with its others over, it is as any");
        })
        .await;
}

#[tokio::test]
async fn one_tenant_cannot_take_all_places_over_http2_however_few_the_peer_gives() {
    const STREAMS: u32 = 4;
    let app = http2_app(STREAMS).await;
    LocalSet::new()
        .run_until(async {
            let pool = Pool::new(PoolLimits { wait_ms: 60, ..PoolLimits::default() });
            let half = SHARED_PER_ENDPOINT_MAX * STREAMS as usize / 2;
            let mut open = Vec::new();
            let refused = loop {
                match ask(&pool, Some("acme"), app.clone()).await {
                    Ok(answer) => open.push(answer),
                    Err(error) => break error,
                }
            };
            assert!(matches!(refused, SendError::NotSent { cause: NotSent::Exhausted(_), .. }), "{refused}");
            assert_eq!(open.len(), half);
            for _ in 0..half {
                open.push(ask(&pool, Some("beta"), app.clone()).await.unwrap());
            }
        })
        .await;
}

#[tokio::test]
async fn who_waits_for_a_shared_connection_is_told_that_there_is_one() {
    let app = http2_app(100).await;
    LocalSet::new()
        .run_until(async {
            // Nobody waits so long unless nobody tells.
            let pool = Pool::new(PoolLimits { wait_ms: 60_000, ..PoolLimits::default() });
            let sending = (0..4 * SHARED_PER_ENDPOINT_MAX).map(|_| {
                let (pool, app) = (pool.clone(), app.clone());
                spawn_local(async move { pool.send(app, get()).await.map_err(|error| error.to_string()) })
            });
            let mut open = Vec::new();
            for sent in sending.collect::<Vec<_>>() {
                open.push(timeout(PATIENCE, sent).await.expect("in time").unwrap().unwrap());
            }
        })
        .await;
}

#[tokio::test]
async fn who_leaves_while_it_connects_leaves_its_place_to_others() {
    let app = http2_app(100).await;
    LocalSet::new()
        .run_until(async {
            let pool = Pool::new(PoolLimits { wait_ms: 60, ..PoolLimits::default() });
            for _ in 0..2 * SHARED_PER_ENDPOINT_MAX {
                let mut sending = Box::pin(pool.send(app.clone(), get()));
                let begun = std::future::poll_fn(|cx| std::task::Poll::Ready(sending.as_mut().poll(cx))).await;
                assert!(begun.is_pending(), "connecting takes longer than one look");
            }
            assert!(pool.send(app, get()).await.is_ok());
        })
        .await;
}

#[tokio::test]
async fn an_idle_connection_is_nobodys() {
    let app = app(WHOLE).await;
    LocalSet::new()
        .run_until(async {
            let limits = PoolLimits { open_per_endpoint: 2, used_per_tenant: 1, wait_ms: 60, ..PoolLimits::default() };
            let pool = Pool::new(limits);
            for tenant in ["acme", "acme", "beta", "acme"] {
                let answer = ask(&pool, Some(tenant), app).await.unwrap();
                assert_eq!(answer.into_body().collect().await.unwrap().to_bytes(), "done");
            }
            assert_eq!(pool.open_connections(app), 1);
        })
        .await;
}

#[tokio::test]
async fn a_peer_that_ignores_being_hung_up_on_is_closed() {
    let app = app(HALF).await;
    LocalSet::new()
        .run_until(async {
            let pool = Pool::new(PoolLimits { hung_up_ms: 80, ..PoolLimits::default() });
            let ended = Rc::new(Cell::new(false));
            let note = Rc::clone(&ended);
            let mut response = pool.send_to_the_end(app, get(), move || note.set(true)).await.unwrap();
            response.body_mut().on_drop(OnDrop::HangUpAndDrain);
            drop(response);
            sleep(Duration::from_millis(20)).await;
            assert!(!ended.get() && pool.open_connections(app) == 1);
            until(|| ended.get() && pool.open_connections(app) == 0).await;
        })
        .await;
}

#[tokio::test]
async fn a_request_that_nobody_waits_for_is_bounded_before_and_within_its_answer() {
    for answer in ["", HALF] {
        let app = app(answer).await;
        LocalSet::new()
            .run_until(async {
                let pool = Pool::new(PoolLimits { abandoned_ms: 80, ..PoolLimits::default() });
                let ended = Rc::new(Cell::new(false));
                let note = Rc::clone(&ended);
                let exchange = pool.send_to_the_end(app, get(), move || note.set(true));
                drop(timeout(Duration::from_millis(100), exchange).await);
                assert!(!ended.get(), "{answer:?}: the time counts from when nobody waits any more");
                until(|| ended.get() && pool.open_connections(app) == 0).await;
            })
            .await;
    }
}
