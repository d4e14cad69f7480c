//! What a router refuses to be told, and what an operator's word changes.

use std::sync::Arc;

use cellway_core::ids::Revision;
use cellway_router::feed::lines;
use cellway_router::{FeedEvent, FeedSource, RouterConfig, Status};
use cellway_store::{EmbeddedStore, Store};
use tokio::sync::mpsc;

use crate::support::{Answer, Fed, Gate, ask, cell, config, get, metric, origin, placed, start_with, until};

/// A router whose feed tells what no feed should.
struct Guarded {
    fed: Fed,
    events: mpsc::Sender<FeedEvent>,
}

impl Guarded {
    fn start(config: RouterConfig) -> Self {
        let (events, told) = mpsc::channel(4);
        Self { fed: start_with(config, FeedSource::Events(told)), events }
    }

    async fn list(&self, cluster: &str, revision: u64, text: &str) {
        let contents = lines::parse(text).unwrap();
        let (revision, cluster) = (Revision(revision), Some(cluster.parse().unwrap()));
        self.events.send(FeedEvent::Snapshot { contents, unreadable: Vec::new(), revision, cluster }).await.unwrap();
    }

    async fn change(&self, revision: u64, text: &str) {
        let changes = lines::parse(text).unwrap();
        self.events.send(FeedEvent::Changes { changes, revision: Revision(revision) }).await.unwrap();
    }

    async fn reaches(&self, revision: u64) {
        until(|| metric(&self.fed.registry, "feed_revision") == revision as f64).await;
    }

    async fn refuses(&self, times: f64) {
        until(|| metric(&self.fed.registry, "feed_refused_total") == times).await;
    }

    async fn status(&self) -> Status {
        let answer = ask(self.fed.admin, "GET /status HTTP/1.1\r\nhost: a\r\n\r\n").await;
        serde_json::from_slice(&answer.body).unwrap()
    }

    async fn accept(&self, body: &str) -> Answer {
        let length = body.len();
        let head = "POST /routes/accept HTTP/1.1\r\nhost: a\r\ncontent-type: application/json\r\ncontent-length: ";
        ask(self.fed.admin, &format!("{head}{length}\r\n\r\n{body}")).await
    }

    /// What names the routes that are refused now.
    async fn word(&self) -> String {
        let refusal = self.status().await.refused.unwrap();
        serde_json::json!({"reasons": refusal.reasons, "told": refusal.told}).to_string()
    }
}

#[tokio::test]
async fn a_lower_revision_is_refused_and_what_is_known_is_served() {
    let (a, b) = (Gate::open().await, Gate::open().await);
    let cells = cell("a", &[&a]) + &cell("b", &[&b]);
    let router = Guarded::start(config());
    router.list("x", 50, &(cells.clone() + &placed("acme", "a", 5))).await;
    router.reaches(50).await;
    router.list("x", 40, &(cells.clone() + &placed("acme", "b", 9))).await;
    router.refuses(1.0).await;
    // What follows refused routes is refused with them.
    router.change(60, &placed("acme", "b", 9)).await;
    assert_eq!(ask(router.fed.address, &get("acme", "/")).await.status, 200);
    assert_eq!((a.admitted().len(), b.admitted().len()), (1, 0));
    let ready = ask(router.fed.admin, "GET /readyz HTTP/1.1\r\nhost: a\r\n\r\n").await;
    assert_eq!(ready.status, 200);
    assert!(ready.text().contains("revision 40 is below the table's 50"), "{}", ready.text());
    // The source comes right by itself.
    router.list("x", 61, &(cells + &placed("acme", "b", 9))).await;
    router.reaches(61).await;
    assert_eq!(router.status().await.refused, None);
    assert_eq!(metric(&router.fed.registry, "feed_refusing"), 0.0);
    assert_eq!(ask(router.fed.address, &get("acme", "/")).await.status, 200);
    assert_eq!(b.admitted().len(), 1);
}

#[tokio::test]
async fn a_change_below_the_tables_revision_is_refused() {
    let router = Guarded::start(config());
    router.list("x", 50, &placed("acme", "a", 5)).await;
    router.reaches(50).await;
    router.change(49, &placed("acme", "b", 9)).await;
    router.refuses(1.0).await;
    assert_eq!(router.status().await.revision, 50);
}

#[tokio::test]
async fn another_clusters_routes_are_refused_even_after_a_restart_until_an_operator_accepts_them_once() {
    let folder = tempfile::tempdir().unwrap();
    let mut config = config();
    config.snapshot_path = Some(folder.path().join("routes"));
    let first = Guarded::start(config.clone());
    first.list("x", 50, &placed("acme", "a", 5)).await;
    first.reaches(50).await;
    first.fed.shutdown.cancel();
    first.fed.task.await.unwrap();

    let router = Guarded::start(config);
    router.list("y", 70, &placed("acme", "b", 9)).await;
    router.refuses(1.0).await;
    assert_eq!(router.accept("{}").await.status, 400);
    let other = router.word().await.replace("70", "71");
    assert_eq!(router.accept(&other).await.status, 409, "only what is shown can be accepted");
    let word = router.word().await;
    assert_eq!(router.accept(&word).await.status, 202);
    router.list("y", 70, &placed("acme", "b", 9)).await;
    router.reaches(70).await;
    assert_eq!(router.status().await.cluster.as_deref(), Some("y"));
    router.list("z", 80, &placed("acme", "b", 9)).await;
    router.refuses(2.0).await;
    assert_eq!(router.accept(&word).await.status, 409, "a word is good for once");
    assert_eq!(router.status().await.cluster.as_deref(), Some("y"));
}

#[tokio::test]
async fn a_listing_that_drops_many_tenants_waits_for_an_operator() {
    let gate = Gate::open().await;
    let tenants = |count: usize| -> String { (0..count).map(|number| placed(&format!("t{number}"), "a", 5)).collect() };
    let cells = cell("a", &[&gate]);
    let router = Guarded::start(config());
    router.list("x", 50, &(cells.clone() + &tenants(100))).await;
    router.reaches(50).await;
    router.list("x", 51, &(cells.clone() + &tenants(90))).await;
    router.reaches(51).await;
    router.list("x", 52, &(cells.clone() + &tenants(70))).await;
    router.refuses(1.0).await;
    assert_eq!(ask(router.fed.address, &get("t80", "/")).await.status, 200);
    assert_eq!(router.accept(&router.word().await).await.status, 202);
    // Listed again it is worse: the word was not given for that.
    router.list("x", 53, &(cells.clone() + &tenants(60))).await;
    router.refuses(2.0).await;
    assert_eq!(ask(router.fed.address, &get("t80", "/")).await.status, 200);
    assert_eq!(router.accept(&router.word().await).await.status, 202);
    router.list("x", 54, &(cells + &tenants(60))).await;
    router.reaches(54).await;
    assert_eq!(ask(router.fed.address, &get("t80", "/")).await.status, 404);
}

#[tokio::test]
async fn a_page_in_a_browser_cannot_accept_routes() {
    let router = Guarded::start(config());
    let request = "POST /routes/accept HTTP/1.1\r\nhost: a\r\ncontent-type: text/plain\r\ncontent-length: 2\r\n\r\n{}";
    assert_eq!(ask(router.fed.admin, request).await.status, 415);
    assert_eq!(
        router.accept("{\"reasons\":[],\"told\":{\"cluster\":null,\"revision\":0,\"tenants\":0}}").await.status,
        409
    );
}

#[tokio::test]
async fn a_file_is_listed_again_on_an_operators_word() {
    let gate = Gate::open().await;
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("routes.jsonl");
    let cells = origin("a", gate.address);
    std::fs::write(&path, format!("{{\"cluster\":\"eu-1\"}}\n{cells}{}", placed("acme", "a", 1))).unwrap();
    let (events, _) = mpsc::channel(1);
    let router = Guarded { fed: start_with(config(), FeedSource::File(path.clone())), events };
    until(|| metric(&router.fed.registry, "feed_synced") == 1.0).await;
    std::fs::write(&path, format!("{{\"cluster\":\"us-1\"}}\n{cells}{}", placed("globex", "a", 1))).unwrap();
    router.refuses(1.0).await;
    assert_eq!(ask(router.fed.address, &get("globex", "/")).await.status, 404);
    assert_eq!(router.accept(&router.word().await).await.status, 202);
    until(|| metric(&router.fed.registry, "feed_synced") == 1.0).await;
    assert_eq!(ask(router.fed.address, &get("globex", "/")).await.status, 200);
    assert_eq!(router.status().await.cluster.as_deref(), Some("us-1"));
}

#[tokio::test]
async fn a_router_knows_the_store_that_its_routes_are_of() {
    let store = Arc::new(EmbeddedStore::in_memory().unwrap());
    let (events, _) = mpsc::channel(1);
    let feed = FeedSource::Store(Arc::clone(&store) as Arc<dyn Store>);
    let router = Guarded { fed: start_with(config(), feed), events };
    until(|| metric(&router.fed.registry, "feed_synced") == 1.0).await;
    assert_eq!(router.status().await.cluster, Some(store.cluster().await.unwrap().to_string()));
}
