//! A cell: one copy of the stack, at one release version.

use crate::ids::{CellName, CellUid, InstanceId, Revision};
use std::collections::BTreeMap;

/// A cell by name and by uid, so that a new cell of an old name is never mistaken for it.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct CellRef {
    /// The name that people use.
    pub name: CellName,
    /// The identity.
    pub uid: CellUid,
}

/// Whether a cell takes tenants, and whether it can be counted on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum CellCondition {
    /// Takes new tenants.
    Open,
    /// Takes nobody new.
    Cordoned,
    /// All its tenants are leaving.
    Draining,
    /// Not to be reached, and not assumed fenced.
    Lost,
    /// Out of use for good.
    Retired,
}

impl CellCondition {
    /// The word used in the API, the CLI and the metrics.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Open => "open",
            Self::Cordoned => "cordoned",
            Self::Draining => "draining",
            Self::Lost => "lost",
            Self::Retired => "retired",
        }
    }
}

/// What answers at a cell's endpoints.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CellKind {
    /// Agents with gates: its tenants can be moved.
    Agent,
    /// Plain HTTP servers without an agent: routed, not movable.
    Origin,
}

/// How a cell's tenants' data goes to another cell.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum MoverDriver {
    /// There is no data in the cell, or all cells share it.
    None,
    /// One SQLite file per tenant.
    Sqlite,
    /// By a program of the user.
    Command,
    /// A Postgres schema per tenant.
    Postgres,
}

impl MoverDriver {
    /// Whether a move back needs the source's old home to be kept current while the target is watched: the driver does
    /// not find out what differs by itself.
    pub fn keeps_way_back(self) -> bool {
        matches!(self, Self::Command | Self::Postgres)
    }

    /// The word used in configuration, API and CLI.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::None => "none",
            Self::Sqlite => "sqlite",
            Self::Command => "command",
            Self::Postgres => "postgres",
        }
    }
}

/// A cell as the operator declared it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Cell {
    /// Name and uid.
    pub cell: CellRef,
    /// Whether it takes tenants.
    pub condition: CellCondition,
    /// Gates or plain origins.
    pub kind: CellKind,
    /// The release version that runs in it.
    pub version: String,
    /// Free labels (region, tier …).
    pub labels: BTreeMap<String, String>,
    /// Where requests are sent: `host:port`. Of an agent cell: its gates, kept by the control plane.
    pub endpoints: Vec<String>,
    /// How many tenants it should hold at the most; 0 means no limit is stated.
    pub capacity_tenants: u32,
}

/// One registered gate instance.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct GateInstance {
    /// Rises with each start; two processes with one disk cannot both be the newest.
    pub run: u64,
    /// Where routers reach the gate.
    pub endpoint: String,
    /// Where other agents fetch a moving tenant's data.
    pub transfer_endpoint: String,
    /// The way tenants' data is kept behind this gate.
    pub driver: MoverDriver,
}

/// The registered gate instances of a cell, as stored under `gates/{cell}`.
///
/// The list changes only by register, start, leave and an operator's word that an instance is dead: never by time.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct GateList {
    /// The cell.
    pub uid: CellUid,
    /// By instance id.
    pub instances: BTreeMap<InstanceId, GateInstance>,
}

/// Why an instance may not register or start.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum RegistrationRefused {
    /// The list is of another cell of this name.
    #[error("the cell is not the one that this agent was set up for (its uid differs): use a fresh data directory")]
    OtherCell,
    /// Another process has started from this disk, or the disk was copied or rolled back.
    #[error(
        "run {run} is not above run {listed}, the newest one known of this instance: its disk was copied or rolled back; erase it and let the agent register anew"
    )]
    StaleRun {
        /// The run that asked.
        run: u64,
        /// The newest known.
        listed: u64,
    },
}

impl GateList {
    /// An empty list for a cell.
    pub fn new(uid: CellUid) -> Self {
        Self { uid, instances: BTreeMap::new() }
    }

    /// The list with `instance` registered, or started again with a higher run.
    pub fn with_start(
        &self,
        uid: &CellUid,
        id: InstanceId,
        instance: GateInstance,
    ) -> Result<Self, RegistrationRefused> {
        if *uid != self.uid {
            return Err(RegistrationRefused::OtherCell);
        }
        if let Some(listed) = self.instances.get(&id)
            && listed.run >= instance.run
        {
            return Err(RegistrationRefused::StaleRun { run: instance.run, listed: listed.run });
        }
        let mut list = self.clone();
        list.instances.insert(id, instance);
        Ok(list)
    }

    /// The list without `id`: it left in good order, or an operator stated that it is dead.
    pub fn without(&self, id: &InstanceId) -> Self {
        let mut list = self.clone();
        list.instances.remove(id);
        list
    }
}

/// A list of gates at the revision it was read at: what a move binds its fences to.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct ListedGates {
    /// `mod_revision` of `gates/{cell}`: L.
    pub revision: Revision,
    /// Who must be fenced.
    pub instances: std::collections::BTreeSet<InstanceId>,
}

#[cfg(test)]
mod tests {
    use super::*;

    fn instance(run: u64) -> GateInstance {
        GateInstance {
            run,
            endpoint: "127.0.0.1:1".into(),
            transfer_endpoint: "127.0.0.1:2".into(),
            driver: MoverDriver::None,
        }
    }

    #[test]
    fn a_copied_or_rolled_back_disk_is_refused() {
        let uid = CellUid::new("u1").expect("legal");
        let id = InstanceId::new("i1").expect("legal");
        let list = GateList::new(uid.clone()).with_start(&uid, id.clone(), instance(3)).expect("first start");
        assert_eq!(
            list.with_start(&uid, id.clone(), instance(3)),
            Err(RegistrationRefused::StaleRun { run: 3, listed: 3 })
        );
        assert!(list.with_start(&uid, id.clone(), instance(4)).is_ok());
        let other = CellUid::new("u2").expect("legal");
        assert_eq!(list.with_start(&other, id, instance(9)), Err(RegistrationRefused::OtherCell));
    }
}
