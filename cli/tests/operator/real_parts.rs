//! `cellway soak` against the real router and the real demo app: they understand each other.

use crate::system::{Fault, System};
use cellway_core::hostname::Hostname;
use cellway_demo::DemoConfig;
use cellway_router::{FeedSource, Router, RouterConfig};
use std::fs;
use std::net::SocketAddr;
use std::path::Path;
use tokio_util::sync::CancellationToken;

const PLACED: [(&str, &str); 4] = [("t1", "cell-a"), ("t2", "cell-b"), ("t3", "cell-a"), ("t4", "cell-b")];

/// A demo app for `cell` with the files of its tenants.
fn start_app(cell: &str, directory: &Path, shutdown: &CancellationToken) -> SocketAddr {
    let data_dir = directory.join(cell);
    fs::create_dir(&data_dir).unwrap();
    for (tenant, _) in PLACED.iter().filter(|(_, placed)| *placed == cell) {
        fs::write(data_dir.join(format!("{tenant}.db")), "").unwrap();
    }
    let (listen, address) = cellway_demo::bind("127.0.0.1:0".parse().unwrap()).unwrap();
    let config = DemoConfig { name: cell.into(), version: "v1".into(), data_dir, listen, max_request_ms: 10_000 };
    tokio::spawn(cellway_demo::run(config, shutdown.clone()));
    address
}

fn start_router(directory: &Path, shutdown: &CancellationToken) -> SocketAddr {
    let mut lines = String::new();
    for cell in ["cell-a", "cell-b"] {
        let app = start_app(cell, directory, shutdown);
        lines += &format!("{{\"cell\":\"{cell}\",\"endpoints\":[\"{app}\"],\"kind\":\"origin\"}}\n");
    }
    for (tenant, cell) in PLACED {
        lines += &format!("{{\"tenant\":\"{tenant}\",\"cell\":\"{cell}\",\"epoch\":7}}\n");
    }
    let routes = directory.join("routes.jsonl");
    fs::write(&routes, lines).unwrap();
    let router = Router::bind(RouterConfig::new(vec![Hostname::from_text("cells.localhost").unwrap()])).unwrap();
    let address = router.local_addr();
    tokio::spawn(router.run(FeedSource::File(routes), prometheus::Registry::new(), shutdown.clone()));
    address
}

#[tokio::test(flavor = "multi_thread")]
async fn the_real_router_and_the_real_app_pass_without_moves() {
    let directory = tempfile::tempdir().unwrap();
    let shutdown = CancellationToken::new();
    let _stop = shutdown.clone().drop_guard();
    let router = start_router(directory.path(), &shutdown);
    let system = System::start(Fault::Nothing).await;
    let line = format!("soak --router {router} --moves 0 --duration 4s --rps 100 --seed 3");
    let (code, report) = system.cellway_json(&line).await;
    assert_eq!((code, report["broken_promises"].to_string()), (0, "[]".to_owned()), "{report:#}");
    assert!(report["writes"]["acknowledged"].as_u64() > Some(50), "{report:#}");
    assert!(report["slow_uploads"]["acknowledged"].as_u64() >= Some(2), "{report:#}");
    let streams = &report["streams"];
    assert_eq!((&streams["websocket_opened"], &streams["websocket_cut"]), (&4.into(), &0.into()), "{streams}");
    assert_eq!((&streams["sse_opened"], &streams["sse_cut"]), (&4.into(), &0.into()), "{streams}");
    assert!(streams["sse_events"].as_u64() > Some(0), "{streams}");
}
