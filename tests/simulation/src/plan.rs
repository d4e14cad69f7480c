//! What a seed draws: how large the world is, and which faults come how often.

use crate::random::Random;

/// A run's size and weather. Drawn from the seed as a whole; a test may then turn single things up.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Plan {
    /// Cells.
    pub cells: usize,
    /// Gate instances that a cell begins with, and has at the most.
    pub instances: usize,
    /// Routers.
    pub routers: usize,
    /// Clients, each with one request at a time.
    pub clients: usize,
    /// Whether fencing the data stops writes to it. Without, the gates alone must keep the promises.
    pub fenced_data: bool,
    /// Whether a replica's lists of gates may be older than all else that it sees.
    pub lagging_lists: bool,
    /// Whether both replicas take themselves for the leader from the beginning.
    pub both_lead: bool,
    /// Messages that are lost, in percent.
    pub loss_percent: u64,
    /// Messages that arrive twice, in percent.
    pub duplicate_percent: u64,
    /// Messages that come late, in percent.
    pub late_percent: u64,
    /// How late, at the most, in ms.
    pub late_ms: u64,
    /// Changes of the store that a replica sees late, in percent.
    pub stale_percent: u64,
    /// Gate processes that stop without a word, and start again from their disk.
    pub crashes: u64,
    /// Gate processes that are stopped in good order, and start again.
    pub clean_stops: u64,
    /// Machines that never come back.
    pub losses: u64,
    /// Instances that join.
    pub joins: u64,
    /// Instances that leave for good.
    pub leaves: u64,
    /// Instances that hear nothing for a while.
    pub cuts: u64,
    /// Replicas that see nothing for a while, and then act on what they knew.
    pub pauses: u64,
    /// Clocks of replicas that jump, and are set right again.
    pub jumps: u64,
    /// Routers that start again from an old snapshot.
    pub router_restarts: u64,
    /// Moves that an operator asks for.
    pub moves: u64,
    /// Undos.
    pub undos: u64,
    /// Moves back.
    pub backs: u64,
    /// How many requests are long-lived streams, in percent.
    pub streams_percent: u64,
    /// How long there are faults, in ms.
    pub chaos_ms: u64,
}

impl Plan {
    /// The plan of a seed. Each kind of fault is left out by some seeds, so that none hides another.
    pub fn drawn(seed: u64) -> Self {
        let mut random = Random::new(seed);
        let mut often = |high: u64| if random.percent(40) { 0 } else { random.between(1, high) };
        let counts = [often(4), often(2), often(2), often(3), often(2), often(3), often(3), often(3)];
        let [crashes, clean_stops, losses, joins, leaves, cuts, pauses, router_restarts] = counts;
        let percents = [often(12), often(12), often(8), often(30), often(15)];
        let [loss_percent, duplicate_percent, late_percent, stale_percent, streams_percent] = percents;
        let (undos, backs, jumps) = (often(3), often(3), often(3));
        Self {
            cells: 2 + random.index(2),
            instances: 1 + random.index(2),
            routers: 1 + random.index(2),
            clients: 2 + random.index(2),
            fenced_data: random.percent(50),
            lagging_lists: random.percent(40),
            both_lead: random.percent(30),
            loss_percent,
            duplicate_percent,
            late_percent,
            late_ms: random.between(100, 4_000),
            stale_percent,
            crashes,
            clean_stops,
            losses,
            joins,
            leaves,
            cuts,
            pauses,
            jumps,
            router_restarts,
            moves: random.between(3, 9),
            undos,
            backs,
            streams_percent,
            chaos_ms: random.between(2_000, 5_000),
        }
    }
}
