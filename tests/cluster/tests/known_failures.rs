//! What went wrong where others move tenants: forgotten steps, forgotten plans, two leaders, two moves at once.

use cellway_api::agent::{FactHeard, FactUp, PlacementDown, TaskDown};
use cellway_api::fleet::{CellKindView, ClaimHost, CreateCell, CreateMove, CreateTenant, UndoMove};
use cellway_cluster_tests::*;
use cellway_store::{HookedStore, Store};
use std::sync::Arc;

/// How often what needs two at the same time is tried.
const ROUNDS: usize = 8;

/// Longer than anything here takes: no hold of these tests ends by the clock.
const PATIENCE_MS: u64 = 10_000;

fn patient() -> Cluster {
    let mut cluster = Cluster::new();
    (cluster.config.move_limits.drain_ms, cluster.config.move_limits.holding_ms) = (PATIENCE_MS, PATIENCE_MS);
    cluster
}

async fn create_patient_tenant(replica: &Replica, id: &str) {
    let budget = CreateTenant {
        id: id.into(),
        cell: Some("cell-a".into()),
        freeze_budget_ms: Some(PATIENCE_MS),
        ..CreateTenant::default()
    };
    replica.client.create_tenant(&budget).await.unwrap();
}

async fn create_cells(replica: &Replica, cells: &[&'static str]) -> Vec<Agent> {
    let mut agents = Vec::new();
    for cell in cells {
        create_cell(&replica.client, cell).await;
        agents.push(Agent::start(&replica.client, cell, &format!("{cell}-1")).await);
    }
    agents
}

#[tokio::test(flavor = "multi_thread")]
async fn a_move_found_past_its_commit_still_opens_its_target_and_releases_its_hold() {
    let mut cluster = patient();
    cluster.config.move_limits.bake_ms = 60_000;
    let before = cluster.start().await;
    let agents = create_cells(&before, &["cell-a", "cell-b"]).await;
    create_patient_tenant(&before, "acme").await;
    let planned = create_move(&before.client, "acme", "cell-b").await;
    let pair = Pair { id: planned.id.clone(), epoch: planned.epoch, source: &agents[0], target: &agents[1] };
    pair.to_holding().await;
    pair.to_switched().await;
    // Nobody has told the target yet, as far as anybody knows.
    before.kill().await;
    drop(agents);

    let after = cluster.start().await;
    let target = Agent::start_again(&after.client, "cell-b", "cell-b-1", 2).await;
    let opens = target.order("open the home", |order| match &order.task {
        TaskDown::Open { home, epoch } if order.move_id == planned.id => Some((home.clone(), *epoch)),
        _ => None,
    });
    assert_eq!(opens.await, (planned.id.clone(), planned.epoch + 1));
    let told = target.placement("acme");
    let is_free = |placement: &PlacementDown| matches!(placement, PlacementDown::Placed { cell, hold: None, .. } if cell == "cell-b");
    assert!(told.as_ref().is_some_and(is_free), "{told:?}");
    assert_eq!(after.client.a_move(&planned.id).await.unwrap().state, "switched");
    target.state(FactUp::Opened { move_id: planned.id.clone(), epoch: planned.epoch + 1 }).await;
    let settled = reaches(&after.client, &planned.id, "settling").await;
    assert!(settled.freeze_ms.is_some());
}

#[tokio::test(flavor = "multi_thread")]
async fn planned_moves_are_not_forgotten_by_a_restart_and_begin_in_their_order() {
    let mut cluster = patient();
    cluster.config.move_budgets.per_source = 1;
    let before = cluster.start().await;
    let agents = create_cells(&before, &["cell-a", "cell-b"]).await;
    let mut planned = Vec::new();
    for tenant in ["acme", "beta", "gamma"] {
        create_patient_tenant(&before, tenant).await;
        planned.push(create_move(&before.client, tenant, "cell-b").await);
        tokio::time::sleep(std::time::Duration::from_millis(2)).await;
    }
    reaches(&before.client, &planned[0].id, "preparing").await;
    before.kill().await;
    drop(agents);

    let after = cluster.start().await;
    let source = Agent::start_again(&after.client, "cell-a", "cell-a-1", 2).await;
    let target = Agent::start_again(&after.client, "cell-b", "cell-b-1", 2).await;
    for (place, one) in planned.iter().enumerate() {
        reaches(&after.client, &one.id, "preparing").await;
        for later in &planned[place + 1..] {
            let waits = reaches(&after.client, &later.id, "planned").await.waits_for;
            assert!(waits.as_ref().is_some_and(|why| why.contains("leaving cell-a")), "{waits:?}");
        }
        let pair = Pair { id: one.id.clone(), epoch: one.epoch, source: &source, target: &target };
        pair.to_holding().await;
        pair.to_switched().await;
        target.state(FactUp::Opened { move_id: one.id.clone(), epoch: one.epoch + 1 }).await;
    }
    for tenant in ["acme", "beta", "gamma"] {
        assert_eq!(after.client.tenant(tenant).await.unwrap().cell, "cell-b");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn of_two_moves_asked_for_at_once_a_tenant_makes_one() {
    let mut cluster = patient();
    cluster.config.move_limits.drop_ms = 50;
    let (one, other) = (cluster.start().await, cluster.start().await);
    let _agents = create_cells(&one, &["cell-a", "cell-b", "cell-c"]).await;
    create_patient_tenant(&one, "acme").await;
    for _ in 0..ROUNDS {
        let to = |cell: &str| CreateMove { tenant: "acme".into(), to: cell.into(), ..CreateMove::default() };
        eventually("both replicas can plan", async || {
            let free = async |replica: &Replica| {
                let tenant = replica.client.tenant("acme").await.ok()?;
                let cells = replica.client.cells().await.ok()?.items;
                let ready = cells.iter().filter(|cell| !cell.instances.is_empty()).count();
                (tenant.moving.is_none() && ready == 3).then_some(())
            };
            free(&one).await.and(free(&other).await)
        })
        .await;
        let (to_b, to_c) = (to("cell-b"), to("cell-c"));
        let (b, c) = tokio::join!(one.client.create_move(&to_b), other.client.create_move(&to_c));
        assert!(b.is_ok() != c.is_ok(), "{b:?} {c:?}");
        let won = b.or(c).unwrap();
        assert_eq!(one.client.tenant("acme").await.unwrap().moving, Some(won.id.clone()));
        let running = one.client.moves().await.unwrap().items.into_iter().filter(|one| !one.ended).count();
        assert_eq!(running, 1);
        one.client.undo_move(&won.id, &UndoMove::default()).await.unwrap();
        reaches(&one.client, &won.id, "undone").await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn two_leaders_bring_each_move_to_one_end() {
    let mut cluster = patient();
    // Each takes itself for the only one, so both lead for as long as they live; and the other writes late whatever it
    // decides, for facts have gone to the first meanwhile.
    cluster.config.sole_writer = true;
    let behind: Arc<dyn Store> =
        Arc::new(HookedStore { store: cluster.store.clone(), hook: LateCommits { late_ms: 40 } });
    let other = Cluster { store: behind, config: cluster.config.clone() };
    let (one, other) = (cluster.start().await, other.start().await);
    let agents = create_cells(&one, &["cell-a", "cell-b"]).await;
    create_patient_tenant(&one, "acme").await;
    let (mut from, mut to, mut epoch) = (0, 1, None);
    for _ in 0..ROUNDS {
        let planned = create_move(&one.client, "acme", agents[to].cell()).await;
        assert_eq!(planned.epoch, epoch.unwrap_or(planned.epoch), "one commit, one epoch");
        let pair = Pair { id: planned.id.clone(), epoch: planned.epoch, source: &agents[from], target: &agents[to] };
        pair.to_holding().await;
        pair.to_switched().await;
        let opened = FactUp::Opened { move_id: planned.id.clone(), epoch: planned.epoch + 1 };
        agents[to].state(opened.clone()).await;
        assert_ne!(agents[to].say(opened).await, FactHeard::Recorded, "it is known already");
        let home = agents[from].order("drop", |order| match &order.task {
            TaskDown::Drop { home } if order.move_id == planned.id => Some(home.clone()),
            _ => None,
        });
        let home = home.await;
        agents[from].state(FactUp::Dropped { move_id: planned.id.clone(), home }).await;
        reaches(&other.client, &planned.id, "done").await;
        epoch = Some(planned.epoch + 1);
        (from, to) = (to, from);
    }
    let moves = one.client.moves().await.unwrap().items;
    assert_eq!(moves.len(), ROUNDS, "none was made again");
    assert!(moves.iter().all(|one| one.state == "done"));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_place_in_a_cell_is_promised_once_and_a_cell_that_is_added_takes_tenants_at_once() {
    let replica = patient().start().await;
    let mut agents = create_cells(&replica, &["cell-a"]).await;
    let small = CreateCell {
        name: "cell-b".into(),
        kind: CellKindView::Agent,
        version: None,
        labels: Default::default(),
        endpoints: Vec::new(),
        capacity_tenants: 1,
    };
    replica.client.create_cell(&small).await.unwrap();
    agents.push(Agent::start(&replica.client, "cell-b", "cell-b-1").await);
    for tenant in ["acme", "beta"] {
        create_patient_tenant(&replica, tenant).await;
    }
    let to = |tenant: &str, cell: &str| CreateMove { tenant: tenant.into(), to: cell.into(), ..CreateMove::default() };
    replica.client.create_move(&to("acme", "cell-b")).await.unwrap();
    let full = replica.client.create_move(&to("beta", "cell-b")).await.unwrap_err();
    assert!(full.to_string().contains("cell-b is full"), "{full}");

    agents.extend(create_cells(&replica, &["cell-c"]).await);
    let planned = create_move(&replica.client, "beta", "cell-c").await;
    let pair = Pair { id: planned.id.clone(), epoch: planned.epoch, source: &agents[0], target: &agents[2] };
    pair.to_holding().await;
    pair.to_switched().await;
    assert_eq!(replica.client.tenant("beta").await.unwrap().cell, "cell-c");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_move_that_waits_for_a_dead_target_takes_no_place_from_others() {
    let mut cluster = patient();
    cluster.config.move_budgets.fleet = 1;
    cluster.config.move_limits.switched_ms = 1_000;
    let replica = cluster.start().await;
    let mut agents = create_cells(&replica, &["cell-a", "cell-b", "cell-c"]).await;
    for tenant in ["acme", "beta"] {
        create_patient_tenant(&replica, tenant).await;
    }
    let stuck = create_move(&replica.client, "acme", "cell-b").await;
    let pair = Pair { id: stuck.id.clone(), epoch: stuck.epoch, source: &agents[0], target: &agents[1] };
    pair.to_holding().await;
    pair.to_switched().await;
    drop(agents.remove(1));

    let other = create_move(&replica.client, "beta", "cell-c").await;
    assert!(other.waits_for.is_some_and(|why| why.contains("1 moves are in flight")));
    let pair = Pair { id: other.id.clone(), epoch: other.epoch, source: &agents[0], target: &agents[1] };
    pair.to_holding().await;
    pair.to_switched().await;
    assert_eq!(replica.client.tenant("beta").await.unwrap().cell, "cell-c");
    assert_eq!(replica.client.a_move(&stuck.id).await.unwrap().state, "switched");
    let told = replica.client.findings().await.unwrap().items;
    assert!(told.iter().any(|finding| finding.remedy.contains(&stuck.id)), "somebody is told: {told:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_claimed_host_follows_its_tenant_to_its_new_cell() {
    let replica = patient().start().await;
    let agents = create_cells(&replica, &["cell-a", "cell-b"]).await;
    create_patient_tenant(&replica, "acme").await;
    let claim = |host: &str| ClaimHost { host: host.into(), tenant: "acme".into() };
    replica.client.claim_host(&claim("shop.example")).await.unwrap();
    let planned = create_move(&replica.client, "acme", "cell-b").await;
    let pair = Pair { id: planned.id.clone(), epoch: planned.epoch, source: &agents[0], target: &agents[1] };
    pair.to_holding().await;
    // No cell is asked, so a name can be claimed while nobody serves the tenant.
    replica.client.claim_host(&claim("store.example")).await.unwrap();
    pair.to_switched().await;
    for host in ["shop.example", "store.example", "acme.cells.localhost"] {
        let found = replica.client.lookup_host(host).await.unwrap();
        assert_eq!((found.tenant.as_deref(), found.cell.as_deref()), (Some("acme"), Some("cell-b")), "{host}");
    }
}
