//! Several replicas: any hears facts, one leads, and a successor goes on from the records.

use cellway_api::agent::FactUp;
use cellway_cluster_tests::*;
use cellway_store::records::{Heartbeat, Leader, Record};
use cellway_store::{StoreError, Txn, keys};

#[tokio::test(flavor = "multi_thread")]
async fn facts_may_be_stated_to_any_replica() {
    let cluster = Cluster::new();
    let (leader, other) = (cluster.start().await, cluster.start().await);
    for cell in ["cell-a", "cell-b"] {
        create_cell(&leader.client, cell).await;
    }
    eventually("the other replica knows the cells", async || {
        (other.client.cells().await.unwrap().items.len() == 2).then_some(())
    })
    .await;
    let source = Agent::start(&leader.client, "cell-a", "a1").await;
    let target = Agent::start(&leader.client, "cell-b", "b1").await;
    let (source_there, target_there) =
        (other.client.stream("cell-a", "a1", 0).await, other.client.stream("cell-b", "b1", 0).await);
    assert!(source_there.is_ok() && target_there.is_ok());
    create_tenant(&leader.client, "acme", "cell-a").await;
    let planned = create_move(&other.client, "acme", "cell-b").await;
    target.order("prepare", |order| (order.move_id == planned.id).then_some(())).await;
    let facts = |instance: &str, fact| cellway_api::agent::FactsUp { instance: instance.into(), facts: vec![fact] };
    let ready = facts("b1", FactUp::Ready { move_id: planned.id.clone() });
    other.client.facts("cell-b", &ready).await.unwrap();
    reaches(&leader.client, &planned.id, "copying").await;
    drop(source);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_killed_leader_is_followed_and_its_moves_go_on() {
    let cluster = Cluster::new();
    let first = cluster.start().await;
    for cell in ["cell-a", "cell-b"] {
        create_cell(&first.client, cell).await;
    }
    let second = cluster.start().await;
    let source = Agent::start(&second.client, "cell-a", "a1").await;
    let target = Agent::start(&second.client, "cell-b", "b1").await;
    create_tenant(&second.client, "acme", "cell-a").await;
    first.kill().await;
    let planned = create_move(&second.client, "acme", "cell-b").await;
    let pair = Pair { id: planned.id.clone(), epoch: planned.epoch, source: &source, target: &target };
    pair.to_holding().await;
    pair.to_switched().await;
    assert_eq!(second.client.tenant("acme").await.unwrap().cell, "cell-b");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_leader_that_falls_silent_is_followed_though_its_lease_lives_on_and_can_beat_no_more() {
    /// Longer than any test waits.
    const LEASE_MS: u64 = 3_600_000;
    let cluster = Cluster::new();
    let lease = cluster.store.grant_lease(LEASE_MS).await.unwrap();
    let silent = Leader { replica: "silent".into(), address: "127.0.0.1:1".into() };
    let txn = Txn::new().require_absent(keys::LEADER).put_leased(keys::LEADER, silent.encode(), lease);
    let taken = cluster.store.commit(txn).await.unwrap();
    let beat = || {
        let heartbeat = Heartbeat { at_ms: 1 };
        Txn::new().require_revision(keys::LEADER, taken).put(keys::HEARTBEAT, heartbeat.encode())
    };
    cluster.store.commit(beat()).await.unwrap();
    let _follower = cluster.start().await;
    eventually("another leads", async || {
        let leader = cluster.store.get(keys::LEADER).await.unwrap().0.unwrap();
        (Leader::decode(&leader.value).unwrap() != silent).then_some(())
    })
    .await;
    assert!(matches!(cluster.store.commit(beat()).await, Err(StoreError::Conflict)));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_restarted_control_plane_goes_on_from_the_records() {
    let cluster = Cluster::new();
    let before = cluster.start().await;
    for cell in ["cell-a", "cell-b"] {
        create_cell(&before.client, cell).await;
    }
    let (planned, list) = {
        let source = Agent::start(&before.client, "cell-a", "a1").await;
        let target = Agent::start(&before.client, "cell-b", "b1").await;
        create_tenant(&before.client, "acme", "cell-a").await;
        let planned = create_move(&before.client, "acme", "cell-b").await;
        let pair = Pair { id: planned.id.clone(), epoch: planned.epoch, source: &source, target: &target };
        pair.to_holding().await;
        pair.fence().await;
        let list = pair.data_ordered().await;
        pair.position(list).await;
        (planned, list)
    };
    before.kill().await;
    let after = cluster.start().await;
    let facts = cellway_api::agent::FactsUp {
        instance: "b1".into(),
        facts: vec![FactUp::Reached { move_id: planned.id.clone(), list, position: "p".into() }],
    };
    after.client.facts("cell-b", &facts).await.unwrap();
    assert_eq!(after.client.tenant("acme").await.unwrap().cell, "cell-b");
}
