//! The store is gone for long, and nobody who uses a tenant notices.
//!
//! `REQUESTS` says how many are made meanwhile; `make store-gone` makes 30,000.

use cellway_api::ApiError;
use cellway_api::fleet::{CreateMove, CreateTenant};
use cellway_end_to_end::fleet::Fleet;
use cellway_end_to_end::recovery::Recovery;
use cellway_end_to_end::stress::honest::{Honest, Phase, Seen};
use cellway_end_to_end::writer::Writer;
use std::time::{Duration, Instant};

const REQUESTS: u32 = 2_000;

/// Reads per second, over all tenants; the two writers come on top.
const RATE: u32 = 500;

/// Moves are refused within this time while the store is gone.
const REFUSED_MS: u64 = 5_000;

/// Once it answers again the routes are those of the store within this time.
const EQUAL_MS: u64 = 5_000;

const TENANTS: [&str; 4] = ["acme", "globex", "initech", "umbrella"];

fn requests() -> u32 {
    std::env::var("REQUESTS").map_or(REQUESTS, |text| text.parse().expect("REQUESTS is a number"))
}

/// For as long as so many requests take.
async fn for_requests(count: u32) {
    tokio::time::sleep(Duration::from_secs(1) * count / RATE).await;
}

fn said(phase: &str, seen: &Seen) -> String {
    let (p50, p99) = (seen.percentile_ms(0.5), seen.percentile_ms(0.99));
    format!("{phase}: {} reads, {} good, p50 {p50:.1} ms, p99 {p99:.1} ms", seen.asked, seen.good)
}

#[tokio::test(flavor = "multi_thread")]
async fn no_request_fails_while_the_store_is_gone() {
    let mut fleet = Fleet::start(&TENANTS).await;
    let writers = ["acme", "globex"].map(|tenant| Writer::start(&fleet.router_address(), tenant));
    let hosts = TENANTS.map(|tenant| format!("{tenant}.cells.localhost")).to_vec();
    let router = fleet.router_address().parse().unwrap();
    let reads = Honest::start_at(router, hosts, RATE, "/count", |answer, _| answer.starts_with("HTTP/1.1 200"));
    for_requests(RATE).await;
    reads.enter(Phase::Quiet);
    for_requests(requests() / 4).await;
    fleet.etcd.kill();
    reads.enter(Phase::During);
    let (refused, begun) = (Recovery::begin("etcd killed: moves refused with 503", REFUSED_MS), Instant::now());
    let wanted = CreateMove { tenant: "acme".to_owned(), to: "cell-c".to_owned(), ..CreateMove::default() };
    match fleet.client.create_move(&wanted).await {
        Err(ApiError::Refused(problem)) => assert_eq!(problem.status, 503, "{problem}"),
        other => panic!("not refused: {other:?}"),
    }
    refused.took("the refusal", begun.elapsed());
    // Some more than asked for: the last ones of a phase may count to the next.
    for_requests(requests() + RATE).await;
    reads.enter(Phase::After);
    fleet.etcd.restart();
    fleet.etcd.records("leader").await;
    let equal = Recovery::begin("etcd back after a long time: routes are the store's", EQUAL_MS);
    let late = CreateTenant { id: "late".into(), cell: Some("cell-c".into()), ..CreateTenant::default() };
    let url = format!("http://{}/count", fleet.router_address());
    let client = cellway_end_to_end::writer::http();
    let routed = async || {
        let _ = fleet.client.create_tenant(&late).await;
        let answer = client.get(&url).header("host", "late.cells.localhost").send().await.ok()?;
        answer.status().is_success().then_some(())
    };
    equal.until("a tenant of after its return is served", routed).await;
    let phases = reads.finish().await;
    let (quiet, during, after) = (&phases[&Phase::Quiet], &phases[&Phase::During], &phases[&Phase::After]);
    println!("{}\n{}", said("before", quiet), said("etcd gone", during));
    assert!(during.asked >= requests() as usize, "{} requests", during.asked);
    for seen in [quiet, during, after] {
        assert_eq!(seen.good, seen.asked, "{:?}", seen.bad);
    }
    for writer in writers {
        let books = writer.stop_and_check().await;
        assert!(books.failed.is_empty(), "{:?}", books.failed);
    }
}
