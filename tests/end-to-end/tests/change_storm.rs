//! Placements change a thousand times a second: routers are in step, requests are served, memory does not grow.
//!
//! `STORM_S` says for how long; `make storm` has 60 seconds of it.

use cellway_end_to_end::fleet::Fleet;
use cellway_end_to_end::fleet::etcd::PREFIX;
use cellway_end_to_end::recovery::Recovery;
use cellway_end_to_end::stress::honest::{Honest, Phase};
use cellway_end_to_end::stress::memory::rss_kib;
use cellway_end_to_end::writer::http;
use cellway_end_to_end::{PATIENCE_MS, eventually};
use etcd_client::{Client, Txn, TxnOp};
use std::time::{Duration, Instant};
use tokio::task::JoinSet;

const STORM_S: u64 = 5;

/// Transactions per second, and placements changed by each.
const TXNS_PER_S: u64 = 20;
const PLACEMENTS_PER_TXN: u64 = 50;

/// Tenants whose placements change, over and over.
const STORMY: u64 = 5_000;

/// A change is routed within this time, of a hundred changes ninety-nine.
const PROPAGATED_MS: u64 = 1_000;

/// Between two looks whether it is.
const LOOK_MS: u64 = 10;

/// The most that a process may keep more after the storm than after its first round of all tenants.
const GROWN_MAX_KIB: u64 = 16 * 1024;

/// Requests per second of those who are not in the storm.
const RATE: u32 = 100;

const TENANTS: [&str; 3] = ["acme", "globex", "initech"];

fn storm_s() -> u64 {
    std::env::var("STORM_S").map_or(STORM_S, |text| text.parse().expect("STORM_S is a number"))
}

/// The placement that the so many-th change writes: in a cell that nobody serves, for this is about routes alone.
fn placement(number: u64) -> TxnOp {
    let (tenant, epoch) = (number % STORMY, 1 + number / STORMY);
    let record = format!(
        "{{\"format\":1,\"is\":\"placed\",\"cell\":{{\"name\":\"nowhere\",\"uid\":\"u\"}},\"epoch\":{epoch},\"home\":\"h\"}}"
    );
    TxnOp::put(format!("{PREFIX}routes/placements/00/storm-{tenant}"), record, None)
}

/// Changes placements; the last change of each transaction is a host, which shows when the router has all of it.
async fn change(client: &mut Client, txn: u64) {
    let placements = (txn * PLACEMENTS_PER_TXN..(txn + 1) * PLACEMENTS_PER_TXN).map(placement);
    let probe = TxnOp::put(format!("{PREFIX}routes/hosts/{}", host(txn)), "{\"format\":1,\"tenant\":\"acme\"}", None);
    let changes: Vec<TxnOp> = placements.chain([probe]).collect();
    client.txn(Txn::new().and_then(changes)).await.expect("written");
}

fn host(txn: u64) -> String {
    format!("storm-{txn}.example")
}

/// How long the router takes to know a host from now on.
async fn propagated(router: String, txn: u64) -> Duration {
    let (written, client) = (Instant::now(), http());
    loop {
        let request = client.get(format!("http://{router}/count")).header("host", host(txn));
        if request.send().await.is_ok_and(|answer| answer.status().is_success()) {
            return written.elapsed();
        }
        assert!(written.elapsed() < Duration::from_millis(PATIENCE_MS), "never routed: {}", host(txn));
        tokio::time::sleep(Duration::from_millis(LOOK_MS)).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_storm_of_placements_reaches_the_router_fails_nobody_and_costs_no_memory() {
    let fleet = Fleet::start(&TENANTS).await;
    let router = fleet.router_address();
    let hosts = TENANTS.map(|tenant| format!("{tenant}.cells.localhost")).to_vec();
    let is_good = |answer: &str, _: &str| answer.starts_with("HTTP/1.1 200");
    let reads = Honest::start_at(router.parse().unwrap(), hosts, RATE, "/count", is_good);
    let mut client = fleet.etcd.client(0).await.expect("etcd answers");
    let round = STORMY / PLACEMENTS_PER_TXN;
    for txn in 0..round {
        change(&mut client, txn).await;
    }
    propagated(router.clone(), round - 1).await;
    reads.enter(Phase::Quiet);
    tokio::time::sleep(Duration::from_secs(storm_s().div_ceil(2))).await;
    let resident = || [&fleet.router, &fleet.control_plane].map(|process| rss_kib(process.id()));
    let before = resident();
    reads.enter(Phase::During);
    let (begun, count) = (Instant::now(), storm_s() * TXNS_PER_S);
    let mut ticks = tokio::time::interval(Duration::from_secs(1) / u32::try_from(TXNS_PER_S).unwrap());
    let mut probes = JoinSet::new();
    for txn in round..round + count {
        ticks.tick().await;
        change(&mut client, txn).await;
        probes.spawn(propagated(router.clone(), txn));
    }
    let took = begun.elapsed();
    let mut propagated = probes.join_all().await;
    reads.enter(Phase::After);
    propagated.sort();
    let p99 = propagated[(propagated.len() - 1) * 99 / 100];
    let phases = reads.finish().await;
    // What requests took that had to wait, on a machine that was busy, is given back soon.
    let is_flat = |after: &[u64; 2]| before.iter().zip(after).all(|(before, after)| *after <= before + GROWN_MAX_KIB);
    let after = eventually("memory is as it was", async || Some(resident()).filter(is_flat)).await;
    let (quiet, during) = (&phases[&Phase::Quiet], &phases[&Phase::During]);
    let ms = |share| (quiet.percentile_ms(share), during.percentile_ms(share));
    println!(
        "{} placements a second for {:.1} s: routed p50 {:.1?}, p99 {p99:.1?}; requests before and during: p50 {:.1?} ms, \
         p99 {:.1?} ms; router {} to {} KiB, control plane {} to {} KiB",
        u128::from(count * PLACEMENTS_PER_TXN) * 1_000 / took.as_millis(),
        took.as_secs_f64(),
        propagated[propagated.len() / 2],
        ms(0.5),
        ms(0.99),
        before[0],
        after[0],
        before[1],
        after[1]
    );
    let routed = Recovery::begin("1,000 placements change a second: routed, p99", PROPAGATED_MS);
    routed.took("a change", p99);
    for seen in [quiet, during] {
        assert_eq!(seen.good, seen.asked, "{:?}", seen.bad);
    }
}
