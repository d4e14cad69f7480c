//! What agents state: that they are there, that they leave, and facts about the moves of their cell.

use super::{Attempt, NotDone, audited};
use crate::Replica;
use crate::advance::NotAdvanced;
use crate::view::At;
use cellway_api::agent::{FactHeard, FactUp, Register, Registered};
use cellway_core::cell::{Cell, CellKind, GateInstance, GateList, MoverDriver};
use cellway_core::ids::{CellName, CellUid, InstanceId, MoveId};
use cellway_core::tenant_move::Fact;
use cellway_store::{StoreError, Txn, keys};
use std::net::SocketAddr;

/// The most registered instances of one cell.
const INSTANCES_MAX: usize = 256;

impl Replica {
    /// An instance registers, or has started again: the list of gates and the cell's endpoints change together.
    pub(crate) async fn register(&self, name: &CellName, register: Register) -> Result<Registered, NotDone> {
        let id = InstanceId::new(&register.instance)?;
        for address in [&register.endpoint, &register.transfer_endpoint] {
            check_address(address)?;
        }
        let instance = GateInstance {
            run: register.run,
            endpoint: register.endpoint.clone(),
            transfer_endpoint: register.transfer_endpoint.clone(),
            driver: register.driver.into(),
        };
        let uid = register.uid.as_deref().map(CellUid::new).transpose()?;
        let attempt = |view: &crate::view::View| {
            let cell = view.cells.get(name).ok_or_else(|| super::cells::no_cell(name))?;
            if cell.value.kind != CellKind::Agent {
                return Err(NotDone::Conflict(format!("cell {name} is a plain origin: it has no agents")));
            }
            let gates = view.gates.get(name).ok_or_else(|| super::cells::no_cell(name))?;
            let uid = uid.clone().unwrap_or_else(|| gates.value.uid.clone());
            let others = gates.value.instances.iter().filter(|(other, _)| **other != id);
            check_company(others.map(|(_, other)| other), &instance, name)?;
            let list = gates.value.with_start(&uid, id.clone(), instance.clone());
            let list = list.map_err(|error| NotDone::Conflict(error.to_string()))?;
            let txn = relisted(cell, gates, &list);
            let txn = audited(txn, &format!("agent of {name}"), "register instance", id.as_str(), "");
            Ok(Attempt { txn, answer: uid })
        };
        let (uid, revision) = self.act(attempt).await?;
        tracing::info!(cell = %name, instance = %id, run = register.run, "agent registered");
        Ok(Registered { uid: uid.to_string(), revision: revision.0 })
    }

    /// An instance leaves for good, having closed and drained.
    pub(crate) async fn leave(&self, name: &CellName, id: &InstanceId) -> Result<(), NotDone> {
        self.act(|view| {
            let cell = view.cells.get(name).ok_or_else(|| super::cells::no_cell(name))?;
            let gates = view.gates.get(name).ok_or_else(|| super::cells::no_cell(name))?;
            let txn = relisted(cell, gates, &gates.value.without(id));
            let txn = audited(txn, &format!("agent of {name}"), "leave", id.as_str(), "");
            Ok(Attempt { txn, answer: () })
        })
        .await?;
        self.heard.forget(name, id);
        Ok(())
    }

    /// Brings one fact into its move. Who states it comes from the connection, and must be a registered instance.
    pub(crate) async fn hear(&self, name: &CellName, instance: &InstanceId, fact: FactUp) -> FactHeard {
        let Some(uid) = self.registered_uid(name, instance).await else {
            return FactHeard::Refused { why: "the instance is not registered in this cell".to_owned() };
        };
        let fact = match fact.into_fact(uid, instance.clone()) {
            Ok(fact) => fact,
            Err(error) => return FactHeard::Refused { why: error.to_string() },
        };
        self.hear_fact(name, fact).await
    }

    async fn hear_fact(&self, name: &CellName, fact: Fact) -> FactHeard {
        if let Fact::Dropped(report) = &fact
            && let Some(heard) = self.hear_leftover_dropped(name, report).await
        {
            return heard;
        }
        let Some(id) = fact.witness().map(|by| by.move_id.clone()) else {
            return FactHeard::Refused { why: "agents do not state this".to_owned() };
        };
        let mut outcome = self.mover().advance(&id, fact.clone()).await;
        if let Err(NotAdvanced::Refused(_) | NotAdvanced::Unknown(_)) = &outcome
            && self.was_behind(&id).await
        {
            outcome = self.mover().advance(&id, fact).await;
        }
        match outcome {
            Ok(_) => {
                self.metrics.facts_recorded.inc();
                FactHeard::Recorded
            }
            Err(error @ (NotAdvanced::Store(_) | NotAdvanced::Contended | NotAdvanced::Unreadable(_))) => {
                tracing::debug!(cell = %name, r#move = %id, %error, "a fact has to be said again");
                FactHeard::Later
            }
            Err(error) => {
                self.metrics.facts_refused.inc();
                FactHeard::Refused { why: error.to_string() }
            }
        }
    }

    /// Whether the view did not have the newest record of a move; if so, waits until it has. An agent may know more
    /// than this replica, by its stream from another one, and what it states must not be refused for that.
    async fn was_behind(&self, id: &MoveId) -> bool {
        let seen = self.view.read().moves.get(id).map(|at| at.revision);
        match self.store.get(&keys::a_move(id)).await {
            Ok((Some(entry), _)) if Some(entry.mod_revision) != seen => {
                self.view.seen(entry.mod_revision).await;
                true
            }
            Ok(_) | Err(_) => false,
        }
    }

    /// The cell's uid if the instance is registered; asked of the store where the view does not know it.
    async fn registered_uid(&self, name: &CellName, instance: &InstanceId) -> Option<CellUid> {
        let in_view = || {
            let view = self.view.read();
            let listed = view.gates.get(name).filter(|gates| gates.value.instances.contains_key(instance));
            listed.map(|gates| gates.value.uid.clone())
        };
        if let Some(uid) = in_view() {
            return Some(uid);
        }
        let (entry, _) = self.store.get(&keys::gates(name)).await.ok()?;
        self.view.seen(entry?.mod_revision).await;
        in_view()
    }

    /// A leftover that its cell has dropped is struck off; `None` if the fact is not about a leftover.
    async fn hear_leftover_dropped(
        &self,
        name: &CellName,
        report: &cellway_core::tenant_move::DropReport,
    ) -> Option<FactHeard> {
        let (stored, revision) = {
            let view = self.view.read();
            let struck = view.leftovers.iter().find(|(key, at)| {
                key.cell == *name && key.home == report.home && at.value.left_by == report.by.move_id
            });
            let (key, at) = struck?;
            (keys::leftover(name, &key.tenant, &key.home), at.revision)
        };
        let txn = Txn::new().require_revision(stored.clone(), revision).delete(stored);
        Some(match self.store.commit(txn).await {
            Ok(_) => FactHeard::Recorded,
            Err(StoreError::Conflict) => FactHeard::Refused { why: "it is struck off already".to_owned() },
            Err(_) => FactHeard::Later,
        })
    }
}

/// A cell's list of gates and its endpoints change together.
fn relisted(cell: &At<Cell>, gates: &At<GateList>, list: &GateList) -> Txn {
    let name = &cell.value.cell.name;
    let endpoints = list.instances.values().map(|listed| listed.endpoint.clone()).collect();
    let changed = Cell { endpoints, ..cell.value.clone() };
    Txn::new()
        .require_revision(keys::gates(name), gates.revision)
        .require_revision(keys::cell(name), cell.revision)
        .put(keys::gates(name), gates.replaced_by(list))
        .put(keys::cell(name), cell.replaced_by(&changed))
}

/// SQLite files are on one host, so one instance has them; other drivers allow company of their own kind.
fn check_company<'a>(
    mut others: impl Iterator<Item = &'a GateInstance>,
    instance: &GateInstance,
    name: &CellName,
) -> Result<(), NotDone> {
    let Some(first) = others.next() else { return Ok(()) };
    if first.driver != instance.driver {
        return Err(NotDone::Conflict(format!(
            "the registered agents of cell {name} have driver {}, this one has {}",
            first.driver.as_str(),
            instance.driver.as_str()
        )));
    }
    if instance.driver == MoverDriver::Sqlite {
        return Err(NotDone::Conflict(format!(
            "cell {name} has a registered agent that holds its SQLite files (gate {}): a second one would not see \
             them. If that one is to be replaced, let it leave first: `cellway agent leave`",
            first.endpoint
        )));
    }
    if others.count() + 2 > INSTANCES_MAX {
        return Err(NotDone::Conflict(format!("cell {name} has {INSTANCES_MAX} registered agents already")));
    }
    Ok(())
}

fn check_address(address: &str) -> Result<(), NotDone> {
    let parsed: SocketAddr =
        address.parse().map_err(|_| NotDone::Invalid(format!("{address:?} is not of the form IP:PORT")))?;
    if parsed.ip().is_loopback() && parsed.port() > 0 {
        return Ok(());
    }
    Err(NotDone::Invalid(format!("{address}: without TLS on this hop only loopback addresses are allowed")))
}
