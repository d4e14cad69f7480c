//! The ways between the roles of a fleet, each through a relay.

use crate::fleet::kitchen::{CELLS, Layout};
use crate::relay::{Relay, Spoil, Way};
use std::net::SocketAddr;

/// All relays between one role and another: one for each member or replica that it may turn to.
pub struct Link {
    relays: Vec<Relay>,
}

impl Link {
    async fn to(addresses: impl IntoIterator<Item = SocketAddr>) -> Self {
        let mut relays = Vec::new();
        for address in addresses {
            relays.push(Relay::start(address).await);
        }
        Self { relays }
    }

    /// Where the relays listen.
    pub fn addresses(&self) -> Vec<SocketAddr> {
        self.relays.iter().map(Relay::address).collect()
    }

    /// See [`Relay::cut`].
    pub fn cut(&self) {
        self.relays.iter().for_each(Relay::cut);
    }

    /// See [`Relay::cut_way`].
    pub fn cut_way(&self, way: Way) {
        self.relays.iter().for_each(|relay| relay.cut_way(way));
    }

    /// See [`Relay::refuse`].
    pub fn refuse(&self) {
        self.relays.iter().for_each(Relay::refuse);
    }

    /// See [`Relay::heal`].
    pub fn heal(&self) {
        self.relays.iter().for_each(Relay::heal);
    }

    /// See [`Relay::delay`].
    pub fn delay(&self, delay_ms: u64) {
        self.relays.iter().for_each(|relay| relay.delay(delay_ms));
    }

    /// See [`Relay::spoil_next`].
    pub fn spoil_next(&self, way: Way, spoil: Spoil) {
        self.relays.iter().for_each(|relay| relay.spoil_next(way, spoil));
    }

    /// See [`Relay::spoilt`].
    pub fn spoilt(&self) -> usize {
        self.relays.iter().map(Relay::spoilt).sum()
    }

    /// See [`Relay::open`].
    pub fn open(&self) -> usize {
        self.relays.iter().map(Relay::open).sum()
    }
}

/// The links of a fleet.
pub struct Links {
    /// From the router to etcd.
    pub router_to_store: Link,
    /// From each replica of the control plane to etcd.
    pub replica_to_store: Vec<Link>,
    /// From routers to the gate of each cell; none where gates are reached directly.
    pub to_gate: Vec<Link>,
    /// From each cell's agent to the control plane: registration, stream and facts.
    pub agent_to_control_plane: Vec<Link>,
    /// From all agents to each replica while it leads: load reports.
    pub to_leader: Vec<Link>,
    /// From other agents to the data of each cell.
    pub to_transfer: Vec<Link>,
}

impl Links {
    pub(super) async fn start(layout: &Layout<'_>) -> Self {
        let (stores, replicas) = (layout.stores(), layout.replicas());
        let mut links = Self {
            router_to_store: Link::to(stores.clone()).await,
            replica_to_store: Vec::new(),
            to_gate: Vec::new(),
            agent_to_control_plane: Vec::new(),
            to_leader: Vec::new(),
            to_transfer: Vec::new(),
        };
        for replica in replicas.clone() {
            links.replica_to_store.push(Link::to(stores.clone()).await);
            links.to_leader.push(Link::to([replica]).await);
        }
        for cell in 0..CELLS {
            if !layout.plan.gates_are_direct {
                links.to_gate.push(Link::to([layout.gate(cell)]).await);
            }
            links.to_transfer.push(Link::to([layout.transfer(cell)]).await);
            links.agent_to_control_plane.push(Link::to(replicas.clone()).await);
        }
        links
    }

    /// Everything that other parts of the fleet can reach a cell by, or it them.
    pub fn of_cell(&self, cell: usize) -> [&Link; 3] {
        [&self.to_gate[cell], &self.to_transfer[cell], &self.agent_to_control_plane[cell]]
    }
}
