//! Agents, a router and etcd are killed while a tenant is held or has just switched.

use crate::moving::{has_outcome, reaches, settles, start_move};
use cellway_end_to_end::fleet::Fleet;
use cellway_end_to_end::writer::Writer;

const OUTCOME_MS: u64 = 5_000;

/// Kills the agent of `victim` (0: source, 1: target) while the move is in `state`, and starts it again.
async fn kill_an_agent(victim: usize, state: &str) {
    let mut fleet = Fleet::start(&["acme", "globex"]).await;
    let writer = Writer::start(&fleet.router_address(), "acme");
    let neighbour = Writer::start(&fleet.router_address(), "globex");
    fleet.stall(Some(state));
    let id = start_move(&fleet.client, "acme", "cell-c").await;
    reaches(&fleet.client, &id, state).await;
    let agent = [0, 2][victim];
    fleet.agents[agent].kill();
    fleet.stall(None);
    fleet.agents[agent].restart();
    fleet.ready(40 + u16::try_from(agent).unwrap()).await;
    has_outcome(&fleet.client, &id, OUTCOME_MS).await;
    let cell = if settles(&fleet.client, &id).await { "cell-c" } else { "cell-a" };
    assert_eq!(fleet.client.tenant("acme").await.unwrap().cell, cell);
    writer.stop_and_check().await;
    let untouched = neighbour.stop_and_check().await;
    assert!(untouched.failed.is_empty(), "a neighbour in another cell suffered: {:?}", untouched.failed);
}

#[tokio::test(flavor = "multi_thread")]
async fn no_acknowledged_write_is_lost_when_the_source_agent_is_killed_in_holding() {
    for state in ["holding gates", "holding data"] {
        kill_an_agent(0, state).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn no_acknowledged_write_is_lost_when_the_source_agent_is_killed_in_switched() {
    kill_an_agent(0, "switched").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn no_acknowledged_write_is_lost_when_the_target_agent_is_killed_in_holding() {
    kill_an_agent(1, "holding last").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn no_acknowledged_write_is_lost_when_the_target_agent_is_killed_in_switched() {
    kill_an_agent(1, "switched").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_killed_router_serves_again_and_moves_do_not_notice() {
    let mut fleet = Fleet::start(&["acme"]).await;
    let writer = Writer::start(&fleet.router_address(), "acme");
    fleet.stall(Some("holding gates"));
    let id = start_move(&fleet.client, "acme", "cell-b").await;
    reaches(&fleet.client, &id, "holding gates").await;
    fleet.router.kill();
    fleet.stall(None);
    fleet.router.restart();
    fleet.ready(3).await;
    has_outcome(&fleet.client, &id, OUTCOME_MS).await;
    writer.stop_and_check().await;
    settles(&fleet.client, &id).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_move_goes_on_after_etcd_was_killed_and_came_back() {
    let mut fleet = Fleet::start(&["acme"]).await;
    let writer = Writer::start(&fleet.router_address(), "acme");
    for (state, to) in [("syncing", "cell-b"), ("holding data", "cell-c"), ("switched", "cell-a")] {
        fleet.stall(Some(state));
        let id = start_move(&fleet.client, "acme", to).await;
        reaches(&fleet.client, &id, state).await;
        fleet.etcd.kill();
        fleet.stall(None);
        fleet.etcd.restart();
        cellway_end_to_end::eventually("the store takes writes again", async || {
            fleet.client.change_cell("cell-a", &open()).await.ok()
        })
        .await;
        has_outcome(&fleet.client, &id, OUTCOME_MS).await;
        settles(&fleet.client, &id).await;
    }
    writer.stop_and_check().await;
}

fn open() -> cellway_api::fleet::ChangeCell {
    cellway_api::fleet::ChangeCell { condition: "open".to_owned() }
}
