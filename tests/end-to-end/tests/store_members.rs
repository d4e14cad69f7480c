//! An etcd of three members: its leader is killed again and again, and its quorum is lost and comes back.

use crate::moving::settles;
use cellway_api::fleet::CreateMove;
use cellway_end_to_end::fleet::Plan;
use cellway_end_to_end::recovery::Recovery;
use cellway_end_to_end::writer::Writer;
use cellway_end_to_end::{eventually, within};
use std::time::Duration;

/// After the store's leader was killed, a move can be asked for again within this time.
const WRITABLE_MS: u64 = 10_000;

/// A move that was under way meanwhile has an outcome within this time.
const OUTCOME_MS: u64 = 20_000;

/// How long the quorum is away: longer than any hold, and than the control plane's lease.
const AWAY_MS: u64 = 4_000;

const KILLS: usize = 3;
const CELLS: [&str; 2] = ["cell-a", "cell-b"];

#[tokio::test(flavor = "multi_thread")]
async fn moves_go_on_while_the_stores_leader_is_killed_again_and_again() {
    let mut fleet = Plan::of(&["acme", "globex"]).with_etcd_members(3).start().await;
    let moving = Writer::start(&fleet.router_address(), "acme");
    let untouched = Writer::start(&fleet.router_address(), "globex");
    let mut at = 0;
    for _ in 0..KILLS {
        let wanted = CreateMove { tenant: "acme".to_owned(), to: CELLS[1 - at].to_owned(), ..CreateMove::default() };
        let leader = eventually("etcd has a leader", async || fleet.etcd.leader().await).await;
        let id = fleet.client.create_move(&wanted).await.unwrap().id;
        fleet.etcd.members[leader].kill();
        let writable = Recovery::begin("leader of etcd killed: moves go on", WRITABLE_MS);
        writable
            .until("the move has an outcome", async || {
                let view = fleet.client.a_move(&id).await.ok()?;
                (view.past_commit || view.state == "undone").then_some(())
            })
            .await;
        fleet.etcd.members[leader].restart();
        if settles(&fleet.client, &id).await {
            at = 1 - at;
        }
        assert_eq!(fleet.client.tenant("acme").await.unwrap().cell, CELLS[at]);
    }
    moving.stop_and_check().await;
    let books = untouched.stop_and_check().await;
    assert!(books.failed.is_empty(), "a tenant that did not move suffered: {:?}", books.failed);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_quorum_that_is_lost_and_comes_back_costs_no_request_of_an_unmoved_tenant() {
    let mut fleet = Plan::of(&["acme", "globex"]).with_etcd_members(3).start().await;
    let moving = Writer::start(&fleet.router_address(), "acme");
    let untouched = Writer::start(&fleet.router_address(), "globex");
    fleet.stall(Some("syncing"));
    let id = crate::moving::start_move(&fleet.client, "acme", "cell-b").await;
    crate::moving::reaches(&fleet.client, &id, "syncing").await;
    for member in [0, 1] {
        fleet.etcd.members[member].kill();
    }
    fleet.stall(None);
    tokio::time::sleep(Duration::from_millis(AWAY_MS)).await;
    let wanted = CreateMove { tenant: "globex".to_owned(), to: "cell-c".to_owned(), ..CreateMove::default() };
    assert!(fleet.client.create_move(&wanted).await.is_err(), "a move was promised without a quorum");
    for member in [0, 1] {
        fleet.etcd.members[member].restart();
    }
    let back = Recovery::begin("quorum of etcd lost for 4 s and back: moves go on", OUTCOME_MS);
    back.until("the move has an outcome", async || {
        let view = fleet.client.a_move(&id).await.ok()?;
        (view.past_commit || view.state == "undone").then_some(())
    })
    .await;
    settles(&fleet.client, &id).await;
    within(OUTCOME_MS, "the router is in step", async || {
        (fleet.router_metric("feed_synced").await? == 1.0).then_some(())
    })
    .await;
    moving.stop_and_check().await;
    let books = untouched.stop_and_check().await;
    assert!(books.failed.is_empty(), "a tenant that did not move suffered: {:?}", books.failed);
}
