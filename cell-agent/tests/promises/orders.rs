//! What becomes of orders: they are answered although nothing was left to do, and nobody is asked without a pause.

use crate::stage::{Stage, order};
use cellway_api::agent::{FactUp, TaskDown};
use std::time::Duration;

/// How long a control plane takes no facts.
const PUT_OFF_MS: u64 = 1_500;

/// The most requests in that time: pauses double from 20 ms to 1 s, and are cut in half at the most.
const REQUESTS_MAX: usize = 16;

#[tokio::test]
async fn an_order_that_is_fulfilled_already_is_answered_all_the_same() {
    let mut stage = Stage::with_sqlite().await;
    // Another replica, or this one started again, orders what was done long ago.
    let opened = |fact: &FactUp| matches!(fact, FactUp::Opened { move_id, epoch: 15 } if move_id == "m1");
    for _ in 0..2 {
        stage.plane.order(vec![order(TaskDown::Open { home: "new-15".into(), epoch: 15 })]);
        stage.plane.fact(opened).await;
        stage.plane.order(vec![order(TaskDown::Drop { home: "m0".into() })]);
        stage.plane.fact(|fact| matches!(fact, FactUp::Dropped { home, .. } if home == "m0")).await;
        stage.plane.order(vec![order(TaskDown::Prepare { home: "m1".into() })]);
        stage.plane.fact(|fact| matches!(fact, FactUp::Ready { .. })).await;
        stage.plane.order(vec![order(TaskDown::Fence { epoch: 14, cut: false })]);
        stage.plane.fact(|fact| matches!(fact, FactUp::Fenced { epoch: 14, .. })).await;
        stage.plane.order(vec![]);
        stage.stop().await;
        stage.plane.heard.lock().facts.clear();
        stage.start();
        stage.until_open(15).await;
    }
}

#[tokio::test]
async fn a_control_plane_that_takes_nothing_is_asked_again_with_longer_and_longer_pauses() {
    for is_away in [true, false] {
        let stage = Stage::with_acme_open().await;
        stage.plane.said.send_modify(|said| (said.busy, said.later) = (is_away, !is_away));
        // There is news all the time.
        stage.plane.order(vec![order(TaskDown::Watch { epoch: 5 }), order(TaskDown::Prepare { home: "m1".into() })]);
        tokio::time::sleep(Duration::from_millis(PUT_OFF_MS)).await;
        let put_off = stage.plane.heard.lock().put_off;
        assert!((3..=REQUESTS_MAX).contains(&put_off), "{put_off} requests in {PUT_OFF_MS} ms");
        assert!(!stage.plane.has_heard(|_| true));
        stage.plane.said.send_modify(|said| (said.busy, said.later) = (false, false));
        stage.plane.fact(|fact| matches!(fact, FactUp::Ready { .. })).await;
    }
}
