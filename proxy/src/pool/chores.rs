//! What a pool does beside its callers.

use std::rc::{Rc, Weak};
use std::time::Duration;

use tokio::sync::mpsc;
use tokio::time::timeout;

use super::connection::Connection;
use super::{Endpoint, Exchange, Inner, PooledBody};

/// How often idle connections are looked at.
const SWEEP_MS: u64 = 5_000;
/// How long a request may go on being sent after its answer has ended.
const SETTLE_MS: u64 = 1_000;

/// Where chores are left.
pub(super) type Chores = mpsc::UnboundedSender<Chore>;

/// What outlives the request it comes from.
pub(super) enum Chore {
    /// Wait until the connection can be used again.
    Settle(Connection),
    /// Wait for the answer to a request whose caller has left, or for this long; it is drained.
    Await(Exchange, Duration),
    /// Read an answer that nobody takes any more to its end, or for this long.
    Drain(Box<PooledBody>, Duration),
}

pub(super) async fn run_chore(chore: Chore) {
    match chore {
        Chore::Settle(connection) => {
            let sent = timeout(Duration::from_millis(SETTLE_MS), connection.wire.sent()).await;
            if sent.is_ok() && connection.wire.is_free() {
                connection.settle();
            }
        }
        // An answer that comes is drained as it is dropped.
        Chore::Await(exchange, limit) => drop(timeout(limit, exchange).await),
        Chore::Drain(body, limit) => {
            if timeout(limit, body.drain()).await.is_err() {
                tracing::warn!("a peer has not ended an answer that nobody takes, closing its connection");
            }
        }
    }
}

pub(super) async fn sweep(pool: Weak<Inner>) {
    loop {
        tokio::time::sleep(Duration::from_millis(SWEEP_MS)).await;
        let Some(pool) = pool.upgrade() else { return };
        let endpoints: Vec<Rc<Endpoint>> = pool.endpoints.borrow().values().cloned().collect();
        for endpoint in &endpoints {
            endpoint.drop_old();
        }
        drop(endpoints);
        pool.endpoints.borrow_mut().retain(|_, endpoint| {
            endpoint.open.get() > 0 || endpoint.shared.len() > 0 || Rc::strong_count(endpoint) > 1
        });
    }
}
