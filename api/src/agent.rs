//! What agents and the control plane say to each other about one cell.
//!
//! Down one long answer of JSON lines ([`Down`]), up requests with facts ([`FactsUp`]) and load ([`LoadUp`]).

use cellway_core::cell::MoverDriver;
use cellway_core::ids::{Epoch, InvalidId, TenantId};
use cellway_core::load::{LoadReport, Work};
use cellway_core::tenant::{Placement, PlacementRecord};
use serde::{Deserialize, Serialize};

pub use crate::orders::{FactUp, FreezePartUp, OrderDown, SourceDown, TaskDown};

/// How often the control plane says something on an otherwise silent stream.
pub const BEAT_INTERVAL_MS: u64 = 500;

/// After this long without a word the agent takes the stream for dead and connects anew.
pub const STREAM_SILENCE_MS: u64 = 3_000;

/// The longest line of the stream.
pub const STREAM_LINE_MAX_BYTES: usize = 4 * 1024 * 1024;

/// How a cell's data is moved, on the wire.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum DriverName {
    /// No data.
    None,
    /// A SQLite file per tenant.
    Sqlite,
    /// By a program of the user.
    Command,
    /// A Postgres schema per tenant.
    Postgres,
}

impl From<MoverDriver> for DriverName {
    fn from(driver: MoverDriver) -> Self {
        match driver {
            MoverDriver::None => Self::None,
            MoverDriver::Sqlite => Self::Sqlite,
            MoverDriver::Command => Self::Command,
            MoverDriver::Postgres => Self::Postgres,
        }
    }
}

impl From<DriverName> for MoverDriver {
    fn from(name: DriverName) -> Self {
        match name {
            DriverName::None => Self::None,
            DriverName::Sqlite => Self::Sqlite,
            DriverName::Command => Self::Command,
            DriverName::Postgres => Self::Postgres,
        }
    }
}

/// An instance registers (its first start) or says that it has started again.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Register {
    /// The cell's uid that the instance has on its disk, after its first start.
    #[serde(default)]
    pub uid: Option<String>,
    /// The instance's id.
    pub instance: String,
    /// How often it was started, this time included.
    pub run: u64,
    /// Where routers reach its gate.
    pub endpoint: String,
    /// Where other agents fetch data.
    pub transfer_endpoint: String,
    /// How data is kept behind it.
    pub driver: DriverName,
}

/// The answer to [`Register`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Registered {
    /// The cell's uid.
    pub uid: String,
    /// The revision of the list with this start in it: what the gate may read placements from.
    pub revision: u64,
}

/// One line from the control plane.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "is", rename_all = "snake_case")]
pub enum Down {
    /// A placement of a tenant that is, was or may come to be in this cell.
    Placement {
        /// The tenant.
        tenant: String,
        /// The revision of the read that showed it.
        revision: u64,
        /// The placement.
        placement: PlacementDown,
    },
    /// All placements up to this revision have been said.
    Synced {
        /// The revision.
        revision: u64,
    },
    /// All orders of this cell: the ones that are missing are withdrawn.
    Orders {
        /// The orders.
        orders: Vec<OrderDown>,
    },
    /// The cell's list of gates.
    Gates {
        /// Its revision.
        revision: u64,
        /// The registered instances.
        instances: Vec<String>,
    },
    /// The control plane lives.
    Beat {
        /// Where the leader's API answers: the one that load reports go to.
        #[serde(default)]
        leader: Option<String>,
    },
}

/// A placement on the wire.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "is", rename_all = "snake_case")]
pub enum PlacementDown {
    /// The tenant is there.
    Placed {
        /// The cell's name.
        cell: String,
        /// The cell's uid.
        uid: String,
        /// The epoch.
        epoch: u64,
        /// The home that is served.
        home: String,
        /// The move that holds it.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        hold: Option<String>,
    },
    /// The tenant was deleted.
    Gone {
        /// The epoch.
        epoch: u64,
    },
}

impl From<&PlacementRecord> for PlacementDown {
    fn from(record: &PlacementRecord) -> Self {
        match record {
            PlacementRecord::Placed(placement) => Self::Placed {
                cell: placement.cell.name.to_string(),
                uid: placement.cell.uid.to_string(),
                epoch: placement.epoch.0,
                home: placement.home.to_string(),
                hold: placement.hold.as_ref().map(ToString::to_string),
            },
            PlacementRecord::Gone { epoch } => Self::Gone { epoch: epoch.0 },
        }
    }
}

impl TryFrom<PlacementDown> for PlacementRecord {
    type Error = InvalidId;

    fn try_from(placement: PlacementDown) -> Result<Self, InvalidId> {
        Ok(match placement {
            PlacementDown::Placed { cell, uid, epoch, home, hold } => Self::Placed(Placement {
                cell: cellway_core::cell::CellRef { name: cell.parse()?, uid: uid.parse()? },
                epoch: Epoch(epoch),
                home: home.parse()?,
                hold: hold.map(|id| id.parse()).transpose()?,
            }),
            PlacementDown::Gone { epoch } => Self::Gone { epoch: Epoch(epoch) },
        })
    }
}

/// Facts of one instance.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct FactsUp {
    /// Who states them.
    pub instance: String,
    /// The facts.
    pub facts: Vec<FactUp>,
}

/// What became of each fact, in the same order.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct FactsHeard {
    /// One per fact.
    pub results: Vec<FactHeard>,
}

/// What became of a fact.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "is", rename_all = "snake_case")]
pub enum FactHeard {
    /// It is in the record.
    Recorded,
    /// It changes nothing, and need not be said again.
    Refused {
        /// Why.
        why: String,
    },
    /// The store could not be written: say it again.
    Later,
}

/// Work on the wire.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct WorkUp {
    /// Requests ended.
    pub requests: u64,
    /// Those answered 5xx by the app.
    pub errors: u64,
    /// Time spent in the app.
    pub busy_ms: u64,
    /// Body bytes.
    pub bytes: u64,
}

impl From<Work> for WorkUp {
    fn from(work: Work) -> Self {
        Self { requests: work.requests, errors: work.errors, busy_ms: work.busy_ms, bytes: work.bytes }
    }
}

impl From<WorkUp> for Work {
    fn from(work: WorkUp) -> Self {
        Self { requests: work.requests, errors: work.errors, busy_ms: work.busy_ms, bytes: work.bytes }
    }
}

/// One tenant's work.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct TenantWorkUp {
    /// The tenant.
    pub tenant: String,
    /// Its work.
    #[serde(flatten)]
    pub work: WorkUp,
}

/// A load report: one per instance every 5 s, at most 10 KB.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct LoadUp {
    /// The report's format.
    pub version: u32,
    /// The cell.
    pub cell: String,
    /// The instance.
    pub instance: String,
    /// Rises by one with each report of a run.
    pub sequence: u64,
    /// The window's length.
    pub window_ms: u64,
    /// What is left of the host's processors, 0 to 100.
    pub capacity_left_percent: f64,
    /// Requests admitted and not ended.
    pub in_flight: u64,
    /// The whole instance's work.
    pub work: WorkUp,
    /// The heaviest tenants.
    pub top: Vec<TenantWorkUp>,
    /// All others.
    pub others: WorkUp,
}

impl LoadUp {
    /// The report to send.
    pub fn of(cell: &str, instance: &str, report: &LoadReport) -> Self {
        let row = |(tenant, work): &(TenantId, Work)| TenantWorkUp { tenant: tenant.to_string(), work: (*work).into() };
        Self {
            version: 1,
            cell: cell.to_owned(),
            instance: instance.to_owned(),
            sequence: report.sequence,
            window_ms: report.window_ms,
            capacity_left_percent: report.capacity_left_percent,
            in_flight: report.in_flight,
            work: report.cell.into(),
            top: report.top.iter().map(row).collect(),
            others: report.others.into(),
        }
    }

    /// The report as it is looked at.
    pub fn into_report(self) -> Result<LoadReport, InvalidId> {
        let row = |row: TenantWorkUp| Ok((row.tenant.parse()?, row.work.into()));
        Ok(LoadReport {
            sequence: self.sequence,
            window_ms: self.window_ms,
            capacity_left_percent: self.capacity_left_percent,
            in_flight: self.in_flight,
            cell: self.work.into(),
            top: self.top.into_iter().map(row).collect::<Result<_, InvalidId>>()?,
            others: self.others.into(),
        })
    }
}
