//! `cellway brake`: nothing is started while it is on.

use crate::output::{Failure, ago, facts, print};
use crate::reach::Reach;
use cellway_api::fleet::{BrakeView, SetBrake};
use clap::{Args, Subcommand};

#[derive(Debug, Args)]
#[command(after_long_help = "\
Examples:
  cellway brake on --cause 'incident 4711'   within a second no move starts, and none freezes its tenant
  cellway brake show
  cellway brake off                          planned moves start again, as their budgets allow

Moves that have begun go on copying. One that already ends streams or holds requests finishes, or is undone.")]
pub(crate) struct BrakeArgs {
    #[command(flatten)]
    reach: Reach,
    #[command(subcommand)]
    command: BrakeCommand,
}

#[derive(Debug, Subcommand)]
enum BrakeCommand {
    /// Put it on.
    On {
        /// Why, for the record and for whoever finds it on.
        #[arg(long)]
        cause: Option<String>,
    },
    /// Take it off.
    Off {
        /// Why, for the record.
        #[arg(long)]
        cause: Option<String>,
    },
    /// Show whether it is on, since when and why.
    Show,
}

/// Runs `cellway brake`.
pub(crate) async fn run(args: BrakeArgs) -> Result<(), Failure> {
    let client = args.reach.client()?;
    let set = |on, cause| SetBrake { on, cause };
    let brake = match args.command {
        BrakeCommand::On { cause } => client.set_brake(&set(true, cause)).await?,
        BrakeCommand::Off { cause } => client.set_brake(&set(false, cause)).await?,
        BrakeCommand::Show => client.brake().await?,
    };
    Ok(print(args.reach.output, &brake, brake_facts)?)
}

fn brake_facts(brake: &BrakeView) -> String {
    let mut lines = vec![("brake", if brake.on { "on" } else { "off" }.to_owned())];
    lines.extend(brake.since_ms.map(|since_ms| ("since", format!("{} ago", ago(since_ms)))));
    lines.extend(brake.cause.clone().map(|cause| ("cause", cause)));
    facts(&lines)
}
