//! What time it is for those who serve connections. In each turn of a connection's task the clock is read once, however many ask;
//! the date is written once a second.

use std::cell::{Cell, RefCell};
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use http::HeaderValue;
use tokio::time::Instant;

/// How often the date is another one.
const SECOND: Duration = Duration::from_secs(1);

#[derive(Clone, Copy)]
enum Turn {
    /// It is none: a reading is not kept.
    None,
    Began,
    Read(Instant),
}

thread_local! {
    static TURN: Cell<Turn> = const { Cell::new(Turn::None) };
    /// The date, and until when it is that.
    static DATE: RefCell<Option<(Instant, HeaderValue)>> = const { RefCell::new(None) };
}

/// The time, or what it was when it was first asked for in this turn, which may be some milliseconds behind: for what is measured of
/// requests and for how long they may take; not for what threads share, or another process relies on.
pub fn now() -> Instant {
    match TURN.get() {
        Turn::Read(now) => now,
        Turn::Began => {
            let now = Instant::now();
            TURN.set(Turn::Read(now));
            now
        }
        Turn::None => Instant::now(),
    }
}

/// What `look` makes of the date of now.
pub(crate) fn with_date<T>(look: impl FnOnce(&HeaderValue) -> T) -> T {
    let now = now();
    DATE.with_borrow_mut(|date| match date {
        Some((until, date)) if now < *until => look(date),
        _ => look(&date.insert(written(now)).1),
    })
}

#[expect(clippy::expect_used, reason = "a date is plain ASCII")]
fn written(now: Instant) -> (Instant, HeaderValue) {
    let wall = SystemTime::now();
    let since_1970 = wall.duration_since(UNIX_EPOCH).unwrap_or_default();
    let left = SECOND.saturating_sub(Duration::from_nanos(since_1970.subsec_nanos().into()));
    (now + left, HeaderValue::from_str(&httpdate::fmt_http_date(wall)).expect("a date is plain ASCII"))
}

/// A connection's future, each poll of which is a turn.
pub(crate) struct InTurns<F>(pub(crate) F);

impl<F: Future + Unpin> Future for InTurns<F> {
    type Output = F::Output;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<F::Output> {
        /// Ends the turn, in a panic too: what was read must not outlive it.
        struct End;
        impl Drop for End {
            fn drop(&mut self) {
                TURN.set(Turn::None);
            }
        }
        TURN.set(Turn::Began);
        let _end = End;
        Pin::new(&mut self.0).poll(cx)
    }
}

#[cfg(test)]
mod tests {
    use std::future::poll_fn;

    use futures_util::FutureExt;

    use super::*;

    /// Lets time pass within a poll.
    fn pass(step: Duration) {
        assert!(tokio::time::advance(step).now_or_never().is_none(), "the clock is set, and others would have a turn");
    }

    #[tokio::test(start_paused = true)]
    async fn the_clock_is_read_once_in_a_turn_and_anew_in_the_next_and_outside() {
        let (step, began) = (Duration::from_millis(7), Instant::now());
        let mut turns = 0;
        let mut in_turns = InTurns(Box::pin(poll_fn(|_| {
            let (first, due) = (now(), began + step * (2 * turns));
            pass(step);
            assert_eq!((first, now()), (due, due), "it was first asked for in this turn");
            turns += 1;
            if turns < 3 { Poll::Pending } else { Poll::Ready(()) }
        })));
        while (&mut in_turns).now_or_never().is_none() {
            let before = now();
            pass(step);
            assert_eq!(now(), before + step, "outside nothing is kept");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_reading_does_not_outlive_a_turn_that_breaks_off() {
        let broken = InTurns(poll_fn(|_| -> Poll<()> {
            now();
            panic!("a turn breaks off")
        }));
        assert!(tokio::spawn(broken).await.is_err());
        assert!(matches!(TURN.get(), Turn::None));
    }

    #[tokio::test(start_paused = true)]
    async fn the_date_is_that_of_its_second() {
        let date = || with_date(|date| httpdate::parse_http_date(date.to_str().unwrap()).unwrap());
        let is_now = |date: SystemTime| date.elapsed().is_ok_and(|age| age < Duration::from_secs(60));
        assert!(is_now(date()));
        DATE.set(Some((now() + SECOND, HeaderValue::from_static("Thu, 01 Jan 1970 00:00:01 GMT"))));
        assert_eq!(date(), UNIX_EPOCH + SECOND);
        tokio::time::advance(SECOND).await;
        assert!(is_now(date()));
    }
}
