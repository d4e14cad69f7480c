//! What the table costs at different sizes: memory per tenant, a look-up of a tenant that nobody has asked for lately, and a
//! change of one entry, beside what reading memory takes: `cargo run --release -p cellway-router --example table -- 1000 1000000`.

use anyhow::Context;
use cellway_core::cell::{CellCondition, CellKind};
use cellway_core::ids::{CellName, CellUid, Epoch, Revision, TenantId};
use cellway_router::table::{CellRoute, Change, Table, TenantRoute};
use std::hint::black_box;
use std::io::Write;
use std::sync::atomic::{Ordering, fence};
use std::time::{Duration, Instant};

/// Look-ups and changes of each kind.
const TRIES: usize = 200_000;
/// Readings of the clock, to know what one costs.
const READINGS: usize = 100_000;
/// Tenants are spread over so many cells.
const CELLS: usize = 50;
/// A prime, so that neighbours are not asked for one after the other.
const STRIDE: usize = 7_368_787;
/// Another one.
const OTHER_STRIDE: usize = 5_915_587_277;

fn main() -> anyhow::Result<()> {
    let mut sizes = std::env::args().skip(1).map(|text| text.parse::<usize>()).collect::<Result<Vec<_>, _>>();
    if let Ok(sizes) = &mut sizes
        && sizes.is_empty()
    {
        sizes.extend([1_000, 1_000_000]);
    }
    let clock_ns = clock_ns();
    say("tenants      bytes each   look-up p50    p99 ns   change p50    p99 ns   longest add µs")?;
    for size in sizes.context("sizes are numbers")? {
        anyhow::ensure!(size > 0 && size % STRIDE != 0, "{size} tenants cannot be measured");
        measure(size, clock_ns)?;
        measure_memory(size, clock_ns)?;
    }
    Ok(())
}

fn measure(size: usize, clock_ns: u64) -> anyhow::Result<()> {
    let before = resident_bytes()?;
    let table = Table::default();
    for cell in 0..CELLS {
        table.apply(Change::Cell(CellRoute {
            name: CellName::new(&format!("cell-{cell}"))?,
            uid: Some(CellUid::new(&format!("uid-{cell}"))?),
            endpoints: vec!["127.0.0.1:1".parse()?],
            condition: CellCondition::Open,
            kind: CellKind::Agent,
        }));
    }
    let mut longest_add = Duration::ZERO;
    for number in 0..size {
        let change = placed(number, 1)?;
        let began = Instant::now();
        table.apply(change);
        longest_add = longest_add.max(began.elapsed());
    }
    let each = resident_bytes()?.saturating_sub(before) / size as u64;
    let mut looked_up = Vec::with_capacity(TRIES);
    for turn in 0..TRIES {
        let label = format!("tenant-{}", turn.wrapping_mul(STRIDE) % size);
        let began = Instant::now();
        let target = table.find(&label).and_then(|found| found.target);
        looked_up.push(began.elapsed());
        anyhow::ensure!(target.is_some_and(|target| target.cell().is_some()), "{label} is not found");
    }
    let mut changed = Vec::with_capacity(TRIES);
    for turn in 0..TRIES {
        let change = placed(turn.wrapping_mul(STRIDE) % size, 2 + turn as u64)?;
        let began = Instant::now();
        table.apply(change);
        changed.push(began.elapsed());
    }
    let (p50, p99) = figures(&mut looked_up, clock_ns);
    let (change_p50, change_p99) = figures(&mut changed, clock_ns);
    let longest_us = longest_add.as_micros();
    say(&format!("{size:<12} {each:>10} {p50:>13} {p99:>9} {change_p50:>12} {change_p99:>9} {longest_us:>16}"))
}

/// What this machine's memory takes for one line of the cache that nobody has asked for lately, and for one that says where
/// another is: no look-up among so many rows can be faster.
fn measure_memory(lines: usize, clock_ns: u64) -> anyhow::Result<()> {
    let next = |at: usize| at.wrapping_mul(OTHER_STRIDE) % lines;
    let memory: Vec<Line> = (0..lines).map(|at| Line([next(at); 8])).collect();
    let (mut one, mut two) = (Vec::with_capacity(TRIES), Vec::with_capacity(TRIES));
    for turn in 0..TRIES {
        let [first, second] = [turn * 2, turn * 2 + 1].map(|at| at.wrapping_mul(STRIDE) % lines);
        one.push(timed(|| memory[black_box(first)].0[0]));
        two.push(timed(|| memory[memory[black_box(second)].0[0]].0[0]));
    }
    let ((p50, p99), (two_p50, two_p99)) = (figures(&mut one, clock_ns), figures(&mut two, clock_ns));
    say(&format!("  memory alone: one line p50 {p50}, p99 {p99} ns; one after another p50 {two_p50}, p99 {two_p99} ns"))
}

fn timed(read: impl FnOnce() -> usize) -> Duration {
    let began = Instant::now();
    black_box(read());
    // What was read is there.
    fence(Ordering::SeqCst);
    began.elapsed()
}

/// A line of the cache.
#[repr(align(64))]
struct Line([usize; 8]);

/// The median and the 99th percentile, without what reading the clock takes.
fn figures(times: &mut [Duration], clock_ns: u64) -> (u64, u64) {
    times.sort_unstable();
    let at = |share: usize| (times[times.len() * share / 100].as_nanos() as u64).saturating_sub(clock_ns);
    (at(50), at(99))
}

fn placed(number: usize, epoch: u64) -> anyhow::Result<Change> {
    let cell = number % CELLS;
    let route = TenantRoute::Placed {
        cell: CellName::new(&format!("cell-{cell}"))?,
        uid: Some(CellUid::new(&format!("uid-{cell}"))?),
        epoch: Epoch(epoch),
        held: false,
    };
    Ok(Change::Tenant { tenant: TenantId::new(&format!("tenant-{number}"))?, route, revision: Revision(epoch) })
}

/// What reading the clock twice costs, at the median.
fn clock_ns() -> u64 {
    let mut readings: Vec<u64> = (0..READINGS).map(|_| Instant::now().elapsed().as_nanos() as u64).collect();
    readings.sort_unstable();
    readings[READINGS / 2]
}

fn resident_bytes() -> anyhow::Result<u64> {
    let status = std::fs::read_to_string("/proc/self/status").context("this process's status")?;
    let line = status.lines().find_map(|line| line.strip_prefix("RssAnon:")).context("its memory")?;
    let kib: u64 = line.split_whitespace().next().context("a number")?.parse()?;
    Ok(kib * 1024)
}

fn say(line: &str) -> anyhow::Result<()> {
    writeln!(std::io::stdout(), "{line}").context("cannot print")
}
