//! A connection or stream that its request's answer will turn into a tunnel.

use std::sync::Arc;

use parking_lot::Mutex;
use tokio::sync::oneshot;

/// Stands in a request's extensions until its handler asks for the client's half of the tunnel.
pub(crate) struct Promise<T>(Arc<Mutex<Option<oneshot::Receiver<T>>>>);

impl<T> Promise<T> {
    pub(crate) fn new() -> (oneshot::Sender<T>, Self) {
        let (sender, receiver) = oneshot::channel();
        (sender, Self(Arc::new(Mutex::new(Some(receiver)))))
    }

    /// The half, which comes once the request was answered with a switch.
    pub(crate) fn take(&self) -> Option<oneshot::Receiver<T>> {
        self.0.lock().take()
    }
}

impl<T> Clone for Promise<T> {
    fn clone(&self) -> Self {
        Self(Arc::clone(&self.0))
    }
}
