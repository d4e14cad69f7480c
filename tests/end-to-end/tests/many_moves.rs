//! One command moves many tenants, in their order and within the budgets, while the control plane is killed twice.
//!
//! `MOVES` says how many; `make many` moves 1,000.

use cellway_api::fleet::{CreateTenant, MoveView};
use cellway_end_to_end::binary;
use cellway_end_to_end::fleet::{BAKE_MS, Fleet, RETENTION_MS};
use cellway_end_to_end::writer::Writer;
use futures_util::StreamExt;
use serde::Deserialize;
use std::process::Stdio;
use std::time::{Duration, Instant};
use tokio::process::Command;

const MOVES: usize = 40;

/// Tenants whose users write all the time.
const WRITERS: usize = 3;

/// Creations at a time.
const AT_A_TIME: usize = 8;

/// Moves that a budget lets overtake one another: those in flight.
const IN_FLIGHT_MAX: usize = 16;

/// The most transactions that one move may cost the store, those of the leader's own included.
const WRITES_PER_MOVE_MAX: f64 = 25.0;

#[derive(Deserialize)]
struct Answer {
    items: Vec<Row>,
}

#[derive(Deserialize)]
struct Row {
    outcome: String,
    #[serde(rename = "move")]
    the_move: MoveView,
}

fn moves() -> usize {
    std::env::var("MOVES").map_or(MOVES, |text| text.parse().expect("MOVES is a number"))
}

fn name(number: usize) -> String {
    format!("t{number:05}")
}

async fn create(fleet: &Fleet, count: usize) {
    let create = |number: usize| async move {
        let (cell, tier) = (Some("cell-a".to_owned()), Some("free".to_owned()));
        let wanted = CreateTenant { id: name(number), cell, tier, ..CreateTenant::default() };
        fleet.client.create_tenant(&wanted).await.expect("created");
    };
    futures_util::stream::iter(0..count).map(create).buffer_unordered(AT_A_TIME).collect::<Vec<()>>().await;
}

/// How many of the tenants have left their cell.
async fn moved(fleet: &Fleet) -> usize {
    let tenants = fleet.client.tenants().await.map(|listing| listing.items).unwrap_or_default();
    tenants.iter().filter(|tenant| tenant.cell != "cell-a").count()
}

#[tokio::test(flavor = "multi_thread")]
async fn one_command_moves_many_tenants_in_their_order_through_two_kills_of_the_control_plane() {
    let count = moves();
    let mut fleet = Fleet::start(&[]).await;
    create(&fleet, count).await;
    let writers: Vec<Writer> =
        (0..WRITERS).map(|number| Writer::start(&fleet.router_address(), &name(number * (count - 1) / 2))).collect();
    let before = fleet.client.tenants().await.unwrap().revision;
    let begun = Instant::now();
    let api = format!("http://127.0.0.1:{}", fleet.ports.at(2));
    let args = ["tenant", "move", "--selector", "tier=free,cell=cell-a", "--to", "cell-b", "--to", "cell-c"];
    let command = Command::new(binary())
        .args(args)
        .args(["-o", "json", "--api", &api])
        .stdout(Stdio::piped())
        .stderr(Stdio::inherit())
        .spawn()
        .unwrap();
    let done = tokio::spawn(command.wait_with_output());
    for share in [3, 2] {
        while moved(&fleet).await < count / share && !done.is_finished() {
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        fleet.control_plane.kill();
        fleet.control_plane.restart();
        fleet.ready(2).await;
    }
    let output = done.await.unwrap().unwrap();
    let took = begun.elapsed();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stdout));
    for writer in writers {
        writer.stop_and_check().await;
    }
    let after = fleet.client.tenants().await.unwrap();
    let in_cell = |cell: &str| after.items.iter().filter(|tenant| tenant.cell == cell).count();
    assert_eq!(in_cell("cell-a"), 0);
    assert!(in_cell("cell-b").abs_diff(in_cell("cell-c")) <= 1, "the cells are taken in turn");

    let answer: Answer = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(answer.items.len(), count);
    assert!(answer.items.iter().all(|row| row.outcome == "moved"));
    let moves: Vec<&MoveView> = answer.items.iter().map(|row| &row.the_move).collect();
    assert_in_order(&moves);
    let writes = (after.revision - before) as f64 / count as f64;
    let mut holds: Vec<u64> = moves.iter().filter_map(|one| one.freeze_ms).collect();
    holds.sort_unstable();
    let rank = |percent: usize| holds[(holds.len() - 1) * percent / 100];
    println!(
        "{count} moves in {:.1} s through two kills of the control plane; {writes:.1} transactions of the store each; \
         held p50 {} ms, p99 {} ms",
        took.as_secs_f64(),
        rank(50),
        rank(99)
    );
    assert!(writes <= WRITES_PER_MOVE_MAX, "{writes:.1} transactions a move");
}

/// First attempts are let go in the order in which they were asked for, but for those that were in flight together.
fn assert_in_order(moves: &[&MoveView]) {
    let switched_ms = |one: &MoveView| match one.state.as_str() {
        "settling" => one.entered_ms,
        "cleaning" => one.entered_ms - BAKE_MS,
        _ => one.entered_ms - BAKE_MS - RETENTION_MS,
    };
    let mut first: Vec<&&MoveView> = moves.iter().filter(|one| one.attempt == 1).collect();
    first.sort_by_key(|one| switched_ms(one));
    let mut asked: Vec<u64> = first.iter().map(|one| one.created_ms).collect();
    asked.sort_unstable();
    for (place, one) in first.iter().enumerate() {
        let in_turn = asked.partition_point(|at| *at < one.created_ms);
        assert!(place.abs_diff(in_turn) <= 4 * IN_FLIGHT_MAX, "{}: asked as {in_turn}, done as {place}", one.tenant);
    }
}
