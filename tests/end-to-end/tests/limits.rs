//! The sad path, from the operator's command to the router's answer, through processes of their own and a real etcd.

use cellway_end_to_end::dev::cli;
use cellway_end_to_end::fleet::Fleet;
use cellway_end_to_end::writer::http;
use cellway_end_to_end::{eventually, within};
use reqwest::{Response, StatusCode};
use std::sync::atomic::{AtomicU64, Ordering};

/// A command takes effect within this time, from its start.
const EFFECT_MS: u64 = 1_000;

struct Stage {
    fleet: Fleet,
    client: reqwest::Client,
    written: AtomicU64,
}

impl Stage {
    fn cellway(&self, args: &[&str]) -> String {
        let output = cli(self.fleet.ports.base, args);
        assert!(output.status.success(), "{args:?}: {}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8_lossy(&output.stdout).into_owned()
    }

    async fn read(&self, tenant: &str) -> Response {
        let url = format!("http://{}/count", self.fleet.router_address());
        self.client.get(url).header("host", format!("{tenant}.cells.localhost")).send().await.expect("an answer")
    }

    async fn write(&self, tenant: &str) -> Response {
        let number = self.written.fetch_add(1, Ordering::Relaxed);
        let url = format!("http://{}/entries/e{number}", self.fleet.router_address());
        let post = self.client.post(url).header("host", format!("{tenant}.cells.localhost"));
        post.body("x").send().await.expect("an answer")
    }

    /// Runs a command, and waits until `probe` sees its effect.
    async fn takes_effect<T>(&self, args: &[&str], probe: impl AsyncFnMut() -> Option<T>) -> T {
        let begun = std::time::Instant::now();
        self.cellway(args);
        let spent_ms = u64::try_from(begun.elapsed().as_millis()).unwrap_or(u64::MAX);
        within(EFFECT_MS.saturating_sub(spent_ms), &format!("{args:?} takes effect"), probe).await
    }
}

fn has(status: StatusCode, answer: Response) -> Option<Response> {
    (answer.status() == status).then_some(answer)
}

#[tokio::test(flavor = "multi_thread")]
async fn limits_pauses_and_resumes_take_effect_within_a_second() {
    let fleet = Fleet::start(&["acme", "globex"]).await;
    let stage = Stage { fleet, client: http(), written: AtomicU64::new(0) };
    for tenant in ["acme", "globex"] {
        eventually("the tenant writes", async || has(StatusCode::CREATED, stage.write(tenant).await)).await;
    }

    let over = stage.takes_effect(&["tenant", "limit", "set", "acme", "--requests-per-second", "2"], async || {
        has(StatusCode::TOO_MANY_REQUESTS, stage.read("acme").await)
    });
    let over = over.await;
    assert_eq!(over.headers()["ratelimit-policy"], "\"tenant\";q=2;w=1");
    assert_eq!(over.headers()["retry-after"], "1");
    assert!(stage.cellway(&["tenant", "show", "acme"]).contains("2/s, burst 2"));
    stage
        .takes_effect(&["tenant", "limit", "clear", "acme"], async || {
            let answer = has(StatusCode::OK, stage.read("acme").await)?;
            (!answer.headers().contains_key("ratelimit")).then_some(())
        })
        .await;

    let pause = ["tenant", "pause", "acme", "--message", "Back at <noon>.", "--retry-after-s", "60"];
    let page =
        stage.takes_effect(&pause, async || has(StatusCode::SERVICE_UNAVAILABLE, stage.read("acme").await)).await;
    assert_eq!(page.headers()["retry-after"], "60");
    let page = page.text().await.expect("a page");
    assert!(page.contains("Back at &#60;noon&#62;."), "{page}");
    assert!(stage.cellway(&["tenant", "list"]).contains("paused"));

    stage.takes_effect(&["tenant", "read-only", "acme"], async || has(StatusCode::OK, stage.read("acme").await)).await;
    assert_eq!(stage.write("acme").await.status(), StatusCode::SERVICE_UNAVAILABLE);
    stage
        .takes_effect(&["tenant", "resume", "acme"], async || has(StatusCode::CREATED, stage.write("acme").await))
        .await;
    assert_eq!(stage.write("globex").await.status(), StatusCode::CREATED, "nothing of this was about globex");
    assert_eq!(stage.fleet.client.limits("acme").await.expect("limits").revision, 0, "no record is left");
}
