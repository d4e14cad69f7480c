//! What stands in etcd is odd: history that is gone, records that nobody of cellway wrote, changes in a flood.

use crate::moving::{settles, start_move};
use cellway_api::fleet::CreateTenant;
use cellway_end_to_end::eventually;
use cellway_end_to_end::fleet::etcd::PREFIX;
use cellway_end_to_end::fleet::{Fleet, Plan};
use cellway_end_to_end::recovery::Recovery;
use cellway_end_to_end::writer::{Writer, http};
use futures_util::StreamExt;
use std::time::{Duration, Instant};

/// A router that was away is in step within this time, although the history was forgotten meanwhile.
const EQUAL_MS: u64 = 10_000;

/// A change in a flood of changes reaches the router within this time.
const PROPAGATED_MS: u64 = 1_000;

/// After a good record is back, the tenant is routed by it within this time.
const READ_AGAIN_MS: u64 = 5_000;

/// A flood: after each round its last change is looked for.
const ROUNDS: usize = 10;
const ROUND_CHANGES: usize = 500;

/// Changes under way at a time.
const AT_A_TIME: usize = 64;

/// The largest value that etcd takes is 1.5 MiB by default.
const LARGE_BYTES: usize = 1024 * 1024;

async fn status_of(fleet: &Fleet, tenant: &str) -> Option<u16> {
    let url = format!("http://{}/count", fleet.router_address());
    let request = http().get(url).header("host", format!("{tenant}.cells.localhost"));
    Some(request.send().await.ok()?.status().as_u16())
}

async fn create(fleet: &Fleet, tenant: &str) {
    let cell = Some("cell-c".to_owned());
    let tenant = CreateTenant { id: tenant.to_owned(), cell, ..CreateTenant::default() };
    fleet.client.create_tenant(&tenant).await.expect("created");
}

fn remove_snapshots(fleet: &Fleet) {
    for entry in std::fs::read_dir(fleet.dir()).expect("listed").flatten() {
        if entry.file_name().to_string_lossy().contains("snapshot") {
            std::fs::remove_file(entry.path()).expect("removed");
        }
    }
}

/// The key of a tenant's placement.
pub(crate) async fn placement_of(fleet: &Fleet, tenant: &str) -> (String, Vec<u8>) {
    let placements = fleet.etcd.records("routes/placements/").await;
    let found = placements.into_iter().find(|(key, _)| key.ends_with(&format!("/{tenant}")));
    found.map(|(key, (_, value))| (key, value)).expect("a placement")
}

#[tokio::test(flavor = "multi_thread")]
async fn a_router_that_was_away_during_a_compaction_has_no_ghost_and_misses_nobody() {
    let fleet = Plan::of(&["acme", "globex", "ghost"]).with_relays().start().await;
    let untouched = Writer::start(&fleet.router_address(), "globex");
    eventually("the ghost is routed", async || (status_of(&fleet, "ghost").await? == 200).then_some(())).await;
    fleet.links().router_to_store.refuse();
    create(&fleet, "late").await;
    let (ghost, _) = placement_of(&fleet, "ghost").await;
    fleet.etcd.delete(&ghost).await;
    let id = start_move(&fleet.client, "acme", "cell-b").await;
    assert!(settles(&fleet.client, &id).await);
    fleet.etcd.compact().await;
    fleet.links().router_to_store.heal();
    let equal = Recovery::begin("history of etcd forgotten while the router was away: in step", EQUAL_MS);
    equal
        .until("the late one is routed and the ghost is not", async || {
            let (late, ghost) = (status_of(&fleet, "late").await?, status_of(&fleet, "ghost").await?);
            ((late, ghost) == (200, 404)).then_some(())
        })
        .await;
    let books = untouched.stop_and_check().await;
    assert!(books.failed.is_empty(), "a tenant that did not change suffered: {:?}", books.failed);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_record_that_nobody_can_read_harms_nobody_and_is_said() {
    let mut fleet = Fleet::start(&["acme", "globex"]).await;
    let untouched = Writer::start(&fleet.router_address(), "globex");
    let poisoned = Writer::start(&fleet.router_address(), "acme");
    eventually("both are served", async || (poisoned.acknowledged() * untouched.acknowledged() > 0).then_some(()))
        .await;
    let saved = async || (fleet.router_metric("snapshot_saved_seconds").await? > 0.0).then_some(());
    eventually("the router has a snapshot", saved).await;
    let (key, good) = placement_of(&fleet, "acme").await;
    let text = String::from_utf8(good.clone()).expect("JSON");
    let poison: [(&str, Vec<u8>); 4] = [
        ("garbage", b"\x00\xff{{{".to_vec()),
        ("a future format", text.replacen("\"format\":1", "\"format\":9999", 1).into_bytes()),
        ("a mebibyte", vec![b'['; LARGE_BYTES]),
        ("nothing", Vec::new()),
    ];
    for (what, bytes) in poison {
        assert_ne!(bytes, good, "{what}");
        fleet.etcd.put(&key, bytes).await;
        let said = || fleet.router.log().matches("a route cannot be read").count();
        let known = said();
        let before = poisoned.acknowledged();
        eventually("the tenant keeps its last good placement", async || {
            (poisoned.acknowledged() > before + 10).then_some(())
        })
        .await;
        eventually(&format!("{what} is said"), async || (said() >= known.max(1)).then_some(())).await;
    }
    // Of a tenant that does not exist, and under a key that names nobody.
    fleet.etcd.put("routes/placements/00/Not A Tenant", good.clone()).await;
    fleet.etcd.put("routes/cells/nowhere", b"[]".to_vec()).await;
    fleet.etcd.put("moves/none", b"[]".to_vec()).await;
    let before = poisoned.acknowledged();
    fleet.router.restart();
    fleet.ready(3).await;
    let served = Recovery::begin("poison in etcd, router restarted: last good placement served", READ_AGAIN_MS);
    served.until("by the snapshot", async || (poisoned.acknowledged() > before).then_some(())).await;
    // One that has no snapshot knows that there is such a tenant, and no more.
    fleet.router.kill();
    remove_snapshots(&fleet);
    fleet.router.restart();
    fleet.ready(3).await;
    assert_eq!(status_of(&fleet, "acme").await, Some(503));
    assert_eq!(status_of(&fleet, "nobody").await, Some(404));
    // A control plane that starts now never saw a good record, and nobody else is harmed.
    fleet.control_plane.restart();
    fleet.ready(2).await;
    fleet.etcd.put(&key, good).await;
    let before = poisoned.acknowledged();
    let again = Recovery::begin("poison in etcd taken away: tenant served", READ_AGAIN_MS);
    again.until("the good record is in force", async || (poisoned.acknowledged() > before).then_some(())).await;
    let id = start_move(&fleet.client, "acme", "cell-b").await;
    assert!(settles(&fleet.client, &id).await);
    poisoned.stop_and_check().await;
    // Those under way when the router was killed are nobody's fault.
    assert!(untouched.stop_and_check().await.failed.len() <= 200);
    assert!(fleet.router.is_running() && fleet.control_plane.is_running());
    assert!(fleet.agents.iter_mut().all(|agent| agent.is_running()));
}

/// Claims the hosts of one round, and how long the router takes to know the last of them.
async fn flood(fleet: &Fleet, client: &etcd_client::Client, round: usize) -> Duration {
    let host = |number: usize| format!("flood-{}.example", round * ROUND_CHANGES + number);
    let put = |number: usize| {
        let (mut client, key) = (client.clone(), format!("{PREFIX}routes/hosts/{}", host(number)));
        async move { client.put(key, "{\"format\":1,\"tenant\":\"acme\"}", None).await.expect("written") }
    };
    let done = futures_util::stream::iter(0..ROUND_CHANGES).map(put).buffer_unordered(AT_A_TIME);
    done.for_each(async |_| {}).await;
    let written = Instant::now();
    let last = host(ROUND_CHANGES - 1);
    eventually("the last one is routed", async || {
        let url = format!("http://{}/count", fleet.router_address());
        let answer = http().get(url).header("host", &last).send().await.ok()?;
        answer.status().is_success().then_some(())
    })
    .await;
    written.elapsed()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_flood_of_changes_reaches_the_router_and_fails_nobody() {
    let fleet = Fleet::start(&["acme", "globex"]).await;
    let untouched = Writer::start(&fleet.router_address(), "globex");
    let client = fleet.etcd.client(0).await.expect("etcd answers");
    let propagated = Recovery::begin("flood of changes: the last one is routed", PROPAGATED_MS);
    let (begun, mut slowest) = (Instant::now(), Duration::ZERO);
    for round in 0..ROUNDS {
        slowest = slowest.max(flood(&fleet, &client, round).await);
    }
    println!("{} changes of routes per second", (ROUNDS * ROUND_CHANGES * 1_000) as u128 / begun.elapsed().as_millis());
    propagated.took("the slowest of the rounds", slowest);
    let books = untouched.stop_and_check().await;
    assert!(books.failed.is_empty(), "{:?}", books.failed);
}
