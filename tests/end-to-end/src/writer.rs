//! A client that writes to one tenant all the time and keeps books: what was acknowledged must be there, once, in order.

use reqwest::StatusCode;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

/// Between two writes.
const PAUSE_MS: u64 = 4;

/// Writers of this process so far: their ids must never meet.
static WRITERS: AtomicU64 = AtomicU64::new(0);

/// The longest wait for one answer.
const ANSWER_MS: u64 = 15_000;

/// What a writer has on its books.
#[derive(Debug, Default)]
pub struct Books {
    /// Ids that were acknowledged.
    pub acknowledged: Vec<String>,
    /// Writes without an acknowledgement, and why.
    pub failed: Vec<String>,
    /// The longest time without an acknowledgement.
    pub longest_pause: Duration,
}

/// A writer at work.
pub struct Writer {
    stop: CancellationToken,
    task: JoinHandle<Books>,
    router: String,
    host: String,
    acknowledged: Arc<AtomicU64>,
}

/// A client that knows the tenants' hosts by header.
pub fn http() -> reqwest::Client {
    let builder = cellway_api::http::client_builder(None).timeout(Duration::from_millis(ANSWER_MS));
    builder.build().expect("a client")
}

impl Writer {
    /// Begins to write to `tenant` through the router.
    pub fn start(router: &str, tenant: &str) -> Self {
        let stop = CancellationToken::new();
        let host = format!("{tenant}.cells.localhost");
        let acknowledged = Arc::new(AtomicU64::new(0));
        let task = tokio::spawn(write(router.to_owned(), host.clone(), stop.clone(), Arc::clone(&acknowledged)));
        Self { stop, task, router: router.to_owned(), host, acknowledged }
    }

    /// Writes acknowledged so far.
    pub fn acknowledged(&self) -> u64 {
        self.acknowledged.load(Ordering::SeqCst)
    }

    /// Stops, without a look at what is stored.
    pub async fn stop(self) -> Books {
        self.stop.cancel();
        self.task.await.expect("the writer does not panic")
    }

    /// Stops, reads everything back and checks it against the books.
    pub async fn stop_and_check(self) -> Books {
        self.stop.cancel();
        let books = self.task.await.expect("the writer does not panic");
        assert!(!books.acknowledged.is_empty(), "nothing was ever acknowledged: {:?}", books.failed);
        let rows = read_back(&self.router, &self.host).await;
        check(&books, &rows);
        books
    }
}

async fn write(router: String, host: String, stop: CancellationToken, acknowledged: Arc<AtomicU64>) -> Books {
    let client = http();
    let mut books = Books::default();
    let mut last = Instant::now();
    let run = WRITERS.fetch_add(1, Ordering::Relaxed);
    for number in 0_u64.. {
        if stop.is_cancelled() {
            break;
        }
        let id = format!("w{run}-{}-{number}", std::process::id());
        let request = client.post(format!("http://{router}/entries/{id}")).header("host", &host);
        match request.body(format!("entry {number}")).send().await {
            Ok(answer) if answer.status() == StatusCode::CREATED => {
                books.acknowledged.push(id);
                books.longest_pause = books.longest_pause.max(last.elapsed());
                last = Instant::now();
                acknowledged.fetch_add(1, Ordering::SeqCst);
            }
            Ok(answer) => {
                let status = answer.status();
                let text = answer.text().await.unwrap_or_default();
                books.failed.push(format!("{id}: {status} {text}"));
            }
            Err(error) => books.failed.push(format!("{id}: {error:?}")),
        }
        tokio::time::sleep(Duration::from_millis(PAUSE_MS)).await;
    }
    books
}

/// A stored entry.
#[derive(Debug)]
pub struct Row {
    /// Its id.
    pub id: String,
    /// The cell that took it.
    pub cell: String,
    /// The epoch that the app was told.
    pub epoch: u64,
}

/// All entries of a tenant, in their order.
pub async fn read_back(router: &str, host: &str) -> Vec<Row> {
    let client = http();
    let mut rows = Vec::new();
    let mut after = 0_u64;
    loop {
        let url = format!("http://{router}/entries?after={after}&limit=1000");
        let answer = client.get(url).header("host", host).send().await.expect("an answer");
        assert!(answer.status().is_success(), "{}", answer.status());
        let page: serde_json::Value = serde_json::from_str(&answer.text().await.expect("text")).expect("JSON");
        for entry in page["entries"].as_array().expect("entries") {
            rows.push(Row {
                id: entry["id"].as_str().unwrap_or_default().to_owned(),
                cell: entry["cell"].as_str().unwrap_or_default().to_owned(),
                epoch: entry["epoch"].as_u64().unwrap_or_default(),
            });
        }
        match page["next"].as_u64() {
            Some(next) => after = next,
            None => return rows,
        }
    }
}

fn check(books: &Books, rows: &[Row]) {
    let stored: Vec<&str> = rows.iter().map(|row| row.id.as_str()).collect();
    let once: BTreeSet<&str> = stored.iter().copied().collect();
    assert_eq!(once.len(), stored.len(), "an entry is stored twice");
    for id in &books.acknowledged {
        assert!(once.contains(id.as_str()), "acknowledged and lost: {id}");
    }
    let mut cell_of = BTreeMap::new();
    for pair in rows.windows(2) {
        assert!(pair[0].epoch <= pair[1].epoch, "an epoch fell: {pair:?}");
    }
    for row in rows {
        let cell = cell_of.entry(row.epoch).or_insert(&row.cell);
        assert_eq!(*cell, &row.cell, "two cells in epoch {}", row.epoch);
    }
}
