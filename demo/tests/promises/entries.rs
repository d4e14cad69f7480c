//! Entries are stored whole, once, and hashed as sent.

use sha2::{Digest, Sha256};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use crate::stage::{Operator, Stage, add, eventually, exchange};

fn sha256(bytes: &[u8]) -> String {
    let digest = Sha256::digest(bytes);
    digest.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn chunked(body: &[u8], chunk_bytes: usize) -> Vec<u8> {
    let mut coded = Vec::new();
    for chunk in body.chunks(chunk_bytes) {
        coded.extend_from_slice(format!("{:x}\r\n", chunk.len()).as_bytes());
        coded.extend_from_slice(chunk);
        coded.extend_from_slice(b"\r\n");
    }
    coded
}

async fn add_chunked(stage: &Stage, id: &str, coded: &[u8]) -> crate::stage::Answer {
    let head = format!("POST /entries/{id} HTTP/1.1\r\nx-cellway-tenant: acme\r\ntransfer-encoding: chunked\r\n");
    exchange(stage.address, &head, coded).await
}

#[tokio::test]
async fn known_length_and_chunked_bodies_are_hashed_as_sent() {
    let operator = Operator::new();
    operator.give_home("acme", "one");
    let stage = Stage::start(&operator);
    let body: Vec<u8> = (0..300_000_u32).map(|number| number as u8).collect();

    let known = stage.add("acme", "known", &body).await;
    assert_eq!(known.status, 201);
    let known = known.json();
    assert_eq!(known["id"], "known");
    assert_eq!(known["seq"], 1);
    assert_eq!(known["length"], 300_000);
    assert_eq!(known["sha256"], sha256(&body));
    assert_eq!(known["cell"], "cell-<1>");
    assert_eq!(known["epoch"], 7);

    let coded = [chunked(&body, 999), b"0\r\n\r\n".to_vec()].concat();
    let other = add_chunked(&stage, "chunked", &coded).await;
    assert_eq!(other.status, 201);
    assert_eq!(other.json()["sha256"], sha256(&body));
    assert_eq!(other.json()["length"], 300_000);
    assert!(other.json()["epoch"].is_null());

    let empty = stage.add("acme", "empty", b"").await.json();
    assert_eq!(empty["sha256"], sha256(b""));
    stage.stop().await;
}

#[tokio::test]
async fn a_body_that_ends_early_writes_nothing() {
    let operator = Operator::new();
    operator.give_home("acme", "one");
    let stage = Stage::start(&operator);
    let known = "content-length: 100\r\n\r\nonly this".to_owned();
    let coded = chunked(b"only this", 4);
    let coded = format!("transfer-encoding: chunked\r\n\r\n{}", String::from_utf8(coded).unwrap());
    for rest in [known, coded] {
        let mut connection = TcpStream::connect(stage.address).await.unwrap();
        let sent = format!("POST /entries/half HTTP/1.1\r\nhost: a\r\nx-cellway-tenant: acme\r\n{rest}");
        connection.write_all(sent.as_bytes()).await.unwrap();
        eventually("the request runs", async || running(&stage).await == 1).await;
        drop(connection);
        eventually("the request ended", async || running(&stage).await == 0).await;
        assert_eq!(stage.get("acme", "/count").await.json()["count"], 0);
    }
    stage.stop().await;
}

async fn running(stage: &Stage) -> u64 {
    let answer = stage.get("acme", "/idle").await.json();
    answer["running"].as_u64().unwrap()
}

#[tokio::test]
async fn a_duplicate_id_answers_the_first_entry_and_keeps_one_row() {
    let operator = Operator::new();
    operator.give_home("acme", "one");
    let stage = Stage::start(&operator);
    let first = stage.add("acme", "same", b"first").await;
    assert_eq!(first.status, 201);
    let second = stage.add("acme", "same", b"second").await;
    assert_eq!(second.status, 409);
    assert_eq!(second.json(), first.json());
    assert_eq!(stage.get("acme", "/count").await.json()["count"], 1);
    stage.stop().await;
}

#[tokio::test]
async fn of_many_requests_with_one_id_exactly_one_is_stored() {
    let operator = Operator::new();
    operator.give_home("acme", "one");
    let stage = Stage::start(&operator);
    let address = stage.address;
    let tries = (0..12).map(|number| {
        let body = number.to_string();
        tokio::spawn(async move { add(address, "acme", "race", body.as_bytes()).await.status })
    });
    let mut stored = 0;
    for answer in tries.collect::<Vec<_>>() {
        match answer.await.unwrap() {
            201 => stored += 1,
            status => assert_eq!(status, 409),
        }
    }
    assert_eq!(stored, 1);
    assert_eq!(stage.get("acme", "/count").await.json()["count"], 1);
    stage.stop().await;
}

#[tokio::test]
async fn a_body_over_the_limit_is_refused() {
    const LIMIT_BYTES: usize = 16 * 1024 * 1024;
    let operator = Operator::new();
    operator.give_home("acme", "one");
    let stage = Stage::start(&operator);
    let body = vec![b'x'; LIMIT_BYTES + 1];
    assert_eq!(stage.add("acme", "largest", &body[1..]).await.status, 201);

    let head = "POST /entries/declared HTTP/1.1\r\nx-cellway-tenant: acme\r\n\
                content-length: 16777217\r\n";
    assert_eq!(exchange(stage.address, head, b"").await.status, 413);

    let mut connection = TcpStream::connect(stage.address).await.unwrap();
    let head = "POST /entries/chunked HTTP/1.1\r\nhost: a\r\nx-cellway-tenant: acme\r\n\
                transfer-encoding: chunked\r\n\r\n";
    connection.write_all(head.as_bytes()).await.unwrap();
    connection.write_all(&chunked(&body, 1 << 20)).await.unwrap();
    let mut status = [0; 12];
    connection.read_exact(&mut status).await.unwrap();
    assert_eq!(&status, b"HTTP/1.1 413");
    assert_eq!(stage.get("acme", "/count").await.json()["count"], 1);
    stage.stop().await;
}

#[tokio::test]
async fn entries_are_listed_in_order_page_by_page() {
    let operator = Operator::new();
    operator.give_home("acme", "one");
    let stage = Stage::start(&operator);
    for number in 0..5 {
        let added = stage.add("acme", &format!("e{number}"), b"x").await;
        assert_eq!(added.status, 201);
    }
    let (mut ids, mut after) = (Vec::new(), Some(0));
    while let Some(seq) = after {
        let path = format!("/entries?after={seq}&limit=2");
        let page = stage.get("acme", &path).await.json();
        for entry in page["entries"].as_array().unwrap() {
            ids.push(entry["id"].as_str().unwrap().to_owned());
        }
        after = page["next"].as_i64();
    }
    assert_eq!(ids, ["e0", "e1", "e2", "e3", "e4"]);

    let one = stage.get("acme", "/entries/e3").await;
    assert_eq!((one.status, &one.json()["seq"]), (200, &4.into()));
    assert_eq!(stage.get("acme", "/entries/none").await.status, 404);
    stage.stop().await;
}

#[tokio::test]
async fn an_id_that_is_not_plain_is_refused() {
    let operator = Operator::new();
    operator.give_home("acme", "one");
    let stage = Stage::start(&operator);
    for id in ["a%2fb", "a%20b", "%C3%A9", &"x".repeat(65)] {
        assert_eq!(stage.add("acme", id, b"1").await.status, 400, "{id}");
    }
    let longest = "x".repeat(64);
    assert_eq!(stage.add("acme", &longest, b"1").await.status, 201);
    stage.stop().await;
}
