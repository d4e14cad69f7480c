//! What is said over the network.

use cellway_core::admission::RequestKind;
use cellway_core::ids::{CellName, Epoch, HomeId, InstanceId, MoveId, Revision};
use cellway_core::route::Owner;
use cellway_core::tenant::PlacementRecord;
use cellway_core::tenant_move::{Fact, Order, Position};
use cellway_core::verdict::Verdict;
use std::collections::BTreeSet;
use std::rc::Rc;

/// Who is spoken to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Node {
    Instance(usize),
    Replica(usize),
    Router(usize),
    Client(usize),
}

/// A request on its way.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Ask {
    /// Of the request and of its write; a stream's later writes have numbers of their own.
    pub(crate) number: u64,
    pub(crate) client: usize,
    pub(crate) router: usize,
    pub(crate) kind: RequestKind,
    /// What the router knew when it sent it.
    pub(crate) stamped: Owner,
    pub(crate) hops: u32,
    pub(crate) born_ms: u64,
}

/// Why a copy is fetched.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Purpose {
    Copy,
    Follow,
    /// Up to this position, taken under this list.
    Reach(Revision, Position),
}

/// A target's wish for the source's data.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Pull {
    pub(crate) move_id: MoveId,
    pub(crate) home: HomeId,
    pub(crate) from: HomeId,
    /// What the source serves at when the move begins.
    pub(crate) epoch: Epoch,
    pub(crate) purpose: Purpose,
    pub(crate) by: usize,
    pub(crate) asked_ms: u64,
}

/// What is said.
#[derive(Debug, Clone)]
pub(crate) enum Msg {
    /// To an agent: the tenant's placement, as read at a revision.
    Placement(PlacementRecord, Revision),
    /// To an agent: its cell's list of gates.
    Gates(Revision, Rc<BTreeSet<InstanceId>>),
    /// To an agent, with the epoch that the move begins at.
    Order(Order, Epoch),
    /// To an agent: it is registered.
    Registered { boot: u64, revision: Revision },
    /// To an agent: it is off the list.
    Left,
    /// To a replica: an agent is there.
    Register { instance: usize, boot: u64, run: u64 },
    /// To a replica: an agent leaves.
    Leave { instance: usize },
    /// To a replica.
    Fact { instance: usize, fact: Fact },
    /// Agent to agent.
    Pull(Pull),
    /// The answer: the whole copy.
    Pass(Pull, Rc<Vec<u64>>),
    /// To a router: the placement.
    Route(PlacementRecord),
    /// To an agent's gate.
    Ask(Ask),
    /// To a router: not admitted, by this cell's gate.
    Verdict(Ask, Verdict, CellName),
    /// To a client: how its request went.
    Answer { ask: u64, write: u64, taken: bool },
}

impl Msg {
    /// What goes over one connection arrives at most once.
    pub(crate) fn may_double(&self) -> bool {
        !matches!(self, Self::Register { .. } | Self::Registered { .. })
    }
}
