//! What those who run a router see of it: the access log, a new configuration.

use std::path::Path;
use std::time::Duration;

use cellway_core::hostname::Hostname;
use cellway_router::{AccessLogConfig, FeedEvent, FeedSource, LogTarget, Reload, ReloadError, Router, RouterConfig};
use prometheus::Registry;
use serde_json::Value;
use tokio::sync::{mpsc, oneshot};
use tokio::time::sleep;
use tokio_util::sync::CancellationToken;

use crate::support::{Client, Gate, TestRouter, ask, asking, cell, config, get, held, metric, placed, post, until};

fn logging(folder: &Path) -> RouterConfig {
    let mut config = config();
    config.access_log = Some(AccessLogConfig::new(LogTarget::File(folder.join("access.log"))));
    config
}

/// The first `count` lines, once they are there.
async fn lines(folder: &Path, count: usize) -> Vec<Value> {
    let read = || std::fs::read_to_string(folder.join("access.log")).unwrap_or_default();
    until(|| read().lines().count() >= count).await;
    read().lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

#[tokio::test]
async fn a_request_leaves_one_line_with_what_became_of_it() {
    let folder = tempfile::tempdir().unwrap();
    let gate = Gate::open().await;
    let router = TestRouter::knowing(logging(folder.path()), &(cell("a", &[&gate]) + &placed("acme", "a", 5))).await;
    let request = "POST /post?secret=1 HTTP/1.1\r\nhost: acme.cells.localhost\r\nx-request-id: one\r\n\
                   user-agent: a \"tester\"\r\nreferer: http://x/y?secret=1\r\ncontent-length: 3\r\n\r\nabc";
    assert_eq!(ask(router.address, request).await.status, 200);
    let line = &lines(folder.path(), 1).await[0];
    let said = [
        ("id", "one".into()),
        ("tenant", "acme".into()),
        ("cell", "a".into()),
        ("epoch", 5.into()),
        ("method", "POST".into()),
        ("host", "acme.cells.localhost".into()),
        ("path", "/post".into()),
        ("protocol", "HTTP/1.1".into()),
        ("status", 200.into()),
        ("attempts", 1.into()),
        ("held_ms", 0.0.into()),
        ("up_bytes", 3.into()),
        ("down_bytes", 2.into()),
        ("ended", "whole".into()),
        ("user_agent", "a \"tester\"".into()),
        ("referer", "http://x/y".into()),
        ("query", Value::Null),
        ("failure", Value::Null),
    ];
    for (key, value) in said {
        assert_eq!(line[key], value, "{key} of {line}");
    }
    assert!(line["client"].as_str().unwrap().starts_with("127.0.0.1:"), "{line}");
    let (head, total) = (line["head_ms"].as_f64().unwrap(), line["total_ms"].as_f64().unwrap());
    assert!(head > 0.0 && total >= head, "{line}");
}

#[tokio::test]
async fn a_held_request_says_how_long_and_how_often_it_was_tried() {
    let folder = tempfile::tempdir().unwrap();
    let gate = Gate::open().await;
    let cells = cell("a", &[&gate]);
    let router = TestRouter::knowing(logging(folder.path()), &(cells.clone() + &held("acme", "a", 5))).await;
    let waiting = asking(router.address, post("acme", "x"));
    router.until("held_now", |held| held == 1.0).await;
    // Sooner than it would be tried again by itself.
    sleep(Duration::from_millis(10)).await;
    router.change(&placed("acme", "a", 6)).await;
    assert_eq!(waiting.await.unwrap().status, 200);
    let line = &lines(folder.path(), 1).await[0];
    assert!(line["held_ms"].as_f64().unwrap() >= 10.0, "{line}");
    assert_eq!((&line["epoch"], &line["attempts"]), (&6.into(), &1.into()), "{line}");
}

#[tokio::test]
async fn what_the_router_answers_itself_has_a_name_and_who_leaves_is_told_of() {
    let folder = tempfile::tempdir().unwrap();
    let gate = Gate::saying("fenced").await;
    let router = TestRouter::knowing(logging(folder.path()), &(cell("a", &[&gate]) + &held("globex", "a", 5))).await;
    assert_eq!(ask(router.address, &get("nobody", "/")).await.status, 404);
    let line = &lines(folder.path(), 1).await[0];
    assert_eq!((&line["failure"], &line["attempts"]), (&"unknown_host".into(), &0.into()), "{line}");

    let mut client = Client::connect(router.address).await;
    client.send(&get("globex", "/")).await;
    router.until("held_now", |held| held == 1.0).await;
    client.tcp.set_zero_linger().unwrap();
    drop(client);
    let line = &lines(folder.path(), 2).await[1];
    assert_eq!((&line["status"], &line["ended"]), (&Value::Null, &"left".into()), "{line}");
    assert_eq!(line["tenant"], "globex");
}

#[tokio::test]
async fn of_a_sample_of_none_the_errors_are_left() {
    let folder = tempfile::tempdir().unwrap();
    let gate = Gate::open().await;
    let mut config = logging(folder.path());
    config.hold.per_tenant = 0;
    config.access_log.as_mut().unwrap().sample = 0.0;
    let text = cell("a", &[&gate]) + &placed("acme", "a", 5) + &held("globex", "a", 5);
    let router = TestRouter::knowing(config, &text).await;
    assert_eq!(ask(router.address, &get("acme", "/")).await.status, 200);
    assert_eq!(ask(router.address, &get("globex", "/")).await.status, 503);
    router.shutdown.cancel();
    router.task.await.unwrap();
    let lines = lines(folder.path(), 1).await;
    assert_eq!(lines.len(), 1, "{lines:?}");
    assert_eq!(lines[0]["failure"], "hold_overflow");
}

/// A router that takes configurations.
struct Reloadable {
    router: std::net::SocketAddr,
    registry: Registry,
    reloads: mpsc::Sender<Reload>,
    _feed: mpsc::Sender<FeedEvent>,
    shutdown: CancellationToken,
}

impl Reloadable {
    fn start(config: RouterConfig) -> Self {
        let bound = Router::bind(config).unwrap();
        let (feed, told) = mpsc::channel(1);
        let (reloads, taken) = mpsc::channel(1);
        let (router, registry, shutdown) = (bound.local_addr(), Registry::new(), CancellationToken::new());
        let run = bound.run_with(FeedSource::Events(told), registry.clone(), taken, shutdown.clone());
        tokio::spawn(async move { run.await.unwrap() });
        Self { router, registry, reloads, _feed: feed, shutdown }
    }

    async fn reload(&self, config: Result<RouterConfig, String>) -> Result<(), ReloadError> {
        let (answer, answered) = oneshot::channel();
        self.reloads.send(Reload { config, answer }).await.unwrap();
        answered.await.unwrap()
    }
}

#[tokio::test]
async fn a_new_configuration_is_taken_over_on_open_connections() {
    let site = Gate::open().await;
    let config = config();
    let running = Reloadable::start(config.clone());
    let mut client = Client::connect(running.router).await;
    let request = "GET / HTTP/1.1\r\nhost: cells.localhost\r\n\r\n";
    assert_eq!(client.ask(request).await.status, 404);
    let other = Hostname::from_text("other.localhost").unwrap();
    let wanted = RouterConfig { origin: Some(site.address), base_domains: vec![other], ..config.clone() };
    running.reload(Ok(wanted)).await.unwrap();
    assert_eq!(client.ask("GET / HTTP/1.1\r\nhost: other.localhost\r\n\r\n").await.status, 200);
    assert_eq!(metric(&running.registry, "config_last_reload_success"), 1.0);
    running.shutdown.cancel();
}

#[tokio::test]
async fn what_cannot_be_taken_over_is_refused_by_name_and_nothing_of_it_is_taken() {
    let site = Gate::open().await;
    let config = config();
    let running = Reloadable::start(config.clone());
    let wanted = RouterConfig { origin: Some(site.address), threads: 7, ..config.clone() };
    let refused = running.reload(Ok(wanted)).await.unwrap_err().to_string();
    assert!(refused.contains("`threads`") && refused.contains("2") && refused.contains("7"), "{refused}");
    let mut log = AccessLogConfig::new(LogTarget::File("/dev/null/log".into()));
    log.sample = 0.5;
    let wanted = RouterConfig { origin: Some(site.address), access_log: Some(log), ..config };
    let refused = running.reload(Ok(wanted)).await.unwrap_err().to_string();
    assert!(refused.contains("/dev/null/log"), "{refused}");
    let refused = running.reload(Err("line 3: no".into())).await.unwrap_err().to_string();
    assert_eq!(refused, "line 3: no");
    assert_eq!(ask(running.router, "GET / HTTP/1.1\r\nhost: cells.localhost\r\n\r\n").await.status, 404);
    assert_eq!(metric(&running.registry, "config_last_reload_success"), 0.0);
    assert_eq!(metric(&running.registry, "config_reload_total"), 3.0);
}

#[tokio::test]
async fn metrics_stay_below_5000_series_whatever_the_fleet() {
    const CELLS: usize = 700;
    const TENANTS: usize = 20_000;
    let gate = Gate::open().await;
    let mut text: String = (0..CELLS).map(|number| cell(&format!("c{number}"), &[&gate])).collect();
    for number in 0..TENANTS {
        text += &placed(&format!("t{number}"), &format!("c{}", number % CELLS), 5);
    }
    let router = TestRouter::knowing(config(), &text).await;
    let mut client = Client::connect(router.address).await;
    for number in 0..CELLS {
        assert_eq!(client.ask(&get(&format!("t{number}"), "/")).await.status, 200);
        assert_eq!(client.ask(&get(&format!("nobody{number}"), "/")).await.status, 404);
    }
    let metrics = ask(router.admin, "GET /metrics HTTP/1.1\r\nhost: a\r\n\r\n").await.text();
    let series = metrics.lines().filter(|line| !line.starts_with('#')).count();
    assert!((500..5_000).contains(&series), "{series}");
    let answers = metrics.lines().filter(|line| line.starts_with("cellway_router_cell_answers_total"));
    let values: Vec<f64> = answers.map(|line| line.rsplit(' ').next().unwrap().parse().unwrap()).collect();
    assert_eq!((values.len(), values.iter().sum::<f64>()), (501, CELLS as f64), "the others are counted together");
}
