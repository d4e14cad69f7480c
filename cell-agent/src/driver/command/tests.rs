//! The driver with small shell scripts in the place of the user's program.

#![allow(clippy::unwrap_used, clippy::expect_used)]

use super::*;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::time::Duration;
use tempfile::TempDir;

/// A driver whose program is this script; `$dir` is a directory of its own.
struct Stage {
    dir: TempDir,
    driver: Arc<CommandDriver>,
}

fn id<T: std::str::FromStr<Err = cellway_core::ids::InvalidId>>(text: &str) -> T {
    text.parse().expect("legal")
}

impl Stage {
    fn new(script: &str) -> Self {
        Self::with_limits(script, 5_000, 5_000)
    }

    fn with_limits(script: &str, step_ms: u64, stall_ms: u64) -> Self {
        let dir = TempDir::new().unwrap();
        let program = dir.path().join("mover");
        std::fs::write(&program, format!("#!/bin/sh\ndir={}\n{script}\n", dir.path().display())).unwrap();
        std::fs::set_permissions(&program, std::fs::Permissions::from_mode(0o755)).unwrap();
        let disk = Arc::new(Disk::open(&dir.path().join("disk")).unwrap());
        disk.start(&id("cell-a")).unwrap();
        let driver = CommandDriver::new(disk, &id("cell-a"), &CommandConfig { program, step_ms, stall_ms });
        Self { dir, driver }
    }

    fn said(&self, name: &str) -> String {
        std::fs::read_to_string(self.dir.path().join(name)).unwrap_or_default()
    }

    async fn fence(&self, epoch: u64) -> Result<(), DriverError> {
        self.driver.fence(&id("acme"), &id("h1"), Epoch(epoch)).await
    }

    async fn release(&self, epoch: u64) -> Result<(), DriverError> {
        self.driver.release(&id("acme"), &id("h1"), Epoch(epoch)).await
    }

    async fn copy(&self) -> Result<Pulled, DriverError> {
        self.driver.pull(&fetch(), true, &Progress::default()).await
    }
}

fn fetch() -> Fetch {
    let (move_id, tenant, home, from) = (id("m2"), id("acme"), id("h2"), id("h1"));
    Fetch { move_id, tenant, home, from, from_cell: Some("cell-b".to_owned()), endpoints: Vec::new() }
}

/// Notes what it is told, under the name of the step.
const NOTES: &str = r#"cat >> "$dir/$1"; echo '{"position": "p-7"}'"#;

#[tokio::test]
async fn each_step_is_told_what_it_is_about() {
    let stage = Stage::new(NOTES);
    let driver = &stage.driver;
    driver.prepare(&id("acme"), &id("h2")).await.unwrap();
    stage.copy().await.unwrap();
    driver.pull(&fetch(), false, &Progress::default()).await.unwrap();
    driver.reach(&fetch(), Epoch(5), &Position("p-7".to_owned())).await.unwrap();
    driver.release(&id("acme"), &id("h2"), Epoch(6)).await.unwrap();
    let about = r#""cell":"cell-a","tenant":"acme","home":"h2""#;
    let whence = r#""from":"h1","from_cell":"cell-b","move":"m2""#;
    let told = |step: &str, rest: &str| {
        assert_eq!(stage.said(step), format!("{{\"version\":1,\"step\":\"{step}\",{about}{rest}}}\n"));
    };
    told("prepare", "");
    told("copy", &format!(",{whence}"));
    told("sync", &format!(",{whence}"));
    for step in ["finish", "migrate", "verify"] {
        told(step, &format!(r#",{whence},"epoch":5,"position":"p-7""#));
    }
    told("open", r#","epoch":6"#);
}

#[tokio::test]
async fn a_fence_says_where_the_data_ends() {
    let stage = Stage::new(NOTES);
    stage.release(5).await.unwrap();
    stage.fence(5).await.unwrap();
    assert_eq!(stage.driver.position(&id("h1")).unwrap(), Position("p-7".to_owned()));

    let silent = Stage::new("exit 0");
    assert!(silent.fence(5).await.unwrap_err().to_string().contains("named no position"));
}

#[tokio::test]
async fn what_is_late_or_served_never_reaches_the_program() {
    let stage = Stage::new(NOTES);
    stage.release(6).await.unwrap();
    assert!(matches!(stage.fence(5).await, Err(DriverError::Superseded)));
    assert!(matches!(stage.release(5).await, Err(DriverError::Superseded)));
    let (m1, acme, h1) = (id("m1"), id("acme"), id("h1"));
    assert!(matches!(stage.driver.drop_home(&m1, &acme, &h1).await, Err(DriverError::Served(_))));
    let back = Fetch { home: id("h1"), from: id("h2"), ..fetch() };
    assert!(matches!(stage.driver.reverse(&back, Epoch(6)).await, Err(DriverError::Served(_))));
    assert!(matches!(stage.driver.reach(&back, Epoch(5), &Position("p".into())).await, Err(DriverError::Superseded)));
    stage.fence(6).await.unwrap();
    // Of a move before the last time that this home was served: what it would bring is older.
    assert!(matches!(stage.driver.reverse(&back, Epoch(5)).await, Err(DriverError::Superseded)));
    stage.driver.drop_home(&m1, &acme, &h1).await.unwrap();
    assert!(matches!(stage.release(7).await, Err(DriverError::Dropped(_))));
    for (step, calls) in [("open", 1), ("fence", 1), ("drop", 1), ("reverse", 0), ("finish", 0)] {
        assert_eq!(stage.said(step).lines().count(), calls, "{step}");
    }
}

#[tokio::test]
async fn the_exit_code_says_whether_to_try_again() {
    let failing = |code: u8| Stage::new(&format!("echo 'the disk is full' >&2; exit {code}"));
    let error = failing(1).fence(5).await.unwrap_err();
    assert!(!error.is_final() && error.to_string().contains("the disk is full"), "{error}");
    assert!(failing(2).fence(5).await.unwrap_err().is_final());
    assert!(matches!(failing(3).fence(5).await, Err(DriverError::Superseded)));
}

#[tokio::test]
async fn progress_is_heard_while_it_runs() {
    let stage = Stage::new(
        r#"echo '{"copied_bytes": 10, "total_bytes": 30}'; while [ ! -e "$dir/go" ]; do sleep 0.01; done
           echo '{"copied_bytes": 30, "freeze_ms": 44}'"#,
    );
    let progress = Progress::default();
    let fetch = fetch();
    let copying = stage.driver.pull(&fetch, true, &progress);
    let watching = async {
        while progress.get() != (10, 30) {
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
        std::fs::write(stage.dir.path().join("go"), "").unwrap();
    };
    let (pulled, ()) = tokio::join!(copying, watching);
    let pulled = pulled.unwrap();
    assert_eq!((pulled.bytes, pulled.freeze_ms, progress.get()), (30, Some(44), (30, 30)));
}

#[tokio::test]
async fn what_is_no_answer_is_refused() {
    for said in ["copied 10 bytes", r#"{"copied": 10}"#, r#"{"position": ""}"#] {
        let stage = Stage::new(&format!("echo '{said}'; sleep 30"));
        let error = stage.copy().await.unwrap_err().to_string();
        assert!(error.contains("no answer"), "{error}");
    }
    let endless = Stage::new("head -c 100000 /dev/zero | tr '\\0' x");
    assert!(format!("{:#}", anyhow::Error::from(endless.copy().await.unwrap_err())).contains("16384 bytes"));
}

async fn until_gone(dir: &Path) {
    for _ in 0..500 {
        let pid = std::fs::read_to_string(dir.join("child")).unwrap_or_default();
        let process = Path::new("/proc").join(pid.trim());
        let ended = std::fs::read_to_string(process.join("stat")).map_or(true, |stat| stat.contains(") Z "));
        if !pid.trim().is_empty() && ended {
            return;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    panic!("what the program had started still runs");
}

const HANGS: &str = r#"sleep 600 & echo $! > "$dir/child"; wait"#;

#[tokio::test]
async fn a_program_that_hangs_is_killed_with_all_that_it_started() {
    let stage = Stage::with_limits(HANGS, 300, 300);
    let error = stage.fence(5).await.unwrap_err();
    assert!(error.to_string().contains("longer than 300 ms"), "{error}");
    until_gone(stage.dir.path()).await;
    let error = stage.copy().await.unwrap_err();
    assert!(error.to_string().contains("without a word"), "{error}");
    until_gone(stage.dir.path()).await;
}

#[tokio::test]
async fn a_step_that_is_no_longer_wanted_is_killed() {
    let stage = Stage::new(HANGS);
    let given_up = tokio::time::timeout(Duration::from_millis(300), stage.fence(5)).await;
    assert!(given_up.is_err());
    until_gone(stage.dir.path()).await;
}
