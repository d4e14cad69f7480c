//! What operators ask for: clear refusals, one owner per host, findings with a command, an audit.

use cellway_api::ApiError;
use cellway_api::agent::PlacementDown;
use cellway_api::fleet::*;
use cellway_cluster_tests::*;
use cellway_core::ids::Epoch;
use cellway_core::tenant::{Placement, PlacementRecord};
use cellway_store::records::Record;
use cellway_store::{Txn, keys};
use std::collections::BTreeSet;

fn problem<T: std::fmt::Debug>(outcome: Result<T, ApiError>) -> (u16, String) {
    match outcome {
        Err(ApiError::Refused(problem)) => (problem.status, problem.title),
        other => panic!("not refused: {other:?}"),
    }
}

fn tenant(id: &str, cell: Option<&str>) -> CreateTenant {
    let cell = cell.map(str::to_owned);
    CreateTenant { id: id.into(), cell, ..CreateTenant::default() }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_makes_no_sense_is_refused_with_its_reason() {
    let replica = Cluster::new().start().await;
    let client = &replica.client;
    assert_eq!(problem(client.create_tenant(&tenant("www", None)).await).0, 400);
    assert_eq!(problem(client.create_tenant(&tenant("Acme", None)).await).0, 400);
    let (status, why) = problem(client.create_tenant(&tenant("acme", None)).await);
    assert_eq!((status, why.as_str()), (409, "no open cell has room: add one, or raise a capacity"));
    create_cell(client, "cell-a").await;
    let (status, why) = problem(client.create_tenant(&tenant("acme", Some("cell-a"))).await);
    assert!(status == 409 && why.contains("no agent of cell cell-a has registered"), "{why}");
    let _agent = Agent::start(client, "cell-a", "a1").await;
    create_tenant(client, "acme", "cell-a").await;
    assert_eq!(problem(client.create_tenant(&tenant("acme", None)).await).0, 409);
    let to = |to: &str| CreateMove { tenant: "acme".into(), to: to.into(), ..CreateMove::default() };
    assert_eq!(problem(client.create_move(&to("cell-a")).await), (409, "tenant acme is in cell cell-a already".into()));
    assert_eq!(problem(client.create_move(&to("cell-z")).await).0, 404);
    assert_eq!(problem(client.a_move("nothing").await).0, 404);
}

#[tokio::test(flavor = "multi_thread")]
async fn tenants_of_a_plain_origin_are_routed_not_moved() {
    let replica = Cluster::new().start().await;
    let client = &replica.client;
    create_cell(client, "cell-a").await;
    let _agent = Agent::start(client, "cell-a", "a1").await;
    let mut origin = CreateCell {
        name: "legacy".into(),
        kind: CellKindView::Origin,
        version: None,
        labels: Default::default(),
        endpoints: vec![],
        capacity_tenants: 0,
    };
    assert_eq!(problem(client.create_cell(&origin).await).0, 400);
    origin.endpoints = vec!["127.0.0.1:9000".into()];
    client.create_cell(&origin).await.unwrap();
    create_tenant(client, "acme", "legacy").await;
    let wanted = CreateMove { tenant: "acme".into(), to: "cell-a".into(), ..CreateMove::default() };
    let (status, why) = problem(client.create_move(&wanted).await);
    assert!(status == 409 && why.contains("plain origin without an agent"), "{why}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_hostname_has_one_owner() {
    let replica = Cluster::new().start().await;
    create_cell(&replica.client, "cell-a").await;
    let _agent = Agent::start(&replica.client, "cell-a", "a1").await;
    for id in ["acme", "globex"] {
        create_tenant(&replica.client, id, "cell-a").await;
    }
    let claims = (0..20).map(|i| {
        let client = replica.client.clone();
        let claim = ClaimHost {
            host: if i % 3 == 0 { "SHOP.Example." } else { "shop.example" }.into(),
            tenant: if i % 2 == 0 { "acme" } else { "globex" }.into(),
        };
        tokio::spawn(async move { client.claim_host(&claim).await.is_ok() })
    });
    let mut won = 0;
    for claim in claims.collect::<Vec<_>>() {
        won += u32::from(claim.await.unwrap());
    }
    assert_eq!(won, 1);
    let found = replica.client.lookup_host("shop.example:8080").await.unwrap();
    assert!(found.tenant.is_some(), "{found:?}");
    let own_name = ClaimHost { host: "acme.cells.localhost".into(), tenant: "globex".into() };
    assert_eq!(problem(replica.client.claim_host(&own_name).await).0, 409);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_claimed_name_is_not_taken_by_a_new_tenant() {
    let replica = Cluster::new().start().await;
    create_cell(&replica.client, "cell-a").await;
    let _agent = Agent::start(&replica.client, "cell-a", "a1").await;
    create_tenant(&replica.client, "acme", "cell-a").await;
    let claim = |host: &str| ClaimHost { host: host.into(), tenant: "acme".into() };
    replica.client.claim_host(&claim("shop.cells.localhost")).await.unwrap();
    let (status, why) = problem(replica.client.create_tenant(&tenant("shop", Some("cell-a"))).await);
    assert!(status == 409 && why.contains("claimed by tenant acme"), "{why}");
    // At the same time: one of the two wins, never both.
    for round in 0..10 {
        let (id, host) = (format!("t{round}"), format!("t{round}.cells.localhost"));
        let (wanted, claimed) = (tenant(&id, Some("cell-a")), claim(&host));
        let (created, claimed) =
            tokio::join!(replica.client.create_tenant(&wanted), replica.client.claim_host(&claimed));
        assert!(created.is_ok() != claimed.is_ok(), "{created:?} {claimed:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_alert_becomes_a_finding_with_the_command_to_run() {
    let replica = Cluster::new().start().await;
    let mut agents = Vec::new();
    for (cell, instance) in [("cell-a", "a1"), ("cell-b", "b1")] {
        create_cell(&replica.client, cell).await;
        agents.push(Agent::start(&replica.client, cell, instance).await);
    }
    create_tenant(&replica.client, "acme", "cell-a").await;
    let alert = Alert {
        status: "firing".into(),
        labels: [("alertname", "NoisyNeighbour"), ("tenant", "acme")].map(|(k, v)| (k.into(), v.into())).into(),
        annotations: [("summary".into(), "acme uses 80 % of the processor".into())].into(),
        fingerprint: Some("f00".into()),
    };
    let resolved = Alert { status: "resolved".into(), ..alert.clone() };
    let body = AlertmanagerBody { alerts: vec![alert.clone(), alert, resolved] };
    for times in 1..=2 {
        let made = replica.client.alerts(&body).await.unwrap().items;
        assert_eq!(made.len(), 1);
        assert_eq!((made[0].tenant.as_deref(), made[0].cell.as_deref()), (Some("acme"), Some("cell-a")));
        assert_eq!(made[0].remedy, "cellway tenant move acme --to cell-b");
        assert_eq!(made[0].times, times);
    }
    assert_eq!(replica.client.findings().await.unwrap().items.len(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn every_action_is_audited() {
    let cluster = Cluster::new();
    let replica = cluster.start().await;
    create_cell(&replica.client, "cell-a").await;
    let _agent = Agent::start(&replica.client, "cell-a", "a1").await;
    create_tenant(&replica.client, "acme", "cell-a").await;
    let claim = ClaimHost { host: "shop.example".into(), tenant: "acme".into() };
    replica.client.claim_host(&claim).await.unwrap();
    replica.client.change_cell("cell-a", &ChangeCell { condition: "cordoned".into() }).await.unwrap();
    let page = cluster.store.range(keys::AUDIT, None, 100, None).await.unwrap();
    let text: Vec<String> =
        page.entries.iter().map(|entry| String::from_utf8_lossy(&entry.value).into_owned()).collect();
    for action in ["create cell", "register instance", "create tenant", "claim host", "cordoned"] {
        assert!(text.iter().any(|entry| entry.contains(action)), "{action} is not in {text:?}");
    }
}

async fn placement_of(cluster: &Cluster, id: &str) -> Placement {
    let tenant = id.parse().unwrap();
    let (entry, _) = cluster.store.get(&keys::placement(&tenant)).await.unwrap();
    match PlacementRecord::decode(&entry.unwrap().value).unwrap() {
        PlacementRecord::Placed(placement) => placement,
        gone => panic!("{gone:?}"),
    }
}

/// A tenant's id is free again once its records are deleted: what is made under it has a home of its own, and an epoch
/// above all that any gate, router or disk has seen of its past.
#[tokio::test(flavor = "multi_thread")]
async fn a_reused_name_meets_no_old_data() {
    let cluster = Cluster::new();
    let replica = cluster.start().await;
    let client = &replica.client;
    create_cell(client, "cell-a").await;
    let agent = Agent::start(client, "cell-a", "a1").await;
    let id = "acme".parse().unwrap();
    let (mut homes, mut highest) = (BTreeSet::new(), Epoch(0));
    for leaves_a_record in [true, false, true] {
        create_tenant(client, "acme", "cell-a").await;
        let placement = placement_of(&cluster, "acme").await;
        assert!(placement.epoch > highest, "{placement:?} is not above {highest:?}");
        assert!(homes.insert(placement.home.clone()), "{placement:?} is an old home");
        let told = async || match agent.placement("acme")? {
            PlacementDown::Placed { epoch, .. } => (epoch == placement.epoch.0).then_some(()),
            PlacementDown::Gone { .. } => None,
        };
        eventually("the agent is told of it", told).await;
        highest = placement.epoch.next();
        let deleted = Txn::new().delete(keys::tenant(&id));
        let deleted = match leaves_a_record {
            true => deleted.put(keys::placement(&id), PlacementRecord::Gone { epoch: highest }.encode()),
            false => deleted.delete(keys::placement(&id)),
        };
        cluster.store.commit(deleted).await.unwrap();
        eventually("the tenant is gone", async || client.tenant("acme").await.is_err().then_some(())).await;
    }
}
