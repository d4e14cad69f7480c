//! A router with many tenants: how it starts, what it takes, and how soon a change is in force.
//!
//! `TENANTS` says how many; `make scale` takes 1,000,000, and prints the figures.

#![allow(clippy::print_stdout, reason = "figures are for who runs it")]

use cellway_end_to_end::process::Process;
use cellway_end_to_end::scale::{COMMITS_AT_ONCE, Feed, Stage, Start, forget_peak, memory_mib, put};
use cellway_end_to_end::{eventually, within};
use etcd_client::Txn;
use futures_util::StreamExt;
use rustix::process::Signal;
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::sync::Mutex;

const TENANTS: usize = 50_000;

/// A start from etcd.
const READY_FROM_STORE_MS: u64 = 30_000;
/// A start from the router's own snapshot, etcd away.
const READY_FROM_SNAPSHOT_MS: u64 = 2_000;
/// A start from a file, or one more reading of it, at any size.
const READY_FROM_FILE_MS: u64 = 120_000;
/// The most that the process ever has in memory.
const PEAK_MIB: u64 = 1_024;
/// Changes of single tenants.
const CHANGES_PER_S: u32 = 5_000;
const CHANGES_S: u32 = 20;
/// Changes in one commit: an etcd beside everything else on two cores commits no more than some thousand times in a second.
const CHANGES_PER_COMMIT: u32 = 5;
/// The same where figures are not judged.
const FEW_CHANGES_PER_S: u32 = 1_000;
const FEW_CHANGES_S: u32 = 3;
/// Between a commit's answer and the router's word that it has reached it.
const IN_FORCE_P99_MS: f64 = 20.0;

/// Figures are judged where they mean something: an optimised build and a machine to itself.
fn are_figures_judged() -> bool {
    std::env::var_os("TENANTS").is_some()
}

fn tenants() -> usize {
    std::env::var("TENANTS").map_or(TENANTS, |text| text.parse().expect("TENANTS is a number"))
}

fn started(what: &str, router: &Process, start: Start, bound_ms: u64) {
    let (now_mib, peak_mib) = memory_mib(router);
    let ready = start.ready.as_secs_f64();
    println!(
        "scale {what}: {} tenants, ready in {ready:.2} s, {} requests put off before, {} answered 404; \
         memory {now_mib} MiB, {peak_mib} MiB at the most",
        tenants(),
        start.put_off,
        start.wrong_404s
    );
    assert_eq!(start.wrong_404s, 0, "{what}: a tenant was denied before the routes were known");
    assert!(start.ready <= Duration::from_millis(bound_ms), "{what}: ready after {ready} s");
    assert!(peak_mib <= PEAK_MIB, "{what}: {peak_mib} MiB");
}

async fn stop(router: &mut Process) {
    assert!(router.end(Signal::TERM).success(), "{}", router.log());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_router_with_many_tenants_starts_in_time_and_denies_none_of_them() {
    let mut stage = Stage::new().await;
    let mut etcd = stage.etcd().await;
    stage.fill_store(tenants()).await;
    let (mut router, start) = stage.router(Feed::Store).await;
    started("start from etcd", &router, start, READY_FROM_STORE_MS);
    assert_eq!(stage.status("tenants").await, Some(tenants() as u64));
    for tenant in [1, tenants() / 2, tenants() - 1] {
        assert_eq!(stage.ask(tenant).await, Some(200));
    }
    changes_are_in_force_at_once(&stage, &router).await;
    stop(&mut router).await;

    etcd.kill();
    let (mut router, start) = stage.router(Feed::Store).await;
    started("start from the snapshot, etcd away", &router, start, READY_FROM_SNAPSHOT_MS);
    assert_eq!(stage.ask(tenants() - 1).await, Some(200));
    assert_eq!(stage.ask(tenants()).await, Some(404), "there is no such tenant");
    stop(&mut router).await;
}

/// Moves tenants to higher epochs at a steady rate, some in a commit, and watches when the router gets there.
async fn changes_are_in_force_at_once(stage: &Stage, router: &Process) {
    let (per_s, seconds) = match are_figures_judged() {
        true => (CHANGES_PER_S, CHANGES_S),
        false => (FEW_CHANGES_PER_S, FEW_CHANGES_S),
    };
    let client = stage.client().await;
    let committed: Arc<Mutex<Vec<(u64, Instant)>>> = Arc::default();
    let changing = {
        let committed = Arc::clone(&committed);
        let begun = Instant::now();
        let change = move |commit: u32| {
            let (mut client, committed) = (client.clone(), Arc::clone(&committed));
            async move {
                let first = commit * CHANGES_PER_COMMIT;
                tokio::time::sleep_until((begun + Duration::from_secs(1) * first / per_s).into()).await;
                let change = |number| put(number as usize * 7_919 % tenants(), 2 + u64::from(number));
                let changes: Vec<_> = (first..first + CHANGES_PER_COMMIT).map(change).collect();
                let answer = client.txn(Txn::new().and_then(changes)).await.expect("committed");
                let revision = answer.header().expect("a header").revision().cast_unsigned();
                committed.lock().await.push((revision, Instant::now()));
            }
        };
        tokio::spawn(async move {
            let all = futures_util::stream::iter(0..per_s * seconds / CHANGES_PER_COMMIT).map(change);
            all.buffer_unordered(COMMITS_AT_ONCE).collect::<Vec<()>>().await;
            begun.elapsed()
        })
    };
    let mut reached: Vec<(u64, Instant)> = Vec::new();
    while !changing.is_finished() {
        if let Some(revision) = stage.status("revision").await {
            reached.push((revision, Instant::now()));
        }
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    let took = changing.await.expect("all committed");
    let mut committed = std::mem::take(&mut *committed.lock().await);
    committed.sort_unstable();
    let last = committed.last().expect("there were some").0;
    eventually("the last change is in force", async || (stage.status("revision").await? >= last).then_some(())).await;
    reached.push((last, Instant::now()));
    let mut waited: Vec<f64> = committed
        .iter()
        .map(|(revision, at)| {
            let seen = reached.partition_point(|(other, _)| other < revision);
            reached[seen].1.saturating_duration_since(*at).as_secs_f64() * 1e3
        })
        .collect();
    waited.sort_by(f64::total_cmp);
    let at = |share: usize| waited[(waited.len() - 1) * share / 100];
    let rate = committed.len() as f64 * f64::from(CHANGES_PER_COMMIT) / took.as_secs_f64();
    let (now_mib, peak_mib) = memory_mib(router);
    println!(
        "scale changes: {} tenants, {rate:.0} changes/s; commit to in force p50 {:.1} ms, p99 {:.1} ms, longest {:.1} ms; \
         memory {now_mib} MiB, {peak_mib} MiB at the most",
        tenants(),
        at(50),
        at(99),
        at(100)
    );
    // An etcd that commits no more is what everybody waits for then.
    let is_judged = are_figures_judged() && rate >= 0.9 * f64::from(per_s);
    assert!(!is_judged || at(99) <= IN_FORCE_P99_MS, "p99 {} ms", at(99));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_large_file_of_routes_is_never_in_memory_as_a_whole() {
    let mut stage = Stage::new().await;
    stage.write_file(tenants(), 0, 1);
    let (mut router, start) = stage.router(Feed::File).await;
    started("start from a file", &router, start, READY_FROM_FILE_MS);
    forget_peak(&router);
    let begun = Instant::now();
    stage.write_file(tenants(), 3, 2);
    let written = begun.elapsed();
    within(READY_FROM_FILE_MS, "the file is read again", async || (stage.status("revision").await? >= 2).then_some(()))
        .await;
    let (now_mib, peak_mib) = memory_mib(&router);
    println!(
        "scale file read again: {} tenants, in force {:.2} s after it was written; memory {now_mib} MiB, {peak_mib} MiB at the most",
        tenants(),
        (begun.elapsed() - written).as_secs_f64()
    );
    assert!(peak_mib <= PEAK_MIB, "{peak_mib} MiB");
    assert_eq!(stage.ask(tenants() - 1).await, Some(200));
    stop(&mut router).await;

    stage.remove_file();
    let (mut router, start) = stage.router(Feed::File).await;
    started("start from the snapshot, the file gone", &router, start, READY_FROM_FILE_MS);
    assert_eq!(stage.ask(tenants() - 1).await, Some(200));
    stop(&mut router).await;
}
