//! The one binary `cellway`: what the command line means, and which module does it. A library only so that its
//! readers of files can be fuzzed.

mod commands;
mod output;
mod process;
mod reach;
mod soak;

use clap::{Parser, Subcommand};
use std::process::ExitCode;

/// Moves tenants between the cells of a SaaS while their users keep working.
#[derive(Debug, Parser)]
#[command(name = "cellway", version, max_term_width = 100, subcommand_required = true, arg_required_else_help = true)]
#[command(after_long_help = "\
Exit codes: 0 done; 1 refused, failed, or a promise was broken; 2 wrong usage, or nothing could be started.
What is asked for goes to stdout, everything else to stderr, so that `-o json` can be piped.")]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Run the whole system on this machine, to try it and to develop against.
    Dev(process::dev::DevArgs),
    /// List, create, show, move, limit and pause tenants.
    Tenant(commands::tenant::TenantArgs),
    /// List, show and undo moves.
    Move(commands::moves::MoveArgs),
    /// Stop every start of a move, in an emergency.
    Brake(commands::brake::BrakeArgs),
    /// List, create, cordon and open cells.
    Cell(commands::cell::CellArgs),
    /// Claim hosts for tenants.
    Host(commands::host::HostArgs),
    /// Keep certificates of hosts for all routers.
    Certificate(commands::certificate::CertificateArgs),
    /// Show what the noisy-neighbour detector and the alerts have found.
    Finding(commands::finding::FindingArgs),
    /// Show where requests of a tenant go.
    Lookup(commands::lookup::LookupArgs),
    /// Explain, step by step, where requests for a host go.
    Explain(commands::lookup::ExplainArgs),
    /// Drive a running system with traffic while tenants move, and check every promise.
    Soak(soak::SoakArgs),
    /// Run a router, the reverse proxy that browsers reach, or ask one how it is.
    Router(process::router::RouterArgs),
    /// Run a replica of the control plane.
    ControlPlane(process::roles::RoleArgs),
    /// Run a cell's agent, or let one leave its cell.
    Agent(process::roles::AgentArgs),
    /// Run the demo app as a process of its own.
    App(process::roles::RoleArgs),
    /// Make a private CA and issue certificates below it.
    Ca(commands::ca::CaArgs),
    /// Check configuration files.
    Config(process::config::ConfigArgs),
}

/// What the binary does.
pub fn main() -> ExitCode {
    let cli = Cli::parse();
    output::exit_code(run(cli.command))
}

fn run(command: Command) -> Result<(), output::Failure> {
    match command {
        Command::Tenant(args) => block_on(commands::tenant::run(args)),
        Command::Move(args) => block_on(commands::moves::run(args)),
        Command::Brake(args) => block_on(commands::brake::run(args)),
        Command::Cell(args) => block_on(commands::cell::run(args)),
        Command::Host(args) => block_on(commands::host::run(args)),
        Command::Certificate(args) => block_on(commands::certificate::run(args)),
        Command::Finding(args) => block_on(commands::finding::run(args)),
        Command::Lookup(args) => block_on(commands::lookup::run(args)),
        Command::Explain(args) => block_on(commands::lookup::explain(args)),
        Command::Soak(args) => block_on(soak::run(args)),
        Command::Dev(args) => block_on(process::dev::run(args)),
        Command::Router(args) => block_on(process::router::run(args)),
        Command::ControlPlane(args) => block_on(process::roles::control_plane(args)),
        Command::Agent(args) => block_on(process::roles::agent(args)),
        Command::App(args) => block_on(process::roles::app(args)),
        Command::Ca(args) => commands::ca::run(args),
        Command::Config(args) => process::config::run(args),
    }
}

fn block_on<E: Into<output::Failure>>(command: impl Future<Output = Result<(), E>>) -> Result<(), output::Failure> {
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build();
    let runtime = runtime.map_err(|error| output::Failure::start_up(anyhow::Error::new(error)))?;
    runtime.block_on(command).map_err(Into::into)
}

/// Reads the text of a configuration as the role that it names would.
///
/// # Errors
///
/// What is wrong with it, as `cellway config check` says it.
pub fn check_config(text: &str) -> anyhow::Result<()> {
    process::config::check_text(std::path::Path::new("config.yaml"), text).map(drop)
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory;

    #[test]
    fn the_command_line_is_consistent() {
        Cli::command().debug_assert();
    }
}
