//! What the tests of every driver ask of a whole fleet: moves by command under writes, and kill -9 in their middle.

use crate::moving::{reaches, start_move};
use cellway_api::fleet::{ChangeTenant, MoveView};
use cellway_end_to_end::fleet::Fleet;
use cellway_end_to_end::process::Process;
use cellway_end_to_end::writer::Writer;
use cellway_end_to_end::{binary, eventually};
use tokio::process::Command;

/// What these tests are about is no matter of time: a slow machine freezes for longer, and no move waits for that.
const FREEZE_BUDGET_MS: u64 = 1_500;

/// The two cells that tenant `acme` is moved between.
pub(crate) const CELLS: [&str; 2] = ["cell-a", "cell-b"];

/// Who is killed, and in which state of a move from the first of the cells to the second, or back.
pub(crate) const KILLS: [(Victim, &str); 6] = [
    (Victim::Source, "preparing"),
    (Victim::Target, "preparing"),
    (Victim::ControlPlane, "preparing"),
    (Victim::Source, "holding gates"),
    (Victim::Target, "holding last"),
    (Victim::ControlPlane, "holding data"),
];

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Victim {
    Source,
    Target,
    ControlPlane,
}

/// Lets no move wait for a shorter freeze.
pub(crate) async fn be_patient(fleet: &Fleet) {
    let change = ChangeTenant { freeze_budget_ms: Some(FREEZE_BUDGET_MS), ..ChangeTenant::default() };
    fleet.client.change_tenant("acme", &change).await.expect("changed");
}

/// Moves the tenant there and back by the command; nothing fails, and nothing is lost. Tells how it was for a client.
pub(crate) async fn there_and_back_by_command(fleet: &Fleet) -> String {
    let writer = Writer::start(&fleet.router_address(), "acme");
    for to in [CELLS[1], CELLS[0]] {
        until_written(&writer, 20).await;
        let args = ["tenant", "move", "acme", "--to", to, "--wait=done", "--api", fleet.client.base()];
        let moved = Command::new(binary()).args(args).output().await.expect("it runs");
        assert!(moved.status.success(), "{}", String::from_utf8_lossy(&moved.stderr));
        assert_eq!(fleet.client.tenant("acme").await.expect("it is there").cell, to);
        until_written(&writer, 20).await;
    }
    let books = writer.stop_and_check().await;
    assert!(books.failed.is_empty(), "{:?}", books.failed);
    format!("{} writes, none failed, the longest pause {:.0?}", books.acknowledged.len(), books.longest_pause)
}

async fn until_written(writer: &Writer, more: u64) {
    let before = writer.acknowledged();
    eventually("writes go on", async || (writer.acknowledged() >= before + more).then_some(())).await;
}

/// The process, and where it says that it is ready, while the tenant is in the first cell (0) or the second (1).
fn process(fleet: &mut Fleet, victim: Victim, at: usize) -> (&mut Process, u16) {
    let agent = match victim {
        Victim::Source => at,
        Victim::Target => 1 - at,
        Victim::ControlPlane => return (&mut fleet.control_plane, 2),
    };
    (&mut fleet.agents[agent], [40, 41][agent])
}

/// kill -9 of everybody in turn in the middle of a move, which ends all the same; no acknowledged write is lost.
pub(crate) async fn survives_kills(fleet: &mut Fleet) {
    let writer = Writer::start(&fleet.router_address(), "acme");
    let mut at = 0;
    for (victim, state) in KILLS {
        until_written(&writer, 20).await;
        fleet.stall(Some(state));
        let id = start_move(&fleet.client, "acme", CELLS[1 - at]).await;
        reaches(&fleet.client, &id, state).await;
        process(fleet, victim, at).0.kill();
        fleet.stall(None);
        let (process, port) = process(fleet, victim, at);
        process.restart();
        fleet.ready(port).await;
        if ends(fleet, &id).await {
            at = 1 - at;
        }
        let cell = fleet.client.tenant("acme").await.expect("it is there").cell;
        assert_eq!(cell, CELLS[at], "{victim:?} killed in {state}");
    }
    until_written(&writer, 20).await;
    writer.stop_and_check().await;
}

/// Waits until the move has ended, further attempts included; whether the tenant was moved.
async fn ends(fleet: &Fleet, id: &str) -> bool {
    let mut id = id.to_owned();
    loop {
        let over = async || fleet.client.a_move(&id).await.ok().filter(|view: &MoveView| view.ended);
        let last = eventually("the move ends", over).await;
        match last.retried_by {
            Some(again) => id = again,
            None => return last.past_commit,
        }
    }
}
