//! The disk of a cell is full, or fails: nothing is acknowledged that it cannot keep, and it is well again by itself.

use crate::moving::{has_outcome, reaches, settles, start_move};
use cellway_end_to_end::eventually;
use cellway_end_to_end::fleet::{Fleet, Plan};
use cellway_end_to_end::recovery::Recovery;
use cellway_end_to_end::sandbox;
use cellway_end_to_end::tracer::Tracer;
use cellway_end_to_end::writer::Writer;
use std::time::Duration;

/// After there is room again, the tenants are served within this time.
const SERVED_MS: u64 = 10_000;

/// After there is room again, a move has an outcome within this time.
const OUTCOME_MS: u64 = 10_000;

/// The disk of a cell: some times what three tenants take.
const DISK_BYTES: u64 = 8 * 1024 * 1024;

/// How long the disk stays full.
const FULL_MS: u64 = 2_000;

/// Fills a disk to its last byte, until it is dropped.
struct Filler(std::path::PathBuf);

impl Filler {
    fn fill(dir: &std::path::Path) -> Self {
        use std::io::Write;
        let path = dir.join("filler");
        let mut file = std::fs::File::create(&path).unwrap();
        while file.write(&[0; 4_096]).is_ok_and(|length| length > 0) {}
        Self(path)
    }
}

impl Drop for Filler {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(&self.0);
    }
}

#[test]
fn a_full_disk_costs_no_acknowledged_write_and_no_other_cell() {
    if sandbox::was_run_inside("full_disk::a_full_disk_costs_no_acknowledged_write_and_no_other_cell") {
        return;
    }
    tokio::runtime::Runtime::new().unwrap().block_on(async {
        let dir = tempfile::tempdir().unwrap();
        sandbox::mount_small_disk(dir.path(), DISK_BYTES);
        let fleet = Plan::of(&["acme", "globex"]).with_dir("cell-a", dir.path()).start().await;
        let there = Writer::start(&fleet.router_address(), "acme");
        let elsewhere = Writer::start(&fleet.router_address(), "globex");
        eventually("both are served", async || (there.acknowledged() * elsewhere.acknowledged() > 0).then_some(()))
            .await;
        full_while_serving(dir.path(), &there).await;
        full_in_a_move(&fleet, dir.path(), "holding gates").await;
        let books = there.stop_and_check().await;
        assert!(!books.failed.is_empty(), "the disk was never full");
        assert!(books.failed.iter().all(|why| why.contains(": 50")), "{:?}", books.failed);
        let books = elsewhere.stop_and_check().await;
        assert!(books.failed.is_empty(), "a tenant of another cell suffered: {:?}", books.failed);
    });
}

async fn full_while_serving(dir: &std::path::Path, writer: &Writer) {
    let filler = Filler::fill(dir);
    tokio::time::sleep(Duration::from_millis(FULL_MS)).await;
    drop(filler);
    let (served, before) = (Recovery::begin("disk of a cell full: tenant served", SERVED_MS), writer.acknowledged());
    served.until("writes are acknowledged", async || (writer.acknowledged() > before).then_some(())).await;
}

/// The source's agent has to write its fence, and cannot: the move waits, or is undone.
async fn full_in_a_move(fleet: &Fleet, dir: &std::path::Path, state: &str) {
    fleet.stall(Some("syncing"));
    let id = start_move(&fleet.client, "acme", "cell-c").await;
    reaches(&fleet.client, &id, "syncing").await;
    let filler = Filler::fill(dir);
    fleet.stall(None);
    tokio::time::sleep(Duration::from_millis(FULL_MS)).await;
    let view = fleet.client.a_move(&id).await.unwrap();
    assert!(!view.past_commit, "{state}: switched on a fence that is not on disk: {view:?}");
    drop(filler);
    let outcome = Recovery::begin("disk of the source full in a move: done or undone", OUTCOME_MS);
    let over = async || {
        let view = fleet.client.a_move(&id).await.ok()?;
        (view.past_commit || view.state == "undone").then_some(())
    };
    outcome.until("the move has an outcome", over).await;
    settles(&fleet.client, &id).await;
}

#[test]
fn a_full_disk_of_a_router_costs_lines_of_its_log_and_no_request() {
    if sandbox::was_run_inside("full_disk::a_full_disk_of_a_router_costs_lines_of_its_log_and_no_request") {
        return;
    }
    tokio::runtime::Runtime::new().unwrap().block_on(async {
        let dir = tempfile::tempdir().unwrap();
        sandbox::mount_small_disk(dir.path(), DISK_BYTES);
        let fleet = Plan::of(&["acme"]).with_dir("router", dir.path()).start().await;
        let writer = Writer::start(&fleet.router_address(), "acme");
        let logged = async || fleet.router_metric("access_log_lines_total").await;
        eventually("requests are logged", async || (logged().await? > 0.0).then_some(())).await;
        let filler = Filler::fill(dir.path());
        let lost = "access_log_dropped_total{reason=\"disk\"}";
        eventually("lines are lost", async || (fleet.router_metric(lost).await? > 0.0).then_some(())).await;
        // A move changes routes, which the router then cannot save.
        let id = start_move(&fleet.client, "acme", "cell-b").await;
        assert!(settles(&fleet.client, &id).await);
        drop(filler);
        let (again, before) = (Recovery::begin("disk of a router full: requests logged", SERVED_MS), logged().await);
        again.until("lines are written", async || (logged().await > before).then_some(())).await;
        let books = writer.stop_and_check().await;
        assert!(books.failed.is_empty(), "{:?}", books.failed);
    });
}

#[tokio::test(flavor = "multi_thread")]
async fn a_write_whose_fsync_fails_is_not_acknowledged() {
    let mut fleet = Fleet::start(&["acme"]).await;
    let writer = Writer::start(&fleet.router_address(), "acme");
    eventually("the tenant is served", async || (writer.acknowledged() > 0).then_some(())).await;
    let tracer = Tracer::inject(fleet.apps[0].id(), "fdatasync,fsync:error=EIO:when=1..20");
    tokio::time::sleep(Duration::from_millis(FULL_MS)).await;
    assert!(tracer.stop() > 0, "no fsync failed");
    let (served, before) = (Recovery::begin("fsync of the app fails: tenant served", SERVED_MS), writer.acknowledged());
    served.until("writes are acknowledged", async || (writer.acknowledged() > before).then_some(())).await;
    // Whatever was acknowledged must be on disk, not only in memory.
    fleet.apps[0].restart();
    fleet.agents[0].restart();
    fleet.ready(40).await;
    let before = writer.acknowledged();
    eventually("the tenant is served again", async || (writer.acknowledged() > before).then_some(())).await;
    let books = writer.stop_and_check().await;
    assert!(!books.failed.is_empty(), "a failed fsync was acknowledged");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_fence_whose_fsync_fails_is_not_said_to_be_written() {
    let mut fleet = Fleet::start(&["acme"]).await;
    let writer = Writer::start(&fleet.router_address(), "acme");
    fleet.stall(Some("syncing"));
    let id = start_move(&fleet.client, "acme", "cell-b").await;
    reaches(&fleet.client, &id, "syncing").await;
    let tracer = Tracer::inject(fleet.agents[0].id(), "fdatasync,fsync:error=EIO:when=1..3");
    fleet.stall(None);
    let outcome = Recovery::begin("fsync of the source's agent fails: move done or undone", OUTCOME_MS);
    let over = async || {
        let view = fleet.client.a_move(&id).await.ok()?;
        (view.past_commit || view.state == "undone").then_some(())
    };
    outcome.until("the move has an outcome", over).await;
    assert!(tracer.stop() > 0, "no fsync failed");
    fleet.agents[0].restart();
    fleet.ready(40).await;
    has_outcome(&fleet.client, &id, OUTCOME_MS).await;
    settles(&fleet.client, &id).await;
    writer.stop_and_check().await;
}
