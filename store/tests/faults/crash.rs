//! The embedded store's process is killed while it commits.

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Write};
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::Arc;

use cellway_core::ids::Revision;
use cellway_store::{EmbeddedStore, Event, Store, Txn};

use super::within;

/// Set for the process that is to be killed: the directory of its store.
const CRASH_DIR: &str = "CELLWAY_STORE_CRASH_DIR";

const ROUNDS: usize = 10;

#[tokio::test]
async fn every_acknowledged_commit_survives_kill_9() {
    let dir = tempfile::tempdir().unwrap();
    let mut acknowledged = BTreeMap::new();
    for round in 0..ROUNDS {
        let acks = 40 + 35 * round;
        for (key, revision) in commit_until_killed(dir.path(), acks) {
            acknowledged.insert(key, revision);
        }
        check(dir.path(), &acknowledged).await;
    }
}

/// Runs a process that commits, and kills it after that many acknowledgements. Answers all that
/// it acknowledged: per key the revision.
fn commit_until_killed(dir: &Path, acks: usize) -> Vec<(String, u64)> {
    let mut child = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "faults::crash::commits_until_it_is_killed", "--ignored", "--nocapture"])
        .env(CRASH_DIR, dir)
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    let mut lines = BufReader::new(child.stdout.take().unwrap()).lines().map_while(Result::ok);
    let acknowledged = |line: String| {
        let mut words = line.strip_prefix("acknowledged ")?.split(' ');
        Some((words.next()?.to_owned(), words.next()?.parse().ok()?))
    };
    let mut seen: Vec<_> = lines.by_ref().filter_map(acknowledged).take(acks).collect();
    child.kill().unwrap();
    child.wait().unwrap();
    assert_eq!(seen.len(), acks, "the child must not end by itself");
    // What it said before it died counts; a line cut short does not.
    let mut rest: Vec<String> = lines.collect();
    rest.pop();
    seen.extend(rest.into_iter().filter_map(acknowledged));
    seen
}

async fn check(dir: &Path, acknowledged: &BTreeMap<String, u64>) {
    let store = EmbeddedStore::open(dir).unwrap();
    for (key, revision) in acknowledged {
        let entry = store.get(key).await.unwrap().0.unwrap_or_else(|| panic!("{key} is lost"));
        assert_eq!(entry.mod_revision, Revision(*revision), "{key}");
    }
    let last = store.get("x").await.unwrap().1;
    let mut stream = store.watch("", Revision(1)).await.unwrap();
    let mut logged = BTreeMap::new();
    for revision in 2..=last.0 {
        let batch = within("a batch", stream.next()).await.unwrap();
        assert_eq!(batch.revision, Revision(revision), "revisions have no gap");
        assert_eq!(batch.events.len(), 2, "a transaction is whole");
        for event in batch.events {
            let Event::Put(entry) = event else { panic!("nothing was deleted: {event:?}") };
            logged.insert(entry.key.clone(), entry);
        }
    }
    let (entries, _) = cellway_store::list_all(&store, "").await.unwrap();
    assert!(entries.iter().eq(logged.values()), "records and log agree");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "the child of every_acknowledged_commit_survives_kill_9, which `make contract` runs"]
async fn commits_until_it_is_killed() {
    let Some(dir) = std::env::var_os(CRASH_DIR) else { return };
    let store = Arc::new(EmbeddedStore::open(dir).unwrap());
    let mut tasks = tokio::task::JoinSet::new();
    for task in 0..8 {
        let store = Arc::clone(&store);
        tasks.spawn(async move {
            for number in 0.. {
                let key = format!("{}/{task}/{number}", std::process::id());
                let count = format!("count/{task}");
                let txn = Txn::new().put(key.clone(), vec![1; 200]).put(count, key.clone().into_bytes());
                let revision = store.commit(txn).await.unwrap();
                let line = format!("acknowledged {key} {revision}\n");
                if std::io::stdout().lock().write_all(line.as_bytes()).is_err() {
                    return;
                }
            }
        });
    }
    tasks.join_all().await;
}
