//! Clients that vanish without a word, in each phase of a connection: as half-open sockets look to a router.

use super::super::cells::{Cell, Manner};
use super::super::crowd::{Crowd, connect};
use super::super::ground::{Ground, LIMIT_MS, Needs, Scale, Shown, hostile_host};
use super::super::memory::open_files;
use super::super::report::{Bound, Row};
use cellway_battery::frames::{PREFACE, block, headers, settings};
use std::time::{Duration, Instant};

/// Clients in each phase.
const EACH: usize = 200;
/// An answer larger than all buffers on its way.
const ANSWER_BYTES: usize = 64 * 1024 * 1024;
/// Beyond the router's time limits: all of them must have been noticed then.
const NOTICED_MS: u64 = 9_000;
/// How long a router keeps an idle connection to a cell.
const POOL_IDLE_MS: u64 = 15_000;
/// What a router may keep open beyond what it had: pooled connections.
const FILES_KEPT: usize = 50;

/// What each says before it falls silent.
fn words() -> Vec<(&'static str, Vec<u8>)> {
    let host = hostile_host(0);
    let get = format!("GET /large HTTP/1.1\r\nhost: {host}\r\n\r\n").into_bytes();
    let half_head = format!("GET / HTTP/1.1\r\nhost: {host}\r\nx-").into_bytes();
    let half_body = format!("POST / HTTP/1.1\r\nhost: {host}\r\ncontent-length: 200000\r\n\r\nhalf").into_bytes();
    let fields = [(":method", "GET"), (":scheme", "http"), (":authority", &host), (":path", "/large")];
    let stream = headers(1, true, &block(&fields));
    vec![
        ("before the first byte", Vec::new()),
        ("within a head", half_head),
        ("within a body", half_body),
        ("within an answer", get),
        ("within HTTP/2's preface", PREFACE[..10].to_vec()),
        ("between requests of HTTP/2", [PREFACE, &settings(&[(1, 0)])].concat()),
        ("within an answer of HTTP/2", [PREFACE, &settings(&[(1, 0)]), &stream].concat()),
    ]
}

/// All of them.
pub async fn silent(scale: Scale) -> Row {
    let cell = Cell::start(Manner::Large(ANSWER_BYTES)).await;
    let limit = LIMIT_MS;
    let config = format!("connections: {{head_ms: {limit}, opening_ms: {limit}, idle_ms: {limit}}}\n");
    let needs = Needs { hostile: vec![cell.address], config, ..Needs::default() };
    Ground::prepare(scale, needs)
        .await
        .under("silent clients", async |ground| {
            let files_before = open_files(ground.router.process.id());
            let mut crowds = Vec::new();
            for (phase, words) in words() {
                let crowd = Crowd::gather(ground.address(), scale.of(EACH)).await;
                crowd.say(&words);
                crowds.push((phase, crowd));
            }
            // Nothing is read meanwhile: these clients are gone.
            tokio::time::sleep(Duration::from_millis(NOTICED_MS)).await;
            let count: usize = crowds.iter().map(|(_, crowd)| crowd.members.len()).sum();
            let done =
                format!("{count} clients fell silent for good, in {} phases; limits {LIMIT_MS} ms", crowds.len());
            let mut bounds = Vec::new();
            for (phase, crowd) in &crowds {
                let closed = crowd.closed_within(Duration::from_secs(1)).await;
                let what = format!("silent {phase}: {closed} of {} noticed", crowd.members.len());
                bounds.push(Bound::new(what, closed == crowd.members.len()));
            }
            // Connections to cells that the burst has opened are kept for as long as idle ones are.
            let (begun, patience) = (Instant::now(), Duration::from_millis(POOL_IDLE_MS + LIMIT_MS));
            let files = loop {
                let files = open_files(ground.router.process.id());
                if files <= files_before + FILES_KEPT || begun.elapsed() > patience {
                    break files;
                }
                tokio::time::sleep(Duration::from_millis(250)).await;
            };
            let after_s = begun.elapsed().as_secs();
            let what = format!("open files: {files_before} before, {files} {after_s} s after all were noticed");
            bounds.push(Bound::new(what, files <= files_before + FILES_KEPT));
            // And it serves newcomers.
            bounds.push(Bound::new("a newcomer connects", connect(ground.address(), 99).await.is_ok()));
            (Shown { done, connections: Some(count), bounds, ..Shown::default() }, (crowds, cell))
        })
        .await
}
