//! `cellway cell`: list, create, cordon and open cells.

use crate::output::{Failure, Table, facts, or_dash, print};
use crate::reach::{Reach, cell_name};
use anyhow::bail;
use cellway_api::fleet::{CellKindView, CellView, ChangeCell, CreateCell, Listing};
use clap::{Args, Subcommand, ValueEnum};
use std::collections::BTreeMap;

#[derive(Debug, Args)]
#[command(after_long_help = "\
Examples:
  cellway cell list
  cellway cell create cell-c --kind agent --version v42
  cellway cell create legacy --kind origin --endpoint 10.0.0.7:8080 --endpoint 10.0.0.8:8080
  cellway cell cordon cell-a                      it takes nobody new; whoever is there stays")]
pub(crate) struct CellArgs {
    #[command(flatten)]
    reach: Reach,
    #[command(subcommand)]
    command: CellCommand,
}

#[derive(Debug, Subcommand)]
enum CellCommand {
    /// List all cells with their load.
    List,
    /// Create a cell.
    Create(CreateArgs),
    /// Let a cell take nobody new.
    Cordon {
        /// The cell.
        #[arg(value_parser = cell_name)]
        name: String,
    },
    /// Let a cell take tenants again.
    Open {
        /// The cell.
        #[arg(value_parser = cell_name)]
        name: String,
    },
}

#[derive(Debug, Clone, Copy, ValueEnum)]
enum Kind {
    /// With agents: tenants can be moved in and out. Its gates register themselves.
    Agent,
    /// Plain HTTP servers: requests are routed there, but no tenant can be moved.
    Origin,
}

#[derive(Debug, Args)]
struct CreateArgs {
    /// Its name.
    #[arg(value_parser = cell_name)]
    name: String,
    /// With agents, or plain HTTP servers.
    #[arg(long, value_enum)]
    kind: Kind,
    /// Of an origin: where it answers. May be given more than once.
    #[arg(long = "endpoint", value_name = "HOST:PORT")]
    endpoints: Vec<String>,
    /// The release version that runs in it.
    #[arg(long)]
    version: Option<String>,
    /// A label. May be given more than once.
    #[arg(long = "label", value_name = "KEY=VALUE", value_parser = label)]
    labels: Vec<(String, String)>,
    /// The most tenants that it should hold; 0: no limit.
    #[arg(long, value_name = "TENANTS", default_value_t = 0)]
    capacity: u32,
}

fn label(text: &str) -> Result<(String, String), String> {
    match text.split_once('=') {
        Some((key, value)) if !key.is_empty() => Ok((key.to_owned(), value.to_owned())),
        _ => Err("a label is written KEY=VALUE".to_owned()),
    }
}

/// Runs `cellway cell`.
pub(crate) async fn run(args: CellArgs) -> Result<(), Failure> {
    let client = args.reach.client()?;
    let format = args.reach.output;
    match args.command {
        CellCommand::List => print(format, &client.cells().await?, list_table)?,
        CellCommand::Create(create) => {
            let wanted = wanted(create).map_err(Failure::start_up)?;
            print(format, &client.create_cell(&wanted).await?, cell_facts)?;
        }
        CellCommand::Cordon { name } => {
            let change = ChangeCell { condition: "cordoned".to_owned() };
            print(format, &client.change_cell(&name, &change).await?, cell_facts)?;
        }
        CellCommand::Open { name } => {
            let change = ChangeCell { condition: "open".to_owned() };
            print(format, &client.change_cell(&name, &change).await?, cell_facts)?;
        }
    }
    Ok(())
}

fn wanted(create: CreateArgs) -> anyhow::Result<CreateCell> {
    let kind = match (create.kind, create.endpoints.is_empty()) {
        (Kind::Agent, true) => CellKindView::Agent,
        (Kind::Origin, false) => CellKindView::Origin,
        (Kind::Agent, false) => bail!("a cell with agents has no --endpoint: its gates register themselves"),
        (Kind::Origin, true) => bail!("an origin needs at least one --endpoint HOST:PORT"),
    };
    Ok(CreateCell {
        name: create.name,
        kind,
        version: create.version,
        labels: create.labels.into_iter().collect::<BTreeMap<_, _>>(),
        endpoints: create.endpoints,
        capacity_tenants: create.capacity,
    })
}

fn kind_word(kind: CellKindView) -> &'static str {
    match kind {
        CellKindView::Agent => "agent",
        CellKindView::Origin => "origin",
    }
}

fn list_table(cells: &Listing<CellView>) -> String {
    let mut table = Table::new(&[
        "CELL",
        "KIND",
        "CONDITION",
        "VERSION",
        ">TENANTS",
        ">REQUESTS/S",
        ">IN FLIGHT",
        ">BUSY %",
        "ENDPOINTS",
    ]);
    for cell in &cells.items {
        table.row([
            cell.name.clone(),
            kind_word(cell.kind).to_owned(),
            cell.condition.clone(),
            cell.version.clone(),
            tenants(cell),
            or_dash(cell.load.map(|load| format!("{:.1}", load.requests_per_s))),
            or_dash(cell.load.map(|load| load.in_flight)),
            or_dash(cell.load.map(|load| format!("{:.0}", load.busy_percent))),
            endpoints(cell),
        ]);
    }
    table.or("There are no cells. Create one with `cellway cell create NAME --kind agent`.")
}

fn tenants(cell: &CellView) -> String {
    match cell.capacity_tenants {
        0 => cell.tenants.to_string(),
        capacity => format!("{}/{capacity}", cell.tenants),
    }
}

/// Gates that have not been heard lately are marked.
fn endpoints(cell: &CellView) -> String {
    let silent = |endpoint: &str| cell.instances.iter().any(|one| one.endpoint == endpoint && !one.reachable);
    let marked = cell.endpoints.iter().map(|endpoint| match silent(endpoint) {
        true => format!("{endpoint} (silent)"),
        false => endpoint.clone(),
    });
    let listed = marked.collect::<Vec<_>>().join(", ");
    if listed.is_empty() { "-".to_owned() } else { listed }
}

fn cell_facts(cell: &CellView) -> String {
    let labels = cell.labels.iter().map(|(key, value)| format!("{key}={value}")).collect::<Vec<_>>().join(", ");
    facts(&[
        ("cell", cell.name.clone()),
        ("uid", cell.uid.clone()),
        ("kind", kind_word(cell.kind).to_owned()),
        ("condition", cell.condition.clone()),
        ("version", cell.version.clone()),
        ("tenants", tenants(cell)),
        ("labels", if labels.is_empty() { "-".to_owned() } else { labels }),
        ("endpoints", endpoints(cell)),
    ])
}

#[cfg(test)]
mod tests {
    use super::*;

    fn create(kind: Kind, endpoints: &[&str]) -> CreateArgs {
        CreateArgs {
            name: "c".into(),
            kind,
            endpoints: endpoints.iter().map(ToString::to_string).collect(),
            version: None,
            labels: vec![("region".into(), "eu".into())],
            capacity: 0,
        }
    }

    #[test]
    fn an_origin_needs_endpoints_and_an_agent_cell_takes_none() {
        assert!(wanted(create(Kind::Origin, &[])).is_err());
        assert!(wanted(create(Kind::Agent, &["127.0.0.1:1"])).is_err());
        let cell = wanted(create(Kind::Origin, &["127.0.0.1:1"])).expect("legal");
        assert_eq!((cell.kind, cell.endpoints.len(), cell.labels["region"].as_str()), (CellKindView::Origin, 1, "eu"));
    }

    #[test]
    fn labels_have_a_key() {
        assert_eq!(label("a=b=c"), Ok(("a".into(), "b=c".into())));
        assert!(label("=b").is_err() && label("a").is_err());
    }
}
