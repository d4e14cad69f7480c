//! What feeds say, as changes of single entries.

use std::net::SocketAddr;
use std::sync::Arc;

use cellway_core::cell::{CellCondition, CellKind};
use cellway_core::certificate::{CertificateName, SealedCertificate};
use cellway_core::hostname::Hostname;
use cellway_core::ids::{CellName, CellUid, Epoch, Revision, TenantId};
use cellway_core::limit::TenantLimits;

/// Where a tenant is, as the feed says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum TenantRoute {
    /// In a cell.
    Placed {
        /// The cell's name.
        cell: CellName,
        /// The cell's identity, where the feed knows it.
        uid: Option<CellUid>,
        /// The placement's epoch.
        epoch: Epoch,
        /// Whether a move holds its traffic.
        held: bool,
    },
    /// Nowhere: deleted, or vanished from the feed. Kept, so that its epoch is never lowered.
    Gone {
        /// The last epoch.
        epoch: Epoch,
    },
    /// Somewhere, but its record cannot be read and no earlier one is known. It takes the place of nothing that is.
    Unreadable,
}

impl TenantRoute {
    /// The epoch, whichever form it is.
    pub fn epoch(&self) -> Epoch {
        match self {
            Self::Placed { epoch, .. } | Self::Gone { epoch } => *epoch,
            Self::Unreadable => Epoch(0),
        }
    }
}

/// A cell, as the feed says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CellRoute {
    /// Its name.
    pub name: CellName,
    /// Its identity, where the feed knows it.
    pub uid: Option<CellUid>,
    /// Where it is reached.
    pub endpoints: Vec<SocketAddr>,
    /// Its condition. It does not matter to routing: who is placed there is served there.
    pub condition: CellCondition,
    /// Gates or plain origins.
    pub kind: CellKind,
}

/// One change of one entry.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Change {
    /// A tenant is new or was changed.
    Tenant {
        /// Which.
        tenant: TenantId,
        /// Where it is now.
        route: TenantRoute,
        /// The revision of the change.
        revision: Revision,
    },
    /// A tenant's record vanished.
    TenantRemoved(TenantId),
    /// A host belongs to a tenant.
    Host {
        /// The host.
        host: Hostname,
        /// Its owner.
        tenant: TenantId,
    },
    /// A host belongs to nobody any more.
    HostRemoved(Hostname),
    /// A cell is new or was changed.
    Cell(CellRoute),
    /// A cell's record vanished.
    CellRemoved(CellName),
    /// What a tenant may use.
    Limits {
        /// Which.
        tenant: TenantId,
        /// All of it.
        limits: TenantLimits,
    },
    /// A tenant's limits were lifted.
    LimitsRemoved(TenantId),
    /// A certificate is new or was changed.
    Certificate {
        /// What it is kept under.
        name: CertificateName,
        /// Its chain and its sealed key.
        sealed: Arc<SealedCertificate>,
    },
    /// A certificate was removed.
    CertificateRemoved(CertificateName),
}

/// What an entry is about.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Subject {
    /// A tenant.
    Tenant(TenantId),
    /// A host.
    Host(Hostname),
    /// A cell.
    Cell(CellName),
    /// A tenant's limits.
    Limits(TenantId),
    /// A certificate.
    Certificate(CertificateName),
}

impl Change {
    /// What it is about.
    pub fn subject(&self) -> Subject {
        match self {
            Self::Tenant { tenant, .. } | Self::TenantRemoved(tenant) => Subject::Tenant(tenant.clone()),
            Self::Host { host, .. } | Self::HostRemoved(host) => Subject::Host(host.clone()),
            Self::Cell(cell) => Subject::Cell(cell.name.clone()),
            Self::CellRemoved(cell) => Subject::Cell(cell.clone()),
            Self::Limits { tenant, .. } | Self::LimitsRemoved(tenant) => Subject::Limits(tenant.clone()),
            Self::Certificate { name, .. } | Self::CertificateRemoved(name) => Subject::Certificate(name.clone()),
        }
    }
}

/// What became of a change.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Applied {
    /// The table is different now.
    Changed,
    /// It said so already.
    Same,
    /// The change would have lowered an epoch, and was ignored.
    LowerEpoch,
}
