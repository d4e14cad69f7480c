//! A long upload while its tenant moves: cut or undone for, as the tenant has it.

use cellway_api::fleet::{CreateMove, MoveView};
use cellway_end_to_end::dev::Dev;
use cellway_end_to_end::eventually;
use cellway_end_to_end::writer::http;
use std::process::Output;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

/// An upload that the app has begun to read, and that does not end.
async fn upload(dev: &Dev) -> TcpStream {
    let mut stream = TcpStream::connect(dev.router()).await.unwrap();
    let head = "POST /entries/long HTTP/1.1\r\nhost: acme.cells.localhost\r\ncontent-length: 1000000\r\n\r\n";
    stream.write_all(head.as_bytes()).await.unwrap();
    stream.write_all(&[b'x'; 100_000]).await.unwrap();
    eventually("it is admitted", async || running(dev).await.filter(|running| *running == 1)).await;
    stream
}

/// How many requests run at the gate of its cell, as a plan has it.
async fn running(dev: &Dev) -> Option<u32> {
    let wanted = CreateMove { tenant: "acme".into(), to: "cell-b".into(), ..CreateMove::default() };
    Some(dev.client.plan_move(&wanted).await.ok()?.now?.running_requests)
}

fn said(output: &Output) -> String {
    format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr))
}

async fn last_move(dev: &Dev) -> MoveView {
    dev.client.moves().await.unwrap().items.pop().expect("a move")
}

#[tokio::test(flavor = "multi_thread")]
async fn an_upload_that_would_outlast_every_freeze_is_cut_where_the_tenant_has_it_so() {
    let dev = Dev::start(&["--tenants", "1"]).await;
    let mut client = upload(&dev).await;
    let change = ["tenant", "change", "acme", "--long-requests", "undo", "--long-requests-wait-ms", "0"];
    assert!(dev.cli(&change).status.success());
    let undone = dev.cli(&["tenant", "move", "acme", "--to", "cell-b"]);
    assert!(!undone.status.success());
    assert!(said(&undone).contains("1 requests were still running"), "{}", said(&undone));

    let change = ["tenant", "change", "acme", "--long-requests", "cut"];
    assert!(said(&dev.cli(&change)).contains("cut after waiting 0 s"));
    let moved = dev.cli(&["tenant", "move", "acme", "--to", "cell-b"]);
    assert!(moved.status.success(), "{}", said(&moved));
    assert_eq!(last_move(&dev).await.cut_requests, 1);
    let mut answer = Vec::new();
    let _ = client.read_to_end(&mut answer).await;
    let answer = String::from_utf8_lossy(&answer);
    assert!(answer.is_empty() || answer.starts_with("HTTP/1.1 50"), "{answer}");

    let get = |path: &str| http().get(format!("http://{}{path}", dev.router())).header("host", "acme.cells.localhost");
    assert_eq!(get("/entries/long").send().await.unwrap().status(), 404, "half an upload is none");
    assert!(get("/").send().await.unwrap().status().is_success(), "and the target serves");
}
