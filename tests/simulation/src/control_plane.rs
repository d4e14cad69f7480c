//! A replica of the control plane: it acts on what it has seen, and compares what the real one compares
//! (`control-plane/src/advance.rs`, `operate/moves.rs`, `operate/agents.rs`).

use crate::broken::Broken;
use crate::message::{Msg, Node};
use crate::store::{Key, Leftover, Txn, Value, View};
use crate::world::{Event, World, note};
use cellway_core::cell::{GateInstance, GateList, ListedGates, MoverDriver};
use cellway_core::ids::{CellName, InstanceId, MoveId, Revision};
use cellway_core::tenant::{AfterWait, LongRequests, PlacementRecord};
use cellway_core::tenant_move::{
    Fact, MoveLimits, MoveRecord, MoveState, Order, Priority, Refused, Task, deadline, next, orders_for, placement_of,
};
use std::collections::BTreeSet;
use std::rc::Rc;

/// How often a lost compare-and-swap is tried again.
const ATTEMPTS_MAX: u32 = 8;

/// How often a replica looks at the clock.
const BEAT_MS: u64 = 50;

/// How far behind lists of gates may be, at the most, where the plan has them lag.
const LISTS_LAG_MS: u64 = 1_500;

/// A replica.
#[derive(Debug, Default)]
pub(crate) struct Replica {
    pub(crate) seen: Revision,
    /// What it has seen of the lists of gates; older than `seen` only where the plan says so.
    pub(crate) lists_seen: Revision,
    pub(crate) paused: bool,
    pub(crate) leads: bool,
    /// How far its clock is off.
    pub(crate) clock_off_ms: i64,
}

/// What operators and agents have done.
#[derive(Debug, Clone)]
pub(crate) enum Action {
    Move { id: MoveId, target: usize },
    Undo { id: MoveId },
    TakeBack { id: MoveId, back: MoveId },
    Register { instance: usize, boot: u64, run: u64 },
    Unlist { instance: usize },
}

/// What follows from a commit, or from its failure.
#[derive(Debug)]
pub(crate) enum Then {
    Advance { replica: usize, id: MoveId, fact: Fact, attempt: u32 },
    Act { replica: usize, action: Action, attempt: u32 },
    Nothing,
}

impl World {
    pub(crate) fn view(&self, replica: usize) -> Rc<View> {
        self.store.at(self.replicas[replica].seen)
    }

    pub(crate) fn replica_sees(&mut self, replica: usize, revision: Revision) {
        let known = &mut self.replicas[replica];
        if known.paused || known.seen >= revision {
            return;
        }
        known.seen = revision;
        if !self.plan.lagging_lists {
            self.replicas[replica].lists_seen = revision;
        }
        self.lead(replica);
        self.say_all(replica, true);
    }

    pub(crate) fn replica_sees_lists(&mut self, replica: usize, revision: Revision) {
        let known = &mut self.replicas[replica];
        if !known.paused {
            known.lists_seen = known.lists_seen.max(revision);
        }
    }

    pub(crate) fn beat(&mut self, replica: usize, number: u64) {
        self.after(BEAT_MS, Event::Beat { replica, number: number + 1 });
        self.lead(replica);
        if number.is_multiple_of(2) {
            self.say_all(replica, false);
        }
    }

    /// What time a replica takes it for.
    fn clock(&self, replica: usize) -> u64 {
        self.now_ms.saturating_add_signed(self.replicas[replica].clock_off_ms)
    }

    /// The leader's pass: at most one fact into each running move.
    fn lead(&mut self, replica: usize) {
        if !self.replicas[replica].leads {
            return;
        }
        let view = self.view(replica);
        let lists = self.store.at(self.replicas[replica].lists_seen);
        let now_ms = self.clock(replica);
        let due: Vec<(MoveId, Fact)> = view
            .running()
            .filter_map(|record| Some((record.id.clone(), self.due_fact(&lists, record, now_ms)?)))
            .collect();
        for (id, fact) in due {
            // The next pass looks again.
            self.advance(replica, id, fact, ATTEMPTS_MAX);
        }
    }

    fn due_fact(&self, lists: &View, record: &MoveRecord, now_ms: u64) -> Option<Fact> {
        if record.state == MoveState::Planned && now_ms < deadline(record) {
            return self.may_start(record, now_ms).then_some(Fact::Start);
        }
        if let MoveState::Holding(holding) = &record.state {
            let (gates, revision) = lists.gates(&record.source.name)?;
            if holding.list.as_ref().is_none_or(|list| list.revision != revision) {
                let instances = gates.instances.keys().cloned().collect();
                return Some(Fact::Listed(ListedGates { revision, instances }));
            }
        }
        let waits = record.state == MoveState::Switched || self.is(Broken::NoDeadlines);
        (now_ms >= deadline(record) && !waits).then_some(Fact::Elapsed)
    }

    /// All that the source would have to fence is up, and something of the target is. A hint for the operator, not a
    /// rule: it may be untrue a moment later.
    fn may_start(&self, record: &MoveRecord, now_ms: u64) -> bool {
        let up =
            |cell: &CellName| self.instances.iter().any(|one| self.cells[one.cell].own.name == *cell && one.is_up());
        now_ms >= record.not_before_ms && up(&record.source.name) && up(&record.target.name)
    }

    /// Brings a fact into its move.
    pub(crate) fn advance(&mut self, replica: usize, id: MoveId, fact: Fact, attempt: u32) {
        let view = self.view(replica);
        let Some((record, _)) = view.a_move(&id) else { return };
        let fact = self.as_quoted(record, fact);
        let Some(txn) = self.step(&view, &id, &fact, self.clock(replica)) else { return };
        let then = Then::Advance { replica, id, fact, attempt };
        self.after_about(1, 6, Event::Commit { txn, then });
    }

    fn step(&mut self, view: &View, id: &MoveId, fact: &Fact, now_ms: u64) -> Option<Txn> {
        let (before, at) = view.a_move(id)?;
        let after = match next(before, fact.clone(), now_ms) {
            Ok(after) => after,
            Err(Refused::NothingNew | Refused::Early | Refused::NotNow) => return None,
            Err(refused) => {
                note!(self, "a fact of {id} is refused, {refused}: {fact:?}");
                self.stats.refused += 1;
                return None;
            }
        };
        let (locked, locked_at) = view.moving()?;
        let (placement, placed_at) = view.placement()?;
        if locked != id || *placement != placement_of(before) {
            return None;
        }
        let mut txn = Txn::default()
            .require(Key::Move(id.clone()), at)
            .require(Key::Moving, locked_at)
            .put(Key::Move(id.clone()), Value::Move(Box::new(after.clone())));
        let placed = placement_of(&after);
        if placed != *placement {
            txn = txn.require(Key::Placement, placed_at).put(Key::Placement, Value::Placement(placed));
        }
        if let (MoveState::Holding(holding), MoveState::Switched) = (&before.state, &after.state)
            && let Some(list) = &holding.list
            && !self.is(Broken::CommitWithoutList)
        {
            txn = txn.require(Key::Gates(before.source.name.clone()), list.revision);
        }
        if after.state.is_last() {
            txn = match after.retry(now_ms) {
                Some(again) => txn
                    .require_absent(Key::Move(again.id.clone()))
                    .put(Key::Moving, Value::Moving(again.id.clone()))
                    .put(Key::Move(again.id.clone()), Value::Move(Box::new(again))),
                None => txn.delete(Key::Moving),
            };
            txn = with_leftover(txn, &after);
        }
        if self.is(Broken::BlindUndo) && matches!(fact, Fact::UndoAsked(_)) {
            txn = txn.blind();
        }
        Some(txn)
    }

    /// What a broken shell makes of a fact before it counts it.
    fn as_quoted(&self, record: &MoveRecord, mut fact: Fact) -> Fact {
        match &mut fact {
            Fact::Fenced(report) if self.is(Broken::FactsQuoteNothing) => {
                report.by.move_id = record.id.clone();
                report.epoch = record.epoch;
            }
            Fact::Positioned(report) if self.is(Broken::PositionWithoutList) => {
                if let Some(list) = listed(record) {
                    report.list = list;
                }
            }
            Fact::Reached(report) if self.is(Broken::PositionWithoutList) => {
                if let Some(list) = listed(record) {
                    report.list = list;
                }
            }
            _ => {}
        }
        fact
    }

    pub(crate) fn commit(&mut self, txn: Txn, then: Then) {
        let before = self.truth();
        let done = self.store.commit(txn);
        if let Ok(revision) = done {
            self.check_commit(&before);
            for replica in 0..self.replicas.len() {
                let stale = self.quiet_since_ms.is_none() && self.random.percent(self.plan.stale_percent);
                let high_ms = if stale { 800 } else { 12 };
                self.after_about(1, high_ms, Event::Sees { replica, revision });
                if self.plan.lagging_lists {
                    let lists_ms = if replica == 1 { LISTS_LAG_MS } else { high_ms };
                    self.after_about(1, lists_ms, Event::SeesLists { replica, revision });
                }
            }
        }
        match (done, then) {
            (Ok(revision), Then::Act { action: Action::Register { instance, boot, .. }, .. }) => {
                self.send(Node::Instance(instance), Msg::Registered { boot, revision });
            }
            (Ok(_), Then::Act { action: Action::Unlist { instance }, .. }) => {
                self.send(Node::Instance(instance), Msg::Left);
            }
            (Ok(_), _) | (Err(_), Then::Nothing) => {}
            (Err(_), Then::Advance { replica, id, fact, attempt }) if attempt < ATTEMPTS_MAX => {
                self.stats.conflicts += 1;
                self.after_about(3, 25, Event::Advance { replica, id, fact, attempt: attempt + 1 });
            }
            (Err(_), Then::Act { replica, action, attempt }) if attempt < ATTEMPTS_MAX => {
                self.stats.conflicts += 1;
                self.after_about(3, 25, Event::Act { replica, action, attempt: attempt + 1 });
            }
            (Err(_), _) => {}
        }
    }

    pub(crate) fn replica_hears(&mut self, replica: usize, msg: Msg) {
        match msg {
            Msg::Register { instance, boot, run } => {
                self.act(replica, Action::Register { instance, boot, run }, 0);
            }
            Msg::Leave { instance } => self.act(replica, Action::Unlist { instance }, 0),
            Msg::Fact { instance, fact } => self.hear(replica, instance, fact),
            _ => {}
        }
    }

    fn hear(&mut self, replica: usize, instance: usize, fact: Fact) {
        let view = self.view(replica);
        let (id, cell) =
            (self.instances[instance].id.clone(), self.cells[self.instances[instance].cell].own.name.clone());
        let listed = view.gates(&cell).is_some_and(|(list, _)| list.instances.contains_key(&id));
        let Some(by) = fact.witness().filter(|_| listed) else { return };
        if let Fact::Dropped(report) = &fact
            && let Some((leftover, at)) = view.leftover(&cell, &report.home)
            && leftover.left_by == report.by.move_id
        {
            let key = Key::Leftover(cell, report.home.clone());
            let txn = Txn::default().require(key.clone(), at).delete(key);
            self.after_about(1, 6, Event::Commit { txn, then: Then::Nothing });
            return;
        }
        let mut about = by.move_id.clone();
        if self.is(Broken::FactsQuoteNothing) && matches!(fact, Fact::Fenced(_)) {
            about = view.moving().map_or(about, |(id, _)| id.clone());
        }
        self.advance(replica, about, fact, 0);
    }

    /// Commits what `action` makes of the view.
    pub(crate) fn act(&mut self, replica: usize, action: Action, attempt: u32) {
        let view = self.view(replica);
        let now_ms = self.clock(replica);
        let txn = match &action {
            Action::Move { id, target } => self.txn_of_move(&view, id, *target, now_ms),
            Action::Undo { id } => {
                let fact = Fact::UndoAsked("asked".to_owned());
                return self.advance(replica, id.clone(), fact, attempt);
            }
            Action::TakeBack { id, back } => self.txn_of_take_back(&view, id, back, now_ms),
            Action::Register { instance, run, .. } => self.txn_of_register(&view, *instance, *run),
            Action::Unlist { instance } => self.txn_of_unlist(&view, *instance),
        };
        let Some(txn) = txn else { return };
        self.after_about(1, 6, Event::Commit { txn, then: Then::Act { replica, action, attempt } });
    }

    /// Every second moment has a tenant that would have its long requests cut.
    fn long_requests(&self) -> LongRequests {
        let then = if self.now_ms.is_multiple_of(2) { AfterWait::Cut } else { AfterWait::Undo };
        LongRequests { wait_ms: 400, then }
    }

    fn txn_of_move(&mut self, view: &View, id: &MoveId, target: usize, now_ms: u64) -> Option<Txn> {
        let (placement, placed_at) = view.placement()?;
        let target = self.cells[target].own.clone();
        if placement.cell == target {
            return None;
        }
        let record = MoveRecord {
            id: id.clone(),
            tenant: crate::named("acme"),
            source: placement.cell.clone(),
            target: target.clone(),
            epoch: placement.epoch,
            source_home: placement.home.clone(),
            target_home: crate::named(id.as_str()),
            keeps_target_home: false,
            source_gates: gates_of(view, &placement.cell.name),
            driver: MoverDriver::Sqlite,
            cause: "asked".to_owned(),
            limits: MoveLimits { long_requests: self.long_requests(), ..Self::limits() },
            priority: Priority::Normal,
            freeze_now_ms: None,
            attempt: 1,
            not_before_ms: now_ms,
            created_ms: now_ms,
            entered_ms: now_ms,
            predicted_freeze_ms: 0,
            copied: None,
            held_ms: None,
            cut_requests: 0,
            released_ms: None,
            state: MoveState::Planned,
        };
        let txn = Txn::default()
            .require(Key::Cell(target.name.clone()), view.cell_revision(&target.name)?)
            .require(Key::Placement, placed_at)
            .require_absent(Key::Move(id.clone()))
            .put(Key::Move(id.clone()), Value::Move(Box::new(record)));
        let Some((running, locked_at)) = view.moving() else {
            return Some(txn.require_absent(Key::Moving).put(Key::Moving, Value::Moving(id.clone())));
        };
        let (running, running_at) = view.a_move(running)?;
        if !matches!(running.state, MoveState::Cleaning(_)) {
            return None;
        }
        let ended = next(running, Fact::TakenOver(id.clone()), now_ms).ok()?;
        let txn = txn
            .require(Key::Move(ended.id.clone()), running_at)
            .require(Key::Moving, locked_at)
            .put(Key::Move(ended.id.clone()), Value::Move(Box::new(ended.clone())))
            .put(Key::Moving, Value::Moving(id.clone()));
        Some(with_leftover(txn, &ended))
    }

    fn txn_of_take_back(&mut self, view: &View, id: &MoveId, back: &MoveId, now_ms: u64) -> Option<Txn> {
        let (record, at) = view.a_move(id)?;
        let taken = record.back(back.clone(), "worse".to_owned(), gates_of(view, &record.target.name), now_ms)?;
        let ended = next(record, Fact::TakenOver(back.clone()), now_ms).ok()?;
        let (locked, locked_at) = view.moving()?;
        let (_, placed_at) = view.placement()?;
        if locked != id {
            return None;
        }
        let txn = Txn::default()
            .require(Key::Move(id.clone()), at)
            .require(Key::Moving, locked_at)
            .require(Key::Placement, placed_at)
            .require_absent(Key::Move(back.clone()))
            .put(Key::Move(id.clone()), Value::Move(Box::new(ended)))
            .put(Key::Move(back.clone()), Value::Move(Box::new(taken)))
            .put(Key::Moving, Value::Moving(back.clone()));
        Some(txn)
    }

    fn txn_of_register(&self, view: &View, instance: usize, run: u64) -> Option<Txn> {
        let (id, cell) = (self.instances[instance].id.clone(), &self.cells[self.instances[instance].cell].own);
        let (list, _) = view.gates(&cell.name)?;
        let entry = GateInstance {
            run,
            endpoint: id.to_string(),
            transfer_endpoint: id.to_string(),
            driver: MoverDriver::Sqlite,
        };
        let list = list.with_start(&cell.uid, id, entry).ok()?;
        with_list(view, &cell.name, list)
    }

    fn txn_of_unlist(&self, view: &View, instance: usize) -> Option<Txn> {
        let cell = &self.cells[self.instances[instance].cell].own.name;
        let (list, _) = view.gates(cell)?;
        with_list(view, cell, list.without(&self.instances[instance].id))
    }

    /// Says to the agents and routers that follow this replica what it knows.
    pub(crate) fn say_all(&mut self, replica: usize, changed: bool) {
        let view = self.view(replica);
        let Some((placement, _)) = view.placement() else { return };
        let record = PlacementRecord::Placed(placement.clone());
        for router in 0..self.routers.len() {
            if self.routers[router].replica == replica && (changed || self.random.percent(30)) {
                self.send(Node::Router(router), Msg::Route(record.clone()));
            }
        }
        for instance in 0..self.instances.len() {
            if self.instances[instance].replica == replica && self.instances[instance].process.is_some() {
                self.say(&view, instance, changed);
            }
        }
    }

    fn say(&mut self, view: &View, instance: usize, changed: bool) {
        let Some((placement, _)) = view.placement() else { return };
        let cell = self.cells[self.instances[instance].cell].own.clone();
        let to = Node::Instance(instance);
        if changed || self.random.percent(30) {
            self.send(to, Msg::Placement(PlacementRecord::Placed(placement.clone()), view.revision));
        }
        if let Some((list, revision)) = view.gates(&cell.name)
            && self.random.percent(20)
        {
            let listed: std::collections::BTreeSet<InstanceId> = list.instances.keys().cloned().collect();
            self.send(to, Msg::Gates(revision, Rc::new(listed)));
        }
        for record in view.running() {
            for order in orders_for(record).into_iter().filter(|order| order.cell == cell) {
                self.send(to, Msg::Order(order, record.epoch));
            }
        }
        let now_ms = self.now_ms;
        for (home, leftover) in view.leftovers_of(&cell.name).filter(|(_, leftover)| leftover.due_ms <= now_ms) {
            let order = Order {
                move_id: leftover.left_by.clone(),
                tenant: crate::named("acme"),
                cell: cell.clone(),
                task: Task::Drop { home: home.clone() },
            };
            self.after_about(1, 8, Event::Deliver(to, Msg::Order(order, cellway_core::ids::Epoch(0))));
        }
    }
}

fn listed(record: &MoveRecord) -> Option<Revision> {
    match &record.state {
        MoveState::Holding(holding) => holding.list.as_ref().map(|list| list.revision),
        _ => None,
    }
}

/// The list of gates and the cell's record change together.
fn with_list(view: &View, cell: &CellName, list: GateList) -> Option<Txn> {
    let (_, gates_at) = view.gates(cell)?;
    let txn = Txn::default()
        .require(Key::Gates(cell.clone()), gates_at)
        .require(Key::Cell(cell.clone()), view.cell_revision(cell)?)
        .put(Key::Gates(cell.clone()), Value::Gates(list))
        .put(Key::Cell(cell.clone()), Value::Cell);
    Some(txn)
}

fn with_leftover(txn: Txn, ended: &MoveRecord) -> Txn {
    let (home, cell, due_ms) = match &ended.state {
        MoveState::Done(done) => (&done.leftover, &ended.source.name, ended.entered_ms + ended.limits.retention_ms),
        MoveState::Undone(undone) => (&undone.leftover, &ended.target.name, ended.entered_ms),
        _ => return txn,
    };
    let Some(home) = home else { return txn };
    let leftover = Leftover { left_by: ended.id.clone(), due_ms };
    txn.put(Key::Leftover(cell.clone(), home.clone()), Value::Leftover(leftover))
}

fn gates_of(view: &View, cell: &CellName) -> BTreeSet<InstanceId> {
    view.gates(cell).map(|(list, _)| list.instances.keys().cloned().collect()).unwrap_or_default()
}
