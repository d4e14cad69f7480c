//! A stand-in for a running system in this process: two cells, some tenants, an API and an app behind a router. It can
//! be told to break a promise.

use crate::{stand_in_api, stand_in_app};
use axum::Router;
use cellway_api::fleet::{CellKindView, CellView, MoveView, TenantView};
use serde::Serialize;
use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::process::Output;
use std::sync::{Arc, Mutex, MutexGuard};
use tokio::process::Command;

/// The promise that the stand-in breaks, once each time that it could up to a small number.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Fault {
    Nothing,
    LoseWrite,
    DuplicateWrite,
    SpoilHash,
    ServeFromTheOldCell,
    HideAcknowledged,
    Answer503,
    UndoMoves,
}

#[derive(Debug, Clone, Serialize)]
pub(crate) struct Stored {
    pub(crate) id: String,
    pub(crate) seq: i64,
    pub(crate) length: u64,
    pub(crate) sha256: String,
    pub(crate) cell: String,
    pub(crate) epoch: u64,
}

#[derive(Debug)]
pub(crate) struct Tenant {
    pub(crate) view: TenantView,
    pub(crate) log: Vec<Stored>,
    pub(crate) next_seq: i64,
}

#[derive(Debug)]
pub(crate) struct State {
    pub(crate) tenants: BTreeMap<String, Tenant>,
    pub(crate) cells: BTreeMap<String, CellView>,
    pub(crate) moves: Vec<MoveView>,
    pub(crate) fault: Fault,
    /// How often the fault may still happen.
    pub(crate) faults_left: u32,
    /// Writes since the start: a fault waits for some.
    pub(crate) writes: u64,
    /// Moves that were looked at while they copied.
    pub(crate) seen_copying: BTreeSet<String>,
}

impl State {
    /// Whether the fault is `fault` and happens now.
    pub(crate) fn strikes(&mut self, fault: Fault) -> bool {
        let now = self.fault == fault && self.faults_left > 0 && self.writes > 20;
        if now {
            self.faults_left -= 1;
        }
        now
    }
}

#[derive(Debug, Clone)]
pub(crate) struct Shared(Arc<Mutex<State>>);

impl Shared {
    pub(crate) fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap()
    }
}

pub(crate) struct System {
    pub(crate) api: SocketAddr,
    pub(crate) router: SocketAddr,
    pub(crate) shared: Shared,
}

impl System {
    /// Two agent cells, an origin and five tenants, one of them in the origin.
    pub(crate) async fn start(fault: Fault) -> Self {
        let names = [("cell-a", CellKindView::Agent), ("cell-b", CellKindView::Agent), ("old", CellKindView::Origin)];
        let cells = names.map(|(name, kind)| (name.to_owned(), stand_in_api::new_cell(name, kind)));
        let placed = [("t1", "cell-a"), ("t2", "cell-b"), ("t3", "cell-a"), ("t4", "cell-b"), ("fixed", "old")];
        let tenants = placed.map(|(id, cell)| (id.to_owned(), stand_in_api::new_tenant(id, cell)));
        let state = State {
            tenants: tenants.into(),
            cells: cells.into(),
            moves: Vec::new(),
            fault,
            faults_left: 3,
            writes: 0,
            seen_copying: BTreeSet::new(),
        };
        let shared = Shared(Arc::new(Mutex::new(state)));
        let api = serve(stand_in_api::routes(shared.clone())).await;
        let router = serve(stand_in_app::routes(shared.clone())).await;
        Self { api, router, shared }
    }

    /// Runs the binary with these arguments.
    pub(crate) async fn cellway(&self, line: &str) -> Output {
        let api = format!("http://{}", self.api);
        cellway().args(line.split_whitespace()).args(["--api", &api]).output().await.unwrap()
    }

    /// What it prints as JSON, and its exit code.
    pub(crate) async fn cellway_json(&self, line: &str) -> (i32, serde_json::Value) {
        let output = self.cellway(&format!("{line} -o json")).await;
        let told = String::from_utf8_lossy(&output.stderr).into_owned();
        let value = serde_json::from_slice(&output.stdout).unwrap_or_else(|error| panic!("{error}: {told}"));
        (output.status.code().unwrap(), value)
    }
}

/// The binary, with nothing of this process's environment that it looks at.
pub(crate) fn cellway() -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_cellway"));
    command.env_remove("CELLWAY_API").kill_on_drop(true);
    command
}

async fn serve(routes: Router) -> SocketAddr {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move { axum::serve(listener, routes).await.unwrap() });
    address
}

pub(crate) fn text(bytes: &[u8]) -> String {
    String::from_utf8(bytes.to_vec()).unwrap()
}
