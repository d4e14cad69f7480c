//! A cell with a capacity never holds more, however many ask for its places at the same moment.

use cellway_api::fleet::{CellKindView, CreateCell, CreateMove, CreateTenant};
use cellway_api::{ApiError, Client};
use cellway_cluster_tests::*;
use cellway_store::{HookedStore, Store};
use std::sync::Arc;
use tokio::task::JoinSet;

/// Places of the cell that everybody wants.
const CAPACITY: u32 = 7;

/// How many ask for one, half of them by a move and half as new tenants.
const ASKING: usize = 48;

/// Long enough for all others to decide by the same count.
const LATE_MS: u64 = 30;

async fn create_small_cell(replica: &Replica) {
    let small = CreateCell {
        name: "cell-b".into(),
        kind: CellKindView::Agent,
        version: None,
        labels: Default::default(),
        endpoints: Vec::new(),
        capacity_tenants: CAPACITY,
    };
    replica.client.create_cell(&small).await.unwrap();
}

async fn ask(client: Client, number: usize) -> Result<(), ApiError> {
    let to = "cell-b".to_owned();
    if number % 4 < 2 {
        let tenant = CreateTenant { id: format!("new-{number}"), cell: Some(to), ..CreateTenant::default() };
        return client.create_tenant(&tenant).await.map(drop);
    }
    let wanted = CreateMove { tenant: format!("old-{number}"), to, ..CreateMove::default() };
    client.create_move(&wanted).await.map(drop)
}

#[tokio::test(flavor = "multi_thread")]
async fn of_many_who_ask_at_once_a_cell_takes_as_many_as_it_has_places() {
    let cluster = Cluster::new();
    let late: Arc<dyn Store> =
        Arc::new(HookedStore { store: cluster.store.clone(), hook: LateCommits { late_ms: LATE_MS } });
    let behind = Cluster { store: late, config: cluster.config.clone() };
    let (one, other) = (cluster.start().await, behind.start().await);
    create_cell(&one.client, "cell-a").await;
    create_small_cell(&one).await;
    let _agents = [
        Agent::start(&one.client, "cell-a", "a1").await,
        Agent::start(&one.client, "cell-b", "b1").await,
        Agent::start(&other.client, "cell-b", "b2").await,
    ];
    for number in 0..ASKING {
        create_tenant(&one.client, &format!("old-{number}"), "cell-a").await;
    }
    let mut asking = JoinSet::new();
    for number in 0..ASKING {
        let replica = if number.is_multiple_of(2) { &one } else { &other };
        asking.spawn(ask(replica.client.clone(), number));
    }
    let refused: Vec<ApiError> = asking.join_all().await.into_iter().filter_map(Result::err).collect();
    assert_eq!(ASKING - refused.len(), CAPACITY as usize, "{refused:?}");
    for error in refused {
        let ApiError::Refused(problem) = error else { panic!("{error:?}") };
        assert_eq!(problem.status, 409, "{problem}");
        let said = problem.to_string();
        assert!(said.contains("cell-b is full: its capacity of 7") && said.contains("name another cell"), "{said}");
    }
    let counted = one.client.cells().await.unwrap().items.into_iter().find(|cell| cell.name == "cell-b").unwrap();
    assert_eq!(counted.tenants, CAPACITY);
}
