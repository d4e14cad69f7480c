//! What is counted, and who is woken.

use super::*;

#[test]
fn the_more_is_kept_the_less_is_read_but_never_nothing() {
    let room = Room::default();
    assert_eq!(room.read_bytes(), READ_MAX_BYTES);
    let mut kept: Vec<Bytes> = Vec::new();
    let mut least = READ_MAX_BYTES;
    for _ in 0..100 {
        let length = room.read_bytes();
        assert!(length <= least && length >= READ_MIN_BYTES);
        least = length;
        kept.push(room.keep(Bytes::from(vec![0; length])));
    }
    assert_eq!(least, READ_MIN_BYTES);
    let all: usize = kept.iter().map(Bytes::len).sum();
    assert!(all <= KEPT_MAX_BYTES + 100 * READ_MIN_BYTES, "{all}");
    assert_eq!(room.first_read_bytes(), READ_MIN_BYTES);
    drop(kept);
    assert_eq!(room.read_bytes(), READ_MAX_BYTES, "what was dropped is not counted");
}

#[test]
fn bodies_to_be_sent_again_have_a_bound_of_their_own() {
    let room = Room::default();
    let shares: Vec<_> = (0..100).map_while(|_| room.keep_to_replay(64 * 1024)).collect();
    assert_eq!(shares.len(), REPLAY_MAX_BYTES / (64 * 1024));
    drop(shares);
    assert!(room.keep_to_replay(REPLAY_MAX_BYTES).is_some());
}

#[test]
fn heads_are_bounded_together_by_their_text_and_their_number() {
    let room = Room::default();
    let head = |fields: usize, value: &str| {
        let mut request = http::Request::builder().uri("http://acme/");
        for number in 0..fields {
            request = request.header(format!("x-{number}"), value);
        }
        request.body(()).unwrap().into_parts().0
    };
    let shares: Vec<_> = (0..1_000).map_while(|_| room.keep_head(&head(2, &"x".repeat(7_000)))).collect();
    assert_eq!(shares.len(), HEADS_MAX_BYTES / (1 + 2 * (7_000 + 3 + FIELD_BYTES)));
    drop(shares);
    let shares: Vec<_> = (0..1_000).map_while(|_| room.keep_head(&head(90, ""))).collect();
    assert!(shares.len() <= HEADS_MAX_BYTES / (90 * FIELD_BYTES), "{}", shares.len());
    assert!(shares.len() >= 30, "{}", shares.len());
}

#[test]
fn small_pieces_count_as_what_they_take() {
    let room = Room::default();
    let mut cx = Context::from_waker(Waker::noop());
    let queued: Vec<_> = std::iter::repeat_with(|| room.queue(Bytes::from_static(b"x")))
        .take_while(|_| room.poll_queue(&mut cx).is_ready())
        .collect();
    assert_eq!(queued.len(), QUEUED_MAX_BYTES / PIECE_MIN_BYTES - 1);
    drop(queued);
    assert_eq!(room.0.queued.load(Ordering::Relaxed), 0);
}

#[test]
fn a_share_follows_what_is_kept() {
    let room = Room::default();
    let mut share = room.keep_some();
    share.resize(KEPT_MAX_BYTES);
    assert_eq!(room.read_bytes(), READ_MIN_BYTES);
    share.resize(0);
    assert_eq!(room.read_bytes(), READ_MAX_BYTES);
    share.resize(2 * KEPT_MAX_BYTES);
    drop(share);
    assert_eq!(room.read_bytes(), READ_MAX_BYTES);
}

#[test]
fn who_waits_no_longer_does_not_stay_for_ever() {
    let room = Room::default();
    let _queued = room.queue(Bytes::from(vec![0; QUEUED_MAX_BYTES]));
    for _ in 0..10 * WAITING_MAX {
        let waker = Waker::from(Arc::new(Stale));
        assert!(room.poll_queue(&mut Context::from_waker(&waker)).is_pending());
        assert!(room.0.waiting.lock().len() <= WAITING_MAX);
    }
}

struct Stale;

impl std::task::Wake for Stale {
    fn wake(self: Arc<Self>) {}
}

#[test]
fn who_waits_for_the_queue_is_woken_as_it_empties() {
    let room = Room::default();
    let mut cx = Context::from_waker(Waker::noop());
    let first = room.queue(Bytes::from(vec![0; QUEUED_MAX_BYTES]));
    assert!(room.poll_queue(&mut cx).is_pending());
    assert_eq!(room.0.waiting.lock().len(), 1);
    let part = first.slice(..1);
    drop(first);
    assert!(room.poll_queue(&mut cx).is_pending(), "a part keeps the whole");
    drop(part);
    assert!(room.0.waiting.lock().is_empty());
    assert!(room.poll_queue(&mut cx).is_ready());
}
