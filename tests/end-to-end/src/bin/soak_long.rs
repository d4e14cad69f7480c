//! A soak of hours that can be interrupted: rounds of traffic and moves, each on a fleet of its own (etcd, control plane,
//! two routers, three agents and apps) to which harm is done at random. A run goes on from the rounds that its file has.
//! Exits with 1 as soon as a round lost a write, broke a promise, or failed a request that no harm excuses (`judge`,
//! `docs/operate/faults.md`).

#![allow(clippy::print_stdout, clippy::print_stderr, reason = "it talks to who started it")]

use cellway_end_to_end::soak_long::{Faults, RoundPlan, Total, keep, run};
use clap::Parser;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::{Duration, Instant};

/// Soak for hours, under harm; go on where the last run was interrupted.
#[derive(Parser)]
struct Args {
    /// Where the rounds are kept.
    #[arg(long, default_value = "target/soak-long.jsonl")]
    file: PathBuf,
    /// Requests in all.
    #[arg(long, default_value_t = 10_000_000)]
    requests: u64,
    /// Moves in all.
    #[arg(long, default_value_t = 1_000)]
    moves: u64,
    /// Moves in each round; its share of the requests follows.
    #[arg(long, default_value_t = 20)]
    moves_per_round: u64,
    /// Requests per second.
    #[arg(long, default_value_t = 1_000.0)]
    rps: f64,
    /// What is done to the fleet meanwhile.
    #[arg(long, value_enum, default_value_t = Faults::Kills)]
    faults: Faults,
    /// Send no uploads that take 30 ms to 2 s, which holds wait for.
    #[arg(long)]
    no_slow_uploads: bool,
    /// The first round's seed; each further one has the next.
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// End after the round in which so much time is over.
    #[arg(long, value_name = "MINUTES")]
    minutes: Option<u64>,
}

#[tokio::main]
async fn main() -> anyhow::Result<ExitCode> {
    let args = Args::parse();
    let began = Instant::now();
    let mut total = Total::read(&args.file)?;
    eprintln!(
        "{} has {} rounds, {} requests, {} moves",
        args.file.display(),
        total.rounds,
        total.requests,
        total.moves
    );
    while total.requests < args.requests || total.moves < args.moves {
        if args.minutes.is_some_and(|minutes| began.elapsed() >= Duration::from_secs(minutes * 60)) {
            break;
        }
        let requests = args.requests as f64 * args.moves_per_round as f64 / args.moves.max(1) as f64;
        let round = run(RoundPlan {
            seed: args.seed + total.rounds,
            moves: args.moves_per_round,
            rps: args.rps,
            duration: Duration::from_secs_f64(requests / args.rps),
            faults: args.faults,
            slow_uploads: !args.no_slow_uploads,
        })
        .await?;
        keep(&args.file, &round)?;
        total.add(&round);
        println!("{}", serde_json::to_string(&round)?);
        println!("so far: {}", serde_json::to_string(&total)?);
        if !round.failed.is_empty() || !round.broken.is_empty() {
            eprintln!("seed {}: a promise was broken, see above", round.seed);
            return Ok(ExitCode::FAILURE);
        }
    }
    Ok(ExitCode::SUCCESS)
}
