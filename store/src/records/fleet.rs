//! The small records: host claims, locks of moves, leftovers, findings, the leader, its heartbeat, the audit.

use super::{Shape, id, record};
use cellway_core::ids::{HomeId, MoveId, TenantId};
use serde::{Deserialize, Serialize};

/// Which tenant a host belongs to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HostClaim {
    /// The owner.
    pub tenant: TenantId,
}

/// Which move a tenant is in.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Moving {
    /// The move.
    pub id: MoveId,
}

/// Who was last given a place in a cell: whoever gives the next one compares that nobody has since.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PlaceGiven {
    /// The tenant that it was given to.
    pub tenant: TenantId,
}

/// A home that a cell still has to drop.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Leftover {
    /// Whose data it is.
    pub tenant: TenantId,
    /// The copy.
    pub home: HomeId,
    /// The move that left it.
    pub left_by: MoveId,
    /// Not to be dropped before this.
    pub due_ms: u64,
}

/// What is wrong, with whom, and what may be done about it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Finding {
    /// Its id.
    pub id: String,
    /// When it was made.
    pub at_ms: u64,
    /// Where it comes from: `alertmanager`, `mover` …
    pub source: String,
    /// The tenant, if it is about one.
    pub tenant: Option<String>,
    /// The cell, if it is about one.
    pub cell: Option<String>,
    /// What was observed.
    pub summary: String,
    /// The command to run.
    pub remedy: String,
    /// How often it was reported.
    pub times: u64,
}

/// Who leads.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Leader {
    /// The replica's own id, new at each start.
    pub replica: String,
    /// Where its API answers.
    pub address: String,
}

/// The leader's clock.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Heartbeat {
    /// When it was written.
    pub at_ms: u64,
}

/// The emergency brake: while there is one, nothing is started.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Brake {
    /// Since when it is on.
    pub at_ms: u64,
    /// Why.
    pub why: String,
}

/// One action.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Audit {
    /// When.
    pub at_ms: u64,
    /// Who.
    pub who: String,
    /// What was done.
    pub action: String,
    /// To what.
    pub subject: String,
    /// Why.
    pub why: String,
}

#[derive(Serialize, Deserialize)]
struct StoredHostClaim {
    tenant: String,
}

impl Shape for StoredHostClaim {
    type Of = HostClaim;
    const WHAT: &'static str = "host claim";
    fn of(value: &HostClaim) -> Self {
        Self { tenant: value.tenant.to_string() }
    }
    fn into_value(self) -> Result<HostClaim, String> {
        Ok(HostClaim { tenant: id(&self.tenant)? })
    }
}

#[derive(Serialize, Deserialize)]
struct StoredMoving {
    r#move: String,
}

impl Shape for StoredMoving {
    type Of = Moving;
    const WHAT: &'static str = "lock of a move";
    fn of(value: &Moving) -> Self {
        Self { r#move: value.id.to_string() }
    }
    fn into_value(self) -> Result<Moving, String> {
        Ok(Moving { id: id(&self.r#move)? })
    }
}

#[derive(Serialize, Deserialize)]
struct StoredPlaceGiven {
    tenant: String,
}

impl Shape for StoredPlaceGiven {
    type Of = PlaceGiven;
    const WHAT: &'static str = "place given";
    fn of(value: &PlaceGiven) -> Self {
        Self { tenant: value.tenant.to_string() }
    }
    fn into_value(self) -> Result<PlaceGiven, String> {
        Ok(PlaceGiven { tenant: id(&self.tenant)? })
    }
}

#[derive(Serialize, Deserialize)]
struct StoredLeftover {
    tenant: String,
    home: String,
    left_by: String,
    due_ms: u64,
}

impl Shape for StoredLeftover {
    type Of = Leftover;
    const WHAT: &'static str = "leftover";
    fn of(value: &Leftover) -> Self {
        Self {
            tenant: value.tenant.to_string(),
            home: value.home.to_string(),
            left_by: value.left_by.to_string(),
            due_ms: value.due_ms,
        }
    }
    fn into_value(self) -> Result<Leftover, String> {
        let (tenant, home, left_by) = (id(&self.tenant)?, id(&self.home)?, id(&self.left_by)?);
        Ok(Leftover { tenant, home, left_by, due_ms: self.due_ms })
    }
}

/// Records of texts and numbers alone are their own stored shape.
macro_rules! plain {
    ($value:ty, $what:literal) => {
        impl Shape for $value {
            type Of = $value;
            const WHAT: &'static str = $what;
            fn of(value: &$value) -> Self {
                value.clone()
            }
            fn into_value(self) -> Result<$value, String> {
                Ok(self)
            }
        }
        record!($value, $value);
    };
}

record!(HostClaim, StoredHostClaim);
record!(Moving, StoredMoving);
record!(PlaceGiven, StoredPlaceGiven);
record!(Leftover, StoredLeftover);
plain!(Finding, "finding");
plain!(Leader, "leader");
plain!(Heartbeat, "heartbeat");
plain!(Audit, "audit entry");
plain!(Brake, "brake");
