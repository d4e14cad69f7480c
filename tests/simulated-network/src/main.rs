//! One seed of the simulated network: the real loops of etcd's client, control plane, agents and routers over a network
//! that breaks as the seed says, with clients whose histories are checked.
//!
//! `cellway-simulated-network --seed N [--calm] [--break RULE] [--verbose]` prints the log and ends with 1 if a rule was
//! violated. The same seed prints the same log, byte for byte.

mod app;
mod chance;
mod client;
mod faults;
mod hermetic;
mod history;
mod links;
mod logging;
mod network;
mod operator;
mod rules;
mod store;
mod world;

use anyhow::{Context, bail};
use faults::Faults;
use operator::TENANTS;
use rules::Broken;
use std::process::ExitCode;
use std::time::{Duration, SystemTime};
use store::Stored;
use turmoil::Sim;
use world::Shared;

/// The step of simulated time.
const TICK_MS: u64 = 2;

/// The longest that a message travels.
const LATENCY_MAX_MS: u64 = 8;

/// How long cells and tenants may take to be there.
const SET_UP_MS: u64 = 30_000;

/// How long things are broken.
const FAULTS_MS: u64 = 15_000;

/// How long everything may take to come right afterwards.
const HEALING_MS: u64 = 60_000;

/// Everything, and more.
const DURATION_MS: u64 = SET_UP_MS + FAULTS_MS + HEALING_MS + 10_000;

struct Arguments {
    seed: u64,
    is_calm: bool,
    is_verbose: bool,
    broken: Option<Broken>,
}

fn arguments() -> anyhow::Result<Arguments> {
    let mut arguments = Arguments { seed: 1, is_calm: false, is_verbose: false, broken: None };
    let mut words = std::env::args().skip(1);
    while let Some(word) = words.next() {
        match word.as_str() {
            "--seed" => arguments.seed = words.next().context("--seed needs a number")?.parse()?,
            "--calm" => arguments.is_calm = true,
            "--verbose" => arguments.is_verbose = true,
            "--break" => {
                let name = words.next().context("--break needs a rule")?;
                arguments.broken = Some(Broken::named(&name).context("there is no such rule")?);
            }
            other => bail!("{other} is not understood"),
        }
    }
    Ok(arguments)
}

fn main() -> anyhow::Result<ExitCode> {
    let arguments = arguments()?;
    let disks = tempfile::tempdir_in(if std::path::Path::new("/dev/shm").is_dir() { "/dev/shm" } else { "." })?;
    hermetic::seed(arguments.seed);
    network::install();
    let shared = Shared::new(arguments.seed, arguments.broken, disks.path());
    logging::start(arguments.is_verbose);
    let mut run = Run::new(&arguments, &shared);
    run.run(&arguments)?;
    let (asked, ran, failed) = shared.history.counts();
    let ends = run.stored.ends();
    shared.history.say(&format!("requests: {asked} asked, {ran} ran, {failed} failed; moves: {ends:?}"));
    let violations = shared.history.violations();
    Ok(if violations.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

struct Run<'a> {
    sim: Sim<'a>,
    shared: &'a Shared,
    stored: Stored,
}

impl<'a> Run<'a> {
    fn new(arguments: &Arguments, shared: &'a Shared) -> Self {
        let mut sim = turmoil::Builder::new()
            .rng_seed(arguments.seed)
            .epoch(SystemTime::now())
            .tick_duration(Duration::from_millis(TICK_MS))
            .min_message_latency(Duration::ZERO)
            .max_message_latency(Duration::from_millis(LATENCY_MAX_MS))
            .simulation_duration(Duration::from_millis(DURATION_MS))
            .tcp_capacity(1_024)
            .enable_random_order()
            .build();
        world::build(&mut sim, shared);
        Self { sim, shared, stored: Stored::default() }
    }

    fn now_ms(&self) -> u64 {
        u64::try_from(self.sim.elapsed().as_millis()).unwrap_or(u64::MAX)
    }

    fn step(&mut self) -> anyhow::Result<()> {
        let now = self.sim.elapsed();
        hermetic::set_elapsed(now);
        self.shared.history.is_now(now);
        logging::is_now(now);
        if let Err(error) = self.sim.step() {
            bail!("the simulation broke: {error}");
        }
        if let Some(changes) = self.stored.look(&self.shared.etcd) {
            self.shared.history.stores(&self.stored, &changes);
        }
        self.shared.history.looked();
        Ok(())
    }

    /// Goes on until `done`; says what is missing when the time is over.
    fn until(&mut self, limit_ms: u64, what: &str, done: impl Fn(&Self) -> bool) -> anyhow::Result<()> {
        let end = self.now_ms() + limit_ms;
        while !done(self) {
            self.step()?;
            if self.now_ms() >= end {
                let unfinished = self.stored.unfinished();
                self.shared.history.violates(format!("waited {limit_ms} ms in vain: {what}; {unfinished:?}"));
                break;
            }
        }
        Ok(())
    }

    fn run(&mut self, arguments: &Arguments) -> anyhow::Result<()> {
        let history = &self.shared.history;
        if arguments.is_calm {
            history.will_be_calm();
        }
        self.until(SET_UP_MS, "cells and tenants are there", |run| run.shared.history.is_ready())?;
        let end = self.now_ms() + FAULTS_MS;
        if arguments.is_calm {
            while self.now_ms() < end {
                self.step()?;
            }
        } else {
            let mut faults = Faults::new(arguments.seed, self.now_ms(), end);
            while !faults.are_over(self.now_ms()) {
                faults.step(self.now_ms(), &mut self.sim, &self.stored, self.shared);
                self.step()?;
            }
        }
        history.stop_moving();
        history.is_healed();
        self.until(HEALING_MS, "every move ends, and every tenant is served", |run| {
            run.stored.unfinished().is_empty() && run.shared.history.all_are_served(&TENANTS)
        })?;
        history.stop_asking();
        self.until(HEALING_MS, "every request is answered", |run| run.shared.history.all_are_told())
    }
}
