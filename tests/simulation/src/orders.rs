//! What an agent does for each order, and the fact that follows.

use crate::agent::{Fate, Instance, Pass};
use crate::broken::Broken;
use crate::data::{Refusal, position_of};
use crate::message::{Msg, Node, Pull, Purpose};
use crate::world::{Event, World, note};
use cellway_core::admission::RequestKind;
use cellway_core::ids::{Epoch, HomeId, MoveId, Revision};
use cellway_core::tenant_move::{
    Admitted, CopyReport, DropReport, Fact, FailReport, FenceReport, FollowReport, OpenReport, Order, PositionReport,
    ReachReport, Task, WatchReport, Witness,
};
use std::rc::Rc;

/// How many passes over one home are kept.
const PASSES_KEPT: usize = 3;

/// The longest sync of a write to disk.
const SYNC_MAX_MS: u64 = 15;

impl World {
    /// Takes an order, and sees to it that one of a move that has ended changes nothing.
    pub(crate) fn take_order(&mut self, instance: usize, order: Order, epoch: Epoch) {
        let ended = self.truth().a_move(&order.move_id).is_some_and(|(record, _)| record.state.is_last());
        let before = ended.then(|| self.served(instance));
        let told = (order.move_id.clone(), format!("{:?}", order.task));
        self.carry_out(instance, order, epoch);
        if let Some(before) = before {
            self.stats.late_orders += 1;
            let after = self.served(instance);
            if before.is_some() && before != after {
                let (id, task) = told;
                self.broke(
                    "a_late_order_or_fact_changes_nothing",
                    format!("{id} has ended, yet {task}: {before:?} became {after:?}"),
                );
            }
        }
    }

    fn carry_out(&mut self, instance: usize, order: Order, epoch: Epoch) {
        let id = order.move_id;
        let cell = self.instances[instance].cell;
        match order.task {
            Task::Prepare { home } => {
                let done = self.cells[cell].data.prepare(&home);
                self.settle(instance, &id, done, Fact::Ready);
            }
            Task::Offer { home, .. } => {
                if let Some(process) = &mut self.instances[instance].process {
                    process.offers.entry((id, home)).or_default();
                }
            }
            Task::Copy { home, from } => self.pull(instance, id, home, from, epoch, Purpose::Copy),
            Task::Follow { home, from } => self.pull(instance, id, home, from, epoch, Purpose::Follow),
            Task::Reach { home, from, epoch, list, position } => {
                self.pull(instance, id, home, from, epoch, Purpose::Reach(list, position));
            }
            Task::Watch { .. } => self.say_watched(instance, &id),
            Task::CloseStreams { epoch } => {
                self.refuse_streams(instance, epoch);
                self.say_watched(instance, &id);
            }
            Task::Fence { epoch, cut: _ } => self.take_fence(instance, id, epoch),
            Task::FenceData { home, epoch, list } => self.fence_data(instance, &id, &home, epoch, list),
            Task::Open { epoch, .. } => {
                let open = self.instances[instance].process.as_ref().and_then(|process| process.gate.open_at());
                if open.is_some_and(|open| open >= epoch) {
                    self.state(instance, &id, |by| Fact::Opened(OpenReport { by, epoch }));
                }
            }
            // A move back finds what differs by itself, as the driver `sqlite` does.
            Task::Reverse { .. } => {}
            Task::Drop { home } => self.drop_home(instance, &id, home),
        }
    }

    fn pull(&mut self, instance: usize, move_id: MoveId, home: HomeId, from: HomeId, epoch: Epoch, purpose: Purpose) {
        self.ask_pull(instance, Pull { move_id, home, from, epoch, purpose, by: instance, asked_ms: 0 });
    }

    fn state(&mut self, instance: usize, id: &MoveId, fact: impl FnOnce(Witness) -> Fact) {
        let one = &self.instances[instance];
        let by = Witness { move_id: id.clone(), cell: self.cells[one.cell].own.uid.clone(), instance: one.id.clone() };
        let fact = fact(by);
        self.tell_replica(instance, Msg::Fact { instance, fact });
    }

    fn settle(&mut self, instance: usize, id: &MoveId, done: Result<(), Refusal>, fact: impl FnOnce(Witness) -> Fact) {
        match done {
            Ok(()) => self.state(instance, id, fact),
            Err(Refusal::Superseded) => {}
            Err(refusal) => self.say_failed(instance, id, refusal),
        }
    }

    pub(crate) fn say_failed(&mut self, instance: usize, id: &MoveId, refusal: Refusal) {
        let reason = format!("{refusal:?}");
        self.state(instance, id, |by| Fact::Failed(FailReport { by, reason }));
    }

    fn say_watched(&mut self, instance: usize, id: &MoveId) {
        let now_ms = self.now_ms;
        let mine = self.running.values().filter(|request| request.instance == instance && !request.orphan);
        let mut admitted = Admitted::default();
        for request in mine {
            match request.ask.kind {
                RequestKind::Stream => admitted.open_streams += 1,
                RequestKind::Ordinary => {
                    admitted.requests += 1;
                    admitted.oldest_request_ms = admitted.oldest_request_ms.max(now_ms - request.started_ms);
                }
            }
        }
        self.state(instance, id, |by| Fact::Watched(WatchReport { by, admitted }));
    }

    /// On disk, then in force, then drained; only then it is said. What the disk has not synced, a crash takes.
    fn take_fence(&mut self, instance: usize, id: MoveId, epoch: Epoch) {
        let Some(process) = &self.instances[instance].process else { return };
        if !process.gate.fence_is_new(epoch) {
            return self.put_fence_in_force(instance, id, epoch);
        }
        let boot = process.boot;
        note!(self, "{} writes the fence {epoch} for {id}", self.instances[instance].id);
        self.after_about(0, SYNC_MAX_MS, Event::Synced { instance, boot, id: id.clone(), epoch });
        if self.is(Broken::FenceBeforeSync) {
            self.put_fence_in_force(instance, id, epoch);
        }
    }

    /// The disk has the fence, if the process that wrote it was not stopped before.
    pub(crate) fn synced(&mut self, instance: usize, boot: u64, id: MoveId, epoch: Epoch) {
        let one = &mut self.instances[instance];
        if one.process.as_ref().is_none_or(|process| process.boot != boot) {
            return;
        }
        one.disk.fence = one.disk.fence.max(Some(epoch));
        self.put_fence_in_force(instance, id, epoch);
    }

    fn put_fence_in_force(&mut self, instance: usize, id: MoveId, epoch: Epoch) {
        let Some(process) = &mut self.instances[instance].process else { return };
        process.gate.fence(epoch);
        process.unacked.insert((id, epoch));
        if process.gate.open_at().is_none() {
            self.end_streams(instance);
        }
        self.acknowledge_fences(instance);
    }

    pub(crate) fn acknowledge_fences(&mut self, instance: usize) {
        let Some(process) = &self.instances[instance].process else { return };
        let waiting: Vec<(MoveId, Epoch)> = process.unacked.iter().cloned().collect();
        for (id, epoch) in waiting {
            let Some(process) = &self.instances[instance].process else { return };
            let drained = process.gate.is_drained(epoch) || self.is(Broken::AckBeforeDrained);
            if !drained || !self.has_no_orphans(instance, epoch) {
                continue;
            }
            if let Some(process) = &mut self.instances[instance].process {
                process.unacked.remove(&(id.clone(), epoch));
            }
            note!(self, "{} acknowledges {epoch} for {id}", self.instances[instance].id);
            self.state(instance, &id, |by| Fact::Fenced(FenceReport { by, epoch, cut_requests: 0 }));
        }
    }

    /// After an unclean stop: the data is fenced early, where no other gate of the cell serves it, or time has passed.
    fn has_no_orphans(&mut self, instance: usize, epoch: Epoch) -> bool {
        let one = &self.instances[instance];
        let Some(process) = &one.process else { return false };
        if process.orphans_until_ms <= self.now_ms || self.is(Broken::OrphansForgotten) {
            return true;
        }
        // As the real control plane has it: SQLite files are behind one instance only.
        let other = |at: &Instance| at.cell == one.cell && at.id != one.id && at.fate == Fate::Alive;
        let alone = !self.instances.iter().any(other);
        let own = &self.cells[one.cell].own;
        let home = process.gate.placement().filter(|seen| seen.cell == *own).map(|seen| seen.home.clone());
        let (cell, boot, wait_ms) = (one.cell, process.boot, process.orphans_until_ms - self.now_ms);
        if let Some(home) = home.filter(|_| alone && self.plan.fenced_data)
            && self.cells[cell].data.fence(&home, epoch, self.broken).is_ok()
        {
            self.stats.early_data_fences += 1;
            return true;
        }
        self.stats.waits_for_orphans += 1;
        self.after(wait_ms, Event::LookAgain { instance, boot });
        false
    }

    fn fence_data(&mut self, instance: usize, id: &MoveId, home: &HomeId, epoch: Epoch, list: Revision) {
        let cell = self.instances[instance].cell;
        match self.cells[cell].data.fence(home, epoch, self.broken) {
            Err(Refusal::Superseded) => return,
            Err(refusal) => return self.say_failed(instance, id, refusal),
            Ok(()) => {}
        }
        let position = self.make_pass(instance, id, home).map(|(position, _)| position);
        if let Some(position) = position {
            note!(
                self,
                "{} fences the data of {home} at {epoch}, list {list}: {}",
                self.instances[instance].id,
                position.0
            );
            self.state(instance, id, |by| Fact::Positioned(PositionReport { by, epoch, list, position }));
        }
    }

    fn drop_home(&mut self, instance: usize, id: &MoveId, home: HomeId) {
        let one = &self.instances[instance];
        let cell = one.cell;
        let own = &self.cells[cell].own;
        let named = one.process.as_ref().and_then(|process| process.gate.placement());
        let serves = named.is_some_and(|named| named.cell == *own && named.home == home);
        if self.is(Broken::DropByTenant) {
            self.cells[cell].data.drop_tenant();
        } else if serves {
            return self.say_failed(instance, id, Refusal::Served);
        } else if let Err(refusal) = self.cells[cell].data.drop_home(&home) {
            return self.say_failed(instance, id, refusal);
        }
        note!(self, "{} drops {home} for {id}", self.instances[instance].id);
        self.stats.drops += 1;
        self.check_drop(cell);
        self.state(instance, id, |by| Fact::Dropped(DropReport { by, home }));
    }

    /// Makes a pass over an offered home, and keeps it with the ones before it.
    fn make_pass(&mut self, instance: usize, id: &MoveId, home: &HomeId) -> Option<Pass> {
        let one = &mut self.instances[instance];
        let passes = one.process.as_mut()?.offers.get_mut(&(id.clone(), home.clone()))?;
        let data = &self.cells[one.cell].data;
        let position = data.position(home)?;
        let content = data.homes.get(home).map(|home| home.content.clone())?;
        let pass = (position, Rc::new(content));
        passes.push_back(pass.clone());
        if passes.len() > PASSES_KEPT {
            passes.pop_front();
        }
        Some(pass)
    }

    /// A pass of the wanted position that was made already, or a new one.
    pub(crate) fn serve_pull(&mut self, instance: usize, pull: Pull) {
        let wanted = match &pull.purpose {
            Purpose::Reach(_, position) => Some(position.clone()),
            Purpose::Copy | Purpose::Follow => None,
        };
        let offer = (pull.move_id.clone(), pull.from.clone());
        let passes = self.instances[instance].process.as_ref().and_then(|process| process.offers.get(&offer));
        let kept = passes.and_then(|passes| passes.iter().find(|pass| Some(&pass.0) == wanted.as_ref()).cloned());
        let Some((position, content)) = kept.or_else(|| self.make_pass(instance, &pull.move_id, &pull.from)) else {
            return;
        };
        if wanted.is_none_or(|wanted| wanted == position) {
            self.send(Node::Instance(pull.by), Msg::Pass(pull, content));
        }
    }

    pub(crate) fn take_pass(&mut self, instance: usize, pull: Pull, content: &[u64]) {
        let cell = self.instances[instance].cell;
        let Pull { move_id, home, epoch, purpose, asked_ms, .. } = pull;
        let size = content.len() as u64;
        let key = (move_id.clone(), home.clone());
        match purpose {
            Purpose::Copy => {
                let had = self.cells[cell].data.staged.insert(key, content.to_vec());
                // A first answer may be but a part of it.
                let complete = had.is_some() || self.random.percent(70);
                let copied_bytes = if complete { size + 1 } else { size / 2 + 1 };
                self.state(instance, &move_id, |by| {
                    Fact::Copied(CopyReport { by, copied_bytes, total_bytes: size + 1, complete })
                });
            }
            Purpose::Follow => {
                self.cells[cell].data.staged.insert(key, content.to_vec());
                let transfer_ms = self.now_ms - asked_ms;
                self.state(instance, &move_id, |by| Fact::Followed(FollowReport { by, transfer_ms, longest: None }));
            }
            Purpose::Reach(list, position) => {
                if position_of(content) != position {
                    return;
                }
                let done = self.cells[cell].data.install(&home, content.to_vec(), (epoch, list), self.broken);
                note!(self, "{} installs {home} for {move_id}: {done:?}", self.instances[instance].id);
                self.check_install(cell, &home, &move_id);
                self.cells[cell].data.staged.remove(&key);
                self.settle(instance, &move_id, done, |by| Fact::Reached(ReachReport { by, list, position }));
            }
        }
    }
}
