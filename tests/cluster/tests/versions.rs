//! Versions are mixed while they are rolled out: what a newer one writes beside what this one knows outlives a whole move.

use cellway_api::agent::{FactUp, TaskDown};
use cellway_api::fleet::ChangeTenant;
use cellway_cluster_tests::*;
use cellway_store::{Store, Txn};
use serde_json::Value;

/// What the newer version wrote, at the top and inside.
const NEWER: &str = "of_a_newer_version";

async fn stored(store: &dyn Store, key: &str) -> Value {
    let (entry, _) = store.get(key).await.unwrap();
    serde_json::from_slice(&entry.unwrap_or_else(|| panic!("no {key}")).value).unwrap()
}

/// Adds the field as a newer version would have, to the record and to the objects in it that are named.
async fn enrich(store: &dyn Store, key: &str, within: &[&str]) {
    let mut record = stored(store, key).await;
    record[NEWER] = key.into();
    for name in within {
        record[*name][NEWER] = key.into();
    }
    let text = serde_json::to_vec(&record).unwrap();
    store.commit(Txn::new().require_present(key).put(key, text)).await.unwrap();
}

/// The keys below a prefix.
async fn keys_of(store: &dyn Store, prefix: &str) -> Vec<String> {
    let page = store.range(prefix, None, 10, None).await.unwrap();
    page.entries.into_iter().map(|entry| entry.key).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_newer_version_wrote_beside_outlives_a_move_by_this_one() {
    let cluster = Cluster::new();
    let (replica, source, target) = two_cells(&cluster, &["acme"]).await;
    let store = &*cluster.store;
    let placement = keys_of(store, "routes/placements/").await.pop().unwrap();
    let of_cells = ["routes/cells/cell-a", "gates/cell-a", "routes/cells/cell-b", "gates/cell-b"];
    for key in of_cells.into_iter().chain(["tenants/acme", &placement]) {
        enrich(store, key, if key == placement { &["cell"] } else { &[] }).await;
    }
    let planned = create_move(&replica.client, "acme", "cell-b").await;
    let pair = Pair { id: planned.id.clone(), epoch: planned.epoch, source: &source, target: &target };
    pair.to_syncing().await;
    let record = format!("moves/{}", planned.id);
    enrich(store, &record, &["limits", "state"]).await;
    assert_eq!(pair.may_freeze().await, cellway_api::agent::FactHeard::Recorded);
    pair.to_switched().await;
    target.state(FactUp::Opened { move_id: planned.id.clone(), epoch: planned.epoch + 1 }).await;
    let home = source.order("drop", |order| match &order.task {
        TaskDown::Drop { home } if order.move_id == planned.id => Some(home.clone()),
        _ => None,
    });
    let home = home.await;
    source.state(FactUp::Dropped { move_id: planned.id.clone(), home }).await;
    reaches(&replica.client, &planned.id, "done").await;
    let change = ChangeTenant { freeze_budget_ms: Some(333), ..ChangeTenant::default() };
    replica.client.change_tenant("acme", &change).await.unwrap();
    drop((source, target));
    let _agents = [
        Agent::start_again(&replica.client, "cell-a", "a1", 2).await,
        Agent::start_again(&replica.client, "cell-b", "b1", 2).await,
    ];
    for key in of_cells.into_iter().chain(["tenants/acme", &placement, &record]) {
        assert_eq!(stored(store, key).await[NEWER], key, "it was written again and kept that");
    }
    let cell = stored(store, &placement).await["cell"].clone();
    assert!(
        cell["name"] == "cell-b" && cell[NEWER].is_null(),
        "what was said of another cell is not of this one: {cell}"
    );
    assert_eq!(stored(store, "tenants/acme").await["freeze_budget_ms"], 333);
    let record = stored(store, &record).await;
    assert!(record["limits"][NEWER].is_string() && record["state"]["is"] == "done");
    assert!(record["state"][NEWER].is_null(), "what belonged to another state is not of this one: {record}");
}
