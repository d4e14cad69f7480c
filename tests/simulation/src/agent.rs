//! A gate instance: what is on its disk, what only its process knows, how it starts, opens, stops and leaves.

use crate::broken::Broken;
use crate::data::Refusal;
use crate::message::{Msg, Node, Pull, Purpose};
use crate::world::{Event, World, note};
use cellway_core::admission::{Opening, Registration, TenantGate};
use cellway_core::cell::CellRef;
use cellway_core::ids::{Epoch, HomeId, InstanceId, MoveId, Revision};
use cellway_core::tenant::PlacementRecord;
use cellway_core::tenant_move::Position;
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::rc::Rc;

/// The longest that a request may run, which the app enforces.
pub(crate) const LONGEST_REQUEST_MS: u64 = 600;

/// How long a starting agent waits for the control plane before it opens on what its disk knows.
const START_PATIENCE_MS: u64 = 60;

/// How often it says again that it is there, or that it leaves.
const SAY_AGAIN_MS: u64 = 120;

/// How long the word to refuse streams lasts when it is not repeated.
const CLOSING_LASTS_MS: u64 = 300;

/// What survives the process.
#[derive(Debug, Default)]
pub(crate) struct Disk {
    run: u64,
    pub(crate) registered: Option<Revision>,
    pub(crate) fence: Option<Epoch>,
    pub(crate) placement: Option<(PlacementRecord, Revision)>,
    clean_stop: bool,
}

/// A consistent copy of a home that is offered.
pub(crate) type Pass = (Position, Rc<Vec<u64>>);

/// Why a process closes down.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Ending {
    /// It stops in good order, and starts again.
    Stop,
    /// It leaves for good.
    Leave,
}

/// What only the process knows.
#[derive(Debug)]
pub(crate) struct Process {
    pub(crate) boot: u64,
    pub(crate) gate: TenantGate,
    pub(crate) registration: Option<Registration>,
    /// Registered in this run, not only on disk.
    heard: bool,
    pub(crate) unacked: BTreeSet<(MoveId, Epoch)>,
    /// What is offered, with the newest passes over it.
    pub(crate) offers: BTreeMap<(MoveId, HomeId), VecDeque<Pass>>,
    /// Requests of the run before may be in the app until then.
    pub(crate) orphans_until_ms: u64,
    pub(crate) streams_refused_until_ms: u64,
    releasing: bool,
    unlisted: bool,
    pub(crate) ending: Option<Ending>,
}

/// What became of an instance.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Fate {
    /// It runs, or will again.
    Alive,
    /// Its machine is gone.
    Destroyed,
    /// It left, its disk is erased.
    Left,
}

/// A gate instance.
#[derive(Debug)]
pub(crate) struct Instance {
    pub(crate) id: InstanceId,
    pub(crate) cell: usize,
    pub(crate) disk: Disk,
    pub(crate) process: Option<Process>,
    pub(crate) fate: Fate,
    /// The replica that it has its stream from.
    pub(crate) replica: usize,
    /// It hears and says nothing to the control plane until then.
    pub(crate) cut_until_ms: u64,
    boots: u64,
}

impl Instance {
    pub(crate) fn new(id: InstanceId, cell: usize, replica: usize) -> Self {
        let disk = Disk { clean_stop: true, ..Disk::default() };
        Self { id, cell, disk, process: None, fate: Fate::Alive, replica, cut_until_ms: 0, boots: 0 }
    }

    pub(crate) fn is_up(&self) -> bool {
        self.process.as_ref().is_some_and(|process| process.ending.is_none())
    }

    fn with_boot(&mut self, boot: u64) -> Option<&mut Process> {
        self.process.as_mut().filter(|process| process.boot == boot)
    }
}

impl World {
    pub(crate) fn own(&self, instance: usize) -> CellRef {
        self.cells[self.instances[instance].cell].own.clone()
    }

    pub(crate) fn boot(&mut self, instance: usize) {
        let (broken, now_ms) = (self.broken, self.now_ms);
        let one = &mut self.instances[instance];
        if one.process.is_some() || one.fate != Fate::Alive {
            return;
        }
        one.boots += 1;
        let fence = one.disk.fence.filter(|_| broken != Some(Broken::FenceLostAtRestart));
        let orphans_until_ms = if one.disk.clean_stop { 0 } else { now_ms + LONGEST_REQUEST_MS };
        one.disk.clean_stop = false;
        let boot = one.boots;
        one.process = Some(Process {
            boot,
            gate: TenantGate::restored(fence),
            registration: None,
            heard: false,
            unacked: BTreeSet::new(),
            offers: BTreeMap::new(),
            orphans_until_ms,
            streams_refused_until_ms: 0,
            releasing: false,
            unlisted: false,
            ending: None,
        });
        note!(self, "{} starts", self.instances[instance].id);
        self.after(0, Event::Register { instance, boot });
        self.after(START_PATIENCE_MS, Event::Patience { instance, boot });
    }

    pub(crate) fn say_registration(&mut self, instance: usize, boot: u64) {
        let one = &mut self.instances[instance];
        let wanted = one.with_boot(boot).is_some_and(|process| !process.heard && process.ending.is_none());
        if !wanted {
            return;
        }
        one.disk.run += 1;
        let (run, cut) = (one.disk.run, one.cut_until_ms > self.now_ms);
        // Any replica may take it, also another than the one that the stream comes from.
        let replica = self.random.index(self.replicas.len());
        if !cut {
            self.send(Node::Replica(replica), Msg::Register { instance, boot, run });
        }
        self.after(SAY_AGAIN_MS, Event::Register { instance, boot });
    }

    pub(crate) fn open_from_disk(&mut self, instance: usize, boot: u64) {
        let uid = self.own(instance).uid;
        let one = &mut self.instances[instance];
        let (registered, placement) = (one.disk.registered, one.disk.placement.clone());
        let Some(process) = one.with_boot(boot).filter(|process| !process.heard) else { return };
        let (Some(revision), Some((record, read_at))) = (registered, placement) else { return };
        process.registration = Some(Registration { uid, revision });
        process.gate.observe(record, read_at);
        self.stats.opened_from_disk += 1;
        self.see_to_opening(instance);
    }

    pub(crate) fn registered(&mut self, instance: usize, boot: u64, revision: Revision) {
        let uid = self.own(instance).uid;
        let forgetful = self.is(Broken::ReadBeforeRegistration);
        let one = &mut self.instances[instance];
        if one.with_boot(boot).is_none_or(|process| process.heard) {
            return;
        }
        one.disk.registered = Some(revision);
        let Some(process) = one.with_boot(boot) else { return };
        process.heard = true;
        let revision = if forgetful { Revision(0) } else { revision };
        process.registration = Some(Registration { uid, revision });
        note!(self, "{} is registered at {revision}", self.instances[instance].id);
        self.see_to_opening(instance);
    }

    pub(crate) fn see_placement(&mut self, instance: usize, record: PlacementRecord, read_at: Revision) {
        let saves = self.random.percent(50);
        let one = &mut self.instances[instance];
        let Some(process) = &mut one.process else { return };
        process.gate.observe(record.clone(), read_at);
        if saves && one.disk.placement.as_ref().is_none_or(|(_, at)| *at <= read_at) {
            one.disk.placement = Some((record, read_at));
        }
        self.see_to_opening(instance);
    }

    pub(crate) fn see_to_opening(&mut self, instance: usize) {
        let unreleased = self.is(Broken::OpenWithoutRelease);
        let id = self.instances[instance].id.clone();
        let Some(process) = &mut self.instances[instance].process else { return };
        if process.unlisted || process.ending.is_some() {
            return;
        }
        let Some(registration) = process.registration.clone() else { return };
        let before = process.gate.open_at();
        let mut opening = process.gate.try_open(&registration);
        if let (Opening::NeedsRelease(home, epoch), true) = (&opening, unreleased) {
            process.gate.released(home.clone(), *epoch);
            opening = process.gate.try_open(&registration);
        }
        match opening {
            Opening::NeedsRelease(home, epoch) if !process.releasing => {
                process.releasing = true;
                let boot = process.boot;
                self.after_about(0, 15, Event::Release { instance, boot, home, epoch });
            }
            Opening::Open(epoch) if before != Some(epoch) => {
                self.stats.opened += 1;
                note!(self, "{id} is open at {epoch}");
            }
            Opening::NeedsRelease(..) | Opening::Open(_) | Opening::Closed => {}
        }
    }

    pub(crate) fn release(&mut self, instance: usize, boot: u64, home: HomeId, epoch: Epoch) {
        let cell = self.instances[instance].cell;
        if self.instances[instance].with_boot(boot).is_none() {
            return;
        }
        let done = self.cells[cell].data.release(&home, epoch);
        note!(self, "{} releases {home} at {epoch}: {done:?}", self.instances[instance].id);
        let Some(process) = self.instances[instance].with_boot(boot) else { return };
        process.releasing = false;
        match done {
            Ok(()) => process.gate.released(home, epoch),
            Err(Refusal::Superseded | Refusal::Dropped | Refusal::Served | Refusal::Lost) => {
                // A release that is refused is asked for anew when the placement is said again.
                return;
            }
        }
        self.see_to_opening(instance);
    }

    pub(crate) fn agent_hears(&mut self, instance: usize, msg: Msg) {
        let one = &self.instances[instance];
        let cut = one.cut_until_ms > self.now_ms;
        let over_stream =
            matches!(msg, Msg::Placement(..) | Msg::Gates(..) | Msg::Order(..) | Msg::Registered { .. } | Msg::Left);
        if one.process.is_none() || (cut && over_stream) {
            return;
        }
        match msg {
            Msg::Placement(record, read_at) => self.see_placement(instance, record, read_at),
            Msg::Gates(revision, listed) => self.see_list(instance, revision, &listed),
            Msg::Order(order, epoch) => self.take_order(instance, order, epoch),
            Msg::Registered { boot, revision } => self.registered(instance, boot, revision),
            Msg::Left => self.gone_for_good(instance),
            Msg::Pull(pull) => self.serve_pull(instance, pull),
            Msg::Pass(pull, content) => self.take_pass(instance, pull, &content),
            Msg::Ask(ask) => self.admit(instance, ask),
            Msg::Register { .. }
            | Msg::Leave { .. }
            | Msg::Fact { .. }
            | Msg::Route(_)
            | Msg::Verdict(..)
            | Msg::Answer { .. } => {}
        }
    }

    fn see_list(&mut self, instance: usize, revision: Revision, listed: &BTreeSet<InstanceId>) {
        let one = &mut self.instances[instance];
        let Some(process) = &mut one.process else { return };
        let newer = process.registration.is_some() && Some(revision) > one.disk.registered;
        if newer && !listed.contains(&one.id) && !process.unlisted {
            process.unlisted = true;
            process.gate.close();
            one.disk.placement = None;
            note!(self, "{} is not on the list and closes", self.instances[instance].id);
        }
    }

    pub(crate) fn tell_replica(&mut self, instance: usize, msg: Msg) {
        let one = &self.instances[instance];
        if one.cut_until_ms <= self.now_ms {
            self.send(Node::Replica(one.replica), msg);
        }
    }

    pub(crate) fn begin_ending(&mut self, instance: usize, ending: Ending) {
        let Some(process) = &mut self.instances[instance].process else { return };
        if process.ending.is_some() {
            return;
        }
        process.ending = Some(ending);
        process.gate.close();
        let boot = process.boot;
        note!(self, "{} closes: {ending:?}", self.instances[instance].id);
        self.end_streams(instance);
        self.look_again(instance, boot);
    }

    /// Goes on with what waits for time or for requests to end.
    pub(crate) fn look_again(&mut self, instance: usize, boot: u64) {
        if self.instances[instance].with_boot(boot).is_none() {
            return;
        }
        self.acknowledge_fences(instance);
        let now_ms = self.now_ms;
        let hides = self.is(Broken::CleanStopHidesOrphans);
        let Some(process) = self.instances[instance].with_boot(boot) else { return };
        let (drained, ending) = (process.gate.admitted() == (0, 0), process.ending);
        let no_orphans = process.orphans_until_ms <= now_ms;
        match ending {
            Some(Ending::Stop) if drained => {
                let one = &mut self.instances[instance];
                one.disk.clean_stop = no_orphans || hides;
                one.process = None;
                note!(self, "{} has stopped, clean: {no_orphans}", self.instances[instance].id);
            }
            // Leaving ends the wait for orphans too: nobody else would answer for them.
            Some(Ending::Leave) if drained && no_orphans => {
                self.tell_replica(instance, Msg::Leave { instance });
                self.after(SAY_AGAIN_MS, Event::LookAgain { instance, boot });
            }
            Some(_) => self.after(20, Event::LookAgain { instance, boot }),
            None => {}
        }
    }

    fn gone_for_good(&mut self, instance: usize) {
        let one = &mut self.instances[instance];
        let leaves = one.process.as_ref().is_some_and(|process| process.ending == Some(Ending::Leave));
        if leaves {
            one.process = None;
            one.disk = Disk::default();
            one.fate = Fate::Left;
            note!(self, "{} has left", self.instances[instance].id);
        }
    }

    /// The process is gone, its memory with it. `machine`: so is all else.
    pub(crate) fn crash(&mut self, instance: usize, machine: bool) {
        let now_ms = self.now_ms;
        let one = &mut self.instances[instance];
        let had = one.process.take().is_some();
        if machine {
            one.fate = Fate::Destroyed;
            self.running.retain(|_, request| request.instance != instance);
        }
        let mut ends = Vec::new();
        for (number, request) in self.running.iter_mut().filter(|(_, request)| request.instance == instance) {
            if !request.orphan {
                request.orphan = true;
                ends.push((*number, request.started_ms));
            }
        }
        self.stats.orphans += ends.len() as u64;
        for (number, _) in &ends {
            // Each ends on its own, or by the app's limit.
            self.after_about(1, LONGEST_REQUEST_MS - 1, Event::End { request: *number });
        }
        if had {
            let id = self.instances[instance].id.clone();
            note!(self, "{id} is gone at {now_ms}, machine: {machine}, {} requests left in the app", ends.len());
        }
    }

    pub(crate) fn refuse_streams(&mut self, instance: usize, epoch: Epoch) {
        let until_ms = self.now_ms + CLOSING_LASTS_MS;
        if let Some(process) = &mut self.instances[instance].process {
            process.gate.refuse_streams(epoch);
            process.streams_refused_until_ms = until_ms;
        }
        self.end_streams(instance);
    }

    pub(crate) fn ask_pull(&mut self, instance: usize, mut pull: Pull) {
        let source = self.truth().a_move(&pull.move_id).and_then(|(record, _)| self.cell_index(&record.source));
        let peers: Vec<usize> = (0..self.instances.len())
            .filter(|at| Some(self.instances[*at].cell) == source && self.instances[*at].process.is_some())
            .collect();
        let cell = self.instances[instance].cell;
        if let Err(refusal) = self.cells[cell].data.may_pull(&pull.home) {
            if pull.purpose != Purpose::Follow {
                self.say_failed(instance, &pull.move_id, refusal);
            }
            return;
        }
        pull.asked_ms = self.now_ms;
        if let Some(peer) = self.random.pick(&peers) {
            self.send(Node::Instance(peer), Msg::Pull(pull));
        }
    }
}
