//! The clock of one process jumps by an hour, forth and back, or runs ten times too fast, while tenants move: nothing
//! depends on it.

use crate::moving::{reaches, settles, start_move};
use cellway_api::Client;
use cellway_api::fleet::CreateTenant;
use cellway_end_to_end::eventually;
use cellway_end_to_end::fleet::{Fleet, Plan};
use cellway_end_to_end::process::Process;
use cellway_end_to_end::recovery::Recovery;
use cellway_end_to_end::writer::Writer;
use std::path::PathBuf;
use std::time::{Duration, Instant};

/// After a jump, a move has an outcome within this time.
const OUTCOME_MS: u64 = 10_000;

const CELLS: [&str; 2] = ["cell-a", "cell-b"];

/// The library that lies about the time of day.
fn library() -> PathBuf {
    let dirs = std::fs::read_dir("/usr/lib").expect("a directory").flatten().map(|entry| entry.path());
    let files = dirs.map(|dir| dir.join("faketime/libfaketimeMT.so.1"));
    let found = files.chain([PathBuf::from("/usr/lib/faketime/libfaketimeMT.so.1")]).find(|file| file.is_file());
    found.expect("`libfaketime` is not installed; `make setup-tests`, or Debian: apt-get install faketime")
}

async fn jumps(name: &str) {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("offset");
    let set = |offset: &str| std::fs::write(&file, offset).unwrap();
    set("+0");
    let fleet = Plan::of(&["acme", "globex"])
        .with_env(name, "LD_PRELOAD", &library().display().to_string())
        .with_env(name, "FAKETIME_TIMESTAMP_FILE", &file.display().to_string())
        .with_env(name, "FAKETIME_NO_CACHE", "1")
        .with_env(name, "FAKETIME_DONT_FAKE_MONOTONIC", "1")
        .start()
        .await;
    let mapped = |process: &Process| {
        let maps = std::fs::read_to_string(format!("/proc/{}/maps", process.id())).unwrap_or_default();
        process.recipe.name != name || maps.contains("libfaketime")
    };
    let all = fleet.agents.iter().chain([&fleet.router, &fleet.control_plane]);
    assert!(all.into_iter().all(mapped), "{name} does not use the library");
    let moving = Writer::start(&fleet.router_address(), "acme");
    let untouched = Writer::start(&fleet.router_address(), "globex");
    let mut at = 0;
    for (offset, state) in [("+3600", "syncing"), ("-3600", "holding gates"), ("+0", "switched")] {
        eventually("the tenant is served", async || (moving.acknowledged() > 0).then_some(())).await;
        fleet.stall(Some(state));
        let id = start_move(&fleet.client, "acme", CELLS[1 - at]).await;
        reaches(&fleet.client, &id, state).await;
        set(offset);
        fleet.stall(None);
        let outcome = Recovery::begin(&format!("clock of {name} jumps to {offset} s in {state}"), OUTCOME_MS);
        outcome
            .until("the move has an outcome", async || {
                let view = fleet.client.a_move(&id).await.ok()?;
                (view.past_commit || view.state == "undone").then_some(())
            })
            .await;
        if settles(&fleet.client, &id).await {
            at = 1 - at;
        }
    }
    runs_fast(name, &fleet, CELLS[1 - at], set).await;
    moving.stop_and_check().await;
    let books = untouched.stop_and_check().await;
    assert!(books.failed.is_empty(), "{name}: {:?}", books.failed);
}

/// Whether the control plane's clock runs well ahead of ours from here on, by when it says that tenants were created.
async fn runs_ahead(client: &Client) -> bool {
    let mut created_ms = Vec::new();
    for id in ["first", "second"] {
        let tenant = CreateTenant { id: id.to_owned(), cell: Some("cell-c".to_owned()), ..CreateTenant::default() };
        created_ms.push((Instant::now(), client.create_tenant(&tenant).await.expect("created").created_ms));
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
    let (before, after) = (created_ms[0], created_ms[1]);
    let ours_ms = u64::try_from((after.0 - before.0).as_millis()).expect("a short time");
    after.1 - before.1 > 4 * ours_ms
}

/// A whole move by a clock that runs ten times too fast, which then jumps back to the right time. Such a control plane
/// may think that a hold takes too long, so its moves end at either cell.
async fn runs_fast(name: &str, fleet: &Fleet, to: &str, set: impl Fn(&str)) {
    set("+0 x10");
    if name == "control-plane" {
        assert!(runs_ahead(&fleet.client).await, "the clock does not run faster");
    }
    let id = start_move(&fleet.client, "acme", to).await;
    let outcome = Recovery::begin(&format!("clock of {name} runs x10"), OUTCOME_MS);
    let over = async || fleet.client.a_move(&id).await.ok().filter(|view| view.past_commit || view.state == "undone");
    outcome.until("the move has an outcome", over).await;
    settles(&fleet.client, &id).await;
    set("+0");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_control_plane_whose_clock_jumps_moves_tenants_all_the_same() {
    jumps("control-plane").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_agent_whose_clock_jumps_moves_tenants_all_the_same() {
    jumps("agent-cell-a").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_router_whose_clock_jumps_serves_tenants_all_the_same() {
    jumps("router").await;
}
