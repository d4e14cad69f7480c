//! Cells and their lists of gates as stored.

use super::placement::StoredCellRef;
use super::{Shape, id, record};
use cellway_core::cell::{Cell, CellCondition, CellKind, GateInstance, GateList, MoverDriver};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

#[derive(Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
enum StoredCondition {
    Open,
    Cordoned,
    Draining,
    Lost,
    Retired,
}

#[derive(Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
enum StoredKind {
    Agent,
    Origin,
}

#[derive(Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum StoredDriver {
    None,
    Sqlite,
    Command,
    Postgres,
}

impl StoredDriver {
    pub(super) fn of(driver: MoverDriver) -> Self {
        match driver {
            MoverDriver::None => Self::None,
            MoverDriver::Sqlite => Self::Sqlite,
            MoverDriver::Command => Self::Command,
            MoverDriver::Postgres => Self::Postgres,
        }
    }

    pub(super) fn into_value(self) -> MoverDriver {
        match self {
            Self::None => MoverDriver::None,
            Self::Sqlite => MoverDriver::Sqlite,
            Self::Command => MoverDriver::Command,
            Self::Postgres => MoverDriver::Postgres,
        }
    }
}

#[derive(Serialize, Deserialize)]
struct StoredCell {
    cell: StoredCellRef,
    condition: StoredCondition,
    kind: StoredKind,
    version: String,
    #[serde(default)]
    labels: BTreeMap<String, String>,
    endpoints: Vec<String>,
    #[serde(default)]
    capacity_tenants: u32,
}

impl Shape for StoredCell {
    type Of = Cell;
    const WHAT: &'static str = "cell";

    fn of(value: &Cell) -> Self {
        Self {
            cell: StoredCellRef::of(&value.cell),
            condition: match value.condition {
                CellCondition::Open => StoredCondition::Open,
                CellCondition::Cordoned => StoredCondition::Cordoned,
                CellCondition::Draining => StoredCondition::Draining,
                CellCondition::Lost => StoredCondition::Lost,
                CellCondition::Retired => StoredCondition::Retired,
            },
            kind: match value.kind {
                CellKind::Agent => StoredKind::Agent,
                CellKind::Origin => StoredKind::Origin,
            },
            version: value.version.clone(),
            labels: value.labels.clone(),
            endpoints: value.endpoints.clone(),
            capacity_tenants: value.capacity_tenants,
        }
    }

    fn into_value(self) -> Result<Cell, String> {
        Ok(Cell {
            cell: self.cell.into_value()?,
            condition: match self.condition {
                StoredCondition::Open => CellCondition::Open,
                StoredCondition::Cordoned => CellCondition::Cordoned,
                StoredCondition::Draining => CellCondition::Draining,
                StoredCondition::Lost => CellCondition::Lost,
                StoredCondition::Retired => CellCondition::Retired,
            },
            kind: match self.kind {
                StoredKind::Agent => CellKind::Agent,
                StoredKind::Origin => CellKind::Origin,
            },
            version: self.version,
            labels: self.labels,
            endpoints: self.endpoints,
            capacity_tenants: self.capacity_tenants,
        })
    }
}

record!(Cell, StoredCell);

#[derive(Serialize, Deserialize)]
struct StoredInstance {
    run: u64,
    endpoint: String,
    transfer_endpoint: String,
    driver: StoredDriver,
}

#[derive(Serialize, Deserialize)]
struct StoredGates {
    uid: String,
    instances: BTreeMap<String, StoredInstance>,
}

impl Shape for StoredGates {
    type Of = GateList;
    const WHAT: &'static str = "list of gates";

    fn of(value: &GateList) -> Self {
        let stored = |instance: &GateInstance| StoredInstance {
            run: instance.run,
            endpoint: instance.endpoint.clone(),
            transfer_endpoint: instance.transfer_endpoint.clone(),
            driver: StoredDriver::of(instance.driver),
        };
        Self {
            uid: value.uid.to_string(),
            instances: value.instances.iter().map(|(id, instance)| (id.to_string(), stored(instance))).collect(),
        }
    }

    fn into_value(self) -> Result<GateList, String> {
        let mut list = GateList::new(id(&self.uid)?);
        for (instance, stored) in self.instances {
            let StoredInstance { run, endpoint, transfer_endpoint, driver } = stored;
            let driver = driver.into_value();
            list.instances.insert(id(&instance)?, GateInstance { run, endpoint, transfer_endpoint, driver });
        }
        Ok(list)
    }
}

record!(GateList, StoredGates);
