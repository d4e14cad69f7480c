//! `cellway tenant`: list, create, show, move, limit and pause tenants.

use super::limits::{self, LimitArgs, PauseArgs, ReadOnlyArgs, ResumeArgs};
use super::move_many::{self, ManyMoves, Selector};
use super::move_plan;
use super::moves::move_facts;
use super::watch::{self, Until};
use crate::output::{Failure, Table, facts, or_dash, print};
use crate::reach::{Reach, cell_name, tenant_id};
use cellway_api::Client;
use cellway_api::fleet::{ChangeTenant, CreateMove, CreateTenant, Listing, LongRequestsView, PriorityView, TenantView};
use cellway_core::freeze_window::FreezeWindow;
use clap::{Args, Subcommand};

#[derive(Debug, Args)]
#[command(after_long_help = "\
Examples:
  cellway tenant create acme                      the planner chooses the cell
  cellway tenant create acme --cell cell-a --tier gold --weight 4
  cellway tenant list -o json | jq '.items[].cell'
  cellway tenant move acme --to cell-b            returns when cell-b has answered for acme
  cellway tenant limit set acme --requests-per-second 100 --concurrency 20
  cellway tenant pause acme --message 'Back at 10:00 UTC.'")]
pub(crate) struct TenantArgs {
    #[command(flatten)]
    reach: Reach,
    #[command(subcommand)]
    command: TenantCommand,
}

#[derive(Debug, Subcommand)]
enum TenantCommand {
    /// List all tenants and where they are.
    List,
    /// Create a tenant.
    Create(CreateArgs),
    /// Show one tenant, and the move that it is in.
    Show {
        /// The tenant.
        #[arg(value_parser = tenant_id)]
        id: String,
    },
    /// Change how a tenant is moved; what is not named stays.
    Change(ChangeArgs),
    /// Move a tenant to another cell while its users keep working.
    Move(MoveToArgs),
    /// Limit what a tenant may use: requests, concurrency, bandwidth.
    Limit(LimitArgs),
    /// Answer a tenant's users with a page instead of its app, until it is resumed.
    Pause(PauseArgs),
    /// Let a tenant's users read and not write, until it is resumed.
    ReadOnly(ReadOnlyArgs),
    /// Serve a tenant again that was paused or read-only. Its limits stay.
    Resume(ResumeArgs),
}

#[derive(Debug, Args)]
struct CreateArgs {
    /// Its id, which is the label of its subdomain and never changes.
    #[arg(value_parser = tenant_id)]
    id: String,
    /// In this cell; without it the planner chooses.
    #[arg(long, value_parser = cell_name)]
    cell: Option<String>,
    /// Your word for its class, as in "gold".
    #[arg(long)]
    tier: Option<String>,
    /// Its share of a cell.
    #[arg(long)]
    weight: Option<u32>,
    #[command(flatten)]
    moved: MovedArgs,
}

#[derive(Debug, Args)]
#[command(after_long_help = "\
A move that is under way keeps what it began with.

Examples:
  cellway tenant change acme --freeze-budget-ms 500
  cellway tenant change acme --long-requests cut --long-requests-wait-ms 60000
                             uploads and downloads get a minute to finish, then they are cut
  cellway tenant change acme --freeze-window 'mon-fri 22:00-04:00' --freeze-window 'sun 00:00-24:00'
  cellway tenant change acme --no-freeze-windows        as moves.freeze_windows of the control plane says
  cellway tenant change acme --long-requests undo       they go on, and the move is undone")]
struct ChangeArgs {
    /// The tenant.
    #[arg(value_parser = tenant_id)]
    id: String,
    #[command(flatten)]
    moved: MovedArgs,
    /// No freeze windows of its own any more: as the fleet has it.
    #[arg(long, conflicts_with = "freeze_windows")]
    no_freeze_windows: bool,
}

/// How a tenant is moved.
#[derive(Debug, Args)]
struct MovedArgs {
    /// How long its requests may be held while it is moved.
    #[arg(long, value_name = "MS")]
    freeze_budget_ms: Option<u64>,
    /// What becomes of uploads and downloads that take longer, once they were waited for.
    #[arg(long, value_name = "WHAT")]
    long_requests: Option<LongRequests>,
    /// How long a move waits for them first, while the source serves. Default: 10 minutes.
    #[arg(long, value_name = "MS")]
    long_requests_wait_ms: Option<u64>,
    /// When it may begin to be frozen, in UTC, as in "mon-fri 22:00-04:00"; may be given several times.
    #[arg(long = "freeze-window", value_name = "WINDOW")]
    freeze_windows: Vec<FreezeWindow>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
enum Priority {
    Low,
    Normal,
    High,
}

impl From<Priority> for PriorityView {
    fn from(priority: Priority) -> Self {
        match priority {
            Priority::Low => Self::Low,
            Priority::Normal => Self::Normal,
            Priority::High => Self::High,
        }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
enum LongRequests {
    /// They go on, and the move is undone.
    Undo,
    /// They are cut, and the move goes on.
    Cut,
}

impl MovedArgs {
    fn change(self) -> ChangeTenant {
        ChangeTenant {
            freeze_budget_ms: self.freeze_budget_ms,
            long_requests: self.long_requests.map(|what| match what {
                LongRequests::Undo => LongRequestsView::Undo,
                LongRequests::Cut => LongRequestsView::Cut,
            }),
            long_requests_wait_ms: self.long_requests_wait_ms,
            freeze_windows: (!self.freeze_windows.is_empty())
                .then(|| self.freeze_windows.iter().map(ToString::to_string).collect()),
        }
    }
}

#[derive(Debug, Args)]
#[command(after_long_help = "\
While the move runs, a line on stderr shows its state, the bytes copied, the freeze that is
predicted and then the one that it took, and how many long-lived streams (WebSocket, SSE) will be
cut. Interrupting the command does not stop the move: `cellway move undo ID` does.

Examples:
  cellway tenant move acme --to cell-b                  wait until the target has answered
  cellway tenant move acme --to cell-b --wait=done      wait until the old copy is dropped, too
  cellway tenant move acme --to cell-b --no-wait        only ask for it
  cellway tenant move acme --to cell-b --dry-run        what it would be: nothing is changed
  cellway tenant move acme --to cell-b --cause 'makes room for zeta'
  cellway tenant move --selector tier=free --to cell-c  all tenants of a tier
  cellway tenant move --selector cell=cell-a,tier=free --to cell-b --to cell-c

With a selector, each tenant that matches and is in none of the named cells gets a move of its own;
the cells are taken in turn. They start by priority and in the order of asking, as budgets allow, and
go on if the command or the control plane is interrupted: run again, it follows those that are on
their way.

With --dry-run the gates of the source are asked what runs there now and how much data there is; how
long the copy and the freeze would be is taken from the last moves of the same driver, and unknown
where there was none. With a selector each tenant is looked at for itself.

A tenant with freeze windows is copied at any time, and frozen in a window only; `cellway move list` says
which window a move waits for. With --now it is frozen as soon as its budget allows.

Exits with 1 and the reason if a move was, or would be, refused or undone.")]
struct MoveToArgs {
    /// The tenant.
    #[arg(value_parser = tenant_id, required_unless_present = "selector", conflicts_with = "selector")]
    id: Option<String>,
    /// All tenants of a tier, of a cell, or both: tier=TIER,cell=CELL.
    #[arg(long)]
    selector: Option<Selector>,
    /// The target cell; with --selector there may be several.
    #[arg(long, value_name = "CELL", value_parser = cell_name, required = true)]
    to: Vec<String>,
    /// Why, for the record.
    #[arg(long)]
    cause: Option<String>,
    /// How soon it starts, among those that wait: each step counts as ten minutes of waiting.
    #[arg(long, value_enum, default_value = "normal", value_name = "PRIORITY")]
    priority: Priority,
    /// Freeze the tenant as soon as the budget allows, whatever its freeze windows. It is recorded.
    #[arg(long)]
    now: bool,
    /// Show what the move would be: what runs, how long it would take, what is in its way. Changes nothing.
    #[arg(long, conflicts_with_all = ["wait", "no_wait", "timeout"])]
    dry_run: bool,
    /// Until the target has answered (switched), or until nothing is left to do (done).
    #[arg(long, value_enum, num_args = 0..=1, require_equals = true, value_name = "UNTIL",
          default_value = "switched", default_missing_value = "switched")]
    wait: Until,
    /// Return as soon as the move is recorded.
    #[arg(long, conflicts_with = "wait")]
    no_wait: bool,
    /// Stop waiting after so long; the move goes on. Default: 15 minutes, or two days with --wait=done.
    #[arg(long, value_name = "SECONDS")]
    timeout: Option<u64>,
}

/// Runs `cellway tenant`.
pub(crate) async fn run(args: TenantArgs) -> Result<(), Failure> {
    let client = args.reach.client()?;
    let format = args.reach.output;
    match args.command {
        TenantCommand::List => print(format, &client.tenants().await?, list_table)?,
        TenantCommand::Create(create) => {
            let moved = create.moved.change();
            let wanted = CreateTenant {
                id: create.id,
                cell: create.cell,
                tier: create.tier,
                weight: create.weight,
                freeze_budget_ms: moved.freeze_budget_ms,
                long_requests: moved.long_requests,
                long_requests_wait_ms: moved.long_requests_wait_ms,
                freeze_windows: moved.freeze_windows,
            };
            print(format, &client.create_tenant(&wanted).await?, tenant_facts)?;
        }
        TenantCommand::Show { id } => print(format, &client.tenant(&id).await?, tenant_facts)?,
        TenantCommand::Change(ChangeArgs { id, moved, no_freeze_windows }) => {
            let mut change = moved.change();
            if no_freeze_windows {
                change.freeze_windows = Some(Vec::new());
            }
            if change == ChangeTenant::default() {
                return Err(anyhow::anyhow!("nothing is to be changed: see `cellway tenant change --help`").into());
            }
            print(format, &client.change_tenant(&id, &change).await?, tenant_facts)?;
        }
        TenantCommand::Move(wanted) => move_tenants(&client, wanted, &args.reach).await?,
        TenantCommand::Limit(wanted) => limits::limit(wanted, &client, &args.reach).await?,
        TenantCommand::Pause(wanted) => limits::pause(wanted, &client, &args.reach).await?,
        TenantCommand::ReadOnly(wanted) => limits::read_only(wanted, &client, &args.reach).await?,
        TenantCommand::Resume(wanted) => limits::resume(wanted, &client, &args.reach).await?,
    }
    Ok(())
}

async fn move_tenants(client: &Client, args: MoveToArgs, reach: &Reach) -> Result<(), Failure> {
    let wait = (!args.no_wait).then_some(args.wait);
    if let Some(selector) = args.selector {
        let asked =
            CreateMove { cause: args.cause, priority: args.priority.into(), now: args.now, ..CreateMove::default() };
        let wanted = ManyMoves { selector, targets: args.to, asked, wait, timeout_s: args.timeout };
        return match args.dry_run {
            true => move_many::plan(client, wanted, reach.output).await,
            false => move_many::run(client, wanted, reach.output).await,
        };
    }
    let (Some(tenant), [to]) = (args.id, &args.to[..]) else {
        return Err(anyhow::anyhow!("one tenant goes to one cell: give --to once").into());
    };
    let wanted =
        CreateMove { tenant, to: to.clone(), cause: args.cause, priority: args.priority.into(), now: args.now };
    if args.dry_run {
        return move_plan::one(client, &wanted, reach.output).await;
    }
    let mut the_move = client.create_move(&wanted).await?;
    if let Some(until) = wait {
        the_move = watch::follow(client, the_move, until, args.timeout).await?;
    }
    Ok(print(reach.output, &the_move, move_facts)?)
}

fn list_table(tenants: &Listing<TenantView>) -> String {
    let mut table = Table::new(&["TENANT", "CELL", ">EPOCH", "TIER", ">WEIGHT", "MODE", "LIMITS", "MOVE"]);
    for tenant in &tenants.items {
        let moving = match (&tenant.moving, tenant.held) {
            (Some(id), true) => format!("{id} (held)"),
            (Some(id), false) => id.clone(),
            (None, _) => "-".to_owned(),
        };
        let unreadable = tenant.unreadable.as_ref().map(|_| "(unreadable)");
        let cell = [tenant.cell.as_str(), unreadable.unwrap_or_default()].join(" ").trim().to_owned();
        let tier = tenant.tier.clone();
        let (epoch, weight) = (tenant.epoch.to_string(), tenant.weight.to_string());
        let (mode, limits) = (tenant.limits.mode.mode().to_string(), limits::summary(&tenant.limits));
        table.row([tenant.id.clone(), cell, epoch, tier, weight, mode, limits, moving]);
    }
    table.or("There are no tenants. Create one with `cellway tenant create ID`.")
}

fn tenant_facts(tenant: &TenantView) -> String {
    let freeze_windows = match &tenant.freeze_windows[..] {
        [] => "as the fleet has it".to_owned(),
        own => format!("{} (UTC)", own.join("; ")),
    };
    let waited = tenant.long_requests_wait_ms / 1_000;
    let long_requests = match tenant.long_requests {
        LongRequestsView::Undo => format!("the move is undone after waiting {waited} s"),
        LongRequestsView::Cut => format!("cut after waiting {waited} s"),
    };
    let mut known = vec![
        ("tenant", tenant.id.clone()),
        ("cell", tenant.cell.clone()),
        ("epoch", tenant.epoch.to_string()),
        ("tier", tenant.tier.clone()),
        ("weight", tenant.weight.to_string()),
        ("freeze budget", format!("{} ms", tenant.freeze_budget_ms)),
        ("long requests", long_requests),
        ("freeze windows", freeze_windows),
        ("move", or_dash(tenant.moving.as_ref())),
        ("traffic", if tenant.held { "held" } else { "flows" }.to_owned()),
        ("mode", tenant.limits.mode.mode().to_string()),
        ("limits", limits::summary(&tenant.limits)),
        ("created", format!("{} ago", crate::output::ago(tenant.created_ms))),
    ];
    known.extend(tenant.unreadable.clone().map(|why| ("unreadable", why)));
    facts(&known)
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::Parser;

    #[derive(Debug, Parser)]
    struct Line {
        #[command(flatten)]
        tenant: TenantArgs,
    }

    fn wait_of(line: &str) -> Option<(Until, bool)> {
        let parsed = Line::try_parse_from(line.split_whitespace()).ok()?;
        match parsed.tenant.command {
            TenantCommand::Move(args) => Some((args.wait, args.no_wait)),
            _ => None,
        }
    }

    #[test]
    fn a_move_is_waited_for_until_the_target_has_answered_unless_told_otherwise() {
        assert_eq!(wait_of("tenant move acme --to cell-b"), Some((Until::Switched, false)));
        assert_eq!(wait_of("tenant move acme --to cell-b --wait"), Some((Until::Switched, false)));
        assert_eq!(wait_of("tenant move acme --to cell-b --wait=done"), Some((Until::Done, false)));
        assert_eq!(wait_of("tenant move acme --to cell-b --no-wait"), Some((Until::Switched, true)));
        assert_eq!(wait_of("tenant move acme --to cell-b --wait=done --no-wait"), None);
        assert_eq!(wait_of("tenant move acme --to cell-b --dry-run --no-wait"), None);
        assert_eq!(wait_of("tenant move Acme! --to cell-b"), None);
    }

    #[test]
    fn a_move_names_a_tenant_or_a_selector_and_where_to() {
        assert_eq!(wait_of("tenant move --selector tier=free --to b --to c"), Some((Until::Switched, false)));
        for bad in ["acme", "--to b", "acme --selector tier=free --to b", "--selector tier --to b", "--selector tier=a"]
        {
            assert_eq!(wait_of(&format!("tenant move {bad}")), None, "{bad}");
        }
    }
}
