//! One process after the other is stopped in good order and started again, under traffic and moves.

use crate::moving::{settles, start_move};
use cellway_end_to_end::eventually;
use cellway_end_to_end::fleet::{Fleet, Plan};
use cellway_end_to_end::process::Process;
use cellway_end_to_end::recovery::Recovery;
use cellway_end_to_end::writer::Writer;
use rustix::process::Signal;

/// After a process was started again, both tenants are served, and a tenant moves, within this time.
const SERVED_MS: u64 = 10_000;

const CELLS: [&str; 2] = ["cell-a", "cell-b"];

struct Round {
    fleet: Fleet,
    writers: [Writer; 2],
    at: usize,
}

impl Round {
    async fn restart(&mut self, name: &str, offset: u16, process: impl Fn(&mut Fleet) -> &mut Process) {
        let id = start_move(&self.fleet.client, "acme", CELLS[1 - self.at]).await;
        let restarted = Recovery::begin(&format!("{name} stopped and started again under a move"), SERVED_MS);
        let process = process(&mut self.fleet);
        process.end(Signal::TERM);
        process.restart();
        self.fleet.ready(offset).await;
        let before = self.writers.each_ref().map(Writer::acknowledged);
        restarted
            .until("both tenants are served", async || {
                self.writers.iter().zip(before).all(|(writer, before)| writer.acknowledged() > before).then_some(())
            })
            .await;
        if settles(&self.fleet.client, &id).await {
            self.at = 1 - self.at;
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn one_process_after_the_other_is_restarted_under_moves_and_others_do_not_notice() {
    let fleet = Plan::of(&["acme", "globex", "initech"]).with_standby().start().await;
    let writers = ["acme", "initech"].map(|tenant| Writer::start(&fleet.router_address(), tenant));
    for writer in &writers {
        eventually("the tenants are served", async || (writer.acknowledged() > 0).then_some(())).await;
    }
    let mut round = Round { fleet, writers, at: 0 };
    round.restart("control plane", 2, |fleet| &mut fleet.control_plane).await;
    round.restart("standby", 4, |fleet| fleet.standby.as_mut().unwrap()).await;
    for cell in 0..CELLS.len() {
        let offset = 40 + u16::try_from(cell).unwrap();
        round.restart("agent", offset, |fleet| &mut fleet.agents[cell]).await;
    }
    let Round { fleet, writers: [moving, untouched], .. } = round;
    let books = moving.stop_and_check().await;
    assert!(books.failed.is_empty(), "a tenant whose cells were restarted suffered: {:?}", books.failed);
    let books = untouched.stop_and_check().await;
    assert!(books.failed.is_empty(), "a tenant whose cell was not restarted suffered: {:?}", books.failed);
    drop(fleet);
}
