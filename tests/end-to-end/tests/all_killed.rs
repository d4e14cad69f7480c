//! Everything is killed at once while a tenant moves, and started again in any order.
//!
//! Four of the 24 orders; `make faults` goes through all of them.

use crate::moving::{reaches, settles, start_move};
use cellway_end_to_end::eventually;
use cellway_end_to_end::fleet::Fleet;
use cellway_end_to_end::recovery::Recovery;
use cellway_end_to_end::writer::Writer;
use std::time::Duration;

/// After the last process was started, the whole service is back within this time.
const BACK_MS: u64 = 15_000;

/// Between two starts: enough for the one before to look for what is not there yet.
const BETWEEN_MS: u64 = 300;

const CELLS: [&str; 2] = ["cell-a", "cell-b"];

#[derive(Debug, Clone, Copy, PartialEq)]
enum Part {
    Store,
    ControlPlane,
    Cells,
    Router,
}
use Part::{Cells, ControlPlane, Router, Store};

fn start(fleet: &mut Fleet, part: Part) {
    match part {
        Store => fleet.etcd.restart(),
        ControlPlane => fleet.control_plane.restart(),
        Cells => fleet.agents.iter_mut().chain(&mut fleet.apps).for_each(|process| process.restart()),
        Router => fleet.router.restart(),
    }
}

fn kill_all(fleet: &mut Fleet) {
    fleet.router.kill();
    fleet.control_plane.kill();
    fleet.etcd.kill();
    fleet.agents.iter_mut().chain(&mut fleet.apps).for_each(|process| process.kill());
}

async fn comes_back(orders: &[[Part; 4]]) {
    let mut fleet = Fleet::start(&["acme", "globex"]).await;
    let states = ["copying", "holding gates", "holding last", "switched"];
    let mut at = 0;
    for (order, state) in orders.iter().zip(states.iter().cycle()) {
        let writers = ["acme", "globex"].map(|tenant| Writer::start(&fleet.router_address(), tenant));
        fleet.stall(Some(state));
        let id = start_move(&fleet.client, "acme", CELLS[1 - at]).await;
        reaches(&fleet.client, &id, state).await;
        kill_all(&mut fleet);
        fleet.stall(None);
        for part in order {
            start(&mut fleet, *part);
            tokio::time::sleep(Duration::from_millis(BETWEEN_MS)).await;
        }
        let before = writers.each_ref().map(Writer::acknowledged);
        let back = Recovery::begin(&format!("everything killed in {state}, back as {order:?}"), BACK_MS);
        back.until("both tenants are served, and the move has an outcome", async || {
            let served = writers.iter().zip(before).all(|(writer, before)| writer.acknowledged() > before);
            let view = fleet.client.a_move(&id).await.ok()?;
            (served && (view.past_commit || view.state == "undone")).then_some(())
        })
        .await;
        if settles(&fleet.client, &id).await {
            at = 1 - at;
        }
        eventually("the router is in step", async || (fleet.router_metric("feed_synced").await? == 1.0).then_some(()))
            .await;
        for writer in writers {
            writer.stop_and_check().await;
        }
        assert_eq!(fleet.client.tenant("acme").await.unwrap().cell, CELLS[at], "{order:?}, {state}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn everything_is_back_after_all_was_killed_and_started_in_four_orders() {
    let orders = [
        [Store, ControlPlane, Cells, Router],
        [Router, Cells, ControlPlane, Store],
        [ControlPlane, Router, Store, Cells],
        [Cells, Store, Router, ControlPlane],
    ];
    comes_back(&orders).await;
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "minutes; `make faults` runs it"]
async fn everything_is_back_after_all_was_killed_and_started_in_any_order() {
    let parts = [Store, ControlPlane, Cells, Router];
    let mut orders = Vec::new();
    for first in parts {
        for second in parts.into_iter().filter(|part| *part != first) {
            for third in parts.into_iter().filter(|part| ![first, second].contains(part)) {
                let last = parts.into_iter().find(|part| ![first, second, third].contains(part)).expect("a fourth");
                orders.push([first, second, third, last]);
            }
        }
    }
    assert_eq!(orders.len(), 24);
    comes_back(&orders).await;
}
