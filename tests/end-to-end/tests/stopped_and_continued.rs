//! Processes that stand still for a while, and go on as if no time had passed.

use crate::moving::{has_outcome, reaches, settles, start_move};
use cellway_end_to_end::eventually;
use cellway_end_to_end::fleet::{Fleet, Plan};
use cellway_end_to_end::process::Process;
use cellway_end_to_end::recovery::Recovery;
use cellway_end_to_end::writer::Writer;
use std::collections::BTreeMap;
use std::time::{Duration, Instant};

/// After a leader stopped, its moves have an outcome within this time.
const FOLLOWED_MS: u64 = 10_000;

/// After a process goes on, the tenant is served within this time.
const SERVED_MS: u64 = 5_000;

/// After a process goes on, its move has an outcome within this time.
const OUTCOME_MS: u64 = 10_000;

/// Longer than a hold may last.
const STOPPED_MS: u64 = 2_500;

/// A stale leader's late writes would be seen within this time: its loops look every 200 ms.
const LATE_MS: u64 = 2_000;

/// Every record that a control plane decides on.
async fn decided(fleet: &Fleet) -> BTreeMap<String, (i64, Vec<u8>)> {
    let mut records = fleet.etcd.records("").await;
    records.retain(|key, _| key != "routes/heartbeat" && key != "leader" && !key.starts_with("audit/"));
    records
}

#[tokio::test(flavor = "multi_thread")]
async fn a_leader_that_was_stopped_and_replaced_writes_nothing_when_it_goes_on() {
    let mut fleet = Plan::of(&["acme"]).with_standby().start().await;
    let mut at = "cell-a";
    for state in ["syncing", "holding gates", "holding last", "switched"] {
        let to = if at == "cell-a" { "cell-b" } else { "cell-a" };
        let writer = Writer::start(&fleet.router_address(), "acme");
        fleet.stall(Some(state));
        let id = start_move(&fleet.client, "acme", to).await;
        reaches(&fleet.client, &id, state).await;
        fleet.control_plane.pause();
        fleet.stall(None);
        let followed = Recovery::begin(&format!("leader stopped in {state}: followed"), FOLLOWED_MS);
        let standby = fleet.standby_client().clone();
        let over = async || {
            let view = standby.a_move(&id).await.ok()?;
            (view.past_commit || view.state == "undone").then_some(())
        };
        followed.until("the move has an outcome", over).await;
        if settles(&standby, &id).await {
            at = to;
        }
        let before = decided(&fleet).await;
        fleet.control_plane.resume();
        tokio::time::sleep(Duration::from_millis(LATE_MS)).await;
        let mut after = decided(&fleet).await;
        // What the successor itself does meanwhile: the old home is dropped when its time has come.
        after.retain(|key, _| !key.starts_with("leftovers/"));
        for (key, written) in &before {
            let is_the_moves = key.starts_with("moves/") || key.starts_with("leftovers/") || key.starts_with("moving/");
            assert!(is_the_moves || after.get(key) == Some(written), "{state}: {key} was written late");
        }
        let view = standby.a_move(&id).await.unwrap();
        assert!(matches!(view.state.as_str(), "cleaning" | "done" | "undone"), "{state}: the move went back: {view:?}");
        assert_eq!(standby.tenant("acme").await.unwrap().cell, at, "{state}");
        writer.stop_and_check().await;
        // The first replica leads again, for the next round.
        fleet.standby.as_mut().unwrap().kill();
        eventually("the first replica leads", async || leads_first(&fleet).await.then_some(())).await;
        fleet.standby.as_mut().unwrap().restart();
        eventually("the second answers", async || fleet.standby_client().cells().await.ok()).await;
    }
}

async fn leads_first(fleet: &Fleet) -> bool {
    let replica = fleet.etcd.records("leader").await;
    let first = format!(":{}", fleet.ports.at(2));
    replica.values().any(|(_, value)| String::from_utf8_lossy(value).contains(&first))
}

/// Who stands still.
#[derive(Debug, Clone, Copy)]
enum Who {
    Source,
    Target,
    SourceApp,
    Router,
}

impl Who {
    fn process(self, fleet: &Fleet, source: usize) -> &Process {
        match self {
            Self::Source => &fleet.agents[source],
            Self::Target => &fleet.agents[1 - source],
            Self::SourceApp => &fleet.apps[source],
            Self::Router => &fleet.router,
        }
    }
}

async fn stop_in_each_state(who: Who, fault: &str, states: &[&str]) {
    let fleet = Fleet::start(&["acme"]).await;
    let cells = ["cell-a", "cell-b"];
    let (mut at, mut served_after, mut over_after) = (0, Duration::ZERO, Duration::ZERO);
    let served = Recovery::begin(&format!("{fault}: tenant served"), SERVED_MS);
    let outcome = Recovery::begin(&format!("{fault}: move ended or undone"), OUTCOME_MS);
    for state in states {
        let writer = Writer::start(&fleet.router_address(), "acme");
        eventually("the tenant is served", async || (writer.acknowledged() > 0).then_some(())).await;
        fleet.stall(Some(state));
        let id = start_move(&fleet.client, "acme", cells[1 - at]).await;
        reaches(&fleet.client, &id, state).await;
        who.process(&fleet, at).pause();
        fleet.stall(None);
        tokio::time::sleep(Duration::from_millis(STOPPED_MS)).await;
        let before = writer.acknowledged();
        who.process(&fleet, at).resume();
        let resumed = Instant::now();
        cellway_end_to_end::within(SERVED_MS, &format!("{fault}, {state}: the tenant is served"), async || {
            (writer.acknowledged() > before).then_some(())
        })
        .await;
        served_after = served_after.max(resumed.elapsed());
        has_outcome(&fleet.client, &id, OUTCOME_MS).await;
        over_after = over_after.max(resumed.elapsed());
        writer.stop_and_check().await;
        if settles(&fleet.client, &id).await {
            at = 1 - at;
        }
        assert_eq!(fleet.client.tenant("acme").await.unwrap().cell, cells[at], "{state}");
    }
    served.took("the slowest state", served_after);
    outcome.took("the slowest state", over_after);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_source_agent_that_stood_still_costs_no_acknowledged_write() {
    let states = ["syncing", "holding gates", "holding data", "holding last", "switched"];
    stop_in_each_state(Who::Source, "source agent stood still", &states).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_target_agent_that_stood_still_costs_no_acknowledged_write() {
    let states = ["copying", "syncing", "holding gates", "holding last", "switched"];
    stop_in_each_state(Who::Target, "target agent stood still", &states).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_app_or_a_router_that_stood_still_costs_no_acknowledged_write() {
    stop_in_each_state(Who::SourceApp, "source app stood still", &["syncing", "holding gates"]).await;
    stop_in_each_state(Who::Router, "router stood still", &["holding gates", "switched"]).await;
}
