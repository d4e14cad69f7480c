//! The search: breadth first over all reachable states, then backwards from those in which a promise is fulfilled.

use crate::hashing::fingerprint;
use std::collections::HashMap;
use std::hash::{BuildHasherDefault, Hash, Hasher};
use std::time::{Duration, Instant};

/// What can be searched.
pub trait Model {
    /// A state of the whole world.
    type State: Clone + Eq + Hash;
    /// What leads from one to another, in words that a person reads.
    type Action: Clone + std::fmt::Debug;

    /// Where it begins.
    fn first(&self) -> Self::State;
    /// All that can happen next. Which action comes at which place depends on the state alone.
    fn successors(&self, state: &Self::State, into: &mut Vec<(Self::Action, Self::State)>);
    /// A promise that the state itself breaks.
    fn broken(&self, state: &Self::State) -> Option<&'static str>;
    /// Promises that have to stay reachable, whatever happened before.
    fn reachable(&self) -> &'static [&'static str];
    /// Bit n: the state fulfils the n-th of [`Model::reachable`], or is excused from it.
    fn fulfils(&self, state: &Self::State) -> u8;
}

/// How a promise was broken.
#[derive(Debug, Clone)]
pub struct Counterexample<A> {
    /// The promise.
    pub promise: &'static str,
    /// The shortest way there.
    pub trace: Vec<A>,
}

/// What a search has found.
#[derive(Debug, Clone)]
pub struct Found<A> {
    /// Distinct states.
    pub states: usize,
    /// Steps between distinct states.
    pub steps: usize,
    /// The longest of the shortest ways from the first state.
    pub depth: usize,
    /// All reachable states were seen.
    pub exhausted: bool,
    /// The first broken promise.
    pub broken: Option<Counterexample<A>>,
    /// How many states cannot fulfil a promise of [`Model::reachable`] any more: each with its nearest.
    pub stuck: Vec<(usize, Counterexample<A>)>,
    /// How long it took.
    pub took: Duration,
}

impl<A> Found<A> {
    /// All states were seen and all promises kept.
    pub fn is_proof(&self) -> bool {
        self.exhausted && self.broken.is_none() && self.stuck.is_empty()
    }
}

/// Keys are hashes already.
#[derive(Default)]
struct AsIs(u64);

impl Hasher for AsIs {
    fn finish(&self) -> u64 {
        self.0
    }
    fn write(&mut self, _: &[u8]) {}
    fn write_u64(&mut self, key: u64) {
        self.0 = key;
    }
}

/// The graph as far as it is known: states are numbered in the order in which they were met.
#[derive(Default)]
struct Graph {
    /// By the hash of a state, 64 bits of it: with 5 million states two share one by a chance of one in a million.
    numbers: HashMap<u64, u32, BuildHasherDefault<AsIs>>,
    parents: Vec<u32>,
    fulfils: Vec<u8>,
    /// Both ends of each step.
    steps: Vec<(u32, u32)>,
}

impl Graph {
    /// The state's number, and whether it is new.
    fn number<S: Hash>(&mut self, state: &S, parent: u32) -> (u32, bool) {
        let next = self.parents.len() as u32;
        let number = *self.numbers.entry(fingerprint(state)).or_insert(next);
        if number == next {
            self.parents.push(parent);
        }
        (number, number == next)
    }

    /// The way from the first state to `number`: the model is asked again at each step.
    fn trace<M: Model>(&self, model: &M, number: u32) -> Vec<M::Action> {
        let mut way = vec![number];
        while let Some(at) = way.last().filter(|at| **at != 0) {
            way.push(self.parents[*at as usize]);
        }
        let (mut state, mut trace, mut successors) = (model.first(), Vec::new(), Vec::new());
        for next in way.iter().rev().skip(1) {
            model.successors(&state, &mut successors);
            let leads_there = |after: &M::State| self.numbers.get(&fingerprint(after)) == Some(next);
            let Some((action, after)) = successors.drain(..).find(|(_, after)| leads_there(after)) else { break };
            trace.push(action);
            state = after;
        }
        trace
    }

    /// The states from which none that fulfils promise `bit` can be reached.
    fn stuck(&self, bit: usize) -> Vec<u32> {
        let count = self.parents.len();
        let mut starts = vec![0_u32; count + 1];
        self.steps.iter().for_each(|(_, to)| starts[*to as usize + 1] += 1);
        (0..count).for_each(|at| starts[at + 1] += starts[at]);
        let (mut before, mut filled) = (vec![0_u32; self.steps.len()], starts.clone());
        for (from, to) in &self.steps {
            before[filled[*to as usize] as usize] = *from;
            filled[*to as usize] += 1;
        }
        let mut fine: Vec<bool> = self.fulfils.iter().map(|bits| bits & (1 << bit) != 0).collect();
        let mut open: Vec<u32> = (0..count as u32).filter(|at| fine[*at as usize]).collect();
        while let Some(at) = open.pop() {
            let at = at as usize;
            for from in &before[starts[at] as usize..starts[at + 1] as usize] {
                if !std::mem::replace(&mut fine[*from as usize], true) {
                    open.push(*from);
                }
            }
        }
        (0..count as u32).filter(|at| !fine[*at as usize]).collect()
    }
}

/// Sees all states that can be reached, `states_max` at the most, or stops at the first that breaks a promise.
pub fn search<M: Model>(model: &M, states_max: usize) -> Found<M::Action> {
    let begun = Instant::now();
    let mut graph = Graph::default();
    let (mut layer, mut depth, mut exhausted, mut broken) = (vec![(0_u32, model.first())], 0, true, None);
    graph.number(&layer[0].1, 0);
    let mut successors = Vec::new();
    'layers: while !layer.is_empty() {
        let mut next_layer = Vec::new();
        for (number, state) in layer.drain(..) {
            graph.fulfils.push(model.fulfils(&state));
            if let Some(promise) = model.broken(&state) {
                broken = Some((promise, number));
                exhausted = false;
                break 'layers;
            }
            model.successors(&state, &mut successors);
            for (_, after) in successors.drain(..) {
                let (to, is_new) = graph.number(&after, number);
                if to != number {
                    graph.steps.push((number, to));
                }
                if is_new {
                    next_layer.push((to, after));
                }
            }
            if graph.parents.len() > states_max {
                exhausted = false;
                break 'layers;
            }
        }
        depth += usize::from(!next_layer.is_empty());
        layer = next_layer;
    }
    let mut found = Found {
        states: graph.parents.len(),
        steps: graph.steps.len(),
        depth,
        exhausted,
        broken: broken.map(|(promise, number)| Counterexample { promise, trace: graph.trace(model, number) }),
        stuck: Vec::new(),
        took: Duration::ZERO,
    };
    if exhausted {
        graph.numbers.shrink_to_fit();
        for (bit, promise) in model.reachable().iter().enumerate() {
            let stuck = graph.stuck(bit);
            if let Some(nearest) = stuck.first() {
                found.stuck.push((stuck.len(), Counterexample { promise, trace: graph.trace(model, *nearest) }));
            }
        }
    }
    found.took = begun.elapsed();
    found
}
