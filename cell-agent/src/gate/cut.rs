//! Requests that are cut, so that their tenant can move: uploads and downloads that went on for too long.
//!
//! What is cut is cut towards the client, and the app is told that nobody listens any more. It counts as running until
//! the app has ended it. A request that the app thinks about, with nothing on its way in either direction, is left alone:
//! to cut it would end nothing.

use crate::gate::lease::Lease;
use cellway_proxy::{OnDrop, PooledBody};
use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::task::{Context, Waker};
use tokio_util::sync::CancellationToken;
use tokio_util::task::AbortOnDropHandle;

/// The client sees an answer that broke off.
#[derive(Debug, thiserror::Error)]
#[error("the download was cut: its tenant moves to another cell")]
pub(crate) struct DownloadCut;

/// An upload that may be cut.
#[derive(Clone)]
pub(crate) struct Upload {
    cut: CancellationToken,
    fate: Rc<Cell<Fate>>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
enum Fate {
    #[default]
    UnderWay,
    Over,
    Cut,
}

/// Says that the upload is over when it is dropped without having been cut.
struct Watched(Rc<Cell<Fate>>);

impl Drop for Watched {
    fn drop(&mut self) {
        if self.0.get() == Fate::UnderWay {
            self.0.set(Fate::Over);
        }
    }
}

impl Upload {
    /// `None` for what is never cut.
    pub(crate) fn of(lease: &Lease) -> Option<Self> {
        Some(Self { cut: lease.cut()?, fate: Rc::default() })
    }

    /// What the upload has to break off at; to be dropped when it is over.
    pub(crate) fn end(&self) -> impl Future<Output = ()> + use<> {
        let (cut, watched) = (self.cut.clone(), Watched(Rc::clone(&self.fate)));
        async move {
            cut.cancelled().await;
            watched.0.set(Fate::Cut);
        }
    }

    /// Waits until the upload is cut; for ever, if it was over before.
    pub(crate) async fn was_cut(&self) {
        self.cut.cancelled().await;
        if self.fate.get() == Fate::Over {
            std::future::pending::<()>().await;
        }
        self.fate.set(Fate::Cut);
    }
}

/// The app's answer on its way, which may be taken out of the hands of a client that does not take it.
#[derive(Clone)]
pub(crate) struct Download(Rc<RefCell<State>>);

struct State {
    body: Option<PooledBody>,
    was_cut: bool,
    reader: Option<Waker>,
}

impl Download {
    pub(crate) fn new(body: PooledBody) -> Self {
        Self(Rc::new(RefCell::new(State { body: Some(body), was_cut: false, reader: None })))
    }

    /// Uses the answer, unless it was taken away.
    pub(crate) fn with<T>(&self, use_it: impl FnOnce(&mut PooledBody) -> T) -> Option<T> {
        self.0.borrow_mut().body.as_mut().map(use_it)
    }

    /// Whether it was cut; if not, `cx` is woken when it is.
    pub(crate) fn was_cut(&self, cx: &Context<'_>) -> bool {
        let mut state = self.0.borrow_mut();
        if state.reader.as_ref().is_none_or(|reader| !reader.will_wake(cx.waker())) {
            state.reader = Some(cx.waker().clone());
        }
        state.was_cut
    }

    /// Cuts it when `cut` says so, whether somebody reads it or not, until the handle is dropped.
    pub(crate) fn cut_by(&self, cut: CancellationToken, lease: Lease) -> AbortOnDropHandle<()> {
        let download = Rc::downgrade(&self.0);
        AbortOnDropHandle::new(tokio::task::spawn_local(async move {
            cut.cancelled().await;
            let Some(state) = download.upgrade() else { return };
            let (body, reader) = {
                let mut state = state.borrow_mut();
                state.was_cut = state.body.is_some();
                (state.body.take(), state.reader.take())
            };
            if let Some(mut body) = body {
                lease.was_cut();
                body.on_drop(OnDrop::HangUpAndWait);
            }
            if let Some(reader) = reader {
                reader.wake();
            }
        }))
    }
}
