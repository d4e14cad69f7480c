//! The control plane is killed in each state of a move, and goes on from the records.

use crate::moving::{STATES, has_outcome, reaches, settles, start_towards};
use cellway_end_to_end::dev::Dev;
use cellway_end_to_end::fleet::Fleet;
use cellway_end_to_end::writer::Writer;

/// After `/readyz`, an interrupted move has an outcome within this time.
const OUTCOME_MS: u64 = 5_000;

#[tokio::test(flavor = "multi_thread")]
async fn every_move_ends_after_the_control_plane_was_killed_in_each_state_on_etcd() {
    let mut fleet = Fleet::start(&["acme"]).await;
    let mut at = "cell-a";
    for state in STATES {
        let to = if at == "cell-a" { "cell-b" } else { "cell-a" };
        let writer = Writer::start(&fleet.router_address(), "acme");
        fleet.stall(Some(state));
        let (id, _feed) = start_towards(&fleet.client, &fleet.router_address(), ("acme", to), state).await;
        reaches(&fleet.client, &id, state).await;
        fleet.control_plane.kill();
        fleet.stall(None);
        fleet.control_plane.restart();
        fleet.ready(2).await;
        let outcome = has_outcome(&fleet.client, &id, OUTCOME_MS).await;
        writer.stop_and_check().await;
        if settles(&fleet.client, &id).await {
            at = to;
        }
        assert_eq!(fleet.client.tenant("acme").await.unwrap().cell, at, "{state}: {outcome:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn every_move_ends_after_the_whole_process_was_killed_in_each_state_embedded() {
    let mut dev = Dev::start(&["--tenants", "1"]).await;
    let mut at = "cell-a";
    for state in STATES {
        let to = if at == "cell-a" { "cell-b" } else { "cell-a" };
        let writer = Writer::start(&dev.router(), "acme");
        dev.stall(Some(state));
        let (id, _feed) = start_towards(&dev.client, &dev.router(), ("acme", to), state).await;
        reaches(&dev.client, &id, state).await;
        dev.process.kill();
        dev.stall(None);
        dev.process.restart();
        dev.ready().await;
        let outcome = has_outcome(&dev.client, &id, OUTCOME_MS).await;
        writer.stop_and_check().await;
        if settles(&dev.client, &id).await {
            at = to;
        }
        assert_eq!(dev.client.tenant("acme").await.unwrap().cell, at, "{state}: {outcome:?}");
    }
}
