//! What an agent says when the control plane asks what runs in its cell.

use crate::stage::{Stage, status};
use cellway_api::plan::{Survey, Surveyed, Surveyor};
use tokio::io::AsyncWriteExt;

async fn survey(stage: &Stage, home: &str) -> Option<Surveyed> {
    let endpoint = stage.agent.as_ref().unwrap().transfer.to_string();
    let wanted = Survey { tenant: "acme".into(), home: home.into() };
    Surveyor::new(None).unwrap().ask(&endpoint, &wanted).await
}

#[tokio::test]
async fn an_agent_says_what_runs_now_and_changes_nothing() {
    let stage = Stage::with_acme_open().await;
    let idle = survey(&stage, "new-5").await;
    assert_eq!(idle, Some(Surveyed { data_bytes: Some(0), ..Surveyed::default() }), "driver none has no data");

    let mut download = stage.ask("GET /hand", 5, "\r\n").await;
    let mut one = stage.app.hand().await;
    one.stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 9\r\n\r\nhalf").await.unwrap();
    assert_eq!(status(&download.head().await), 200);
    let mut events = stage.ask("GET /hand", 5, "accept: text/event-stream\r\n\r\n").await;
    let mut other = stage.app.hand().await;
    let head = "HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n";
    other.stream.write_all(head.as_bytes()).await.unwrap();
    assert_eq!(status(&events.head().await), 200);
    tokio::time::sleep(std::time::Duration::from_millis(30)).await;
    let busy = survey(&stage, "new-5").await.unwrap();
    assert_eq!((busy.running_requests, busy.open_streams), (1, 1));
    assert!(busy.oldest_request_ms >= 30, "{busy:?}");

    one.stream.write_all(b" more").await.unwrap();
    assert_eq!(download.body(9).await, "half more", "what runs goes on");
    // Nobody answers for the app on the connections that a hand has held.
    drop((one, other));
    stage.until_open(5).await;
}

#[tokio::test]
async fn the_size_of_a_sqlite_home_is_known_and_a_missing_one_is_not_guessed() {
    let stage = Stage::with_sqlite().await;
    let app = rusqlite::Connection::open(stage.dir.path().join("live/acme.db")).unwrap();
    app.execute_batch(
        "PRAGMA journal_mode = WAL; CREATE TABLE rows (text); INSERT INTO rows VALUES (zeroblob(500000))",
    )
    .unwrap();
    let bytes = survey(&stage, "new-15").await.unwrap().data_bytes.unwrap();
    assert!((500_000..2_000_000).contains(&bytes), "{bytes}");
    assert_eq!(survey(&stage, "new-16").await.unwrap().data_bytes, None);
    assert_eq!(survey(&stage, "no home!").await, None, "refused");
}
