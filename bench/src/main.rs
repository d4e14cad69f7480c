//! Measures cellway's router side by side with what people would use instead: `cellway-bench compare`.

#![allow(clippy::print_stdout, clippy::print_stderr, reason = "it talks to who started it")]

use std::net::SocketAddr;
use std::process::ExitCode;

use clap::{Parser, Subcommand};

mod changes;
mod compare;
mod configs;
mod cost;
mod fleet;
mod load;
mod machine;
mod origin;
mod process;
mod relay;
mod report;
mod scenario;
mod store;
mod target;

/// Measures cellway's router side by side with nginx and HAProxy, and with a relay that knows no HTTP.
#[derive(Debug, Parser)]
struct Args {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// CPU time per request, in paired rounds on one core; writes `target/bench.json`.
    Compare(compare::Args),
    /// The same with a large table that changes while the router is asked, and memory per tenant; writes
    /// `target/bench-changes.json`.
    Changes(changes::Args),
    /// Answers requests as the app that everybody forwards to.
    #[command(hide = true)]
    Origin { listen: SocketAddr },
    /// Passes bytes on to another address, which is the least that forwarding costs.
    #[command(hide = true)]
    Relay { listen: SocketAddr, to: SocketAddr },
}

fn main() -> ExitCode {
    let done = match Args::parse().command {
        Command::Compare(args) => compare::run(&args),
        Command::Changes(args) => changes::run(&args),
        Command::Origin { listen } => origin::run(listen),
        Command::Relay { listen, to } => relay::run(listen, to),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("cellway-bench: {error:#}");
            ExitCode::FAILURE
        }
    }
}
