//! A large table at work: the router's follows an etcd in which tenants are changed all the time while it is asked; the
//! others' stay as they are, which is all that they can do without being told to read everything again. And what a tenant
//! costs each of them in memory.

use std::path::PathBuf;

use anyhow::Context;
use clap::Args as ClapArgs;
use serde::Serialize;

use crate::compare::{measure, warm_up, write};
use crate::load::Client;
use crate::machine::Cores;
use crate::origin;
use crate::report::{self, HEAD, Row};
use crate::scenario::{ASKED_MAX, FEW, Hops, MANY, SCENARIOS, Scenario};
use crate::store::Store;
use crate::target::{Ground, Kind, Target};

/// Who has a table of tenants.
const KINDS: [Kind; 3] = [Kind::Cellway, Kind::Nginx, Kind::Haproxy];

/// What is changed, and how long it is measured.
#[derive(Debug, ClapArgs)]
pub(crate) struct Args {
    /// Changes a second, while the router is asked.
    #[arg(long, default_value_t = 1_000, value_parser = clap::value_parser!(u32).range(1..=100_000))]
    changes: u32,
    /// Tenants in every table.
    #[arg(long, default_value_t = MANY)]
    tenants: usize,
    /// Rounds; the figures are their medians.
    #[arg(long, default_value_t = 5, value_parser = clap::value_parser!(u64).range(1..=1000))]
    rounds: u64,
    /// How long each target is asked in each round.
    #[arg(long, value_name = "SECONDS", default_value_t = 4, value_parser = clap::value_parser!(u64).range(1..=600))]
    seconds: u64,
    /// Where the rows are written as JSON.
    #[arg(long, value_name = "FILE", default_value = "target/bench-changes.json")]
    to: PathBuf,
}

/// What one tenant more costs.
#[derive(Debug, Serialize)]
struct Memory {
    target: &'static str,
    few_mib: f64,
    many_mib: f64,
    bytes_per_tenant: f64,
}

#[derive(Serialize)]
struct Found {
    changes_per_s: f64,
    rows: Vec<Row>,
    memory: Vec<Memory>,
}

/// Measures, prints the table and writes the rows.
pub(crate) fn run(args: &Args) -> anyhow::Result<()> {
    anyhow::ensure!(args.tenants > FEW, "at least {} tenants", FEW + 1);
    let dir = tempfile::tempdir().context("a directory")?;
    let cores = Cores::of_this_machine()?;
    let (_app, origin) = origin::start(cores.rest, dir.path())?;
    // A router would begin with the snapshot that one before it has left.
    let few_dir = tempfile::tempdir().context("a directory")?;
    let ground = Ground { dir: few_dir.path(), cores, origin, tenants: FEW, hops: Hops::One, before: None, feed: None };
    let few = KINDS.map(|kind| Ok(Target::start(kind, &ground)?.pss_mib()));
    let few = few.into_iter().collect::<anyhow::Result<Vec<f64>>>()?;

    let store = Store::start(dir.path(), cores.rest, origin, args.tenants)?;
    let ground = Ground { dir: dir.path(), tenants: args.tenants, feed: Some(store.feed()), ..ground };
    let targets = KINDS.map(|kind| Target::start(kind, &ground));
    let targets = targets.into_iter().collect::<anyhow::Result<Vec<Target>>>()?;
    let memory: Vec<Memory> = targets.iter().zip(few).map(|(target, few)| memory(target, few, args.tenants)).collect();

    let scenario = Scenario { name: "h1_1m_changes", tenants: args.tenants, asked: ASKED_MAX, ..SCENARIOS[0] };
    let client = Client { dir: dir.path(), core: cores.rest };
    warm_up(&scenario, &targets, &client)?;
    let (mut rounds, mut rates) = (Vec::new(), Vec::new());
    for round in 0..args.rounds {
        let mut found = Vec::new();
        for at in 0..targets.len() {
            // Each is the first as often as any other.
            let target = &targets[(at + usize::try_from(round)?) % targets.len()];
            let changing = target.kind.is_ours().then(|| store.change(args.changes)).transpose()?;
            let measured =
                measure(&scenario, target, &client, (args.seconds, None)).with_context(|| target.kind.name())?;
            if let Some(changing) = changing {
                rates.push(changing.end()?);
            }
            found.push((target.kind, measured));
        }
        found.sort_by_key(|(kind, _)| Kind::ALL.iter().position(|other| other == kind));
        rounds.push(found);
    }
    let rows = report::rows(scenario.name, &rounds);
    print!("{HEAD}{}", report::table(&rows));
    let changes_per_s = rates.iter().sum::<f64>() / rates.len() as f64;
    println!("{changes_per_s:.0} changes/s while cellway was asked");
    for Memory { target, few_mib, many_mib, bytes_per_tenant } in &memory {
        println!(
            "{target:<9} PSS {few_mib:>6.1} MiB with {FEW} tenants, {many_mib:>6.1} MiB with {}: {bytes_per_tenant:.0} bytes each",
            args.tenants
        );
    }
    write(&args.to, &Found { changes_per_s, rows, memory })
}

fn memory(target: &Target, few_mib: f64, tenants: usize) -> Memory {
    let many_mib = target.pss_mib();
    let bytes_per_tenant = (many_mib - few_mib) * 1024.0 * 1024.0 / (tenants - FEW) as f64;
    Memory { target: target.kind.name(), few_mib, many_mib, bytes_per_tenant }
}
