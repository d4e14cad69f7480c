//! Puts a router under stress and prints what it did: `cellway-stress [SCENARIO…]`. Exit code 1 if a bound is broken.

#![allow(clippy::print_stdout, clippy::print_stderr, reason = "it talks to who started it")]

use cellway_end_to_end::stress::{HEAD, Scale, line, scenarios};
use clap::Parser;
use std::process::ExitCode;
use std::time::Duration;

/// Puts a router under stress, in a process of its own beside this program's, and measures it and other tenants.
#[derive(Debug, Parser)]
struct Args {
    /// Only scenarios whose name contains one of these.
    scenarios: Vec<String>,
    /// Small crowds for a few seconds instead of the full figures.
    #[arg(long)]
    short: bool,
    /// How long everything at once lasts, instead of ten minutes.
    #[arg(long, value_name = "SECONDS")]
    everything_s: Option<u64>,
    /// How the outcome is printed: `table` or `json`.
    #[arg(short, long, default_value = "table", value_parser = ["table", "json"])]
    output: String,
}

#[tokio::main]
async fn main() -> ExitCode {
    let args = Args::parse();
    let mut scale = if args.short { Scale::short() } else { Scale::full() };
    if let Some(seconds) = args.everything_s {
        scale.long = Duration::from_secs(seconds);
    }
    let chosen = |name: &str| args.scenarios.is_empty() || args.scenarios.iter().any(|part| name.contains(part));
    let as_table = args.output == "table";
    if as_table {
        println!("{HEAD}");
    }
    let mut rows = Vec::new();
    for scenario in scenarios::all().into_iter().filter(|scenario| chosen(scenario.name)) {
        let row = (scenario.run)(scale).await;
        if as_table {
            print!("{}", line(&row));
        } else {
            eprintln!("{}: {}", row.scenario, if row.is_good() { "kept" } else { "BROKEN" });
        }
        rows.push(row);
    }
    if !as_table {
        match serde_json::to_string_pretty(&rows) {
            Ok(text) => println!("{text}"),
            Err(error) => eprintln!("{error}"),
        }
    }
    let good = !rows.is_empty() && rows.iter().all(|row| row.is_good());
    ExitCode::from(u8::from(!good))
}
