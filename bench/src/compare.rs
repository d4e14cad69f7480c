//! The comparison: every target runs at once, and each round starts all anew and asks one after the other. What a process
//! costs differs from start to start and stays so until its end, so that rounds of one start would tell of that.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Instant;

use anyhow::Context;
use clap::Args as ClapArgs;

use crate::load::Client;
use crate::machine::Cores;
use crate::origin;
use crate::report::{self, HEAD, Measured, Round, Row};
use crate::scenario::{Pace, SCENARIOS, Scenario};
use crate::target::{Ground, Kind, Target};

/// How long everybody is asked before the first round, in seconds.
const WARM_UP_S: u64 = 1;
/// Of what the slowest can answer: what a scenario of a steady pace asks.
const STEADY: f64 = 0.7;

/// What is compared, and how long.
#[derive(Debug, ClapArgs)]
pub(crate) struct Args {
    /// Only these scenarios.
    scenarios: Vec<String>,
    /// Only these targets: cellway, nginx, haproxy, relay, app.
    #[arg(long, value_delimiter = ',')]
    targets: Vec<String>,
    /// Rounds; the figures are their medians.
    #[arg(long, default_value_t = 5, value_parser = clap::value_parser!(u64).range(1..=1000))]
    rounds: u64,
    /// How long each target is asked in each round.
    #[arg(long, value_name = "SECONDS", default_value_t = 4, value_parser = clap::value_parser!(u64).range(1..=600))]
    seconds: u64,
    /// Another build of `cellway`, measured beside this one as `before`.
    #[arg(long, value_name = "PROGRAM")]
    before: Option<PathBuf>,
    /// Where the rows are written as JSON.
    #[arg(long, value_name = "FILE", default_value = "target/bench.json")]
    to: PathBuf,
}

/// Compares, prints the table and writes the rows.
pub(crate) fn run(args: &Args) -> anyhow::Result<()> {
    let chosen: Vec<&Scenario> = SCENARIOS
        .iter()
        .filter(|scenario| args.scenarios.is_empty() || args.scenarios.iter().any(|name| name == scenario.name))
        .collect();
    anyhow::ensure!(!chosen.is_empty(), "no scenario of that name; there are {}", SCENARIOS.map(|s| s.name).join(", "));
    let dir = tempfile::tempdir().context("a directory")?;
    let cores = Cores::of_this_machine()?;
    let (_app, origin) = origin::start(cores.rest, dir.path())?;

    let mut rows: Vec<Row> = Vec::new();
    for of_one_table in chosen.chunk_by(|one, other| (one.tenants, one.hops) == (other.tenants, other.hops)) {
        let Scenario { tenants, hops, .. } = *of_one_table[0];
        let before = args.before.as_deref();
        let ground = Ground { dir: dir.path(), cores, origin, tenants, hops, before, feed: None };
        let rounds = rounds_of(of_one_table, args, &ground)?;
        rows.extend(
            of_one_table.iter().zip(&rounds).flat_map(|(scenario, rounds)| report::rows(scenario.name, rounds)),
        );
        write(&args.to, &rows)?;
    }
    print!("{HEAD}{}", report::table(&rows));
    Ok(())
}

/// What each round found, by scenario. Each has a directory of its own, where no start finds what the one before has left.
fn rounds_of(scenarios: &[&Scenario], args: &Args, ground: &Ground<'_>) -> anyhow::Result<Vec<Vec<Round>>> {
    let mut found = vec![Vec::new(); scenarios.len()];
    for round in 0..args.rounds {
        let dir = tempfile::tempdir().context("a directory")?;
        let ground = Ground { dir: dir.path(), feed: ground.feed.clone(), ..*ground };
        let targets = start(args, scenarios, &ground)?;
        for (scenario, found) in scenarios.iter().zip(&mut found) {
            eprintln!("{}: round {} of {}", scenario.name, round + 1, args.rounds);
            found.push(ask_all(scenario, &targets, &ground, (args.seconds, round))?);
        }
    }
    Ok(found)
}

/// Starts whoever can do one of the scenarios.
fn start(args: &Args, scenarios: &[&Scenario], ground: &Ground<'_>) -> anyhow::Result<Vec<Target>> {
    let chosen = |kind: &Kind| match kind {
        _ if !scenarios.iter().any(|scenario| kind.can(scenario)) => false,
        Kind::Before => args.before.is_some(),
        _ => args.targets.is_empty() || args.targets.iter().any(|name| name == kind.name()),
    };
    Kind::ALL.into_iter().filter(chosen).map(|kind| Target::start(kind, ground)).collect()
}

/// Asks everybody who can, one after the other.
fn ask_all(
    scenario: &Scenario,
    targets: &[Target],
    ground: &Ground<'_>,
    (seconds, round): (u64, u64),
) -> anyhow::Result<Round> {
    let able: Vec<&Target> = targets.iter().filter(|target| target.kind.can(scenario)).collect();
    let client = Client { dir: ground.dir, core: ground.cores.rest };
    let slowest = warm_up(scenario, able.iter().copied(), &client)?;
    let rate = (scenario.pace == Pace::Steady).then_some(slowest * STEADY);
    let mut found = Vec::new();
    for at in 0..able.len() {
        // Each is the first as often as any other.
        let target = able[(at + usize::try_from(round)?) % able.len()];
        let measured = measure(scenario, target, &client, (seconds, rate));
        found.push((target.kind, measured.with_context(|| target.kind.name())?));
    }
    found.sort_by_key(|(kind, _)| Kind::ALL.iter().position(|other| other == kind));
    Ok(found)
}

/// Asks everybody for a moment, which is not measured; how many requests a second the slowest answered.
pub(crate) fn warm_up<'a>(
    scenario: &Scenario,
    targets: impl IntoIterator<Item = &'a Target>,
    client: &Client<'_>,
) -> anyhow::Result<f64> {
    let mut slowest = f64::INFINITY;
    for target in targets {
        let done = client.ask(scenario, target.address(scenario.speech), (WARM_UP_S, None));
        slowest = slowest.min(done.with_context(|| target.kind.name())?.requests_per_s);
    }
    Ok(slowest)
}

/// Asks a target, and counts what that costs it.
pub(crate) fn measure(
    scenario: &Scenario,
    target: &Target,
    client: &Client<'_>,
    how: (u64, Option<f64>),
) -> anyhow::Result<Measured> {
    let (before, begun) = (target.cpu_ns(), Instant::now());
    let done = client.ask(scenario, target.address(scenario.speech), how)?;
    let used_ns = target.cpu_ns().saturating_sub(before);
    let is_counted = used_ns > 0 || target.kind == Kind::App;
    anyhow::ensure!(is_counted, "no CPU time is counted of {} in {:?}", target.kind.name(), begun.elapsed());
    Ok(Measured {
        cpu_us_per_request: used_ns as f64 / 1e3 / done.requests as f64,
        requests_per_s: done.requests_per_s,
        p50_ms: done.p50_ms,
        p99_ms: done.p99_ms,
        pss_mib: target.pss_mib(),
    })
}

/// Writes what was found as JSON.
pub(crate) fn write(to: &Path, found: &impl serde::Serialize) -> anyhow::Result<()> {
    if let Some(dir) = to.parent() {
        fs::create_dir_all(dir).with_context(|| format!("cannot make {}", dir.display()))?;
    }
    let text = serde_json::to_string_pretty(found)? + "\n";
    fs::write(to, text).with_context(|| format!("cannot write {}", to.display()))
}
