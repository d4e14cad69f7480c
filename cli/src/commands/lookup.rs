//! `cellway lookup` and `cellway explain`: where requests go, and why.

use crate::output::{Failure, facts, or_dash, print, shown};
use crate::reach::{Reach, tenant_id};
use cellway_api::fleet::LookupView;
use clap::Args;

#[derive(Debug, Args)]
#[command(after_long_help = "\
Examples:
  cellway lookup acme
  cellway lookup acme -o json | jq -r .cell")]
pub(crate) struct LookupArgs {
    #[command(flatten)]
    reach: Reach,
    /// The tenant.
    #[arg(value_parser = tenant_id)]
    tenant: String,
}

#[derive(Debug, Args)]
#[command(after_long_help = "\
Examples:
  cellway explain acme.cells.localhost
  cellway explain shop.example.com

Exits with 1 if the host leads nowhere.")]
pub(crate) struct ExplainArgs {
    #[command(flatten)]
    reach: Reach,
    /// The host, in any spelling.
    host: String,
}

/// Runs `cellway lookup`.
pub(crate) async fn run(args: LookupArgs) -> Result<(), Failure> {
    let client = args.reach.client()?;
    let found = client.lookup_tenant(&args.tenant).await?;
    Ok(print(args.reach.output, &found, lookup_facts)?)
}

/// Runs `cellway explain`.
pub(crate) async fn explain(args: ExplainArgs) -> Result<(), Failure> {
    let client = args.reach.client()?;
    let found = client.lookup_host(&args.host).await?;
    print(args.reach.output, &found, explanation)?;
    let leads_somewhere = found.tenant.is_some() || !found.endpoints.is_empty();
    if leads_somewhere { Ok(()) } else { Err(Failure::Said) }
}

fn lookup_facts(found: &LookupView) -> String {
    let endpoints = found.endpoints.join(", ");
    facts(&[
        ("tenant", or_dash(found.tenant.as_ref())),
        ("cell", or_dash(found.cell.as_ref())),
        ("epoch", or_dash(found.epoch)),
        ("held by", or_dash(found.held_by.as_ref())),
        ("endpoints", if endpoints.is_empty() { "-".to_owned() } else { endpoints }),
    ])
}

fn explanation(found: &LookupView) -> String {
    let steps = found.steps.iter().zip(1..).map(|(step, number)| format!("{number}. {}\n", shown(step)));
    let steps: String = steps.collect();
    format!("{steps}\n{}", facts(&[("host", or_dash(found.host.as_ref()))])) + &lookup_facts(found)
}
