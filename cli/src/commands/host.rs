//! `cellway host`: claim hosts for tenants.

use crate::output::{Failure, facts, print};
use crate::reach::{Reach, tenant_id};
use cellway_api::fleet::ClaimHost;
use clap::{Args, Subcommand};

#[derive(Debug, Args)]
#[command(after_long_help = "\
Examples:
  cellway host claim shop.example.com --tenant acme
  cellway explain shop.example.com")]
pub(crate) struct HostArgs {
    #[command(flatten)]
    reach: Reach,
    #[command(subcommand)]
    command: HostCommand,
}

#[derive(Debug, Subcommand)]
enum HostCommand {
    /// Make a host lead to a tenant. A host has one owner: the first that claims it.
    Claim {
        /// The host, in any spelling.
        host: String,
        /// Its owner.
        #[arg(long, value_parser = tenant_id)]
        tenant: String,
    },
}

/// Runs `cellway host`.
pub(crate) async fn run(args: HostArgs) -> Result<(), Failure> {
    let client = args.reach.client()?;
    match args.command {
        HostCommand::Claim { host, tenant } => {
            let claimed = client.claim_host(&ClaimHost { host, tenant }).await?;
            Ok(print(args.reach.output, &claimed, |claimed| {
                facts(&[("host", claimed.host.clone()), ("tenant", claimed.tenant.clone())])
            })?)
        }
    }
}
