//! The data plane does what it did before, without etcd and without the control plane.

use cellway_end_to_end::fleet::Fleet;
use cellway_end_to_end::writer::{Writer, http};
use cellway_end_to_end::{eventually, within};
use std::time::Duration;

/// A restarted router serves from its snapshot within this time.
const COLD_START_MS: u64 = 2_000;

#[tokio::test(flavor = "multi_thread")]
async fn routing_survives_without_etcd() {
    let mut fleet = Fleet::start(&["acme", "globex", "initech"]).await;
    let writers: Vec<Writer> =
        ["acme", "globex", "initech"].iter().map(|tenant| Writer::start(&fleet.router_address(), tenant)).collect();
    fleet.etcd.kill();
    fleet.control_plane.kill();
    tokio::time::sleep(Duration::from_secs(5)).await;
    for writer in writers {
        let books = writer.stop_and_check().await;
        assert!(books.failed.is_empty(), "{:?}", books.failed);
        assert!(books.acknowledged.len() > 100, "{} writes in five seconds", books.acknowledged.len());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn cold_start_without_etcd() {
    let mut fleet = Fleet::start(&["acme"]).await;
    let url = format!("http://{}/count", fleet.router_address());
    let answers = async || {
        let answer = http().get(&url).header("host", "acme.cells.localhost").send().await.ok()?;
        answer.status().is_success().then_some(())
    };
    eventually("the tenant answers", answers).await;
    // The snapshot is written a moment after a change.
    tokio::time::sleep(Duration::from_secs(2)).await;
    fleet.etcd.kill();
    fleet.control_plane.kill();
    fleet.router.restart();
    within(COLD_START_MS, "a router started without etcd serves", answers).await;
    fleet.agents[0].restart();
    within(COLD_START_MS, "an agent started without its control plane serves", answers).await;
}
