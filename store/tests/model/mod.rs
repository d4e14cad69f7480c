//! Random histories: the embedded store against a model that is too simple to be wrong.

use std::collections::BTreeMap;

use cellway_core::ids::Revision;
use cellway_store::{Compare, EmbeddedStore, Entry, Event, LeaseId, Store, StoreError, Txn, Write, list_all};
use proptest::prelude::*;
use proptest::test_runner::{Config, TestCaseError};

const KEYS: [&str; 6] = ["a", "a/", "a/1", "a/2", "b", "b/\u{e9}"];
const PREFIXES: [&str; 4] = ["", "a", "a/", "b"];

#[derive(Debug, Clone)]
enum Step {
    Commit { compares: Vec<(usize, Wish)>, writes: Vec<(usize, Option<u8>, Option<usize>)> },
    Grant,
    Revoke(usize),
    Reopen,
}

/// What a transaction requires of a key.
#[derive(Debug, Clone, Copy)]
enum Wish {
    AsItIs,
    Stale,
    Absent,
    Present,
}

fn a_step() -> impl Strategy<Value = Step> {
    let wish = prop_oneof![
        6 => Just(Wish::AsItIs),
        1 => Just(Wish::Stale),
        1 => Just(Wish::Absent),
        1 => Just(Wish::Present),
    ];
    let compare = (0..KEYS.len(), wish);
    let write = (0..KEYS.len(), prop::option::weighted(0.7, any::<u8>()), prop::option::weighted(0.3, 0..4_usize));
    let commit = (prop::collection::vec(compare, 0..2), prop::collection::vec(write, 0..4));
    prop_oneof![
        12 => commit.prop_map(|(compares, writes)| Step::Commit { compares, writes }),
        1 => Just(Step::Grant),
        1 => (0..4_usize).prop_map(Step::Revoke),
        1 => Just(Step::Reopen),
    ]
}

type Records = BTreeMap<String, (Entry, Option<LeaseId>)>;

#[derive(Default)]
struct Model {
    revision: u64,
    records: Records,
    leases: Vec<LeaseId>,
    /// Every revision's records.
    past: BTreeMap<u64, Vec<Entry>>,
}

impl Model {
    fn new() -> Self {
        Self { revision: 1, past: BTreeMap::from([(1, Vec::new())]), ..Self::default() }
    }

    fn entries(&self) -> Vec<Entry> {
        self.records.values().map(|(entry, _)| entry.clone()).collect()
    }

    fn mod_revision(&self, key: &str) -> u64 {
        self.records.get(key).map_or(0, |(entry, _)| entry.mod_revision.0)
    }

    fn txn(&self, compares: &[(usize, Wish)], writes: &[(usize, Option<u8>, Option<usize>)]) -> Txn {
        let mut txn = Txn::new();
        for (key, wish) in compares {
            let key = KEYS[*key];
            let is = self.mod_revision(key);
            txn = match wish {
                Wish::AsItIs => txn.require_revision(key, Revision(is)),
                Wish::Stale => txn.require_revision(key, Revision(is + 1)),
                Wish::Absent => txn.require_absent(key),
                Wish::Present => txn.require_present(key),
            };
        }
        for (key, value, lease) in writes {
            let lease = lease.and_then(|number| self.leases.get(number)).copied();
            txn = match (value, lease) {
                (Some(value), Some(lease)) => txn.put_leased(KEYS[*key], [*value], lease),
                (Some(value), None) => txn.put(KEYS[*key], [*value]),
                (None, _) => txn.delete(KEYS[*key]),
            };
        }
        txn
    }

    /// What the store must answer.
    fn commit(&mut self, txn: &Txn) -> Result<Revision, &'static str> {
        let mut keys: Vec<_> = txn.writes.iter().map(Write::key).collect();
        keys.sort_unstable();
        if keys.windows(2).any(|pair| pair[0] == pair[1]) {
            return Err("refused");
        }
        let holds = |compare: &Compare| match compare {
            Compare::ModRevision { key, is } => self.mod_revision(key) == is.0,
            Compare::Absent { key } => !self.records.contains_key(key),
            Compare::Present { key } => self.records.contains_key(key),
        };
        if !txn.compares.iter().all(holds) {
            return Err("conflict");
        }
        let new = Revision(self.revision + 1);
        let mut changed = false;
        for write in &txn.writes {
            match write {
                Write::Put { key, value, lease } => {
                    let before = self.records.get(key).map(|(entry, _)| entry.create_revision);
                    let entry = Entry {
                        key: key.clone(),
                        value: value.clone(),
                        mod_revision: new,
                        create_revision: before.unwrap_or(new),
                    };
                    self.records.insert(key.clone(), (entry, *lease));
                    changed = true;
                }
                Write::Delete { key } => changed |= self.records.remove(key).is_some(),
            }
        }
        self.end_revision(changed);
        Ok(Revision(self.revision))
    }

    fn revoke(&mut self, lease: LeaseId) {
        let before = self.records.len();
        self.records.retain(|_, (_, under)| *under != Some(lease));
        self.leases.retain(|other| *other != lease);
        self.end_revision(self.records.len() < before);
    }

    fn end_revision(&mut self, changed: bool) {
        if changed {
            self.revision += 1;
            self.past.insert(self.revision, self.entries());
        }
    }
}

fn answer(outcome: Result<Revision, StoreError>) -> Result<Revision, &'static str> {
    outcome.map_err(|error| match error {
        StoreError::Conflict => "conflict",
        StoreError::Refused { .. } => "refused",
        _ => "another error",
    })
}

async fn play(steps: Vec<Step>, on_disk: bool) -> Result<(), TestCaseError> {
    let dir = tempfile::tempdir().unwrap();
    let open = || match on_disk {
        true => EmbeddedStore::open(dir.path()).unwrap(),
        false => EmbeddedStore::in_memory().unwrap(),
    };
    let mut store = open();
    let mut model = Model::new();
    let mut history_from = 1;
    for step in steps {
        match step {
            Step::Commit { compares, writes } => {
                let txn = model.txn(&compares, &writes);
                let expected = model.commit(&txn);
                prop_assert_eq!(answer(store.commit(txn).await), expected);
            }
            Step::Grant => model.leases.push(store.grant_lease(600_000).await.unwrap()),
            Step::Revoke(number) => {
                if let Some(lease) = model.leases.get(number).copied() {
                    model.revoke(lease);
                    store.revoke_lease(lease).await.unwrap();
                }
            }
            Step::Reopen if on_disk => {
                drop(store);
                store = open();
                // Pages of the past come from memory alone.
                history_from = model.revision;
            }
            Step::Reopen => {}
        }
        let (listed, at) = list_all(&store, "").await.unwrap();
        prop_assert_eq!((listed, at.0), (model.entries(), model.revision));
    }
    pages_show_the_past(&store, &model, history_from).await?;
    replay_from_everywhere(&store, &model).await
}

async fn pages_show_the_past(store: &EmbeddedStore, model: &Model, from: u64) -> Result<(), TestCaseError> {
    for (revision, entries) in model.past.range(from..) {
        for prefix in PREFIXES {
            let expected: Vec<_> = entries.iter().filter(|entry| entry.key.starts_with(prefix)).cloned().collect();
            let mut listed = Vec::new();
            let mut start: Option<String> = None;
            loop {
                let at = Some(Revision(*revision));
                let page = store.range(prefix, start.as_deref(), 2, at).await.unwrap();
                prop_assert!(page.entries.len() <= 2);
                listed.extend(page.entries);
                start = page.next;
                if start.is_none() {
                    break;
                }
            }
            prop_assert_eq!(&listed, &expected, "{} at {}", prefix, revision);
        }
    }
    Ok(())
}

/// From every past state, the watched changes lead to every later one.
async fn replay_from_everywhere(store: &EmbeddedStore, model: &Model) -> Result<(), TestCaseError> {
    for (after, entries) in &model.past {
        let mut replayed: BTreeMap<String, Entry> =
            entries.iter().map(|entry| (entry.key.clone(), entry.clone())).collect();
        let mut stream = store.watch("", Revision(*after)).await.unwrap();
        for revision in after + 1..=model.revision {
            let batch = stream.next().await.unwrap();
            prop_assert_eq!(batch.revision, Revision(revision));
            for event in batch.events {
                match event {
                    Event::Put(entry) => replayed.insert(entry.key.clone(), entry),
                    Event::Delete { key } => replayed.remove(&key),
                };
            }
            prop_assert!(replayed.values().eq(&model.past[&revision]));
        }
    }
    Ok(())
}

fn run(steps: Vec<Step>, on_disk: bool) -> Result<(), TestCaseError> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(play(steps, on_disk))
}

proptest! {
    #![proptest_config(Config { cases: 200, failure_persistence: None, ..Config::default() })]

    #[test]
    fn any_history_in_memory_is_as_the_model_says(
        steps in prop::collection::vec(a_step(), 1..40)
    ) {
        run(steps, false)?;
    }
}

proptest! {
    #![proptest_config(Config { cases: 40, failure_persistence: None, ..Config::default() })]

    #[test]
    fn any_history_on_disk_survives_reopens_as_the_model_says(
        steps in prop::collection::vec(a_step(), 1..40)
    ) {
        run(steps, true)?;
    }
}
