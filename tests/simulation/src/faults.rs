//! How a world begins, what goes wrong in it and when, what its operator does, and how it all calms down.

use crate::agent::{Ending, Fate, Instance};
use crate::control_plane::Action;
use crate::router::{Client, Router};
use crate::store::{Key, Txn, Value};
use crate::world::{Event, SimCell, World, note};
use crate::{data::Data, named};
use cellway_core::cell::{CellRef, GateList};
use cellway_core::ids::{Epoch, MoveId};
use cellway_core::tenant::Placement;
use cellway_core::tenant_move::MoveState;

/// How often an operator looks again for a move to undo, to take back, or for the tenant to be free.
const LOOK_MS: u64 = 25;

/// How often he does so.
const LOOKS_MAX: u32 = 60;

/// How far a clock jumps, forth or back.
const JUMP_MAX_MS: u64 = 2_500;

/// What goes wrong, or is done by people.
#[derive(Debug, Clone)]
pub(crate) enum Fault {
    Crash,
    CleanStop,
    Lose,
    Join,
    Leave,
    Cut,
    Pause,
    Resume {
        replica: usize,
    },
    Lead {
        replica: usize,
        leads: bool,
    },
    /// A replica's clock jumps, and is set right later.
    Jump,
    SetRight {
        replica: usize,
    },
    OtherReplica,
    RestartRouter,
    Move {
        looks: u32,
    },
    Undo {
        looks: u32,
    },
    TakeBack {
        looks: u32,
    },
    /// The operator states of those whose machine is gone that they are dead: never of another.
    Bury,
    /// All of this is over.
    Quiet,
}

impl World {
    pub(crate) fn begin(&mut self) {
        let mut txn = Txn::default();
        for at in 0..self.plan.cells {
            let letter = ["a", "b", "c"][at % 3];
            let own = CellRef { name: named(letter), uid: named(&format!("uid-{letter}")) };
            txn = txn
                .put(Key::Cell(own.name.clone()), Value::Cell)
                .put(Key::Gates(own.name.clone()), Value::Gates(GateList::new(own.uid.clone())));
            self.cells.push(SimCell { own, data: Data { fences: self.plan.fenced_data, ..Data::default() } });
            for _ in 0..self.plan.instances {
                self.add_instance(at);
            }
        }
        let (home, cell) = (named("new-1"), self.cells[0].own.clone());
        self.cells[0].data.begin(named("new-1"));
        txn = txn.put(Key::Placement, Value::Placement(Placement { cell, epoch: Epoch(1), home, hold: None }));
        self.commit(txn, crate::control_plane::Then::Nothing);
        for replica in 0..self.replicas.len() {
            self.replicas[replica].seen = self.store.revision();
            self.replicas[replica].lists_seen = self.store.revision();
            self.after(replica as u64, Event::Beat { replica, number: 0 });
        }
        self.replicas[0].leads = true;
        self.replicas[1].leads = self.plan.both_lead;
        for _ in 0..self.plan.routers {
            let replica = self.random.index(2);
            self.routers.push(Router { replica, ..Router::default() });
        }
        for client in 0..self.plan.clients {
            self.clients.push(Client::default());
            self.after_about(100, 200, Event::Send { client });
        }
        self.schedule();
    }

    fn add_instance(&mut self, cell: usize) {
        let number = self.instances.iter().filter(|one| one.cell == cell).count() + 1;
        let letter = self.cells[cell].own.name.to_string();
        let replica = self.random.index(2);
        self.instances.push(Instance::new(named(&format!("{letter}{number}")), cell, replica));
        self.after(0, Event::Boot { instance: self.instances.len() - 1 });
    }

    fn schedule(&mut self) {
        let plan = self.plan.clone();
        let counts = [
            (plan.crashes, Fault::Crash),
            (plan.clean_stops, Fault::CleanStop),
            (plan.losses, Fault::Lose),
            (plan.joins, Fault::Join),
            (plan.leaves, Fault::Leave),
            (plan.cuts, Fault::Cut),
            (plan.pauses, Fault::Pause),
            (plan.pauses, Fault::OtherReplica),
            (plan.jumps, Fault::Jump),
            (plan.router_restarts, Fault::RestartRouter),
            (plan.moves, Fault::Move { looks: 0 }),
            (plan.undos, Fault::Undo { looks: 0 }),
            (plan.backs, Fault::TakeBack { looks: 0 }),
            (plan.pauses, Fault::Lead { replica: 0, leads: false }),
            (plan.pauses, Fault::Lead { replica: 1, leads: true }),
        ];
        for (count, fault) in counts {
            for _ in 0..count {
                // People ask at any time; much of the rest strikes when a move has just gone a step.
                let asked = matches!(fault, Fault::Move { .. } | Fault::Undo { .. } | Fault::TakeBack { .. });
                if !asked && self.random.percent(60) {
                    self.aimed.push(fault.clone());
                } else {
                    self.after_about(200, plan.chaos_ms, Event::Fault(fault.clone()));
                }
            }
        }
        self.after(250, Event::Fault(Fault::Move { looks: 0 }));
        self.after(plan.chaos_ms + 100, Event::Fault(Fault::Quiet));
    }

    /// A move has gone a step: a fault that waited for one may strike.
    pub(crate) fn tempt_fate(&mut self) {
        if self.aimed.is_empty() || self.quiet_since_ms.is_some() || !self.random.percent(25) {
            return;
        }
        let at = self.random.index(self.aimed.len());
        let fault = self.aimed.swap_remove(at);
        self.after_about(0, 40, Event::Fault(fault));
    }

    /// An instance to do something to: one of the cells that a running move is about, more often than not.
    fn some_instance(&mut self) -> Option<usize> {
        let truth = self.truth();
        let involved = |cell: usize| {
            let own = &self.cells[cell].own;
            truth.running().any(|record| record.source == *own || record.target == *own)
        };
        let up: Vec<usize> = (0..self.instances.len()).filter(|at| self.instances[*at].is_up()).collect();
        let near: Vec<usize> = up.iter().copied().filter(|at| involved(self.instances[*at].cell)).collect();
        let near_wanted = self.random.percent(80) && !near.is_empty();
        self.random.pick(if near_wanted { &near } else { &up })
    }

    pub(crate) fn fault(&mut self, fault: Fault) {
        let over = self.quiet_since_ms.is_some();
        match fault {
            Fault::Resume { replica } => self.resume(replica),
            Fault::Bury => self.bury(),
            Fault::Quiet => self.calm_down(),
            _ if over => {}
            Fault::Crash | Fault::CleanStop | Fault::Lose | Fault::Leave | Fault::Cut => self.strike(&fault),
            Fault::Join => {
                let cell = self.some_cell();
                let alive = |one: &&Instance| one.cell == cell && one.fate == Fate::Alive;
                if self.instances.iter().filter(alive).count() < 2 {
                    note!(self, "one joins cell {}", self.cells[cell].own.name);
                    self.add_instance(cell);
                }
            }
            Fault::Pause => {
                let replica = self.random.index(self.replicas.len());
                self.replicas[replica].paused = true;
                note!(self, "replica {replica} sees nothing more");
                self.after_about(100, 1_500, Event::Fault(Fault::Resume { replica }));
            }
            Fault::Jump => self.jump(),
            Fault::SetRight { replica } => self.replicas[replica].clock_off_ms = 0,
            Fault::Lead { replica, leads } => {
                self.replicas[replica].leads = leads;
                let other = Fault::Lead { replica, leads: !leads };
                if replica == 0 {
                    self.after_about(50, 800, Event::Fault(other));
                }
            }
            Fault::OtherReplica => {
                let instance = self.random.index(self.instances.len());
                self.instances[instance].replica ^= 1;
            }
            Fault::RestartRouter => {
                let router = self.random.index(self.routers.len());
                self.routers[router].restart();
                note!(self, "router {router} starts again from its snapshot");
            }
            Fault::Move { looks } => self.ask_move(looks),
            Fault::Undo { looks } => self.ask_undo(looks),
            Fault::TakeBack { looks } => self.ask_back(looks),
        }
    }

    fn jump(&mut self) {
        let replica = self.random.index(self.replicas.len());
        let jump_ms = i64::try_from(self.random.between(50, JUMP_MAX_MS)).unwrap_or(0);
        let off_ms = if self.random.percent(50) { jump_ms } else { -jump_ms };
        self.replicas[replica].clock_off_ms = off_ms;
        note!(self, "the clock of replica {replica} jumps by {off_ms} ms");
        self.after_about(50, 1_500, Event::Fault(Fault::SetRight { replica }));
    }

    /// One without a gate, or any.
    fn some_cell(&mut self) -> usize {
        let empty = |cell: &usize| !self.instances.iter().any(|one| one.cell == *cell && one.is_up());
        let found = (0..self.cells.len()).find(empty);
        found.unwrap_or_else(|| self.random.index(self.cells.len()))
    }

    fn join_in_place(&mut self) {
        if self.random.percent(75) {
            self.after_about(100, 600, Event::Fault(Fault::Join));
        }
    }

    fn strike(&mut self, fault: &Fault) {
        let Some(instance) = self.some_instance() else { return };
        match fault {
            Fault::Crash => {
                self.crash(instance, false);
                let high_ms = if self.random.percent(50) { 40 } else { 700 };
                self.after_about(5, high_ms, Event::Boot { instance });
                if self.random.percent(40) {
                    // It starts again without the control plane.
                    self.instances[instance].cut_until_ms = self.now_ms + self.random.between(50, 1_500);
                }
            }
            Fault::CleanStop => {
                self.begin_ending(instance, Ending::Stop);
                let high_ms = if self.random.percent(50) { 60 } else { 700 };
                self.after_about(20, high_ms, Event::Boot { instance });
                self.after_about(high_ms, high_ms * 3, Event::Boot { instance });
            }
            Fault::Lose => {
                self.crash(instance, true);
                self.after_about(50, 1_000, Event::Fault(Fault::Bury));
                self.join_in_place();
            }
            Fault::Leave => {
                self.begin_ending(instance, Ending::Leave);
                self.join_in_place();
            }
            _ => {
                self.instances[instance].cut_until_ms = self.now_ms + self.random.between(50, 1_500);
                note!(self, "{} is cut off from the control plane", self.instances[instance].id);
            }
        }
    }

    fn resume(&mut self, replica: usize) {
        self.replicas[replica].paused = false;
        // It goes on with what it knew, until it hears of something newer.
        let revision = self.store.revision();
        self.after_about(1, 60, Event::Sees { replica, revision });
        self.after_about(1, 300, Event::SeesLists { replica, revision });
        self.beat_once(replica);
    }

    fn beat_once(&mut self, replica: usize) {
        self.say_all(replica, true);
    }

    fn bury(&mut self) {
        let truth = self.truth();
        for instance in 0..self.instances.len() {
            let one = &self.instances[instance];
            let listed = truth
                .gates(&self.cells[one.cell].own.name)
                .is_some_and(|(list, _)| list.instances.contains_key(&one.id));
            if listed && one.fate != Fate::Alive {
                note!(self, "the operator states that {} is dead", self.instances[instance].id);
                let replica = self.random.index(2);
                self.act(replica, Action::Unlist { instance }, 0);
            }
        }
        if self.quiet_since_ms.is_some() {
            self.after(200, Event::Fault(Fault::Bury));
        }
    }

    fn fresh_move(&mut self) -> MoveId {
        named(&format!("m{}", self.number()))
    }

    fn ask_move(&mut self, looks: u32) {
        let replica = self.random.index(self.replicas.len());
        let view = self.view(replica);
        let busy = view.moving().and_then(|(id, _)| view.a_move(id));
        let waits = busy.is_some_and(|(record, _)| !matches!(record.state, MoveState::Cleaning(_)));
        if waits && looks < LOOKS_MAX {
            return self.after_about(LOOK_MS, LOOK_MS * 4, Event::Fault(Fault::Move { looks: looks + 1 }));
        }
        let owner = view.placement().and_then(|(placement, _)| self.cell_index(&placement.cell));
        let others: Vec<usize> = (0..self.cells.len()).filter(|cell| Some(*cell) != owner).collect();
        let Some(target) = self.random.pick(&others) else { return };
        let id = self.fresh_move();
        note!(self, "replica {replica} is asked for {id} to {}", self.cells[target].own.name);
        self.act(replica, Action::Move { id, target }, 0);
    }

    fn ask_undo(&mut self, looks: u32) {
        let replica = self.random.index(self.replicas.len());
        let view = self.view(replica);
        let running = view.running().find(|record| !record.state.is_past_commit()).map(|record| record.id.clone());
        match running {
            Some(id) => {
                note!(self, "replica {replica} will be asked to undo {id}");
                self.after_about(0, 350, Event::Act { replica, action: Action::Undo { id }, attempt: 0 });
            }
            None if looks < LOOKS_MAX => self.after(LOOK_MS, Event::Fault(Fault::Undo { looks: looks + 1 })),
            None => {}
        }
    }

    fn ask_back(&mut self, looks: u32) {
        let replica = self.random.index(self.replicas.len());
        let view = self.view(replica);
        let open = |state: &MoveState| matches!(state, MoveState::Switched | MoveState::Settling);
        let running = view.running().find(|record| open(&record.state)).map(|record| record.id.clone());
        match running {
            Some(id) => {
                let back = self.fresh_move();
                note!(self, "replica {replica} will be asked for {back}, the move back of {id}");
                self.after_about(0, 150, Event::Act { replica, action: Action::TakeBack { id, back }, attempt: 0 });
            }
            None if looks < LOOKS_MAX => self.after(LOOK_MS, Event::Fault(Fault::TakeBack { looks: looks + 1 })),
            None => {}
        }
    }

    /// No more faults: the network is sound, everybody is back, whoever is dead is buried.
    fn calm_down(&mut self) {
        self.quiet_since_ms = Some(self.now_ms);
        note!(self, "the faults are over");
        for replica in 0..self.replicas.len() {
            self.replicas[replica].leads |= replica == 0;
            self.replicas[replica].clock_off_ms = 0;
            self.resume(replica);
        }
        for instance in 0..self.instances.len() {
            self.instances[instance].cut_until_ms = 0;
            self.after_about(1, 50, Event::Boot { instance });
            // Whoever was stopping just then starts again when it has stopped.
            self.after(2_000, Event::Boot { instance });
        }
        self.bury();
        let joins = self.random.percent(60);
        for cell in 0..self.cells.len() {
            let empty = !self.instances.iter().any(|one| one.cell == cell && one.fate == Fate::Alive);
            let leaving = self.instances.iter().any(|one| one.cell == cell && one.process.is_some() && !one.is_up());
            if joins && (empty || leaving) {
                self.add_instance(cell);
            }
        }
    }
}
