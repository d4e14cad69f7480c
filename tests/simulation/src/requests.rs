//! A request at a gate and in the app: admitted or not, writing, ending.

use crate::message::{Ask, Msg, Node};
use crate::world::{Event, Running, World, note};
use cellway_core::admission::{BEHIND_WAIT_MS, NotAdmitted, RequestKind};
use cellway_core::verdict::Verdict;

/// How long an ordinary request runs at the most.
const REQUEST_MAX_MS: u64 = 150;

/// How long a stream runs when nobody ends it.
const STREAM_MAX_MS: u64 = 1_200;

/// How often it writes.
const STREAM_WRITE_MS: u64 = 90;

impl World {
    pub(crate) fn admit(&mut self, instance: usize, ask: Ask) {
        let until_ms = self.now_ms + BEHIND_WAIT_MS;
        self.admit_until(instance, ask, until_ms);
    }

    pub(crate) fn readmit(&mut self, instance: usize, boot: u64, ask: Ask, until_ms: u64) {
        if self.instances[instance].process.as_ref().is_some_and(|process| process.boot == boot) {
            self.admit_until(instance, ask, until_ms);
        }
    }

    fn admit_until(&mut self, instance: usize, ask: Ask, until_ms: u64) {
        let (own, now_ms) = (self.own(instance), self.now_ms);
        let Some(process) = &mut self.instances[instance].process else { return };
        if now_ms >= process.streams_refused_until_ms {
            process.gate.allow_streams();
        }
        let boot = process.boot;
        match process.gate.admit(ask.stamped.epoch, ask.kind, &own) {
            Ok(()) => self.begin_request(instance, boot, ask),
            Err(NotAdmitted::Refused(verdict)) => {
                self.send(Node::Router(ask.router), Msg::Verdict(ask, verdict, own.name));
            }
            Err(NotAdmitted::Wait) if now_ms < until_ms => {
                self.after_about(10, 60, Event::Readmit { instance, boot, ask, until_ms });
            }
            Err(NotAdmitted::Wait) => {
                self.send(Node::Router(ask.router), Msg::Verdict(ask, Verdict::Behind, own.name));
            }
        }
    }

    fn begin_request(&mut self, instance: usize, boot: u64, ask: Ask) {
        let request = self.number();
        let (kind, write) = (ask.kind, ask.number);
        let file = self.cells[self.instances[instance].cell].data.open_live();
        note!(self, "{} admits request {write} ({kind:?})", self.instances[instance].id);
        self.stats.admitted += 1;
        let started_ms = self.now_ms;
        self.running.insert(request, Running { instance, boot, ask, file, written: false, orphan: false, started_ms });
        match kind {
            RequestKind::Ordinary => {
                let lasts_ms = self.random.between(2, REQUEST_MAX_MS);
                let write_ms = self.random.below(lasts_ms);
                self.after(write_ms, Event::Write { request });
                self.after(lasts_ms, Event::End { request });
            }
            RequestKind::Stream => {
                self.after_about(1, STREAM_WRITE_MS, Event::Write { request });
                self.after_about(STREAM_WRITE_MS, STREAM_MAX_MS, Event::End { request });
            }
        }
    }

    pub(crate) fn app_writes(&mut self, request: u64) {
        let fresh = self.number();
        let Some(running) = self.running.get_mut(&request) else { return };
        let stream = running.ask.kind == RequestKind::Stream;
        let write = if stream && running.written { fresh } else { running.ask.number };
        let cell = self.instances[running.instance].cell;
        let taken = running.file.as_ref().is_some_and(|file| self.cells[cell].data.write(file, write));
        running.written |= taken;
        let (orphan, client, ask) = (running.orphan, running.ask.client, running.ask.number);
        if !taken {
            self.stats.writes_refused += 1;
        }
        note!(self, "the app of cell {} takes write {write}: {taken}, orphan: {orphan}", self.cells[cell].own.name);
        if stream {
            self.after_about(STREAM_WRITE_MS / 2, STREAM_WRITE_MS, Event::Write { request });
            if taken && !orphan {
                self.send(Node::Client(client), Msg::Answer { ask, write, taken });
            }
        }
    }

    pub(crate) fn app_ends(&mut self, request: u64) {
        let Some(running) = self.running.remove(&request) else { return };
        let Running { instance, boot, ask, written, orphan, .. } = running;
        if orphan {
            return;
        }
        if let Some(process) = &mut self.instances[instance].process
            && process.boot == boot
        {
            process.gate.finish(ask.kind);
            self.look_again(instance, boot);
        }
        if ask.kind == RequestKind::Ordinary {
            let answer = Msg::Answer { ask: ask.number, write: ask.number, taken: written };
            self.send(Node::Client(ask.client), answer);
        }
    }

    /// The gate ends its long-lived streams; each is over when the app has ended it.
    pub(crate) fn end_streams(&mut self, instance: usize) {
        let mine = |(_, running): &(&u64, &Running)| {
            running.instance == instance && !running.orphan && running.ask.kind == RequestKind::Stream
        };
        let streams: Vec<u64> = self.running.iter().filter(mine).map(|(number, _)| *number).collect();
        for request in streams {
            self.after_about(1, 60, Event::End { request });
        }
    }
}
