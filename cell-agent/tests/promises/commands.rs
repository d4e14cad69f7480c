//! A whole move, order by order, between two agents whose data is moved by the example of the documentation.

use crate::stage::{Stage, order};
use cellway_api::agent::{FactUp, OrderDown, SourceDown, TaskDown};
use cellway_cell_agent::{COMMAND_STALL_MS, COMMAND_STEP_MS, CommandConfig, DriverConfig};
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::time::Duration;

const EXAMPLE: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../docs/operate/examples/files-mover");

/// The example, with the cells of this agent's machine under `dir`.
fn files_mover(dir: PathBuf) -> DriverConfig {
    let program = dir.join("mover");
    let script = format!("#!/bin/sh\nexport FILES_MOVER_ROOT={}/cells\nexec {EXAMPLE} \"$@\"\n", dir.display());
    std::fs::write(&program, script).unwrap();
    std::fs::set_permissions(&program, std::fs::Permissions::from_mode(0o755)).unwrap();
    DriverConfig::Command(CommandConfig { program, step_ms: COMMAND_STEP_MS, stall_ms: COMMAND_STALL_MS })
}

/// Where the app of the agent finds the tenant's files.
fn live(stage: &Stage) -> PathBuf {
    stage.dir.path().join("cells/cell-a/live/acme")
}

fn home(stage: &Stage, home: &str) -> PathBuf {
    stage.dir.path().join("cells/cell-a/homes/acme").join(home)
}

/// From now on `stage` finds the cell of `other` by the name `cell-b`.
fn introduce(stage: &Stage, other: &Stage) {
    symlink(other.dir.path().join("cells/cell-a"), stage.dir.path().join("cells/cell-b")).unwrap();
}

fn fetching(task: TaskDown) -> OrderDown {
    let source = SourceDown { cell: "cell-b".to_owned(), endpoints: Vec::new() };
    OrderDown { source: Some(source), ..order(task) }
}

fn read(path: &Path) -> String {
    std::fs::read_to_string(path).unwrap_or_default()
}

async fn until(what: &str, reached: impl Fn() -> bool) {
    for _ in 0..500 {
        if reached() {
            return;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    panic!("never: {what}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_example_moves_a_directory_of_files_and_keeps_the_way_back() {
    let source = Stage::new(files_mover).await;
    source.plane.place("acme", "cell-a", 15, "new-15", None);
    let source = source.started().await;
    source.until_open(15).await;
    let target = Stage::new(files_mover).await.started().await;
    std::fs::create_dir_all(target.dir.path().join("cells")).unwrap();
    introduce(&source, &target);
    introduce(&target, &source);
    std::fs::write(live(&source).join("one"), "1").unwrap();

    let (to, from) = ("h2".to_owned(), "new-15".to_owned());
    target.plane.order(vec![order(TaskDown::Prepare { home: to.clone() })]);
    target.plane.fact(|fact| matches!(fact, FactUp::Ready { .. })).await;
    target.plane.order(vec![fetching(TaskDown::Copy { home: to.clone(), from: from.clone() })]);
    let copied = target.plane.fact(|fact| matches!(fact, FactUp::Copied { complete: true, .. })).await;
    assert!(matches!(copied, FactUp::Copied { copied_bytes: 1.., .. }), "{copied:?}");
    std::fs::write(live(&source).join("two"), "2").unwrap();
    target.plane.order(vec![fetching(TaskDown::Follow { home: to.clone(), from: from.clone() })]);
    target.plane.fact(|fact| matches!(fact, FactUp::Followed { .. })).await;
    std::fs::write(live(&source).join("three"), "3").unwrap();

    target.plane.order(vec![]);
    let fence_data = order(TaskDown::FenceData { home: from.clone(), epoch: 15, list: 7 });
    source.plane.order(vec![order(TaskDown::Fence { epoch: 15, cut: false }), fence_data]);
    let positioned = source.plane.fact(|fact| matches!(fact, FactUp::Positioned { .. })).await;
    let FactUp::Positioned { position, .. } = positioned else { panic!("{positioned:?}") };
    assert!(std::fs::write(live(&source).join("late"), "4").is_err(), "nobody writes to fenced data");
    let reach = |position| TaskDown::Reach { home: to.clone(), from: from.clone(), epoch: 15, list: 7, position };
    target.plane.order(vec![fetching(reach(position))]);
    target.plane.fact(|fact| matches!(fact, FactUp::Reached { .. })).await;

    target.plane.place("acme", "cell-a", 16, "h2", None);
    target.plane.order(vec![order(TaskDown::Open { home: to.clone(), epoch: 16 })]);
    target.plane.fact(|fact| matches!(fact, FactUp::Opened { epoch: 16, .. })).await;
    for (name, content) in [("one", "1"), ("two", "2"), ("three", "3")] {
        assert_eq!(read(&live(&target).join(name)), content);
    }

    source.plane.place("acme", "cell-b", 16, "h2", None);
    std::fs::write(live(&target).join("four"), "4").unwrap();
    source.plane.order(vec![fetching(TaskDown::Reverse { home: from.clone(), from: to.clone(), epoch: 15 })]);
    until("the old home has what was written since", || read(&home(&source, "new-15").join("four")) == "4").await;

    source.plane.order(vec![order(TaskDown::Drop { home: from })]);
    source.plane.fact(|fact| matches!(fact, FactUp::Dropped { .. })).await;
    assert!(!home(&source, "new-15").exists() && live(&target).exists());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_the_program_gives_up_on_is_told_with_its_reason() {
    let target = Stage::new(files_mover).await.started().await;
    target.plane.order(vec![fetching(TaskDown::Copy { home: "h2".into(), from: "new-15".into() })]);
    target.plane.fact(|fact| matches!(fact, FactUp::Failed { reason, .. } if reason.contains("there is no"))).await;
}
