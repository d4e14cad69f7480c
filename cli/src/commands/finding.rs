//! `cellway finding`: what was found out about tenants and cells, and what to do about it.

use crate::output::{Failure, Table, ago, or_dash, print};
use crate::reach::Reach;
use cellway_api::fleet::{FindingView, Listing};
use clap::{Args, Subcommand};

#[derive(Debug, Args)]
#[command(after_long_help = "\
Examples:
  cellway finding list
  cellway finding list -o json | jq -r '.items[].remedy'")]
pub(crate) struct FindingArgs {
    #[command(flatten)]
    reach: Reach,
    #[command(subcommand)]
    command: FindingCommand,
}

#[derive(Debug, Subcommand)]
enum FindingCommand {
    /// List all findings with the command that remedies each.
    List,
}

/// Runs `cellway finding`.
pub(crate) async fn run(args: FindingArgs) -> Result<(), Failure> {
    let client = args.reach.client()?;
    match args.command {
        FindingCommand::List => Ok(print(args.reach.output, &client.findings().await?, list_table)?),
    }
}

fn list_table(findings: &Listing<FindingView>) -> String {
    let mut table = Table::new(&["AGE", "TENANT", "CELL", "SOURCE", ">TIMES", "SUMMARY", "REMEDY"]);
    for finding in &findings.items {
        table.row([
            ago(finding.at_ms),
            or_dash(finding.tenant.as_ref()),
            or_dash(finding.cell.as_ref()),
            finding.source.clone(),
            finding.times.to_string(),
            finding.summary.clone(),
            finding.remedy.clone(),
        ]);
    }
    table.or("There are no findings.")
}
