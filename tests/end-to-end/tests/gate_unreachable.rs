//! The way from the router to a cell's gate breaks: that costs the cell's tenants at most, and only while it lasts.

use crate::moving::{settles, start_move};
use cellway_end_to_end::eventually;
use cellway_end_to_end::fleet::links::Link;
use cellway_end_to_end::fleet::{Fleet, Plan};
use cellway_end_to_end::recovery::Recovery;
use cellway_end_to_end::relay::Way;
use cellway_end_to_end::writer::Writer;
use std::time::Duration;

/// After the heal the cell's tenants are served within this time.
const SERVED_MS: u64 = 5_000;

/// A tenant that leaves the cell meanwhile is served by its new cell within this time.
const MOVED_MS: u64 = 10_000;

/// How long the way is broken: shorter than requests are held.
const BROKEN_MS: u64 = 2_000;

/// Breaks the way to cell-a's gate; how many requests of its tenant failed.
async fn break_way(fleet: &Fleet, fault: &str, how: impl Fn(&Link)) -> usize {
    let there = Writer::start(&fleet.router_address(), "acme");
    let elsewhere = Writer::start(&fleet.router_address(), "globex");
    eventually("both are served", async || (there.acknowledged() * elsewhere.acknowledged() > 0).then_some(())).await;
    let way = &fleet.links().to_gate[0];
    how(way);
    tokio::time::sleep(Duration::from_millis(BROKEN_MS)).await;
    way.heal();
    let (served, before) = (Recovery::begin(fault, SERVED_MS), there.acknowledged());
    served.until("the cell's tenant is served", async || (there.acknowledged() > before + 1).then_some(())).await;
    let books = elsewhere.stop_and_check().await;
    assert!(books.failed.is_empty(), "{fault}: a tenant of another cell suffered: {:?}", books.failed);
    there.stop_and_check().await.failed.len()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_gate_that_cannot_be_reached_costs_its_own_tenants_alone() {
    let fleet = Plan::of(&["acme", "globex"]).with_relays().start().await;
    assert_eq!(break_way(&fleet, "router cut off from a gate", Link::cut).await, 0);
    assert_eq!(break_way(&fleet, "gate not heard by the router", |way| way.cut_way(Way::Down)).await, 0);
    assert_eq!(break_way(&fleet, "router not heard by a gate", |way| way.cut_way(Way::Up)).await, 0);
    // A write that was on its way when the connection was reset may have been done, so it is not sent again.
    assert!(break_way(&fleet, "gate refuses the router", Link::refuse).await <= 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_tenant_leaves_a_cell_whose_gate_routers_cannot_reach() {
    let fleet = Plan::of(&["acme"]).with_relays().start().await;
    let writer = Writer::start(&fleet.router_address(), "acme");
    eventually("the tenant is served", async || (writer.acknowledged() > 0).then_some(())).await;
    fleet.links().to_gate[0].refuse();
    let moved = Recovery::begin("gate refuses the router: moved away and served", MOVED_MS);
    let id = start_move(&fleet.client, "acme", "cell-b").await;
    let switched = async || fleet.client.a_move(&id).await.ok()?.past_commit.then_some(());
    eventually("the move has switched", switched).await;
    let before = writer.acknowledged();
    moved.until("the new cell serves", async || (writer.acknowledged() > before + 1).then_some(())).await;
    writer.stop_and_check().await;
    assert!(settles(&fleet.client, &id).await);
}
