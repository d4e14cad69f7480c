//! A move over the wire: orders down, facts up, placements with it.

use cellway_api::agent::{FactHeard, FactUp, PlacementDown, TaskDown};
use cellway_api::fleet::{SetBrake, UndoMove};
use cellway_cluster_tests::*;

fn cell_and_epoch(placement: Option<PlacementDown>) -> (String, u64, bool) {
    match placement {
        Some(PlacementDown::Placed { cell, epoch, hold, .. }) => (cell, epoch, hold.is_some()),
        other => panic!("not placed: {other:?}"),
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_move_goes_from_planned_to_done_by_facts_alone() {
    let (replica, source, target) = two_cells(&Cluster::new(), &["acme"]).await;
    let planned = create_move(&replica.client, "acme", "cell-b").await;
    let pair = Pair { id: planned.id.clone(), epoch: planned.epoch, source: &source, target: &target };
    pair.to_holding().await;
    assert!(replica.client.tenant("acme").await.unwrap().held);
    pair.to_switched().await;
    let tenant = replica.client.tenant("acme").await.unwrap();
    assert_eq!((tenant.cell.as_str(), tenant.epoch, tenant.held), ("cell-b", planned.epoch + 1, false));
    eventually("the source knows where it went", async || {
        let (cell, epoch, _) = cell_and_epoch(source.placement("acme"));
        (cell == "cell-b" && epoch == planned.epoch + 1).then_some(())
    })
    .await;
    target.state(FactUp::Opened { move_id: pair.id.clone(), epoch: planned.epoch + 1 }).await;
    let home = source.order("drop", |order| match &order.task {
        TaskDown::Drop { home } => Some(home.clone()),
        _ => None,
    });
    let home = home.await;
    source.state(FactUp::Dropped { move_id: pair.id.clone(), home }).await;
    let done = reaches(&replica.client, &pair.id, "done").await;
    assert!(done.freeze_ms.is_some() && done.ended);
    assert_eq!(replica.client.tenant("acme").await.unwrap().moving, None);
    replica.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_undo_after_the_hold_gives_the_source_the_next_epoch() {
    let (replica, source, target) = two_cells(&Cluster::new(), &["acme"]).await;
    let planned = create_move(&replica.client, "acme", "cell-b").await;
    let pair = Pair { id: planned.id.clone(), epoch: planned.epoch, source: &source, target: &target };
    pair.to_holding().await;
    pair.fence().await;
    let undoing = replica.client.undo_move(&pair.id, &UndoMove::default()).await.unwrap();
    assert_eq!(undoing.state, "undoing");
    let tenant = replica.client.tenant("acme").await.unwrap();
    assert_eq!((tenant.cell.as_str(), tenant.epoch, tenant.held), ("cell-a", planned.epoch + 1, false));
    let home = target.order("drop", |order| match &order.task {
        TaskDown::Drop { home } => Some(home.clone()),
        _ => None,
    });
    target.state(FactUp::Dropped { move_id: pair.id.clone(), home: home.await }).await;
    reaches(&replica.client, &pair.id, "undone").await;
    assert_eq!(create_move(&replica.client, "acme", "cell-b").await.epoch, planned.epoch + 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_hold_ends_by_its_deadline_when_the_source_is_silent_and_the_move_is_tried_again() {
    let (replica, source, target) = two_cells(&Cluster::new(), &["acme"]).await;
    let planned = create_move(&replica.client, "acme", "cell-b").await;
    let pair = Pair { id: planned.id.clone(), epoch: planned.epoch, source: &source, target: &target };
    pair.to_holding().await;
    let undoing = reaches(&replica.client, &pair.id, "undoing").await;
    assert_eq!(undoing.undo_reason.as_deref(), Some("admitted requests did not finish in time"));
    assert!(!replica.client.tenant("acme").await.unwrap().held);
    assert!(undoing.will_retry);
    target.state(FactUp::Dropped { move_id: pair.id.clone(), home: pair.id.clone() }).await;
    let undone = reaches(&replica.client, &pair.id, "undone").await;
    let again = undone.retried_by.expect("it is tried again");
    let planned = replica.client.a_move(&again).await.unwrap();
    assert_eq!((planned.attempt, planned.epoch, planned.target.as_str()), (2, pair.epoch + 1, "cell-b"));
    let pair = Pair { id: again, epoch: planned.epoch, source: &source, target: &target };
    pair.to_holding().await;
    pair.to_switched().await;
    assert_eq!(replica.client.tenant("acme").await.unwrap().cell, "cell-b");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_move_back_takes_over_while_settling() {
    let mut cluster = Cluster::new();
    cluster.config.move_limits.bake_ms = 60_000;
    let (replica, source, target) = two_cells(&cluster, &["acme"]).await;
    let planned = create_move(&replica.client, "acme", "cell-b").await;
    let pair = Pair { id: planned.id.clone(), epoch: planned.epoch, source: &source, target: &target };
    pair.to_holding().await;
    pair.to_switched().await;
    target.state(FactUp::Opened { move_id: pair.id.clone(), epoch: planned.epoch + 1 }).await;
    let back = replica.client.undo_move(&pair.id, &UndoMove::default()).await.unwrap();
    assert_ne!(back.id, pair.id);
    assert_eq!((back.state.as_str(), back.target.as_str()), ("syncing", "cell-a"));
    let ended = reaches(&replica.client, &pair.id, "done").await;
    assert_eq!(ended.reversed_by.as_deref(), Some(back.id.as_str()));
    target
        .state(FactUp::Watched { move_id: back.id.clone(), oldest_request_ms: 0, running_requests: 0, open_streams: 0 })
        .await;
    source.state(FactUp::Followed { move_id: back.id.clone(), transfer_ms: 1, longest: None }).await;
    let there = Pair { id: back.id.clone(), epoch: back.epoch, source: &target, target: &source };
    there.to_switched().await;
    let tenant = replica.client.tenant("acme").await.unwrap();
    assert_eq!((tenant.cell.as_str(), tenant.epoch), ("cell-a", planned.epoch + 2));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_gate_that_joins_while_holding_must_be_fenced_too() {
    let (replica, source, target) = two_cells(&Cluster::new(), &["acme"]).await;
    let planned = create_move(&replica.client, "acme", "cell-b").await;
    let pair = Pair { id: planned.id.clone(), epoch: planned.epoch, source: &source, target: &target };
    pair.to_holding().await;
    pair.fence().await;
    let list = pair.data_ordered().await;
    pair.position(list).await;
    let late = Agent::start(&replica.client, "cell-a", "a2").await;
    assert_ne!(pair.reach(list).await, FactHeard::Recorded, "committed past a gate that was never fenced");
    late.order("fence", |order| matches!(order.task, TaskDown::Fence { .. }).then_some(())).await;
    late.state(FactUp::Fenced { move_id: pair.id.clone(), epoch: pair.epoch, cut_requests: 0 }).await;
    let list = pair.data_ordered().await;
    pair.position(list).await;
    assert_eq!(pair.reach(list).await, FactHeard::Recorded);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_busy_move_does_not_silence_the_streams_of_other_cells() {
    let (replica, source, target) = two_cells(&Cluster::new(), &["acme"]).await;
    create_cell(&replica.client, "cell-c").await;
    let bystander = Agent::start(&replica.client, "cell-c", "c1").await;
    let planned = create_move(&replica.client, "acme", "cell-b").await;
    let move_id = || planned.id.clone();
    target.order("prepare", |order| matches!(order.task, TaskDown::Prepare { .. }).then_some(())).await;
    target.state(FactUp::Ready { move_id: move_id() }).await;
    target.state(FactUp::Copied { move_id: move_id(), copied_bytes: 1, total_bytes: 1, complete: true }).await;
    let (heard, begun) = (bystander.beats(), std::time::Instant::now());
    while begun.elapsed() < std::time::Duration::from_millis(1_800) {
        let oldest_request_ms = 10_000 + u64::try_from(begun.elapsed().as_millis()).unwrap();
        source
            .state(FactUp::Watched { move_id: move_id(), oldest_request_ms, running_requests: 0, open_streams: 0 })
            .await;
    }
    assert!(bystander.beats() >= heard + 2, "{} beats in 1.8 s", bystander.beats() - heard);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_undone_move_back_leaves_the_home_that_it_went_back_to() {
    let mut cluster = Cluster::new();
    cluster.config.move_limits.bake_ms = 60_000;
    let (replica, source, target) = two_cells(&cluster, &["acme"]).await;
    let planned = create_move(&replica.client, "acme", "cell-b").await;
    let pair = Pair { id: planned.id.clone(), epoch: planned.epoch, source: &source, target: &target };
    pair.to_holding().await;
    pair.to_switched().await;
    let back = replica.client.undo_move(&pair.id, &UndoMove::default()).await.unwrap();
    let undone = replica.client.undo_move(&back.id, &UndoMove::default()).await.unwrap();
    assert_eq!(undone.state, "undone");
    source.no_order("drop of the kept home", |task| matches!(task, TaskDown::Drop { .. })).await;
    assert_eq!(replica.client.tenant("acme").await.unwrap().cell, "cell-b");
}

#[tokio::test(flavor = "multi_thread")]
async fn from_cleaning_an_ordinary_move_may_begin() {
    let mut cluster = Cluster::new();
    cluster.config.move_limits.retention_ms = 60_000;
    let (replica, source, target) = two_cells(&cluster, &["acme"]).await;
    let planned = create_move(&replica.client, "acme", "cell-b").await;
    let pair = Pair { id: planned.id.clone(), epoch: planned.epoch, source: &source, target: &target };
    pair.to_holding().await;
    pair.to_switched().await;
    target.state(FactUp::Opened { move_id: pair.id.clone(), epoch: planned.epoch + 1 }).await;
    reaches(&replica.client, &pair.id, "cleaning").await;
    let again = create_move(&replica.client, "acme", "cell-a").await;
    assert_eq!(reaches(&replica.client, &pair.id, "done").await.reversed_by, None);
    assert_eq!(again.epoch, planned.epoch + 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_brake_stops_starts_and_freezes_but_not_what_is_past_them() {
    let (replica, source, target) = two_cells(&Cluster::new(), &["acme"]).await;
    create_tenant(&replica.client, "beta", "cell-a").await;
    let brake = async |on| {
        let set = SetBrake { on, cause: Some("incident 4711".to_owned()) };
        replica.client.set_brake(&set).await.unwrap()
    };
    let planned = create_move(&replica.client, "acme", "cell-b").await;
    let pair = Pair { id: planned.id.clone(), epoch: planned.epoch, source: &source, target: &target };
    pair.to_syncing().await;

    let shown = brake(true).await;
    assert_eq!((shown.on, shown.cause.as_deref()), (true, Some("incident 4711")));
    assert_eq!(brake(true).await.since_ms, shown.since_ms, "it is on already");
    assert_ne!(pair.may_freeze().await, FactHeard::Recorded, "no tenant is frozen");
    let waits = create_move(&replica.client, "beta", "cell-b").await;
    assert_eq!(waits.waits_for.as_deref(), Some("the emergency brake is on"));
    tokio::time::sleep(std::time::Duration::from_millis(500)).await;
    assert_eq!(replica.client.a_move(&waits.id).await.unwrap().state, "planned");
    assert!(!replica.client.tenant("acme").await.unwrap().held);

    assert!(!brake(false).await.on);
    reaches(&replica.client, &waits.id, "preparing").await;
    pair.may_freeze().await;
    reaches(&replica.client, &pair.id, "holding").await;
    brake(true).await;
    pair.to_switched().await;
    assert_eq!(replica.client.tenant("acme").await.unwrap().cell, "cell-b");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_move_that_the_brake_kept_waiting_too_long_is_undone_and_says_so() {
    let mut cluster = Cluster::new();
    cluster.config.move_limits.syncing_ms = 500;
    let (replica, source, target) = two_cells(&cluster, &["acme"]).await;
    let planned = create_move(&replica.client, "acme", "cell-b").await;
    let pair = Pair { id: planned.id.clone(), epoch: planned.epoch, source: &source, target: &target };
    reaches(&replica.client, &pair.id, "preparing").await;
    let set = SetBrake { on: true, cause: None };
    replica.client.set_brake(&set).await.unwrap();
    pair.to_syncing().await;
    let undone = reaches(&replica.client, &pair.id, "undoing").await;
    assert!(undone.undo_reason.is_some_and(|reason| reason.contains("emergency brake")));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_lost_cell_blocks_no_other_tenant() {
    let mut cluster = Cluster::new();
    cluster.config.move_limits.drop_ms = 200;
    let (replica, source, target) = two_cells(&cluster, &["acme"]).await;
    create_cell(&replica.client, "cell-c").await;
    let lost = Agent::start(&replica.client, "cell-c", "c1").await;
    create_tenant(&replica.client, "beta", "cell-a").await;
    let stuck = create_move(&replica.client, "beta", "cell-c").await;
    reaches(&replica.client, &stuck.id, "preparing").await;
    drop(lost);

    let planned = create_move(&replica.client, "acme", "cell-b").await;
    let pair = Pair { id: planned.id.clone(), epoch: planned.epoch, source: &source, target: &target };
    pair.to_holding().await;
    pair.to_switched().await;
    assert_eq!(replica.client.tenant("acme").await.unwrap().cell, "cell-b");
    assert_ne!(replica.client.a_move(&stuck.id).await.unwrap().state, "done");
    let beta = replica.client.tenant("beta").await.unwrap();
    assert_eq!((beta.cell.as_str(), beta.held), ("cell-a", false), "it is served where it was");
    replica.client.undo_move(&stuck.id, &UndoMove::default()).await.unwrap();
    reaches(&replica.client, &stuck.id, "undone").await;
    assert_eq!(create_move(&replica.client, "beta", "cell-b").await.state, "planned");
}
