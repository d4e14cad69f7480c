//! Routers and clients: where a request goes, what a router believes, and which writes count as acknowledged.

use crate::broken::Broken;
use crate::message::{Ask, Msg, Node};
use crate::world::{Event, World, note};
use cellway_core::admission::RequestKind;
use cellway_core::ids::Epoch;
use cellway_core::route::{Owner, may_follow};
use cellway_core::tenant::PlacementRecord;
use cellway_core::verdict::Verdict;

/// How long a router holds a request.
const PATIENCE_MS: u64 = 1_500;

/// How long a client waits for an answer.
const CLIENT_PATIENCE_MS: u64 = 600;

/// A router: its table has one entry.
#[derive(Debug, Default)]
pub(crate) struct Router {
    pub(crate) table: Option<PlacementRecord>,
    /// Kept beside the table until the next change of the feed.
    pub(crate) hint: Option<Owner>,
    pub(crate) snapshot: Option<PlacementRecord>,
    /// The replica that feeds it.
    pub(crate) replica: usize,
}

/// A client with one request at a time.
#[derive(Debug, Default)]
pub(crate) struct Client {
    pub(crate) waits_for: Option<u64>,
}

impl Router {
    fn owner(&self) -> Option<(Owner, bool)> {
        let Some(PlacementRecord::Placed(placement)) = &self.table else { return None };
        match &self.hint {
            Some(hint) if hint.epoch > placement.epoch => Some((hint.clone(), false)),
            _ => {
                let owner = Owner { cell: placement.cell.name.clone(), epoch: placement.epoch };
                Some((owner, placement.hold.is_some()))
            }
        }
    }

    fn epoch(&self) -> Option<Epoch> {
        self.table.as_ref().map(PlacementRecord::epoch)
    }

    /// It starts again from what it saved earlier.
    pub(crate) fn restart(&mut self) {
        self.table.clone_from(&self.snapshot);
        self.hint = None;
    }
}

impl World {
    pub(crate) fn router_hears(&mut self, router: usize, msg: Msg) {
        match msg {
            Msg::Route(record) => self.take_route(router, record),
            Msg::Verdict(ask, verdict, said_by) => self.take_verdict(router, ask, &verdict, &said_by),
            _ => {}
        }
    }

    fn take_route(&mut self, router: usize, record: PlacementRecord) {
        let any = self.is(Broken::RouterTakesAnyEpoch);
        let saves = self.random.percent(20);
        let known = &mut self.routers[router];
        let before = known.epoch();
        if (before.is_some_and(|before| record.epoch() < before) && !any) || known.table.as_ref() == Some(&record) {
            return;
        }
        known.table = Some(record);
        known.hint = None;
        if saves {
            known.snapshot.clone_from(&known.table);
        }
        let after = known.epoch();
        if after < before {
            self.broke("a_router_never_lowers_an_epoch", format!("router {router} went from {before:?} to {after:?}"));
        }
    }

    fn take_verdict(&mut self, router: usize, mut ask: Ask, verdict: &Verdict, said_by: &cellway_core::ids::CellName) {
        if let Verdict::Elsewhere { cell, epoch } = verdict {
            let hint = Owner { cell: cell.clone(), epoch: *epoch };
            let is_known = self.cells.iter().any(|known| known.own.name == *cell);
            let held = self.routers[router].owner().map(|(owner, _)| owner);
            if held.is_some_and(|held| may_follow(&held, said_by, &hint, is_known, ask.hops)) {
                self.routers[router].hint = Some(hint);
                self.stats.hints += 1;
                ask.hops += 1;
                return self.route(router, ask);
            }
        }
        self.hold(router, ask);
    }

    fn hold(&mut self, router: usize, mut ask: Ask) {
        if self.now_ms >= ask.born_ms + PATIENCE_MS {
            let (client, number) = (ask.client, ask.number);
            return self.send(Node::Client(client), Msg::Answer { ask: number, write: number, taken: false });
        }
        self.stats.held += 1;
        ask.hops = 0;
        self.after_about(30, 120, Event::Retry { router, ask });
    }

    /// Sends a request to some gate of the cell that the router holds for the owner.
    pub(crate) fn route(&mut self, router: usize, mut ask: Ask) {
        let Some((owner, held)) = self.routers[router].owner() else { return self.hold(router, ask) };
        let gates: Vec<usize> = (0..self.instances.len())
            .filter(|at| self.cells[self.instances[*at].cell].own.name == owner.cell)
            .filter(|at| self.instances[*at].process.is_some())
            .collect();
        match self.random.pick(&gates) {
            Some(gate) if !held => {
                ask.stamped = owner;
                self.send(Node::Instance(gate), Msg::Ask(ask));
            }
            _ => self.hold(router, ask),
        }
    }

    pub(crate) fn client_sends(&mut self, client: usize) {
        let number = self.number();
        let router = self.random.index(self.routers.len());
        let stream = self.quiet_since_ms.is_none() && self.random.percent(self.plan.streams_percent);
        let kind = if stream { RequestKind::Stream } else { RequestKind::Ordinary };
        let stamped = Owner { cell: self.cells[0].own.name.clone(), epoch: Epoch(0) };
        let ask = Ask { number, client, router, kind, stamped, hops: 0, born_ms: self.now_ms };
        self.clients[client].waits_for = Some(number);
        self.after(CLIENT_PATIENCE_MS, Event::Patient { client, ask: number });
        self.route(router, ask);
    }

    pub(crate) fn client_gives_up(&mut self, client: usize, ask: u64) {
        if self.clients[client].waits_for == Some(ask) {
            self.client_goes_on(client);
        }
    }

    fn client_goes_on(&mut self, client: usize) {
        self.clients[client].waits_for = None;
        self.after_about(2, 30, Event::Send { client });
    }

    pub(crate) fn client_hears(&mut self, client: usize, msg: Msg) {
        let Msg::Answer { ask, write, taken } = msg else { return };
        if taken {
            note!(self, "client {client} knows that write {write} was taken");
            self.acknowledged.push(write);
            self.stats.acknowledged += 1;
            self.check_acknowledged(write);
        }
        if self.clients[client].waits_for == Some(ask) {
            self.client_goes_on(client);
        }
    }
}
