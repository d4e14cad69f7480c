//! The control plane dies around each single write that a move makes, from the first to the last.

use crate::moving::{has_outcome, settles};
use cellway_api::fleet::CreateMove;
use cellway_end_to_end::fleet::Fleet;
use cellway_end_to_end::recovery::Recovery;
use cellway_end_to_end::writer::Writer;
use std::time::Duration;

/// After the new start an interrupted move has an outcome within this time.
const OUTCOME_MS: u64 = 10_000;

/// The longest time in which a tenant can write nothing, whichever write it was.
const PAUSE_MS: u64 = 4_000;

/// Fewer writes than any move makes. A move that makes more of them has more points to die at.
const WRITES_MIN: u32 = 8;

/// More than any move makes.
const WRITES_MAX: u32 = 60;

/// What became of one move.
enum Came {
    /// The control plane died, and this is how long the tenant could not write.
    Died(Duration),
    /// The move made fewer writes.
    Over,
}

/// A move away from `at`, in which the control plane dies.
async fn die(fleet: &mut Fleet, at: &mut &'static str, (number, when): (u32, &str)) -> Came {
    let to = if *at == "cell-a" { "cell-b" } else { "cell-a" };
    let writer = Writer::start(&fleet.router_address(), "acme");
    fleet.crash_at(Some((number, when)));
    let wanted = CreateMove { tenant: "acme".to_owned(), to: to.to_owned(), ..CreateMove::default() };
    let mut id = fleet.client.create_move(&wanted).await.ok().map(|planned| planned.id);
    while fleet.control_plane.is_running() {
        if let Some(id) = &id
            && fleet.client.a_move(id).await.is_ok_and(|view| view.ended)
        {
            fleet.crash_at(None);
            *at = to;
            return Came::Over;
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    let outcome = Recovery::begin(&format!("control plane died {when} write {number} of a move"), OUTCOME_MS);
    fleet.control_plane.restart();
    fleet.ready(2).await;
    if id.is_none() {
        // Whoever asked was not told; the move is there, or it is not.
        let moves = fleet.client.moves().await.expect("listed").items;
        id = moves.into_iter().find(|one| !one.ended && one.target == to).map(|one| one.id);
    }
    if let Some(id) = id {
        outcome
            .until("the move has an outcome", async || Some(has_outcome(&fleet.client, &id, OUTCOME_MS).await))
            .await;
        if settles(&fleet.client, &id).await {
            *at = to;
        }
    }
    assert_eq!(fleet.client.tenant("acme").await.expect("there").cell, *at, "{when} write {number}");
    let books = writer.stop_and_check().await;
    assert!(books.failed.is_empty(), "{when} write {number}: {:?}", books.failed);
    Came::Died(books.longest_pause)
}

/// Dies around each write, as `whens` say of it; how often that was, and how long the tenant could not write.
async fn die_everywhere(whens: impl Fn(u32) -> Vec<&'static str>) -> String {
    let mut fleet = Fleet::start(&["acme"]).await;
    let (mut at, mut pauses) = ("cell-a", Vec::new());
    'writes: for number in 1..=WRITES_MAX {
        for when in whens(number) {
            match die(&mut fleet, &mut at, (number, when)).await {
                Came::Died(pause) => pauses.push(pause),
                Came::Over => {
                    assert!(number > WRITES_MIN, "a move makes only {} writes", number - 1);
                    break 'writes;
                }
            }
        }
        assert!(number < WRITES_MAX, "a move makes {WRITES_MAX} writes and more");
    }
    pauses.sort_unstable();
    let (half, longest) = (pauses[pauses.len() / 2], pauses[pauses.len() - 1]);
    assert!(longest <= Duration::from_millis(PAUSE_MS), "{longest:?}");
    format!("{} deaths; the tenant could not write for {half:.1?} (half of them), {longest:.1?} at most", pauses.len())
}

#[tokio::test(flavor = "multi_thread")]
async fn every_move_ends_whichever_write_the_control_plane_died_around() {
    println!("{}", die_everywhere(|number| vec![if number % 2 == 0 { "before" } else { "after" }]).await);
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "twice as long; `make faults` runs it"]
async fn every_move_ends_whether_the_control_plane_died_before_or_after_any_write() {
    println!("{}", die_everywhere(|_| vec!["before", "after"]).await);
}
