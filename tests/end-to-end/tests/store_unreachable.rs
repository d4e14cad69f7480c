//! The ways to etcd break, in both directions and in one: the router goes on, and moves find their way or their end.

use crate::moving::{has_outcome, reaches, settles, start_move};
use cellway_api::ApiError;
use cellway_api::fleet::CreateMove;
use cellway_end_to_end::eventually;
use cellway_end_to_end::fleet::links::Link;
use cellway_end_to_end::fleet::{Fleet, Plan};
use cellway_end_to_end::recovery::Recovery;
use cellway_end_to_end::relay::Way;
use cellway_end_to_end::writer::Writer;
use std::process::Command;
use std::time::{Duration, Instant};

/// A router notices within this time that it hears nothing of the store.
const NOTICED_MS: u64 = 10_000;

/// A tenant that moved meanwhile is served within this time.
const FOUND_MS: u64 = 5_000;

/// After the heal the routes are those of the store within this time.
const EQUAL_MS: u64 = 5_000;

/// Moves are refused within this time while the store cannot be reached.
const REFUSED_MS: u64 = 5_000;

/// After a leader was cut off, its moves have an outcome within this time.
const OUTCOME_MS: u64 = 10_000;

fn router_status(fleet: &Fleet) -> serde_json::Value {
    let admin = format!("http://127.0.0.1:{}", fleet.ports.at(3));
    let output = Command::new(cellway_end_to_end::binary())
        .args(["router", "status", "-o", "json", "--admin", &admin])
        .output()
        .expect("it runs");
    serde_json::from_slice(&output.stdout).expect("JSON on stdout")
}

/// Whether a router still hears what the store says.
#[derive(Clone, Copy, PartialEq)]
enum Ear {
    Hears,
    IsDeaf,
}

/// Cuts the router off, moves a tenant meanwhile, and heals the way.
async fn cut_router_off(fleet: &Fleet, fault: &str, cut: impl Fn(&Link), ear: Ear, to: &str) {
    let moved = Writer::start(&fleet.router_address(), "acme");
    let unmoved = Writer::start(&fleet.router_address(), "globex");
    eventually("both are served", async || (moved.acknowledged() * unmoved.acknowledged() > 0).then_some(())).await;
    cut(&fleet.links().router_to_store);
    let noticed = Recovery::begin(&format!("{fault}: noticed"), NOTICED_MS);
    let id = start_move(&fleet.client, "acme", to).await;
    eventually("the move is past the commit", async || {
        fleet.client.a_move(&id).await.ok().filter(|view| view.past_commit)
    })
    .await;
    let found = Recovery::begin(&format!("{fault}: who moved is served"), FOUND_MS);
    let before = moved.acknowledged();
    found.until("the moved tenant is served", async || (moved.acknowledged() > before).then_some(())).await;
    if ear == Ear::IsDeaf {
        let said = async || (fleet.router_metric("feed_synced").await? == 0.0).then_some(());
        noticed.until("the metric says so", said).await;
        assert_eq!(router_status(fleet)["synced"], false);
    }
    let named = format!("new-in-{to}");
    let tenant = cellway_api::fleet::CreateTenant {
        id: named.clone(),
        cell: Some("cell-c".to_owned()),
        ..cellway_api::fleet::CreateTenant::default()
    };
    fleet.client.create_tenant(&tenant).await.unwrap();
    if ear == Ear::Hears {
        eventually("the router is in step while nobody hears it", async || routes_to(fleet, &named).await).await;
    }
    fleet.links().router_to_store.heal();
    let equal = Recovery::begin(&format!("{fault}: in step after the heal"), EQUAL_MS);
    equal.until("the routes are the store's", async || routes_to(fleet, &named).await).await;
    assert_eq!(router_status(fleet)["synced"], true);
    moved.stop_and_check().await;
    let books = unmoved.stop_and_check().await;
    assert!(books.failed.is_empty(), "a tenant that did not move suffered: {:?}", books.failed);
    assert!(settles(&fleet.client, &id).await);
}

async fn routes_to(fleet: &Fleet, tenant: &str) -> Option<()> {
    let url = format!("http://{}/count", fleet.router_address());
    let request = cellway_end_to_end::writer::http().get(url).header("host", format!("{tenant}.cells.localhost"));
    request.send().await.ok()?.status().is_success().then_some(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_router_cut_off_from_the_store_serves_everybody_and_finds_who_moved() {
    let fleet = Plan::of(&["acme", "globex"]).with_relays().start().await;
    cut_router_off(&fleet, "router cut off from etcd", Link::cut, Ear::IsDeaf, "cell-b").await;
    cut_router_off(&fleet, "router hears nothing of etcd", |link| link.cut_way(Way::Down), Ear::IsDeaf, "cell-c").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_router_that_the_store_does_not_hear_serves_everybody_and_finds_who_moved() {
    let fleet = Plan::of(&["acme", "globex"]).with_relays().start().await;
    cut_router_off(&fleet, "router not heard by etcd", |link| link.cut_way(Way::Up), Ear::Hears, "cell-b").await;
    cut_router_off(&fleet, "router refused by etcd", Link::refuse, Ear::IsDeaf, "cell-c").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn moves_are_refused_with_503_while_the_store_is_away() {
    let fleet = Plan::of(&["acme"]).with_relays().start().await;
    let wanted = CreateMove { tenant: "acme".to_owned(), to: "cell-b".to_owned(), ..CreateMove::default() };
    let cuts: [(&str, &dyn Fn()); 2] = [
        ("etcd refuses: moves refused with 503", &|| fleet.links().replica_to_store[0].refuse()),
        ("etcd is a black hole: moves refused with 503", &|| fleet.links().replica_to_store[0].cut()),
    ];
    for (name, cut) in cuts {
        cut();
        let (refused, begun) = (Recovery::begin(name, REFUSED_MS), Instant::now());
        match fleet.client.create_move(&wanted).await {
            Err(ApiError::Refused(problem)) => assert_eq!(problem.status, 503, "{problem}"),
            other => panic!("not refused: {other:?}"),
        }
        refused.took("the refusal", begun.elapsed());
        fleet.links().replica_to_store[0].heal();
        // What was refused may have been written all the same: only the answer was lost.
        eventually("the store takes writes again", async || {
            let moves = fleet.client.moves().await.ok()?;
            let running = moves.items.iter().any(|view| !view.ended);
            (running || fleet.client.create_move(&wanted).await.is_ok()).then_some(())
        })
        .await;
        let id = fleet.client.moves().await.unwrap().items.last().unwrap().id.clone();
        fleet.client.undo_move(&id, &Default::default()).await.ok();
        settles(&fleet.client, &id).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_leader_cut_off_from_the_store_is_followed_and_its_moves_end_once() {
    let fleet = Plan::of(&["acme", "globex"]).with_relays().with_standby().start().await;
    let mut at = "cell-a";
    let (mut leader, mut other) = (0, 1);
    for (state, name) in [
        ("syncing", "leader cut off from etcd in syncing"),
        ("holding data", "leader cut off from etcd in holding data"),
        ("switched", "leader cut off from etcd in switched"),
    ] {
        let to = if at == "cell-a" { "cell-b" } else { "cell-a" };
        let clients = [&fleet.client, fleet.standby_client()];
        let writer = Writer::start(&fleet.router_address(), "acme");
        let neighbour = Writer::start(&fleet.router_address(), "globex");
        fleet.stall(Some(state));
        let id = start_move(clients[other], "acme", to).await;
        reaches(clients[other], &id, state).await;
        fleet.links().replica_to_store[leader].cut();
        fleet.stall(None);
        let outcome = Recovery::begin(name, OUTCOME_MS);
        outcome
            .until("the move has an outcome", async || {
                let view = clients[other].a_move(&id).await.ok()?;
                (view.past_commit || view.state == "undone").then_some(())
            })
            .await;
        tokio::time::sleep(Duration::from_millis(500)).await;
        fleet.links().replica_to_store[leader].heal();
        eventually("the replica that was cut off knows it, too", async || {
            let view = clients[leader].a_move(&id).await.ok()?;
            (view.past_commit || view.state == "undone").then_some(())
        })
        .await;
        has_outcome(clients[other], &id, OUTCOME_MS).await;
        writer.stop_and_check().await;
        let books = neighbour.stop_and_check().await;
        assert!(books.failed.is_empty(), "{state}: a neighbour suffered: {:?}", books.failed);
        if settles(clients[other], &id).await {
            at = to;
        }
        assert_eq!(clients[leader].tenant("acme").await.unwrap().cell, at, "{state}");
        std::mem::swap(&mut leader, &mut other);
    }
}
