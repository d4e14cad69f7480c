//! `cellway dev` as a stranger meets it.

use cellway_end_to_end::dev::{Dev, cli};
use cellway_end_to_end::process::{Process, Recipe};
use cellway_end_to_end::writer::{http, read_back};
use cellway_end_to_end::{binary, ports::Ports};
use rustix::process::Signal;
use std::time::Duration;

fn stdout(output: &std::process::Output) -> String {
    String::from_utf8_lossy(&output.stdout).into_owned()
}

fn stderr(output: &std::process::Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stranger_gets_a_page_moves_a_tenant_and_finds_everything_again() {
    let mut dev = Dev::start(&["--tenants", "4"]).await;
    let page = http().get(format!("http://{}/", dev.router())).header("host", "acme.cells.localhost");
    let page = page.send().await.unwrap().text().await.unwrap();
    for word in ["acme", "cell-a", "<form", "/ws", "/events"] {
        assert!(page.contains(word), "{word} is not on the page");
    }
    let post = http().post(format!("http://{}/entries/first", dev.router())).header("host", "acme.cells.localhost");
    assert_eq!(post.body("hello").send().await.unwrap().status(), 201);

    let moved = dev.cli(&["tenant", "move", "acme", "--to", "cell-b", "-o", "json"]);
    assert!(moved.status.success(), "{}", stderr(&moved));
    let shown: serde_json::Value = serde_json::from_str(&stdout(&moved)).expect("JSON on stdout");
    assert_eq!(shown["target"], "cell-b");
    let listed = dev.cli(&["tenant", "list", "-o", "json"]);
    assert!(stdout(&listed).contains("\"cell-b\""));
    let found = stdout(&dev.cli(&["lookup", "acme"]));
    assert!(found.contains("cell-b"), "{found}");
    let explained = stdout(&dev.cli(&["explain", "ACME.cells.localhost.:80"]));
    assert!(explained.contains("normalised") && explained.contains("cell-b"), "{explained}");

    assert!(dev.process.end(Signal::INT).success(), "Ctrl-C is a clean end");
    dev.process.restart();
    dev.ready().await;
    let rows = read_back(&dev.router(), "acme.cells.localhost").await;
    assert_eq!(rows.iter().map(|row| row.id.as_str()).collect::<Vec<_>>(), ["first"]);
    assert_eq!(dev.client.tenant("acme").await.unwrap().cell, "cell-b");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_cannot_be_started_is_one_clear_line_and_exit_code_2() {
    let dev = Dev::start(&["--cells", "1", "--tenants", "1"]).await;
    let state = dev.process.recipe.args[2].clone();
    let other = Ports::take();
    let foreign = tempfile::tempdir().unwrap();
    std::fs::write(foreign.path().join("thesis.txt"), "x").unwrap();
    let foreign = foreign.path().display().to_string();
    let (own_base, other_base) = (dev.ports.base.to_string(), other.base.to_string());
    let fresh = tempfile::tempdir().unwrap();
    let fresh = fresh.path().join("state").display().to_string();
    let nowhere = format!("http://127.0.0.1:{}", other.at(60));
    let cases: [(&[&str], &str); 5] = [
        (&["--dir", &state, "--port-base", &other_base], "another `cellway dev`"),
        (&["--dir", &foreign, "--port-base", &other_base], "not of `cellway dev`"),
        (&["--dir", &fresh, "--port-base", &own_base], "cannot listen on"),
        (&["--dir", "/dev/null/x", "--port-base", &other_base], "/dev/null/x"),
        (&["--dir", &fresh, "--port-base", &other_base, "--etcd", &nowhere], "etcd"),
    ];
    for (args, word) in cases {
        let log = tempfile::NamedTempFile::new().unwrap();
        let mut all = vec!["dev".to_owned()];
        all.extend(args.iter().map(|arg| (*arg).to_owned()));
        let (name, program, env) = ("dev".to_owned(), binary(), Vec::new());
        let mut process = Process::start(Recipe { name, program, args: all, env, log: log.path().to_owned() });
        let status = process.wait(Duration::from_secs(30));
        let said = process.log();
        assert_eq!(status.code(), Some(2), "{args:?}: {said}");
        assert!(said.starts_with("error: ") && said.contains(word), "{args:?}: {said}");
        assert!(said.trim_end().lines().count() <= 2, "{said}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_load_of_a_cell_is_shown_and_an_alert_becomes_a_finding() {
    let dev = Dev::start(&["--tenants", "3"]).await;
    let client = http();
    let url = format!("http://{}/count", dev.router());
    let load = cellway_end_to_end::eventually("a load report with requests in it", async || {
        for _ in 0..20 {
            client.get(&url).header("host", "acme.cells.localhost").send().await.ok()?;
        }
        let cells = dev.client.cells().await.ok()?.items;
        cells.iter().find(|cell| cell.name == "cell-a")?.load.filter(|load| load.requests_per_s > 0.0)
    });
    assert!(load.await.busy_percent >= 0.0);
    let table = stdout(&dev.cli(&["cell", "list"]));
    assert!(table.contains("cell-a") && table.to_lowercase().contains("busy"), "{table}");

    let body = r#"{"version":"4","status":"firing","alerts":[{"status":"firing","labels":{"alertname":"Noisy",
        "tenant":"acme"},"annotations":{"summary":"too loud"},"startsAt":"2026-01-01T00:00:00Z"}]}"#;
    let alerts = format!("http://127.0.0.1:{}/v1/alerts", dev.ports.at(2));
    let answer = client.post(alerts).header("content-type", "application/json").body(body).send().await.unwrap();
    assert_eq!(answer.status(), 201);
    let findings = stdout(&dev.cli(&["finding", "list"]));
    assert!(findings.contains("cellway tenant move acme --to"), "{findings}");
}

#[tokio::test(flavor = "multi_thread")]
async fn without_a_system_the_cli_says_how_to_start_one() {
    let ports = Ports::take();
    let output = cli(ports.base, &["tenant", "list"]);
    assert_eq!(output.status.code(), Some(1));
    assert!(stderr(&output).contains("cellway dev"), "{}", stderr(&output));
}
