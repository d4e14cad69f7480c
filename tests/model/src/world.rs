//! The model: which world, which bounds, and everything that can happen next.

use crate::data::Data;
use crate::hashing::Folded;
use crate::instances::{Deed, Read};
use crate::intern::{Id, NONE, Sets, Table};
use crate::mutation::{Broken, Rule};
use crate::search::Model;
use crate::state::{Budget, CELLS_MAX, INSTANCES_MAX, Instance, Life, Listed, MOVES_MAX, State, Stood, View};
use cellway_core::admission::TenantGate;
use cellway_core::cell::CellRef;
use cellway_core::ids::{CellUid, Epoch, HomeId, InstanceId, Revision};
use cellway_core::tenant::Placement;
use cellway_core::tenant_move::{Fact, MoveRecord, Order};
use std::collections::{HashMap, HashSet};
use std::str::FromStr;
use std::sync::{Arc, Mutex};

/// A world and its bounds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Config {
    /// The gates of each cell, cells parted by a dot: a capital is up at first, a small letter may join.
    pub cells: &'static str,
    /// Moves, attempts and moves back included.
    pub moves: u8,
    /// Crashes of a gate; each may leave a request in the app.
    pub crashes: u8,
    /// Of which cells gates crash and machines are lost.
    pub failing: &'static str,
    /// Lost machines.
    pub losses: u8,
    /// Clean leaves.
    pub exits: u8,
    /// A second replica acts on a view that may be of any age.
    pub stale: bool,
    /// Lists of gates may be older than all else that a replica sees.
    pub lag: bool,
    /// A data fence stops writes.
    pub fences: bool,
    /// Requests are admitted, and one of them writes.
    pub requests: bool,
    /// A move that was held too long is made again.
    pub retries: bool,
    /// A move back may take over.
    pub back: bool,
    /// Long-lived streams are ended before the hold.
    pub streams: bool,
    /// The tenant may be deleted, and made again under its old id in its first cell.
    pub again: bool,
    /// The second cell may be retired once its instances are gone; who may join there is of a new cell of its name.
    pub reused: bool,
}

impl Config {
    /// One move from A to B, with requests, and nothing that goes wrong but undos and delays.
    pub const PLAIN: Self = Self {
        cells: "A.B",
        moves: 1,
        crashes: 0,
        failing: "abc",
        losses: 0,
        exits: 0,
        stale: false,
        lag: false,
        fences: false,
        requests: true,
        retries: false,
        back: false,
        streams: false,
        again: false,
        reused: false,
    };
}

/// What happens. Replica 0 sees the store as it is, replica 1 as it was.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[allow(missing_docs, reason = "each name is the whole sentence")]
pub enum Action {
    Joins(usize),
    Crashes(usize),
    IsLost(usize),
    StartsAndRegisters(usize),
    StartsFromDisk(usize),
    Closes(usize),
    Leaves(usize),
    IsSaidDead(usize),
    Learns(usize, Revision),
    Admits(usize),
    Ends(usize, bool),
    OrphanEnds(usize, bool),
    Fences(usize, u32),
    Acknowledges(usize, u32),
    FencesData(usize, u32),
    Reaches(usize, u32),
    Drops(usize, u32),
    Looks,
    Plans(usize, usize),
    Hears(usize, u32),
    HearsReports(usize),
    TakesBack(usize),
    Tricks(&'static str),
}

/// The model of the tenant move in one configuration.
#[derive(Debug)]
pub struct World {
    pub(crate) config: Config,
    pub(crate) broken: Broken,
    pub(crate) sought: Option<&'static str>,
    pub(crate) cells: Vec<CellRef>,
    pub(crate) names: Vec<InstanceId>,
    /// The cell of each instance.
    pub(crate) cell_of: Vec<usize>,
    pub(crate) records: Table<MoveRecord>,
    pub(crate) placements: Table<Placement>,
    pub(crate) facts: Table<Fact>,
    pub(crate) orders: Table<Order>,
    pub(crate) gates: Table<TenantGate>,
    pub(crate) homes: Table<HomeId>,
    pub(crate) histories: Table<Vec<Stood>>,
    pub(crate) lists: Table<Vec<Listed>>,
    pub(crate) data: Table<Data>,
    pub(crate) views: Table<View>,
    pub(crate) sets: Sets,
    /// What `next` made of a record and a fact.
    pub(crate) steps: Mutex<HashMap<(Id, Id), Option<Id>, Folded>>,
    /// What became of gates.
    pub(crate) deeds: Mutex<HashMap<(Id, Deed), Option<Id>, Folded>>,
    /// Reads that neither opened nor closed.
    pub(crate) idle_reads: Mutex<HashSet<Read, Folded>>,
}

#[allow(clippy::expect_used, reason = "all names are made in this crate")]
pub(crate) fn named<T: FromStr<Err = cellway_core::ids::InvalidId>>(text: &str) -> T {
    text.parse().expect("a legal name")
}

/// Where the tenant's data is at first.
pub(crate) const FIRST_HOME: &str = "new";

impl World {
    /// The world of `config`, with rules switched off.
    pub fn new(config: Config, broken: Broken) -> Self {
        let (mut cells, mut names, mut cell_of) = (Vec::new(), Vec::new(), Vec::new());
        for (at, gates) in config.cells.split('.').enumerate() {
            let name = gates[..1].to_lowercase();
            cells.push(CellRef { name: named(&name), uid: named(&format!("uid-{name}")) });
            for number in 1..=gates.len() {
                names.push(named(&format!("{name}{number}")));
                cell_of.push(at);
            }
        }
        assert!(cells.len() <= CELLS_MAX && names.len() <= INSTANCES_MAX && usize::from(config.moves) <= MOVES_MAX);
        Self {
            config,
            broken,
            sought: None,
            cells,
            names,
            cell_of,
            records: Table::default(),
            placements: Table::default(),
            facts: Table::default(),
            orders: Table::default(),
            gates: Table::default(),
            homes: Table::default(),
            histories: Table::default(),
            lists: Table::default(),
            data: Table::default(),
            views: Table::default(),
            sets: Sets::default(),
            steps: Mutex::default(),
            deeds: Mutex::default(),
            idle_reads: Mutex::default(),
        }
    }

    /// Of the promises that a state can break, this one alone is looked at.
    pub fn seeking(self, promise: &'static str) -> Self {
        Self { sought: Some(promise), ..self }
    }

    pub(crate) fn is(&self, rule: Rule) -> bool {
        self.broken.is(rule)
    }

    pub(crate) fn cell(&self, cell: &CellRef) -> usize {
        self.cells.iter().position(|known| known == cell).unwrap_or(CELLS_MAX)
    }

    /// The cell that an instance is of.
    pub(crate) fn uid_of(&self, at: usize) -> CellUid {
        if self.is_of_new_cell(at) { named("uid-new") } else { self.cells[self.cell_of[at]].uid.clone() }
    }

    /// Whether an instance is of the cell that took over the name of the second one.
    pub(crate) fn is_of_new_cell(&self, at: usize) -> bool {
        let letters = self.config.cells.chars().filter(|letter| *letter != '.');
        self.config.reused
            && self.cell_of[at] == 1
            && letters.clone().nth(at).is_some_and(|letter| letter.is_ascii_lowercase())
    }

    pub(crate) fn instances(&self) -> std::ops::Range<usize> {
        0..self.names.len()
    }

    pub(crate) fn of_cell(&self, cell: usize) -> impl Iterator<Item = usize> + '_ {
        self.instances().filter(move |at| self.cell_of[*at] == cell)
    }

    pub(crate) fn history(&self, state: &State) -> Arc<Vec<Stood>> {
        self.histories.get(state.history)
    }

    pub(crate) fn placement_id(&self, state: &State) -> Id {
        self.history(state).last().map_or(NONE, |stood| stood.placement)
    }

    pub(crate) fn placement(&self, state: &State) -> Arc<Placement> {
        self.placements.get(self.placement_id(state))
    }

    /// The list of a cell as it is.
    pub(crate) fn list(&self, state: &State, cell: usize) -> Listed {
        let none = Listed { revision: Revision(0), members: 0 };
        self.lists.get(state.lists[cell]).last().copied().unwrap_or(none)
    }

    /// Changes the list of `cell`; who lags behind may see the older ones.
    pub(crate) fn relist(&self, state: &mut State, cell: usize, change: impl Fn(u8) -> u8) -> Revision {
        state.revision = Revision(state.revision.0 + 1);
        let members = change(self.list(state, cell).members);
        let mut lists = if self.config.lag { Vec::clone(&self.lists.get(state.lists[cell])) } else { Vec::new() };
        lists.push(Listed { revision: state.revision, members });
        state.lists[cell] = self.lists.id(lists);
        state.revision
    }

    /// Writes a placement.
    pub(crate) fn place(&self, state: &mut State, placement: Placement) {
        state.revision = Revision(state.revision.0 + 1);
        let mut history = Vec::clone(&self.history(state));
        if let Some(last) = history.last_mut() {
            last.until = Revision(state.revision.0 - 1);
            if placement.epoch < self.placements.get(last.placement).epoch {
                state.flaw = Some("an_epoch_is_never_lowered");
            }
        }
        let (from, until) = (state.revision, Revision(u64::MAX));
        history.push(Stood { from, until, placement: self.placements.id(placement) });
        state.history = self.histories.id(history);
    }

    /// Drops from the history what no gate can open on, whatever happens: its fences and its floor only rise.
    fn forget_placements(&self, state: &mut State) {
        let history = self.history(state);
        let is_useful = |stood: &Stood| {
            let placement = self.placements.get(stood.placement);
            let can_open = |instance: usize| {
                let one = &state.instances[instance];
                let lives = matches!(one.life, Life::Up | Life::Down);
                lives && one.floor <= stood.until && one.fence.is_none_or(|fence| fence < placement.epoch)
            };
            placement.hold.is_none() && self.of_cell(self.cell(&placement.cell)).any(can_open)
        };
        let is_last = |stood: &Stood| stood.until == Revision(u64::MAX);
        if !history.iter().all(|stood| is_last(stood) || is_useful(stood)) {
            let kept = history.iter().copied().filter(|stood| is_last(stood) || is_useful(stood));
            state.history = self.histories.id(kept.collect());
        }
    }

    pub(crate) fn first_state(&self) -> State {
        let home: HomeId = named(FIRST_HOME);
        let placement = Placement { cell: self.cells[0].clone(), epoch: Epoch(1), home: home.clone(), hold: None };
        let nobody = Instance {
            life: Life::Absent,
            floor: Revision(0),
            fence: None,
            gate: self.gates.id(TenantGate::default()),
            file: NONE,
            reached: None,
            orphan: NONE,
        };
        let none = self.lists.id(vec![Listed { revision: Revision(0), members: 0 }]);
        let mut state = State {
            revision: Revision(1),
            history: self.histories.id(vec![Stood {
                from: Revision(1),
                until: Revision(u64::MAX),
                placement: self.placements.id(placement),
            }]),
            lists: [none; CELLS_MAX],
            lock: None,
            moves: [NONE; MOVES_MAX],
            cached: NONE,
            orders: self.sets.empty(),
            facts: self.sets.empty(),
            instances: [nobody; INSTANCES_MAX],
            data: [NONE; CELLS_MAX],
            written: false,
            flaw: None,
            left: Budget {
                crashes: self.config.crashes,
                losses: self.config.losses,
                exits: self.config.exits,
                moves: self.config.moves,
                tricks: 1,
            },
        };
        for (at, gates) in self.config.cells.split('.').enumerate() {
            let mut data = Data { fences: self.config.fences, ..Data::default() };
            if at == 0 {
                data.begin(home.clone(), Epoch(1));
            }
            state.data[at] = self.data.id(data);
            let mut members = 0;
            for (instance, letter) in self.of_cell(at).zip(gates.chars()) {
                let is_up = letter.is_ascii_uppercase();
                state.instances[instance].life = if is_up { Life::Up } else { Life::Unborn };
                members |= u8::from(is_up) << instance;
            }
            state.lists[at] = self.lists.id(vec![Listed { revision: Revision(0), members }]);
        }
        if self.config.stale {
            state.cached = self.views.id(self.fresh_view(&state));
        }
        state
    }
}

impl Model for World {
    type State = State;
    type Action = Action;

    fn first(&self) -> State {
        self.first_state()
    }

    fn successors(&self, state: &State, into: &mut Vec<(Action, State)>) {
        let begun = into.len();
        self.instances_act(state, into);
        self.agents_obey(state, into);
        self.replicas_act(state, into);
        self.tricks(state, into);
        if self.broken.is_none() {
            into[begun..].iter_mut().for_each(|(_, after)| self.forget_placements(after));
        }
    }

    fn broken(&self, state: &State) -> Option<&'static str> {
        self.broken_promise(state)
    }

    fn reachable(&self) -> &'static [&'static str] {
        &crate::properties::REACHABLE
    }

    fn fulfils(&self, state: &State) -> u8 {
        self.fulfilled(state)
    }
}
