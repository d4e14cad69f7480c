//! Who goes when.

#![allow(clippy::unwrap_used)]

use super::*;
use tokio::sync::oneshot::Receiver;

fn ms(ms: u64) -> Duration {
    Duration::from_millis(ms)
}

fn waiting(queue: &mut Queue, count: usize) -> Vec<(u64, Receiver<()>)> {
    let mut all = Vec::new();
    for _ in 0..count {
        let ticket = queue.join();
        let (go, gone) = oneshot::channel();
        queue.wait(ticket, go);
        all.push((ticket, gone));
    }
    all
}

fn gone(waiters: &mut [(u64, Receiver<()>)]) -> usize {
    let went = |(_, go): &mut (u64, Receiver<()>)| !matches!(go.try_recv(), Err(oneshot::error::TryRecvError::Empty));
    waiters.iter_mut().map(went).filter(|went| *went).count()
}

#[test]
fn the_first_goes_as_a_try_and_the_others_wait_for_its_word() {
    let start = Instant::now();
    let mut queue = Queue::new(start);
    let mut waiters = waiting(&mut queue, 3);
    assert!(matches!(queue.step(start, || false), Step::WaitUntil(at) if at > start && at <= start + ms(150)));
    let try_at = start + ms(RETRY_FIRST_MAX_MS);
    queue.step(try_at, || false);
    assert!(waiters[0].1.try_recv().is_ok());
    assert_eq!(gone(&mut waiters[1..]), 0);

    queue.refused(waiters[0].0, try_at);
    let (go, mut again) = oneshot::channel();
    queue.wait(waiters[0].0, go);
    queue.step(try_at + ms(10), || false);
    assert_eq!(gone(&mut waiters[1..]), 0);
    let second = try_at + ms(RETRY_LONGEST_MS);
    queue.step(second, || false);
    assert!(again.try_recv().is_ok(), "who came first goes first again");

    queue.admitted(waiters[0].0, second);
    queue.step(second, || false);
    assert_eq!(gone(&mut waiters[1..]), 2);
}

#[test]
fn when_the_feed_frees_the_tenant_they_go_at_once_and_then_at_a_pace() {
    let start = Instant::now();
    let mut queue = Queue::new(start);
    let mut waiters = waiting(&mut queue, 1_000);
    queue.feed_changed();
    queue.step(start, || false);
    assert_eq!(gone(&mut waiters), 0, "still held");
    queue.feed_changed();
    let mut released = Vec::new();
    for at in 0..=3_000 {
        queue.step(start + ms(at), || true);
        if at % 1_000 == 0 {
            released.push(waiters.extract_if(.., |(_, go)| go.try_recv().is_ok()).count() as u64);
        }
    }
    assert_eq!(released[0], RELEASE_BURST);
    assert!(released[1] <= RELEASE_PER_SECOND && released[1] >= RELEASE_PER_SECOND / 2, "{released:?}");
    assert!(released[2] >= RELEASE_PER_SECOND, "{released:?}");
    assert_eq!(released.iter().sum::<u64>(), 1_000);
}

#[test]
fn a_try_that_hears_nothing_was_admitted_and_one_that_left_was_not() {
    let start = Instant::now();
    let mut queue = Queue::new(start);
    let mut waiters = waiting(&mut queue, 3);
    let try_at = start + ms(RETRY_FIRST_MAX_MS);
    queue.step(try_at, || false);
    let first = waiters.remove(0).0;
    queue.leave(first, try_at + ms(1));
    queue.step(try_at + ms(1), || false);
    assert!(waiters.remove(0).1.try_recv().is_ok(), "the next goes in its place, at once");
    queue.step(try_at + ms(2), || false);
    assert_eq!(gone(&mut waiters), 0);
    queue.step(try_at + ms(1 + TRY_SILENCE_MS), || false);
    assert_eq!(gone(&mut waiters), 1);
}

#[test]
fn an_open_queue_closes_again_when_someone_is_refused() {
    let start = Instant::now();
    let mut queue = Queue::new(start);
    let mut waiters = waiting(&mut queue, 50);
    queue.feed_changed();
    queue.step(start, || true);
    let first = waiters.remove(0).0;
    queue.refused(first, start);
    assert!(queue.is_to_be_joined());
    queue.step(start + ms(10), || true);
    assert_eq!(gone(&mut waiters), 19, "those of the burst, and no more");
}

#[test]
fn newcomers_join_only_while_someone_waits_or_the_gate_is_closed() {
    let start = Instant::now();
    let mut queue = Queue::new(start);
    assert!(!queue.is_to_be_joined());
    let waiters = waiting(&mut queue, 1);
    assert!(queue.is_to_be_joined());
    queue.feed_changed();
    queue.step(start, || true);
    assert!(!queue.is_to_be_joined());
    queue.leave(waiters[0].0, start);
    assert_eq!(queue.step(start, || true), Step::Empty);
}

/// The next hold begins while those of the one before are still let go: who was refused waits for the new one's end alone,
/// at the head of the queue, and nobody waits for both.
#[test]
fn a_hold_that_begins_while_the_one_before_is_let_go_stalls_nobody() {
    let start = Instant::now();
    let mut queue = Queue::new(start);
    let mut waiters = waiting(&mut queue, 200);
    queue.feed_changed();
    queue.step(start, || true);
    let mut went: Vec<u64> =
        waiters.extract_if(.., |(_, go)| go.try_recv().is_ok()).map(|(ticket, _)| ticket).collect();
    assert_eq!(went.len() as u64, RELEASE_BURST);

    let held_again = start + ms(10);
    queue.feed_changed();
    for ticket in went.drain(..) {
        queue.refused(ticket, held_again);
        let (go, gone) = oneshot::channel();
        queue.wait(ticket, go);
        waiters.push((ticket, gone));
    }
    for at in 10..40 {
        queue.step(start + ms(at), || false);
    }
    assert_eq!(gone(&mut waiters), 0, "the gate is not asked by all of them");

    let freed = start + ms(40);
    queue.feed_changed();
    let mut order = Vec::new();
    for at in 0..=1_000 {
        queue.step(freed + ms(at), || true);
        order.extend(waiters.extract_if(.., |(_, go)| go.try_recv().is_ok()).map(|(ticket, _)| ticket));
    }
    assert_eq!(order.len(), 200, "a second after the second hold all have gone");
    let first: std::collections::BTreeSet<u64> = order[..20].iter().copied().collect();
    assert_eq!(first, (1..=20).collect(), "who came first goes first");
}
