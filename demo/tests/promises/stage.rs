//! A running app in a temporary folder, an operator's hand on its files, and a raw HTTP client.

use std::net::SocketAddr;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::time::Duration;

use cellway_demo::{DemoConfig, bind, run};
use rusqlite::Connection;
use serde_json::Value;
use tempfile::TempDir;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

pub(crate) const PATIENCE: Duration = Duration::from_secs(20);
const MAX_REQUEST_MS: u64 = 15_000;

/// Where the tenants' files lie, as an operator arranges them: homes, and symlinks to them.
pub(crate) struct Operator {
    folder: TempDir,
}

impl Operator {
    pub(crate) fn new() -> Self {
        let folder = TempDir::new().unwrap();
        std::fs::create_dir(folder.path().join("homes")).unwrap();
        std::fs::create_dir(folder.path().join("data")).unwrap();
        Self { folder }
    }

    /// The folder that the app is given.
    pub(crate) fn data_dir(&self) -> PathBuf {
        self.folder.path().join("data")
    }

    pub(crate) fn link(&self, tenant: &str) -> PathBuf {
        self.data_dir().join(format!("{tenant}.db"))
    }

    pub(crate) fn home(&self, name: &str) -> PathBuf {
        self.folder.path().join("homes").join(format!("{name}.db"))
    }

    /// Makes an empty home of that name and leads the tenant's path to it, replacing what was.
    pub(crate) fn give_home(&self, tenant: &str, name: &str) -> PathBuf {
        let home = self.home(name);
        std::fs::File::create_new(&home).unwrap();
        self.lead(tenant, &home);
        home
    }

    pub(crate) fn lead(&self, tenant: &str, home: &Path) {
        let fresh = self.folder.path().join(format!("{tenant}.new"));
        symlink(home, &fresh).unwrap();
        std::fs::rename(&fresh, self.link(tenant)).unwrap();
    }
}

/// The ids stored in a file, read past the app.
pub(crate) fn ids_in(file: &Path) -> Vec<String> {
    let connection = Connection::open(file).unwrap();
    let mut rows = connection.prepare("SELECT id FROM entries ORDER BY seq").unwrap();
    let ids = rows.query_map([], |row| row.get(0)).unwrap();
    ids.map(Result::unwrap).collect()
}

/// Takes the file's write lock until the connection is dropped.
pub(crate) fn lock(file: &Path) -> Connection {
    let connection = Connection::open(file).unwrap();
    connection.busy_timeout(PATIENCE).unwrap();
    connection.execute_batch("BEGIN IMMEDIATE").unwrap();
    connection
}

/// An app that runs until it is stopped.
pub(crate) struct Stage {
    pub(crate) address: SocketAddr,
    pub(crate) shutdown: CancellationToken,
    task: JoinHandle<anyhow::Result<()>>,
}

impl Stage {
    pub(crate) fn start(operator: &Operator) -> Self {
        Self::start_limited(operator, MAX_REQUEST_MS)
    }

    pub(crate) fn start_limited(operator: &Operator, max_request_ms: u64) -> Self {
        let (listen, address) = bind("127.0.0.1:0".parse().unwrap()).unwrap();
        let shutdown = CancellationToken::new();
        let config = DemoConfig {
            name: "cell-<1>".into(),
            version: "1.2.3".into(),
            data_dir: operator.data_dir(),
            listen,
            max_request_ms,
        };
        let task = tokio::spawn(run(config, shutdown.clone()));
        Self { address, shutdown, task }
    }

    /// Begins the shutdown and waits until `run` has returned.
    pub(crate) async fn stop(self) {
        self.shutdown.cancel();
        let ended = tokio::time::timeout(PATIENCE, self.task).await;
        ended.expect("the app stops in time").expect("the app does not panic").expect("the app stops without an error");
    }

    pub(crate) async fn get(&self, tenant: &str, path: &str) -> Answer {
        let head = format!("GET {path} HTTP/1.1\r\nx-cellway-tenant: {tenant}\r\n");
        exchange(self.address, &head, b"").await
    }

    pub(crate) async fn add(&self, tenant: &str, id: &str, body: &[u8]) -> Answer {
        add(self.address, tenant, id, body).await
    }
}

/// Posts an entry with a body of known length, at epoch 7.
pub(crate) async fn add(address: SocketAddr, tenant: &str, id: &str, body: &[u8]) -> Answer {
    let head = format!(
        "POST /entries/{id} HTTP/1.1\r\nx-cellway-tenant: {tenant}\r\nx-cellway-epoch: 7\r\n\
         content-length: {}\r\n",
        body.len()
    );
    exchange(address, &head, body).await
}

#[derive(Debug)]
pub(crate) struct Answer {
    pub(crate) status: u16,
    pub(crate) head: String,
    pub(crate) text: String,
}

impl Answer {
    pub(crate) fn json(&self) -> Value {
        serde_json::from_str(&self.text).unwrap_or_else(|_| panic!("not JSON: {self:?}"))
    }

    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        let lines = self.head.lines().skip(1);
        let mut pairs = lines.filter_map(|line| line.split_once(": "));
        pairs.find(|(key, _)| key.eq_ignore_ascii_case(name)).map(|(_, value)| value)
    }
}

/// Sends `head` (request line and headers, each ended by CRLF) and `body`; reads until the end.
pub(crate) async fn exchange(address: SocketAddr, head: &str, body: &[u8]) -> Answer {
    let connection = TcpStream::connect(address).await.unwrap();
    let (mut from, mut to) = connection.into_split();
    let head = format!("{head}host: acme.localhost\r\nconnection: close\r\n\r\n");
    // A refusal may come before the body was taken: then sending it fails, which is no matter.
    let send = async {
        let _ = to.write_all(head.as_bytes()).await;
        let _ = to.write_all(body).await;
    };
    let mut bytes = Vec::new();
    let receive = from.read_to_end(&mut bytes);
    let exchanged = async { tokio::join!(send, receive) };
    let (_, received) = tokio::time::timeout(PATIENCE, exchanged).await.unwrap();
    assert!(received.is_ok() || !bytes.is_empty(), "{received:?}");
    let text = String::from_utf8(bytes).unwrap();
    let (head, body) = text.split_once("\r\n\r\n").expect("a whole head");
    Answer { status: head[9..12].parse().unwrap(), head: head.to_owned(), text: body.to_owned() }
}

/// Asks until `holds`, and fails when it never does.
pub(crate) async fn eventually(what: &str, mut holds: impl AsyncFnMut() -> bool) {
    let wait = async {
        while !holds().await {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    let reached = tokio::time::timeout(PATIENCE, wait).await;
    assert!(reached.is_ok(), "never came true: {what}");
}
