//! Agents are cut off from the control plane in each state of a move: it ends, or is undone, and the tenant is served.

use crate::moving::{STATES, has_outcome, reaches, settles, start_towards};
use cellway_end_to_end::fleet::{Fleet, Plan};
use cellway_end_to_end::recovery::Recovery;
use cellway_end_to_end::writer::Writer;
use cellway_end_to_end::{eventually, within};
use std::time::{Duration, Instant};

/// After the heal the tenant is served within this time.
const SERVED_MS: u64 = 5_000;

/// After the heal the move has an outcome within this time.
const OUTCOME_MS: u64 = 30_000;

/// Longer than a hold may last, so that a cut in a hold makes the move change its mind.
const CUT_IN_HOLD_MS: u64 = 2_500;
const CUT_MS: u64 = 600;

/// Where the tenant is, and what a move of it meets.
struct Stage {
    fleet: Fleet,
    at: usize,
    slowest: [Duration; 2],
}

const CELLS: [&str; 2] = ["cell-a", "cell-b"];

impl Stage {
    /// Cuts the agent of the source (0) or the target (1) off while a move is in `state`.
    async fn cut_off_in(&mut self, state: &str, victim: usize) {
        let fleet = &self.fleet;
        let to = 1 - self.at;
        let writer = Writer::start(&fleet.router_address(), "acme");
        eventually("the tenant is served", async || (writer.acknowledged() > 0).then_some(())).await;
        fleet.stall(Some(state));
        let (id, _feed) = start_towards(&fleet.client, &fleet.router_address(), ("acme", CELLS[to]), state).await;
        reaches(&fleet.client, &id, state).await;
        let way = &fleet.links().agent_to_control_plane[[self.at, to][victim]];
        way.cut();
        fleet.stall(None);
        let cut_ms = if state.starts_with("holding") { CUT_IN_HOLD_MS } else { CUT_MS };
        tokio::time::sleep(Duration::from_millis(cut_ms)).await;
        way.heal();
        let (healed, before) = (Instant::now(), writer.acknowledged());
        let what = format!("{state}, {victim}: the tenant is served");
        within(SERVED_MS, &what, async || (writer.acknowledged() > before).then_some(())).await;
        self.slowest[0] = self.slowest[0].max(healed.elapsed());
        has_outcome(&fleet.client, &id, OUTCOME_MS).await;
        self.slowest[1] = self.slowest[1].max(healed.elapsed());
        writer.stop_and_check().await;
        if settles(&fleet.client, &id).await {
            self.at = to;
        }
        assert_eq!(fleet.client.tenant("acme").await.unwrap().cell, CELLS[self.at], "{state}, {victim}");
    }
}

async fn every_move_ends(victim: usize, fault: &str) {
    let fleet = Plan::of(&["acme", "globex"]).with_relays().start().await;
    let served = Recovery::begin(&format!("{fault}: tenant served"), SERVED_MS);
    let outcome = Recovery::begin(&format!("{fault}: move ended or undone"), OUTCOME_MS);
    let mut stage = Stage { fleet, at: 0, slowest: [Duration::ZERO; 2] };
    for state in STATES {
        stage.cut_off_in(state, victim).await;
    }
    served.took("the slowest of twelve states", stage.slowest[0]);
    outcome.took("the slowest of twelve states", stage.slowest[1]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_move_ends_in_each_state_after_the_source_agent_was_cut_off() {
    every_move_ends(0, "source agent cut off from control plane").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_move_ends_in_each_state_after_the_target_agent_was_cut_off() {
    every_move_ends(1, "target agent cut off from control plane").await;
}
