//! A plain HTTP origin as a cell: routed on the first day, not movable.

use cellway_api::fleet::{CellKindView, CreateCell, CreateTenant};
use cellway_end_to_end::dev::Dev;
use cellway_end_to_end::eventually;
use cellway_end_to_end::writer::http;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

#[tokio::test(flavor = "multi_thread")]
async fn a_plain_origin_is_routed_and_the_cli_says_why_it_is_not_moved() {
    let dev = Dev::start(&["--cells", "1", "--tenants", "0"]).await;
    let origin = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = origin.local_addr().unwrap().to_string();
    let serving = tokio::spawn(async move {
        loop {
            let (mut stream, _) = origin.accept().await.unwrap();
            let mut head = vec![0; 8_192];
            let length = stream.read(&mut head).await.unwrap();
            let head = String::from_utf8_lossy(&head[..length]).to_lowercase();
            let body = format!(
                "tenant header: {}, expect: {}",
                head.contains("x-cellway-tenant: old"),
                head.contains("expect:")
            );
            let answer =
                format!("HTTP/1.1 200 OK\r\ncontent-length: {}\r\nconnection: close\r\n\r\n{body}", body.len());
            stream.write_all(answer.as_bytes()).await.unwrap();
        }
    });
    let cell = CreateCell {
        name: "legacy".into(),
        kind: CellKindView::Origin,
        version: None,
        labels: Default::default(),
        endpoints: vec![address],
        capacity_tenants: 0,
    };
    dev.client.create_cell(&cell).await.unwrap();
    let cell = Some("legacy".to_owned());
    let tenant = CreateTenant { id: "old".into(), cell, ..CreateTenant::default() };
    dev.client.create_tenant(&tenant).await.unwrap();
    let url = format!("http://{}/", dev.router());
    let body = eventually("the origin answers", async || {
        let answer = http().post(&url).header("host", "old.cells.localhost").body("x").send().await.ok()?;
        if answer.status().is_success() { answer.text().await.ok() } else { None }
    });
    assert_eq!(body.await, "tenant header: true, expect: false");
    let refused = dev.cli(&["tenant", "move", "old", "--to", "cell-a"]);
    assert_eq!(refused.status.code(), Some(1));
    let said = String::from_utf8_lossy(&refused.stderr).into_owned();
    assert!(said.contains("plain origin without an agent"), "{said}");
    serving.abort();
}
