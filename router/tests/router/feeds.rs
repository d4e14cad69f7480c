//! How a router learns, and what it serves when it cannot.

use std::sync::Arc;
use std::time::Duration;

use cellway_core::cell::{Cell, CellCondition, CellKind, CellRef};
use cellway_core::hostname::Hostname;
use cellway_core::ids::{CellName, CellUid, Epoch, HomeId, TenantId};
use cellway_core::tenant::{Placement, PlacementRecord};
use cellway_router::FeedSource;
use cellway_store::records::{HostClaim, Record};
use cellway_store::{EmbeddedStore, Store, Txn, keys};
use tokio::time::sleep;

use crate::support::{Fed, Gate, TestRouter, ask, cell, config, get, metric, origin, placed, start_with, until};

#[tokio::test]
async fn an_unknown_host_is_404_only_once_the_routes_are_known() {
    let router = TestRouter::start(config());
    let early = ask(router.address, &get("acme", "/")).await;
    assert_eq!((early.status, early.header("retry-after")), (503, Some("1")));
    assert_eq!(ask(router.admin, "GET /readyz HTTP/1.1\r\nhost: a\r\n\r\n").await.status, 503);
    assert_eq!(ask(router.admin, "GET /healthz HTTP/1.1\r\nhost: a\r\n\r\n").await.status, 200);
    router.list("").await;
    let late = ask(router.address, &get("acme", "/")).await;
    assert_eq!(late.status, 404);
    assert!(late.text().contains(late.header("x-request-id").unwrap()));
    assert_eq!(ask(router.admin, "GET /readyz HTTP/1.1\r\nhost: a\r\n\r\n").await.status, 200);
    let metrics = ask(router.admin, "GET /metrics HTTP/1.1\r\nhost: a\r\n\r\n").await.text();
    assert!(metrics.contains("cellway_router_requests_total{class=\"4xx\"} 1"), "{metrics}");
}

#[tokio::test]
async fn the_base_domain_and_reserved_labels_go_to_the_origin() {
    let site = Gate::open().await;
    let mut with = config();
    with.origin = Some(site.address);
    let router = TestRouter::start(with);
    for host in ["cells.localhost", "www.cells.localhost"] {
        assert_eq!(ask(router.address, &format!("GET /{host} HTTP/1.1\r\nhost: {host}\r\n\r\n")).await.status, 200);
    }
    assert!(!site.admitted()[0].headers.contains_key("x-cellway-tenant"));
    let without = TestRouter::knowing(config(), "").await;
    assert_eq!(ask(without.address, "GET / HTTP/1.1\r\nhost: cells.localhost\r\n\r\n").await.status, 404);
}

#[tokio::test]
async fn a_custom_domain_reaches_its_tenant() {
    let gate = Gate::open().await;
    let text = cell("a", &[&gate]) + &placed("acme", "a", 5) + "{\"host\":\"shop.example\",\"tenant\":\"acme\"}\n";
    let router = TestRouter::knowing(config(), &text).await;
    let shop = "GET / HTTP/1.1\r\nhost: Shop.Example\r\n\r\n";
    assert_eq!(ask(router.address, shop).await.status, 200);
    assert_eq!(gate.admitted()[0].headers["x-cellway-tenant"], "acme");
    router.list(&(cell("a", &[&gate]) + &placed("acme", "a", 5))).await;
    assert_eq!(ask(router.address, shop).await.status, 404);
}

#[tokio::test]
async fn a_claimed_label_reaches_its_tenant_but_a_tenants_own_name_goes_first() {
    let gate = Gate::open().await;
    let claims = "{\"host\":\"old.cells.localhost\",\"tenant\":\"acme\"}\n\
                  {\"host\":\"globex.cells.localhost\",\"tenant\":\"acme\"}\n";
    let text = cell("a", &[&gate]) + &placed("acme", "a", 5) + &placed("globex", "a", 5) + claims;
    let router = TestRouter::knowing(config(), &text).await;
    for (label, tenant) in [("old", "acme"), ("globex", "globex")] {
        assert_eq!(ask(router.address, &get(label, "/")).await.status, 200);
        assert_eq!(gate.admitted().last().unwrap().headers["x-cellway-tenant"], tenant);
    }
}

#[tokio::test]
async fn a_router_starts_from_its_snapshot_when_the_feed_is_away() {
    let gate = Gate::open().await;
    let folder = tempfile::tempdir().unwrap();
    let mut config = config();
    config.snapshot_path = Some(folder.path().join("routes"));
    let text = cell("a", &[&gate]) + &placed("acme", "a", 5);
    let first = TestRouter::knowing(config.clone(), &text).await;
    first.shutdown.cancel();
    first.task.await.unwrap();

    let second = TestRouter::start(config.clone());
    second.until("serving_from_snapshot", |from| from == 1.0).await;
    assert_eq!(ask(second.address, &get("acme", "/")).await.status, 200);
    assert_eq!(ask(second.address, &get("other", "/")).await.status, 404);
    let ready = ask(second.admin, "GET /readyz HTTP/1.1\r\nhost: a\r\n\r\n").await;
    assert!(ready.status == 200 && ready.text().contains("stale"), "{}", ready.text());
    // The feed catches up: what vanished meanwhile is gone.
    second.list(&cell("a", &[&gate])).await;
    assert_eq!(ask(second.address, &get("acme", "/")).await.status, 404);
    assert_eq!(second.metric("serving_from_snapshot"), 0.0);
    second.shutdown.cancel();
    second.task.await.unwrap();

    // A damaged snapshot is noticed, and the one before it used.
    let path = config.snapshot_path.clone().unwrap();
    let mut bytes = std::fs::read(&path).unwrap();
    *bytes.last_mut().unwrap() ^= 1;
    std::fs::write(&path, bytes).unwrap();
    let third = TestRouter::start(config);
    third.until("serving_from_snapshot", |from| from == 1.0).await;
    assert_eq!(ask(third.address, &get("acme", "/")).await.status, 200);
}

#[tokio::test]
async fn the_snapshot_is_written_while_the_router_runs() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("deep/routes");
    let mut config = config();
    config.snapshot_path = Some(path.clone());
    let router = TestRouter::knowing(config, &placed("acme", "a", 5)).await;
    until(|| path.exists()).await;
    router.change(&placed("acme", "a", 6)).await;
    until(|| std::fs::read_to_string(&path).is_ok_and(|text| text.contains("\"epoch\":6"))).await;
    assert!(folder.path().join("deep/routes.1").exists());
}

#[tokio::test]
async fn a_lost_feed_changes_nothing_for_those_who_are_served() {
    let gate = Gate::open().await;
    let router = TestRouter::knowing(config(), &(cell("a", &[&gate]) + &placed("acme", "a", 5))).await;
    router.lose_feed().await;
    for _ in 0..20 {
        assert_eq!(ask(router.address, &get("acme", "/")).await.status, 200);
    }
    assert_eq!(ask(router.admin, "GET /readyz HTTP/1.1\r\nhost: a\r\n\r\n").await.status, 200);
}

#[tokio::test]
async fn a_file_is_followed_and_a_bad_one_changes_nothing() {
    let (a, b) = (Gate::open().await, Gate::open().await);
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("routes.jsonl");
    let cells = origin("a", a.address) + &origin("b", b.address);
    std::fs::write(&path, cells.clone() + &placed("acme", "a", 1)).unwrap();
    let Fed { address, registry, .. } = start_with(config(), FeedSource::File(path.clone()));
    until(|| metric(&registry, "feed_synced") == 1.0).await;
    assert_eq!(ask(address, &get("acme", "/")).await.status, 200);

    std::fs::write(&path, cells.clone() + "{\"tenant\":\"acme\"").unwrap();
    until(|| metric(&registry, "feed_lost_total") == 1.0).await;
    assert_eq!(ask(address, &get("acme", "/")).await.status, 200);
    sleep(Duration::from_millis(500)).await;
    assert_eq!(metric(&registry, "feed_lost_total"), 1.0, "told once");

    std::fs::write(&path, cells.clone() + &placed("acme", "b", 2)).unwrap();
    until(|| metric(&registry, "feed_synced") == 1.0).await;
    assert_eq!(ask(address, &get("acme", "/")).await.status, 200);
    assert_eq!((a.admitted().len(), b.admitted().len()), (2, 1));

    std::fs::remove_file(&path).unwrap();
    until(|| metric(&registry, "feed_synced") == 0.0).await;
    assert_eq!(ask(address, &get("acme", "/")).await.status, 200);
    std::fs::write(&path, cells.clone() + &placed("acme", "b", 2)).unwrap();
    until(|| metric(&registry, "feed_synced") == 1.0).await;
    std::fs::write(&path, cells).unwrap();
    until(|| metric(&registry, "feed_revision") >= 5.0).await;
    assert_eq!(ask(address, &get("acme", "/")).await.status, 404);
}

fn tenant() -> TenantId {
    TenantId::new("acme").unwrap()
}

fn reference(name: &str) -> CellRef {
    CellRef { name: CellName::new(name).unwrap(), uid: CellUid::new(&format!("uid-{name}")).unwrap() }
}

fn cell_record(name: &str, gate: &Gate) -> Vec<u8> {
    let cell = Cell {
        cell: reference(name),
        condition: CellCondition::Open,
        kind: CellKind::Agent,
        version: "1".into(),
        labels: Default::default(),
        endpoints: vec!["not an address".into(), gate.address.to_string()],
        capacity_tenants: 0,
    };
    cell.encode()
}

fn placement(cell: &str, epoch: u64) -> Vec<u8> {
    let home = HomeId::new("home").unwrap();
    PlacementRecord::Placed(Placement { cell: reference(cell), epoch: Epoch(epoch), home, hold: None }).encode()
}

#[tokio::test]
async fn a_store_is_followed_and_a_poisoned_record_harms_nobody_else() {
    let (a, b) = (Gate::open().await, Gate::open().await);
    let store = Arc::new(EmbeddedStore::in_memory().unwrap());
    let host = Hostname::from_text("shop.example").unwrap();
    let txn = Txn::new()
        .put(keys::cell(&CellName::new("a").unwrap()), cell_record("a", &a))
        .put(keys::cell(&CellName::new("b").unwrap()), cell_record("b", &b))
        .put(keys::placement(&tenant()), placement("a", 5))
        .put(keys::host(&host), HostClaim { tenant: tenant() }.encode());
    store.commit(txn).await.unwrap();
    let feed: Arc<dyn Store> = Arc::clone(&store) as Arc<dyn Store>;
    let Fed { address, registry, .. } = start_with(config(), FeedSource::Store(feed));
    until(|| metric(&registry, "feed_synced") == 1.0).await;
    assert_eq!(ask(address, &get("acme", "/")).await.status, 200);
    assert_eq!(ask(address, "GET / HTTP/1.1\r\nhost: shop.example\r\n\r\n").await.status, 200);
    assert_eq!(a.admitted().len(), 2);

    for poison in [b"garbage".to_vec(), b"{\"format\":99}".to_vec(), Vec::new()] {
        let revision = store.commit(Txn::new().put(keys::placement(&tenant()), poison)).await.unwrap();
        until(|| metric(&registry, "feed_revision") >= revision.0 as f64).await;
        assert_eq!(ask(address, &get("acme", "/")).await.status, 200);
    }
    let revision = store.commit(Txn::new().put(keys::placement(&tenant()), placement("b", 6))).await.unwrap();
    until(|| metric(&registry, "feed_revision") >= revision.0 as f64).await;
    assert_eq!(ask(address, &get("acme", "/")).await.status, 200);
    assert_eq!(b.admitted()[0].headers["x-cellway-epoch"], "6");

    let gone = PlacementRecord::Gone { epoch: Epoch(7) }.encode();
    let txn = Txn::new().put(keys::placement(&tenant()), gone).delete(keys::host(&host));
    let revision = store.commit(txn).await.unwrap();
    until(|| metric(&registry, "feed_revision") >= revision.0 as f64).await;
    assert_eq!(ask(address, &get("acme", "/")).await.status, 404);
    assert_eq!(ask(address, "GET / HTTP/1.1\r\nhost: shop.example\r\n\r\n").await.status, 404);
}
