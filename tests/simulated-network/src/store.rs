//! What stands in the store, as the log tells it.

use cellway_core::tenant::PlacementRecord;
use cellway_core::tenant_move::MoveRecord;
use cellway_fake_etcd::FakeEtcd;
use cellway_store::records::{Leader, Record};
use cellway_store::{DEFAULT_PREFIX, keys};
use std::collections::BTreeMap;

/// Where a tenant is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Placed {
    pub(crate) cell: String,
    pub(crate) epoch: u64,
    pub(crate) is_held: bool,
}

/// What the simulation looks at.
#[derive(Debug, Default)]
pub(crate) struct Stored {
    revision: i64,
    pub(crate) placements: BTreeMap<String, Placed>,
    /// The moves, and whether each has ended.
    moves: BTreeMap<String, (String, bool)>,
    /// The leader's address.
    pub(crate) leader: Option<String>,
}

impl Stored {
    /// Looks again; what has changed, if anything.
    pub(crate) fn look(&mut self, etcd: &FakeEtcd) -> Option<Vec<String>> {
        if std::mem::replace(&mut self.revision, etcd.revision()) == self.revision {
            return None;
        }
        let mut changes = Vec::new();
        for (key, value) in entries(etcd, keys::PLACEMENTS) {
            let Some(tenant) = keys::tenant_of_placement(&key) else { continue };
            let Ok(PlacementRecord::Placed(placement)) = PlacementRecord::decode(&value) else { continue };
            let placed = Placed {
                cell: placement.cell.name.to_string(),
                epoch: placement.epoch.0,
                is_held: placement.hold.is_some(),
            };
            if self.placements.get(tenant.as_str()) != Some(&placed) {
                let held = if placed.is_held { ", held" } else { "" };
                changes.push(format!("{tenant} is in {} at epoch {}{held}", placed.cell, placed.epoch));
                self.placements.insert(tenant.to_string(), placed);
            }
        }
        for (key, value) in entries(etcd, keys::MOVES) {
            let Ok(record) = MoveRecord::decode(&value) else { continue };
            let id = key.rsplit('/').next().unwrap_or_default().to_owned();
            let state = record.state.as_str().to_owned();
            if self.moves.get(&id).is_none_or(|(known, _)| *known != state) {
                changes.push(format!("move {id} of {} is {state}", record.tenant));
                self.moves.insert(id, (state, record.state.is_last()));
            }
        }
        let leader = entries(etcd, keys::LEADER).first().and_then(|(_, value)| Leader::decode(value).ok());
        let leader = leader.map(|leader| leader.address);
        if self.leader != leader {
            changes.push(format!("the leader is {leader:?}"));
            self.leader = leader;
        }
        Some(changes)
    }

    /// Moves that have not ended, and tenants that are held.
    pub(crate) fn unfinished(&self) -> Vec<String> {
        let moves = self.moves.iter().filter(|(_, (_, is_ended))| !is_ended);
        let moves = moves.map(|(id, (state, _))| format!("move {id} is {state}"));
        let held = self.placements.iter().filter(|(_, placed)| placed.is_held);
        moves.chain(held.map(|(tenant, _)| format!("{tenant} is held"))).collect()
    }

    /// The cells whose tenants are held.
    pub(crate) fn holding(&self) -> impl Iterator<Item = &str> {
        self.placements.values().filter(|placed| placed.is_held).map(|placed| placed.cell.as_str())
    }

    /// How many moves came to each end.
    pub(crate) fn ends(&self) -> BTreeMap<&str, usize> {
        let mut ends = BTreeMap::new();
        self.moves.values().for_each(|(state, _)| *ends.entry(state.as_str()).or_default() += 1);
        ends
    }
}

fn entries(etcd: &FakeEtcd, prefix: &str) -> Vec<(String, Vec<u8>)> {
    let listed = etcd.list(&format!("{DEFAULT_PREFIX}{prefix}")).into_iter();
    listed.filter_map(|(key, value)| Some((key.strip_prefix(DEFAULT_PREFIX)?.to_owned(), value))).collect()
}
