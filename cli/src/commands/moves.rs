//! `cellway move`: list, show and undo moves.

use super::watch::copied;
use crate::output::{Failure, Table, ago, facts, or_dash, print, talk, until};
use crate::reach::{Reach, move_id, tenant_id};
use cellway_api::fleet::{FreezeNow, Listing, MoveView, PriorityView, UndoMove};
use cellway_core::freeze_window::weekday_time;
use clap::{Args, Subcommand};

#[derive(Debug, Args)]
#[command(after_long_help = "\
Examples:
  cellway move list --running
  cellway move list --tenant acme -o json
  cellway move now m-7f3a --cause 'agreed by phone'   freezes outside of the freeze windows
  cellway move undo m-7f3a --cause 'wrong cell'   before the commit: undone; after it: a move back begins

Moves are started with `cellway tenant move`.")]
pub(crate) struct MoveArgs {
    #[command(flatten)]
    reach: Reach,
    #[command(subcommand)]
    command: MoveCommand,
}

#[derive(Debug, Subcommand)]
enum MoveCommand {
    /// List moves, the newest last.
    List {
        /// Only those that have not ended.
        #[arg(long)]
        running: bool,
        /// Only those of this tenant.
        #[arg(long, value_parser = tenant_id)]
        tenant: Option<String>,
    },
    /// Show one move.
    Show {
        /// The move.
        #[arg(value_parser = move_id)]
        id: String,
    },
    /// Freeze a move's tenant as soon as its budget allows, whatever its freeze windows. It is recorded.
    Now {
        /// The move.
        #[arg(value_parser = move_id)]
        id: String,
        /// Why, for the record.
        #[arg(long)]
        cause: Option<String>,
    },
    /// Undo a move; past its commit: start the move back.
    Undo {
        /// The move.
        #[arg(value_parser = move_id)]
        id: String,
        /// Why, for the record.
        #[arg(long)]
        cause: Option<String>,
    },
}

/// Runs `cellway move`.
pub(crate) async fn run(args: MoveArgs) -> Result<(), Failure> {
    let client = args.reach.client()?;
    let format = args.reach.output;
    match args.command {
        MoveCommand::List { running, tenant } => {
            let mut moves = client.moves().await?;
            moves.items.retain(|one| !(running && one.ended) && tenant.as_ref().is_none_or(|id| one.tenant == *id));
            print(format, &moves, list_table)?;
        }
        MoveCommand::Show { id } => print(format, &client.a_move(&id).await?, move_facts)?,
        MoveCommand::Now { id, cause } => {
            print(format, &client.freeze_now(&id, &FreezeNow { cause }).await?, move_facts)?;
        }
        MoveCommand::Undo { id, cause } => {
            let answer = client.undo_move(&id, &UndoMove { cause }).await?;
            if answer.id != id {
                talk(&format!("{id} is past its commit: the move {} takes it back", answer.id));
            }
            print(format, &answer, move_facts)?;
        }
    }
    Ok(())
}

fn list_table(moves: &Listing<MoveView>) -> String {
    let mut table = Table::new(&["MOVE", "TENANT", "FROM", "TO", "STATE", ">FREEZE MS", "AGE", "CAUSE OR REASON"]);
    for one in &moves.items {
        let why = one.undo_reason.as_ref().or(one.waits_for.as_ref()).unwrap_or(&one.cause);
        table.row([
            one.id.clone(),
            one.tenant.clone(),
            one.source.clone(),
            one.target.clone(),
            state(one),
            or_dash(one.freeze_ms),
            ago(one.created_ms),
            why.clone(),
        ]);
    }
    table.or("There are no moves.")
}

fn state(one: &MoveView) -> String {
    match (&one.stage, &one.reversed_by) {
        (Some(stage), _) => format!("{} ({stage})", one.state),
        (None, Some(by)) => format!("{}, taken back by {by}", one.state),
        (None, None) => one.state.clone(),
    }
}

fn predicted(one: &MoveView) -> String {
    let longest = one.longest_part.as_ref().map(|part| format!(", of which {part}"));
    format!("{} ms{}", one.predicted_freeze_ms, longest.unwrap_or_default())
}

/// One move for people.
pub(crate) fn move_facts(one: &MoveView) -> String {
    let mut lines = vec![
        ("move", one.id.clone()),
        ("tenant", one.tenant.clone()),
        ("from", one.source.clone()),
        ("to", one.target.clone()),
        ("state", format!("{}, for {}", state(one), ago(one.entered_ms))),
        ("serves", if one.past_commit { &one.target } else { &one.source }.clone()),
        ("data", one.driver.clone()),
        ("predicted freeze", predicted(one)),
        ("actual freeze", or_dash(one.freeze_ms.map(|ms| format!("{ms} ms")))),
        ("cause", one.cause.clone()),
        ("asked", format!("{} ago", ago(one.created_ms))),
    ];
    let mut more = |name, value: Option<String>| lines.extend(value.map(|value| (name, value)));
    more("copied", copied(one));
    more("requests running", one.running_requests.map(|requests| requests.to_string()));
    more("requests cut", Some(one.cut_requests).filter(|cut| *cut > 0).map(|cut| cut.to_string()));
    more("streams to be cut", one.open_streams.map(|streams| streams.to_string()));
    more("waits for", one.waits_for.clone());
    more("freeze window", one.freeze_from_ms.map(|at| format!("opens {}, in {}", weekday_time(at), until(at))));
    more("freeze windows", one.freeze_now.then(|| "put aside by an operator".to_owned()));
    more("priority", (one.priority != PriorityView::Normal).then(|| format!("{:?}", one.priority).to_lowercase()));
    more("undone, because", one.undo_reason.clone());
    facts(&lines)
}
