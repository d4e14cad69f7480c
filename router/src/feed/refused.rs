//! The routes that the guard refused last, and the operator's word about them.

use parking_lot::Mutex;
use tokio::sync::Notify;

use super::guard::{Refusal, Word};

#[derive(Default)]
pub(crate) struct Refused {
    state: Mutex<State>,
    given: Notify,
}

#[derive(Default)]
struct State {
    refusal: Option<Refusal>,
    word: Option<Word>,
}

impl Refused {
    /// The routes that are refused now.
    pub(crate) fn current(&self) -> Option<Refusal> {
        self.state.lock().refusal.clone()
    }

    pub(crate) fn is_refusing(&self) -> bool {
        self.state.lock().refusal.is_some()
    }

    /// Takes an operator's word, if it names the routes that are refused now.
    pub(crate) fn accept(&self, word: Word) -> bool {
        let mut state = self.state.lock();
        let named = state.refusal.as_ref().is_some_and(|refusal| word.names(refusal));
        if named {
            state.word = Some(word);
            self.given.notify_one();
        }
        named
    }

    /// Waits for an operator's word.
    pub(super) async fn word(&self) {
        self.given.notified().await;
    }

    /// Uses up the word, and says whether it is good for these routes.
    pub(super) fn is_allowed(&self, refusal: &Refusal) -> bool {
        self.state.lock().word.take().is_some_and(|word| word.allows(refusal))
    }

    /// These routes are refused from now on. Says whether that is news.
    pub(super) fn set(&self, refusal: Refusal) -> bool {
        let mut state = self.state.lock();
        let news = state.refusal.as_ref() != Some(&refusal);
        state.refusal = Some(refusal);
        news
    }

    pub(super) fn clear(&self) {
        *self.state.lock() = State::default();
    }
}
