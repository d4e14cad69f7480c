//! Cells.

use super::{Attempt, NotDone, audited};
use crate::view::{At, View};
use crate::{Replica, clock};
use cellway_api::fleet::{CellKindView, CellView, ChangeCell, CreateCell, InstanceView};
use cellway_core::cell::{Cell, CellCondition, CellKind, CellRef, GateList};
use cellway_core::ids::{CellName, CellUid};
use cellway_store::records::Record;
use cellway_store::{Txn, keys};
use std::net::SocketAddr;

/// The most endpoints of a plain origin.
const ENDPOINTS_MAX: usize = 64;

impl Replica {
    /// Creates a cell.
    pub(crate) async fn create_cell(&self, wanted: CreateCell) -> Result<CellView, NotDone> {
        let name = CellName::new(&wanted.name)?;
        let kind = match wanted.kind {
            CellKindView::Agent if !wanted.endpoints.is_empty() => {
                return Err(NotDone::Invalid(
                    "a cell of kind agent takes no endpoints: its agents register themselves".into(),
                ));
            }
            CellKindView::Agent => CellKind::Agent,
            CellKindView::Origin => {
                check_endpoints(&wanted.endpoints)?;
                CellKind::Origin
            }
        };
        let uid = CellUid::new(&clock::token())?;
        let cell = Cell {
            cell: CellRef { name: name.clone(), uid: uid.clone() },
            condition: CellCondition::Open,
            kind,
            version: wanted.version.clone().unwrap_or_else(|| "unversioned".to_owned()),
            labels: wanted.labels.clone(),
            endpoints: wanted.endpoints.clone(),
            capacity_tenants: wanted.capacity_tenants,
        };
        self.act(|view| {
            if view.cells.contains_key(&name) {
                return Err(NotDone::Conflict(format!("there is a cell {name} already")));
            }
            let mut txn = Txn::new().require_absent(keys::cell(&name)).put(keys::cell(&name), cell.encode());
            if kind == CellKind::Agent {
                let gates = keys::gates(&name);
                txn = txn.require_absent(gates.clone()).put(gates, GateList::new(uid.clone()).encode());
            }
            Ok(Attempt { txn: audited(txn, "api", "create cell", name.as_str(), ""), answer: () })
        })
        .await?;
        Ok(CellView::of(&cell))
    }

    /// Opens or cordons a cell.
    pub(crate) async fn change_cell(&self, name: &str, change: ChangeCell) -> Result<CellView, NotDone> {
        let name = CellName::new(name)?;
        let condition = match change.condition.as_str() {
            "open" => CellCondition::Open,
            "cordoned" => CellCondition::Cordoned,
            other => {
                return Err(NotDone::Invalid(format!("condition {other:?} is none of: open, cordoned")));
            }
        };
        let (cell, _) = self
            .act(|view| {
                let at = view.cells.get(&name).ok_or_else(|| no_cell(&name))?;
                let cell = Cell { condition, ..at.value.clone() };
                let key = keys::cell(&name);
                let txn = Txn::new().require_revision(key.clone(), at.revision).put(key, at.replaced_by(&cell));
                Ok(Attempt { txn: audited(txn, "api", condition.as_str(), name.as_str(), ""), answer: cell })
            })
            .await?;
        Ok(CellView::of(&cell))
    }

    /// A cell with its gates, tenants and load.
    pub(crate) fn cell_view(&self, view: &View, cell: &At<Cell>, tenants: u32) -> CellView {
        let name = &cell.value.cell.name;
        let mut shown = CellView { tenants, ..CellView::of(&cell.value) };
        if let Some(gates) = view.gates.get(name) {
            let instances = &gates.value.instances;
            shown.load = self.heard.load(name, instances.keys()).map(Into::into);
            shown.instances = instances
                .iter()
                .map(|(id, instance)| InstanceView {
                    id: id.to_string(),
                    run: instance.run,
                    endpoint: instance.endpoint.clone(),
                    reachable: self.heard.is_reachable(name, id),
                })
                .collect();
        }
        shown
    }
}

pub(crate) fn no_cell(name: &CellName) -> NotDone {
    NotDone::NotFound(format!("there is no cell {name}: `cellway cell list` shows the ones there are"))
}

fn check_endpoints(endpoints: &[String]) -> Result<(), NotDone> {
    if endpoints.is_empty() || endpoints.len() > ENDPOINTS_MAX {
        return Err(NotDone::Invalid(format!("a cell of kind origin needs 1 to {ENDPOINTS_MAX} endpoints")));
    }
    for endpoint in endpoints {
        let address: SocketAddr = endpoint
            .parse()
            .map_err(|_| NotDone::Invalid(format!("endpoint {endpoint:?} is not of the form IP:PORT")))?;
        if !address.ip().is_loopback() {
            return Err(NotDone::Invalid(format!(
                "endpoint {endpoint}: without TLS on this hop only loopback addresses are allowed"
            )));
        }
    }
    Ok(())
}
