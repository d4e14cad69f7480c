//! What is cut when a tenant has to move: uploads and downloads of that tenant, and nothing counts as over before the app
//! has ended it.

use crate::app::Hand;
use crate::stage::{Stage, Wire, order, status};
use cellway_api::agent::{FactUp, TaskDown};
use std::time::Duration;
use tokio::io::AsyncWriteExt;

const LONG: &[u8] = b"HTTP/1.1 200 OK\r\ncontent-length: 10000000\r\n\r\nhalf";

fn fence(epoch: u64, cut: bool) -> TaskDown {
    TaskDown::Fence { epoch, cut }
}

fn is_fenced(fact: &FactUp) -> bool {
    matches!(fact, FactUp::Fenced { .. })
}

fn has_cut(count: u32) -> impl Fn(&FactUp) -> bool {
    move |fact| matches!(fact, FactUp::Fenced { cut_requests, .. } if *cut_requests == count)
}

async fn a_little() {
    tokio::time::sleep(Duration::from_millis(200)).await;
}

async fn download(stage: &Stage) -> (Wire, Hand) {
    let mut wire = stage.ask("GET /hand", 5, "\r\n").await;
    let mut hand = stage.app.hand().await;
    hand.stream.write_all(LONG).await.unwrap();
    assert_eq!(status(&wire.head().await), 200);
    assert_eq!(wire.body(4).await, "half");
    (wire, hand)
}

#[tokio::test]
async fn an_upload_is_cut_when_the_fence_says_so_and_runs_until_the_app_has_ended_it() {
    let stage = Stage::with_acme_open().await;
    let mut wire = stage.ask("POST /hand", 5, "content-length: 100\r\n\r\nhalf").await;
    let mut hand = stage.app.hand().await;
    assert_eq!(hand.read(4).await, b"half");
    stage.plane.order(vec![order(fence(5, false))]);
    stage.plane.fact(|fact| matches!(fact, FactUp::Watched { running_requests: 1, .. })).await;
    stage.plane.order(vec![order(fence(5, true))]);
    assert_eq!(status(&wire.head().await), 503, "the client is told");
    assert_eq!(hand.read(4).await, b"", "and the app sees the end of the upload");
    a_little().await;
    assert!(!stage.plane.has_heard(is_fenced), "the app may still be at it");
    drop(hand);
    stage.plane.fact(has_cut(1)).await;
}

#[tokio::test]
async fn a_download_is_cut_and_its_client_never_takes_it_for_a_whole_one() {
    let stage = Stage::with_acme_open().await;
    let (mut wire, mut hand) = download(&stage).await;
    stage.plane.order(vec![order(fence(5, true))]);
    assert_eq!(wire.rest().await, "", "the connection ends, far from the length that was announced");
    assert_eq!(hand.read(1).await, b"", "the app is told that nobody listens");
    a_little().await;
    assert!(!stage.plane.has_heard(is_fenced), "the app may still be at it");
    drop(hand);
    stage.plane.fact(has_cut(1)).await;
}

#[tokio::test]
async fn a_download_is_cut_although_its_client_reads_nothing() {
    let stage = Stage::with_acme_open().await;
    let (_wire, mut hand) = download(&stage).await;
    let block = vec![b'x'; 64 * 1024];
    let full = async {
        loop {
            hand.stream.write_all(&block).await.unwrap();
        }
    };
    // Everything on the way is full by then.
    let _ = tokio::time::timeout(Duration::from_secs(1), full).await;
    stage.plane.order(vec![order(fence(5, true))]);
    let told = tokio::time::timeout(Duration::from_secs(5), hand.read(1)).await;
    assert_eq!(told.expect("the app is told in time"), b"");
    drop(hand);
    stage.plane.fact(has_cut(1)).await;
}

#[tokio::test]
async fn what_the_app_thinks_about_is_left_alone() {
    let stage = Stage::with_acme_open().await;
    let mut wire = stage.ask("POST /hand", 5, "content-length: 4\r\n\r\nbody").await;
    let mut hand = stage.app.hand().await;
    assert_eq!(hand.read(4).await, b"body");
    stage.plane.order(vec![order(fence(5, true))]);
    stage.until(5, 421, Some("fenced")).await;
    a_little().await;
    hand.stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\n").await.unwrap();
    assert_eq!(status(&wire.head().await), 200);
    a_little().await;
    hand.stream.write_all(b"ok").await.unwrap();
    assert_eq!(wire.body(2).await, "ok", "an answer in pieces, all of them after the cut");
    stage.plane.fact(has_cut(0)).await;
}

#[tokio::test]
async fn a_cut_ends_nothing_of_another_tenant_or_of_a_later_epoch() {
    let stage = Stage::with_acme_open().await;
    let (mut later, mut its_hand) = download(&stage).await;
    stage.plane.order(vec![order(fence(4, true))]);
    a_little().await;
    its_hand.stream.write_all(b" more").await.unwrap();
    assert_eq!(later.body(5).await, " more", "the order is of an epoch before");

    stage.plane.place("beta", "cell-a", 5, "new-6", None);
    let mut other = Wire::connect(stage.gate()).await;
    let head = "GET /hand HTTP/1.1\r\nhost: beta.test\r\nx-cellway-tenant: beta\r\nx-cellway-epoch: 5\r\n\r\n";
    other.send(head).await;
    let mut others_hand = stage.app.hand().await;
    others_hand.stream.write_all(LONG).await.unwrap();
    assert_eq!(status(&other.head().await), 200);
    stage.plane.order(vec![order(fence(5, true))]);
    assert_eq!(later.rest().await, "");
    others_hand.stream.write_all(b" more").await.unwrap();
    assert_eq!(other.body(9).await, "half more", "the neighbour's goes on");
}
