//! Under stress, other tenants go on and memory stays in bounds: short runs of what `make stress` measures.

use cellway_end_to_end::stress::scenarios::floods::{Flood, flood};
use cellway_end_to_end::stress::scenarios::idle::{Kind, idle};
use cellway_end_to_end::stress::scenarios::slow_readers::{Window, over_http1, over_http2};
use cellway_end_to_end::stress::scenarios::{
    everything, hostile_cell, reconnect, silent, slow_cell, slow_requests, stalled_cells, starved,
};
use cellway_end_to_end::stress::{Row, Scale, line};

fn kept(row: &Row) {
    assert!(row.is_good(), "{}", line(row));
}

#[tokio::test(flavor = "multi_thread")]
async fn slow_heads_are_ended_and_harm_nobody() {
    kept(&slow_requests::heads(Scale::short()).await);
}

#[tokio::test(flavor = "multi_thread")]
async fn slow_bodies_go_on_while_they_move_and_end_when_they_stop() {
    kept(&slow_requests::bodies(Scale::short()).await);
}

#[tokio::test(flavor = "multi_thread")]
async fn no_client_keeps_more_than_a_mebibyte_by_not_reading() {
    kept(&over_http1(Scale::short()).await);
    for how in [Window::Closed, Window::Kept, Window::Open, Window::Stops] {
        kept(&over_http2(Scale::short(), how).await);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn floods_of_frames_are_cut_off() {
    for kind in [Flood::RapidReset, Flood::Continuation, Flood::HpackBomb] {
        kept(&flood(Scale::short(), kind).await);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn idle_connections_are_cheap() {
    kept(&idle(Scale::short(), Kind::Clear).await);
    kept(&idle(Scale::short(), Kind::Tls).await);
}

#[tokio::test(flavor = "multi_thread")]
async fn clients_that_vanish_are_noticed_in_each_phase() {
    kept(&silent::silent(Scale::short()).await);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cell_that_stalls_in_any_phase_is_given_up_in_time() {
    kept(&stalled_cells::stalled(Scale::short()).await);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_slow_cell_slows_no_other() {
    kept(&slow_cell::slow(Scale::short()).await);
}

#[tokio::test(flavor = "multi_thread")]
async fn clients_that_all_come_back_at_once_are_served() {
    kept(&reconnect::reconnect(Scale::short()).await);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_router_without_files_sheds_and_recovers() {
    kept(&starved::starved(Scale::short()).await);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_hostile_cell_poisons_nothing() {
    kept(&hostile_cell::hostile(Scale::short()).await);
}

#[tokio::test(flavor = "multi_thread")]
async fn floods_and_slow_crowds_at_once_harm_nobody() {
    kept(&everything::everything(Scale::short()).await);
}
