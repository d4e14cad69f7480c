//! Whose turn it is among the exchanges of a connection.

use std::cell::RefCell;
use std::future::poll_fn;
use std::rc::Rc;
use std::sync::atomic::AtomicUsize;
use std::task::Poll;

use tokio::sync::oneshot;

use super::*;

#[derive(Default)]
struct Woken(AtomicUsize);

impl Wake for Woken {
    fn wake(self: Arc<Self>) {
        self.0.fetch_add(1, Ordering::Relaxed);
    }
}

#[derive(Default)]
struct Task {
    exchanges: Exchanges,
    woken: Arc<Woken>,
    polled: Rc<RefCell<Vec<usize>>>,
}

impl Task {
    /// Begins one that notes each poll of it, and ends when it is told.
    fn begin(&mut self, name: usize) -> oneshot::Sender<()> {
        let (tell, mut told) = oneshot::channel();
        let polled = Rc::clone(&self.polled);
        self.exchanges.begin(Box::pin(poll_fn(move |cx| {
            polled.borrow_mut().push(name);
            Pin::new(&mut told).poll(cx).map(drop)
        })));
        tell
    }

    fn poll(&mut self, at_most: usize) -> (bool, Vec<usize>) {
        let waker = Waker::from(Arc::clone(&self.woken));
        let more = self.exchanges.poll(&mut Context::from_waker(&waker), at_most);
        (more, self.polled.take())
    }

    fn woken(&self) -> usize {
        self.woken.0.swap(0, Ordering::Relaxed)
    }
}

#[test]
fn only_what_something_has_happened_to_is_polled_and_in_the_order_of_that() {
    let mut task = Task::default();
    let tells: Vec<_> = (0..4).map(|name| task.begin(name)).collect();
    assert_eq!(task.poll(9), (false, vec![0, 1, 2, 3]));
    assert_eq!(task.woken(), 0, "nothing has happened since");
    let [a, b, c, d] = tells.try_into().unwrap();
    for tell in [d, b] {
        tell.send(()).unwrap();
    }
    assert_eq!(task.woken(), 1, "one poll is enough for both");
    assert_eq!(task.poll(9), (false, vec![3, 1]));
    c.send(()).unwrap();
    drop(a);
    assert_eq!(task.poll(1), (true, vec![2]), "the rest has its turn later");
    assert!(!task.exchanges.is_empty());
    assert_eq!(task.poll(1), (false, vec![0]));
    assert!(task.exchanges.is_empty());
}

#[test]
fn a_place_is_used_again_and_news_of_who_had_it_hurt_nobody() {
    let mut task = Task::default();
    let kept: Rc<RefCell<Option<Waker>>> = Rc::default();
    let keep = Rc::clone(&kept);
    task.exchanges.begin(Box::pin(poll_fn(move |cx| {
        *keep.borrow_mut() = Some(cx.waker().clone());
        Poll::Ready(())
    })));
    assert_eq!(task.poll(9), (false, vec![]));
    kept.borrow().as_ref().unwrap().wake_by_ref();
    assert_eq!(task.poll(9), (false, vec![]), "nobody is there");
    let _tell = task.begin(1);
    assert_eq!((task.exchanges.places.len(), task.poll(9)), (1, (false, vec![1])));
    kept.borrow().as_ref().unwrap().wake_by_ref();
    assert_eq!(task.poll(9), (false, vec![1]));
}

#[test]
fn who_keeps_waking_itself_leaves_the_task_between_two_polls() {
    let mut task = Task::default();
    let polled = Rc::clone(&task.polled);
    task.exchanges.begin(Box::pin(poll_fn(move |cx| {
        polled.borrow_mut().push(0);
        cx.waker().wake_by_ref();
        Poll::Pending
    })));
    for _ in 0..3 {
        assert_eq!(task.poll(9), (false, vec![0]));
        assert_eq!(task.woken(), 1);
    }
}

#[test]
fn a_crowd_that_has_gone_takes_no_memory() {
    let mut task = Task::default();
    let tells: Vec<_> = (0..100).map(|name| task.begin(name)).collect();
    task.exchanges.rest();
    assert_eq!(task.exchanges.places.len(), 100, "they are there");
    drop(tells);
    task.poll(100);
    task.exchanges.rest();
    assert_eq!((task.exchanges.places.capacity(), task.exchanges.turn.capacity()), (0, 0));
}
