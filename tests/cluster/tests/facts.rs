//! Facts: who may state what, and that a late one changes nothing.

use cellway_api::agent::{FactHeard, FactUp};
use cellway_api::fleet::UndoMove;
use cellway_cluster_tests::*;

fn refused(heard: FactHeard, word: &str) {
    match heard {
        FactHeard::Refused { why } => assert!(why.contains(word), "{why}"),
        other => panic!("{other:?}"),
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cell_cannot_take_a_tenant_by_its_word() {
    let replica = Cluster::new().start().await;
    let mut agents = Vec::new();
    for (cell, instance) in [("cell-a", "a1"), ("cell-b", "b1"), ("cell-c", "c1")] {
        create_cell(&replica.client, cell).await;
        agents.push(Agent::start(&replica.client, cell, instance).await);
    }
    create_tenant(&replica.client, "acme", "cell-a").await;
    let planned = create_move(&replica.client, "acme", "cell-b").await;
    let pair = Pair { id: planned.id.clone(), epoch: planned.epoch, source: &agents[0], target: &agents[1] };
    pair.to_holding().await;
    let third = &agents[2];
    refused(
        third.say(FactUp::Fenced { move_id: pair.id.clone(), epoch: pair.epoch, cut_requests: 0 }).await,
        "cannot know",
    );
    pair.fence().await;
    let list = pair.data_ordered().await;
    refused(
        pair.target.say(FactUp::Fenced { move_id: pair.id.clone(), epoch: pair.epoch, cut_requests: 0 }).await,
        "cannot know",
    );
    pair.position(list).await;
    let reached = FactUp::Reached { move_id: pair.id.clone(), list, position: "p".into() };
    refused(third.say(reached.clone()).await, "cannot know");
    refused(pair.source.say(reached).await, "cannot know");
    assert_eq!(replica.client.tenant("acme").await.unwrap().cell, "cell-a");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_late_order_or_fact_changes_nothing() {
    let replica = Cluster::new().start().await;
    for cell in ["cell-a", "cell-b"] {
        create_cell(&replica.client, cell).await;
    }
    let source = Agent::start(&replica.client, "cell-a", "a1").await;
    let target = Agent::start(&replica.client, "cell-b", "b1").await;
    create_tenant(&replica.client, "acme", "cell-a").await;
    let first = create_move(&replica.client, "acme", "cell-b").await;
    let pair = Pair { id: first.id.clone(), epoch: first.epoch, source: &source, target: &target };
    pair.to_holding().await;
    pair.fence().await;
    replica.client.undo_move(&first.id, &UndoMove::default()).await.unwrap();
    target.state(FactUp::Dropped { move_id: first.id.clone(), home: first.id.clone() }).await;
    reaches(&replica.client, &first.id, "undone").await;

    let second = create_move(&replica.client, "acme", "cell-b").await;
    let pair = Pair { id: second.id.clone(), epoch: second.epoch, source: &source, target: &target };
    pair.to_holding().await;
    refused(
        source.say(FactUp::Fenced { move_id: first.id.clone(), epoch: first.epoch, cut_requests: 0 }).await,
        "ended",
    );
    refused(
        source.say(FactUp::Fenced { move_id: second.id.clone(), epoch: first.epoch, cut_requests: 0 }).await,
        "another epoch",
    );
    assert_eq!(replica.client.a_move(&second.id).await.unwrap().stage.as_deref(), Some("gates"));
}

#[tokio::test(flavor = "multi_thread")]
async fn an_instance_that_is_not_registered_is_not_heard() {
    let replica = Cluster::new().start().await;
    create_cell(&replica.client, "cell-a").await;
    let agent = Agent::start(&replica.client, "cell-a", "a1").await;
    replica.client.leave("cell-a", &agent.instance).await.unwrap();
    refused(agent.say(FactUp::Ready { move_id: "m1".into() }).await, "not registered");
    assert!(replica.client.stream("cell-a", &agent.instance, 0).await.is_err());
}
