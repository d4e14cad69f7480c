//! A whole fleet whose tenants' data is moved by the program of the documentation: directories of files.

use crate::whole_moves::{be_patient, survives_kills, there_and_back_by_command};
use anyhow::Context;
use cellway_end_to_end::fleet::{Fleet, Plan};
use cellway_end_to_end::ledger::{App, Entry, Keeps};
use std::io::Write;
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;
use tempfile::TempDir;

const EXAMPLE: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../../docs/operate/examples/files-mover");

/// How long an old home is kept: a move ends only then.
const RETENTION_MS: u64 = 200;

/// A file of lines per tenant, found by the link that the program sets and takes away.
struct Files {
    live: PathBuf,
}

impl Files {
    fn file(&self, tenant: &str) -> PathBuf {
        self.live.join(tenant).join("entries")
    }
}

impl Keeps for Files {
    async fn add(&self, tenant: &str, entry: Entry) -> anyhow::Result<()> {
        let line = serde_json::to_string(&entry)? + "\n";
        let mut file = std::fs::File::options().create(true).append(true).open(self.file(tenant))?;
        Ok(file.write_all(line.as_bytes())?)
    }

    async fn all(&self, tenant: &str) -> anyhow::Result<Vec<Entry>> {
        let text = std::fs::read_to_string(self.file(tenant))?;
        text.lines().map(|line| serde_json::from_str(line).context("a line")).collect()
    }
}

struct Stage {
    dir: TempDir,
    apps: Vec<App>,
}

impl Stage {
    async fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let program = dir.path().join("mover");
        let root = dir.path().join("cells");
        std::fs::write(
            &program,
            format!("#!/bin/sh\nexport FILES_MOVER_ROOT={}\nexec {EXAMPLE} \"$@\"\n", root.display()),
        )
        .unwrap();
        std::fs::set_permissions(&program, std::fs::Permissions::from_mode(0o755)).unwrap();
        let mut apps = Vec::new();
        for cell in ["cell-a", "cell-b", "cell-c"] {
            apps.push(App::start(cell, Files { live: root.join(cell).join("live") }).await);
        }
        Self { dir, apps }
    }

    async fn fleet(&self) -> Fleet {
        let driver = format!("driver:\n  command: {{program: {}}}\n", self.dir.path().join("mover").display());
        let apps = self.apps.iter().map(|app| app.address).collect();
        let fleet = Plan::of(&["acme"]).with_data(apps, &driver).with_retention_ms(RETENTION_MS).start().await;
        be_patient(&fleet).await;
        fleet
    }

    /// Homes that stand in the cells: the live one, and none else.
    fn homes(&self) -> Vec<PathBuf> {
        let homes =
            ["cell-a", "cell-b", "cell-c"].map(|cell| self.dir.path().join("cells").join(cell).join("homes/acme"));
        let in_cell = |dir: PathBuf| std::fs::read_dir(dir).into_iter().flatten().flatten().map(|entry| entry.path());
        homes.into_iter().flat_map(in_cell).collect()
    }

    async fn nothing_is_left(&self) {
        let one = async || (self.homes().len() == 1).then_some(());
        cellway_end_to_end::eventually("one home is left", one).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_tenant_whose_program_moves_it_moves_there_and_back_under_writes() {
    let stage = Stage::new().await;
    let fleet = stage.fleet().await;
    println!("driver command: {}", there_and_back_by_command(&fleet).await);
    stage.nothing_is_left().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_move_by_a_program_outlives_kill_9_of_agents_and_control_plane() {
    let stage = Stage::new().await;
    let mut fleet = stage.fleet().await;
    survives_kills(&mut fleet).await;
    stage.nothing_is_left().await;
}
