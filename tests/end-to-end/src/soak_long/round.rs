//! One round: a fleet of its own, `cellway soak` on it, and what its report says.

use super::faults::{Faults, SecondRouter, Victims, harm_at_random};
use super::judge::{FailedRequest, Harm, is_excused};
use crate::binary;
use crate::fleet::{Fleet, Plan};
use crate::process::{Process, Recipe};
use crate::stress::memory::{open_files, rss_kib};
use anyhow::{Context, bail};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::process::Stdio;
use std::time::Duration;
use tokio_util::sync::CancellationToken;

/// Offsets of the second router's ports: where it listens, and where it is asked how it is.
const SECOND_LISTEN: u16 = 60;
const SECOND_ADMIN: u16 = 61;
/// Failed requests that a round's line tells one by one.
const TOLD_MAX: usize = 20;
/// After traffic and harm the router's connections to cells have idled out.
const SETTLE_MS: u64 = 20_000;
/// Files that a router may have open beyond those before its first request.
const FILES_KEPT: usize = 8;
/// Tenants of a round.
const TENANTS: usize = 24;

/// What a round does.
#[derive(Debug, Clone, Copy)]
pub struct RoundPlan {
    /// Of traffic, moves and harm.
    pub seed: u64,
    /// How many moves.
    pub moves: u64,
    /// Requests per second.
    pub rps: f64,
    /// How long at least.
    pub duration: Duration,
    /// What is done to the fleet meanwhile.
    pub faults: Faults,
    /// Whether uploads are kept under way to tenants that move.
    pub slow_uploads: bool,
}

/// What came of it.
#[derive(Debug, Default, Serialize, Deserialize)]
pub struct Round {
    /// As the plan had it.
    pub seed: u64,
    /// How long it took.
    pub wall_s: f64,
    /// Requests, slow uploads aside.
    pub requests: u64,
    /// Moves that were asked for.
    pub moves: u64,
    /// Those of them that brought the tenant to its target.
    pub past_switched: u64,
    /// How often each harm was done.
    pub harms: BTreeMap<String, u64>,
    /// Failed requests that were under way during a harm that may cost them.
    pub excused: u64,
    /// All other failed requests.
    pub failed: Vec<String>,
    /// What was broken of the promises about data, owners and the ends of moves.
    pub broken: Vec<String>,
    /// How long tenants were held, in milliseconds: half of the moves at most, all but one in a hundred.
    pub hold_p50_ms: f64,
    /// See above.
    pub hold_p99_ms: f64,
    /// Memory of the first router, in KiB, before and after; 0 where it was killed meanwhile.
    pub router_kib: [u64; 2],
    /// The same of its open files.
    pub router_files: [usize; 2],
}

/// The parts of `cellway soak -o json` that are looked at.
#[derive(Debug, Deserialize)]
struct Report {
    wall_s: f64,
    requests: u64,
    failures: BTreeMap<String, u64>,
    failures_timed: Vec<FailedRequest>,
    slow_uploads: SlowUploads,
    writes: BTreeMap<String, u64>,
    moves: Moves,
    hold_ms: Percentiles,
}

#[derive(Debug, Deserialize)]
struct SlowUploads {
    failures: BTreeMap<String, u64>,
}

#[derive(Debug, Deserialize)]
struct Moves {
    asked: u64,
    past_switched: u64,
    pending: u64,
}

#[derive(Debug, Deserialize)]
struct Percentiles {
    p50: f64,
    p99: f64,
}

/// Runs a round.
pub async fn run(plan: RoundPlan) -> anyhow::Result<Round> {
    let names: Vec<String> = (1..=TENANTS).map(|number| format!("tenant-{number}")).collect();
    let names: Vec<&str> = names.iter().map(String::as_str).collect();
    let ways_are_broken = plan.faults == Faults::All;
    let fleet = Plan::of(&names);
    // Every other time gates are reached without a relay, which would hide how an agent's end is told.
    let fleet = match (ways_are_broken, plan.seed.is_multiple_of(2)) {
        (true, true) => fleet.with_relays(),
        (true, false) => fleet.with_relays().with_gates_reached_directly(),
        (false, _) => fleet,
    };
    let mut fleet = fleet.start().await;
    let mut second = second_router(&fleet)?;
    fleet.ready(second.ready).await;
    let port = |offset: u16| format!("127.0.0.1:{}", fleet.ports.at(offset));
    let soak = tokio::process::Command::new(binary())
        .args(["soak", "-o", "json", "--api", &format!("http://{}", port(2))])
        .args(["--router", &port(0), "--router", &port(SECOND_LISTEN)])
        .args(["--seed", &plan.seed.to_string(), "--moves", &plan.moves.to_string()])
        .args(["--rps", &plan.rps.to_string(), "--duration", &format!("{}s", plan.duration.as_secs())])
        .args((!plan.slow_uploads).then_some("--no-slow-uploads"))
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .kill_on_drop(true)
        .spawn()?;
    let stop = CancellationToken::new();
    let soaking = async {
        let output = soak.wait_with_output().await;
        stop.cancel();
        output
    };
    let watched = fleet.router.id();
    let look = || (rss_kib(watched), open_files(watched));
    let before = look();
    let victims = Victims { fleet: &mut fleet, second: &mut second };
    let harming = harm_at_random(victims, plan.faults, plan.seed, &stop);
    let (output, harms) = tokio::join!(soaking, harming);
    if ways_are_broken {
        tokio::time::sleep(Duration::from_millis(SETTLE_MS)).await;
    }
    let after = look();
    let output = output?.stdout;
    if output.is_empty() {
        bail!("`cellway soak` with seed {} did not get to its report", plan.seed);
    }
    let report = serde_json::from_slice(&output).context("the report of `cellway soak` cannot be read")?;
    let mut round = Round::new(plan.seed, report, &harms);
    if fleet.router.id() == watched {
        (round.router_kib, round.router_files) = ([before.0, after.0], [before.1, after.1]);
    }
    if ways_are_broken && after.1 > before.1 + FILES_KEPT {
        round.broken.push(format!("the router's files: {} before, {} after", before.1, after.1));
    }
    Ok(round)
}

/// Like the fleet's first one, on other ports.
fn second_router(fleet: &Fleet) -> anyhow::Result<SecondRouter> {
    let Recipe { program, args, env, log, .. } = fleet.router.recipe.clone();
    let first = args.last().context("the router has a configuration")?;
    let own = format!("{first}.second.yaml");
    let config = std::fs::read_to_string(first)?
        .replace(&format!(":{}\n", fleet.ports.at(0)), &format!(":{}\n", fleet.ports.at(SECOND_LISTEN)))
        .replace(&format!(":{}\n", fleet.ports.at(3)), &format!(":{}\n", fleet.ports.at(SECOND_ADMIN)))
        .replace("routes.snapshot", "routes-of-the-second.snapshot");
    std::fs::write(&own, config)?;
    let args = args.iter().map(|arg| if arg == first { own.clone() } else { arg.clone() }).collect();
    let recipe = Recipe { name: "second-router".to_owned(), program, args, env, log: log.with_extension("second.log") };
    Ok(SecondRouter { process: Process::start(recipe), listens: SECOND_LISTEN, ready: SECOND_ADMIN })
}

impl Round {
    fn new(seed: u64, report: Report, harms: &[Harm]) -> Self {
        let (excused, others): (Vec<_>, Vec<_>) =
            report.failures_timed.iter().partition(|failed| is_excused(failed, harms));
        let told = |failed: &&FailedRequest| {
            let FailedRequest { why, tenant, began_ms, ended_ms, .. } = failed;
            let on = failed.router.zip(failed.opened_ms);
            let on = on.map(|(router, at_ms)| format!(", on a connection to {router} of {at_ms}")).unwrap_or_default();
            format!("{why} of {tenant}, {began_ms} to {ended_ms}{on}")
        };
        let mut failed: Vec<String> = others.iter().take(TOLD_MAX).map(told).collect();
        let all: u64 = report.failures.values().chain(report.slow_uploads.failures.values()).sum();
        let untold = all.saturating_sub((excused.len() + failed.len()) as u64);
        failed.extend((0..untold).map(|_| "not told".to_owned()));
        let mut broken: Vec<String> = report
            .writes
            .iter()
            .filter(|(what, count)| *what != "acknowledged" && **count > 0)
            .map(|(what, count)| format!("{what}: {count}"))
            .collect();
        if report.moves.pending > 0 {
            broken.push(format!("moves that have not ended: {}", report.moves.pending));
        }
        let mut by_kind = BTreeMap::new();
        for harm in harms {
            *by_kind.entry(harm.what.clone()).or_default() += 1;
        }
        Self {
            seed,
            wall_s: report.wall_s,
            requests: report.requests,
            moves: report.moves.asked,
            past_switched: report.moves.past_switched,
            harms: by_kind,
            excused: excused.len() as u64,
            failed,
            broken,
            hold_p50_ms: report.hold_ms.p50,
            hold_p99_ms: report.hold_ms.p99,
            router_kib: [0; 2],
            router_files: [0; 2],
        }
    }
}
