//! The router's model: what one router knows of one tenant, one request on its way, one gate in each cell.
//!
//! Gates answer by the real [`TenantGate`], hints are believed by the real [`may_follow`]; the table with its hint is
//! that of `router/src/table.rs`, the hold that of `router/src/forward.rs`. The move is reduced to its writes: hold,
//! commit once the source has fenced and runs nothing, undo. Gates and the router's feed read any placement that there
//! ever was, in any order; answers come late.

use crate::search::Model;
use crate::world::named;
use cellway_core::admission::{NotAdmitted, Opening, Registration, RequestKind, TenantGate};
use cellway_core::cell::CellRef;
use cellway_core::ids::{CellName, Epoch, Revision};
use cellway_core::route::{Owner, may_follow};
use cellway_core::tenant::{Placement, PlacementRecord};
use cellway_core::verdict::Verdict;

/// A rule of routers that is not kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RouterRule {
    /// While it runs, a router takes no lower epoch from its feed.
    FeedNeverLowers,
    /// Nor from a gate that knows less than the router.
    HintsOnlyRaise,
    /// F13: a gate that knows less than the request says `behind`, not where the tenant was.
    SaysBehind,
    /// F13: a held request goes again at a pace, not only when the feed says so.
    HeldGoesAgain,
    /// F14: a hint stays beside the table.
    HintIsNoChange,
}

/// The world of one router.
#[derive(Debug, Clone)]
pub struct RouterWorld {
    /// How many cells there are: A has the tenant at first.
    pub cells: usize,
    /// Moves, undone ones included.
    pub moves: u8,
    /// The feed may die for good.
    pub feed_dies: bool,
    /// The gate of this cell says whatever it likes.
    pub liar: Option<usize>,
    /// What is not kept.
    pub broken: Option<RouterRule>,
    /// Of the promises that a state can break, this one alone is looked at.
    pub sought: Option<&'static str>,
}

/// Where the request is.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
enum Request {
    AtRouter,
    Held,
    /// The gate of `asked`'s cell has refused it; `stale`: the table's entry is another one than when it was asked.
    Answered {
        verdict: Verdict,
        asked: Owner,
        stale: bool,
    },
    Admitted,
    /// A liar let it in.
    Stolen,
}

/// A state of the router's world.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct RouterState {
    history: Vec<Placement>,
    moves: u8,
    gates: Vec<TenantGate>,
    feed_is_dead: bool,
    table: Placement,
    hint: Option<Owner>,
    request: Request,
    hops: u32,
    feed_has_spoken: bool,
    lowered: bool,
}

/// What happens there, in words.
type Happening = String;

impl RouterWorld {
    fn is(&self, rule: RouterRule) -> bool {
        self.broken == Some(rule)
    }

    fn cell(&self, at: usize) -> CellRef {
        let name = ["a", "b", "c"][at];
        CellRef { name: named(name), uid: named(&format!("uid-{name}")) }
    }

    fn at(&self, name: &CellName) -> Option<usize> {
        (0..self.cells).find(|at| self.cell(*at).name == *name)
    }

    /// The store's writes.
    fn moves_go_on(&self, state: &RouterState, into: &mut Vec<(Happening, RouterState)>) {
        let Some(now) = state.history.last() else { return };
        let mut write = |what: String, placement: Placement, moves: u8| {
            let mut after = state.clone();
            after.history.push(placement);
            after.moves = moves;
            into.push((what, after));
        };
        if now.hold.is_none() {
            if state.moves > 0 {
                let hold = Some(named(&format!("m{}", state.moves)));
                write("traffic is held".into(), Placement { hold, ..now.clone() }, state.moves - 1);
            }
            return;
        }
        write(
            "the move is undone".into(),
            Placement { hold: None, epoch: now.epoch.next(), ..now.clone() },
            state.moves,
        );
        let source = self.at(&now.cell.name).unwrap_or(0);
        if state.gates[source].is_drained(now.epoch) {
            for target in (0..self.cells).filter(|target| *target != source) {
                let placement =
                    Placement { cell: self.cell(target), epoch: now.epoch.next(), hold: None, ..now.clone() };
                write(format!("the move to {} is committed", placement.cell.name), placement, state.moves);
            }
        }
    }

    /// Gates read any placement, and open if they may; the source's fences.
    fn gates_go_on(&self, state: &RouterState, into: &mut Vec<(Happening, RouterState)>) {
        for at in 0..self.cells {
            let registration = Registration { uid: self.cell(at).uid, revision: Revision(0) };
            for (revision, placement) in state.history.iter().enumerate() {
                let mut after = state.clone();
                let gate = &mut after.gates[at];
                gate.observe(PlacementRecord::Placed(placement.clone()), Revision(revision as u64));
                if let Opening::NeedsRelease(home, epoch) = gate.try_open(&registration) {
                    gate.released(home, epoch);
                    gate.try_open(&registration);
                }
                if after != *state {
                    into.push((
                        format!("gate {} reads {} {:?}", self.cell(at).name, placement.cell.name, placement.epoch),
                        after,
                    ));
                }
            }
            let held = state.history.last().filter(|now| now.hold.is_some() && now.cell == self.cell(at));
            if let Some(epoch) = held.map(|now| now.epoch).filter(|epoch| state.gates[at].fence_is_new(*epoch)) {
                let mut after = state.clone();
                after.gates[at].fence(epoch);
                into.push((format!("gate {} fences {epoch:?}", self.cell(at).name), after));
            }
        }
    }

    /// The feed says any placement that there ever was.
    fn feed_speaks(&self, state: &RouterState, into: &mut Vec<(Happening, RouterState)>) {
        if state.feed_is_dead {
            return;
        }
        if self.feed_dies {
            into.push(("the feed dies".into(), RouterState { feed_is_dead: true, ..state.clone() }));
        }
        for said in &state.history {
            let lowers = said.epoch < state.table.epoch;
            if *said == state.table || (lowers && !self.is(RouterRule::FeedNeverLowers)) {
                continue;
            }
            let mut after = state.clone();
            after.table = said.clone();
            after.hint = None;
            if let Request::Answered { stale, .. } = &mut after.request {
                *stale = true;
            }
            after.feed_has_spoken = true;
            after.lowered = lowers;
            into.push((format!("the feed says {} {:?} {:?}", said.cell.name, said.epoch, said.hold), after));
        }
    }

    /// Where the router sends the tenant's requests, and whether they are held.
    fn target(&self, state: &RouterState) -> (Owner, bool) {
        match &state.hint {
            Some(hint) if hint.epoch > state.table.epoch || self.is(RouterRule::HintsOnlyRaise) => {
                (hint.clone(), false)
            }
            _ => {
                let owner = Owner { cell: state.table.cell.name.clone(), epoch: state.table.epoch };
                (owner, state.table.hold.is_some())
            }
        }
    }

    fn request_goes_on(&self, state: &RouterState, into: &mut Vec<(Happening, RouterState)>) {
        match &state.request {
            Request::AtRouter if self.target(state).1 => {
                into.push(("the request is held".into(), RouterState { request: Request::Held, ..state.clone() }));
            }
            Request::AtRouter => self.asks(state, into),
            Request::Held if self.is(RouterRule::HeldGoesAgain) && !state.feed_has_spoken => {}
            Request::Held => self.asks(&RouterState { hops: 0, feed_has_spoken: false, ..state.clone() }, into),
            Request::Answered { verdict, asked, stale } => self.takes(state, verdict, asked, *stale, into),
            Request::Admitted | Request::Stolen => {
                let again = RouterState { request: Request::AtRouter, hops: 0, ..state.clone() };
                into.push(("a new request comes".into(), again));
            }
        }
    }

    fn asks(&self, state: &RouterState, into: &mut Vec<(Happening, RouterState)>) {
        let (asked, _) = self.target(state);
        let Some(at) = self.at(&asked.cell) else { return };
        let mut answer = |what: &str, verdict: Option<Verdict>| {
            let request = match verdict {
                None if self.liar == Some(at) => Request::Stolen,
                None => Request::Admitted,
                Some(verdict) => Request::Answered { verdict, asked: asked.clone(), stale: false },
            };
            into.push((format!("gate {} {what}", asked.cell), RouterState { request, ..state.clone() }));
        };
        if self.liar == Some(at) {
            answer("takes what is not its own", None);
            for cell in 0..self.cells {
                let lie = Verdict::Elsewhere { cell: self.cell(cell).name, epoch: Epoch(u64::MAX) };
                answer("lies", Some(lie));
            }
            return;
        }
        let mut gate = state.gates[at].clone();
        match gate.admit(asked.epoch, RequestKind::Ordinary, &self.cell(at)) {
            Ok(()) => answer("admits the request", None),
            Err(NotAdmitted::Refused(verdict)) => answer("refuses", Some(verdict)),
            Err(NotAdmitted::Wait) => {
                let seen = gate.placement().map(|seen| Owner { cell: seen.cell.name.clone(), epoch: seen.epoch });
                let was = seen.filter(|_| self.is(RouterRule::SaysBehind) || self.is(RouterRule::HintsOnlyRaise));
                let behind = was.map_or(Verdict::Behind, |was| Verdict::Elsewhere { cell: was.cell, epoch: was.epoch });
                answer("knows less", Some(behind));
            }
        }
    }

    fn takes(
        &self,
        state: &RouterState,
        verdict: &Verdict,
        asked: &Owner,
        stale: bool,
        into: &mut Vec<(Happening, RouterState)>,
    ) {
        let mut after = state.clone();
        if let Verdict::Elsewhere { cell, epoch } = verdict {
            let hint = Owner { cell: cell.clone(), epoch: *epoch };
            let believed = may_follow(asked, &asked.cell, &hint, self.at(cell).is_some(), state.hops)
                || (self.is(RouterRule::HintsOnlyRaise) && state.hops < cellway_core::route::ELSEWHERE_HOPS_MAX);
            if believed {
                let above = after.hint.as_ref().is_none_or(|before| before.epoch < hint.epoch);
                if !stale && (above || self.is(RouterRule::HintsOnlyRaise)) {
                    after.lowered = hint.epoch < self.target(state).0.epoch;
                    if self.is(RouterRule::HintIsNoChange)
                        && let Some(at) = self.at(cell)
                    {
                        after.table = Placement { cell: self.cell(at), epoch: *epoch, ..after.table };
                    }
                    after.hint = Some(hint);
                }
                after.hops += 1;
                after.request = Request::AtRouter;
                into.push(("the router follows the hint".into(), after));
                return;
            }
        }
        after.request = Request::Held;
        into.push(("the request is held".into(), after));
    }

    /// All gates know the newest placement, the owner's is open, and nobody lies.
    fn is_settled(&self, state: &RouterState) -> bool {
        let newest = state.history.last();
        let owner = newest.and_then(|newest| self.at(&newest.cell.name));
        self.liar.is_none()
            && newest.is_some_and(|newest| newest.hold.is_none())
            && state.gates.iter().all(|gate| gate.placement() == newest)
            && owner.is_some_and(|owner| state.gates[owner].open_at() == newest.map(|newest| newest.epoch))
    }

    /// In a settled world a request gets in, whatever the router knows, without any word of the feed, in a few tries.
    fn gets_in(&self, state: &RouterState) -> bool {
        let (mut state, mut next) = (state.clone(), Vec::new());
        for _ in 0..TRIES_MAX {
            if state.request == Request::Admitted {
                return true;
            }
            self.request_goes_on(&state, &mut next);
            match next.pop() {
                Some((_, after)) => state = after,
                None => return false,
            }
            next.clear();
        }
        false
    }
}

/// Held once; asked, followed, asked again, at most twice; and once more from the beginning.
const TRIES_MAX: usize = 12;

impl Model for RouterWorld {
    type State = RouterState;
    type Action = Happening;

    fn first(&self) -> RouterState {
        let placement = Placement { cell: self.cell(0), epoch: Epoch(1), home: named("new"), hold: None };
        RouterState {
            history: vec![placement.clone()],
            moves: self.moves,
            gates: vec![TenantGate::default(); self.cells],
            feed_is_dead: false,
            table: placement,
            hint: None,
            request: Request::AtRouter,
            hops: 0,
            feed_has_spoken: false,
            lowered: false,
        }
    }

    fn successors(&self, state: &RouterState, into: &mut Vec<(Happening, RouterState)>) {
        self.moves_go_on(state, into);
        self.gates_go_on(state, into);
        self.feed_speaks(state, into);
        self.request_goes_on(state, into);
    }

    fn broken(&self, state: &RouterState) -> Option<&'static str> {
        let waits = || matches!(state.request, Request::AtRouter | Request::Held);
        let goes_round = || waits() && self.is_settled(state) && !self.gets_in(state);
        let promises: [(&'static str, &dyn Fn() -> bool); 2] = [
            ("a_router_never_lowers_an_epoch", &|| state.lowered),
            ("a_request_is_not_sent_round_for_ever", &goes_round),
        ];
        let sought = |promise: &str| self.sought.is_none_or(|sought| sought == promise);
        promises.into_iter().find(|(promise, is_broken)| sought(promise) && is_broken()).map(|(promise, _)| promise)
    }

    fn reachable(&self) -> &'static [&'static str] {
        &["a_request_can_get_in", "a_cell_cannot_take_a_tenant_by_its_word"]
    }

    fn fulfils(&self, state: &RouterState) -> u8 {
        // Where the liar owns the tenant, it serves it.
        let owner = state.history.last().and_then(|newest| self.at(&newest.cell.name));
        let liar_owns = self.liar.is_some() && owner == self.liar;
        let (target, _) = self.target(state);
        let knows = self.at(&target.cell) == owner;
        // With a dead feed a router that only the liar talks to hears nothing else.
        let excused = liar_owns || (self.liar.is_some() && state.feed_is_dead);
        u8::from(state.request == Request::Admitted || excused) | u8::from(knows || excused) << 1
    }
}
