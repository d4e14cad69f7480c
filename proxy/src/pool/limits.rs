//! The bounds of a pool.

/// How long an idle connection is kept: well below the 30 s after which [`crate::serve()`] closes one.
pub const IDLE_MS: u64 = 15_000;
/// How long connecting may take.
pub const CONNECT_MS: u64 = 1_000;
/// How long a request waits for a connection when all that are allowed are in use.
pub const WAIT_MS: u64 = 1_000;
/// Connections for requests per endpoint and thread.
pub const OPEN_PER_ENDPOINT_MAX: usize = 512;
/// Of these, the ones that one tenant may use at a time: half, so that one cannot keep all others waiting.
pub const USED_PER_TENANT_MAX: usize = OPEN_PER_ENDPOINT_MAX / 2;
/// Beside them, connections per thread that carry a WebSocket or an event stream, to whichever endpoints. One tenant may
/// have half of them.
pub const LASTING_PER_POOL_MAX: usize = 4_096;
/// Idle connections kept per endpoint and thread.
pub const IDLE_PER_ENDPOINT_MAX: usize = 128;
/// Idle connections that a process keeps, over all of its threads and endpoints: whatever threads times gates are.
pub const IDLE_PER_PROCESS_MAX: usize = 4_096;
/// How long an abandoned request may go on: a backstop above the time that any app gives its longest request, for
/// until then it counts as running.
pub const ABANDONED_MS: u64 = 3_600_000;
/// How long a peer may take to end an answer after it was hung up on.
pub const HUNG_UP_MS: u64 = 10_000;

/// The bounds of a [`Pool`](super::Pool).
#[derive(Debug, Clone, Copy)]
pub struct PoolLimits {
    /// Connections for requests per endpoint, idle or not.
    pub open_per_endpoint: usize,
    /// Of these, the ones that one tenant may use at a time.
    pub used_per_tenant: usize,
    /// Beside them, those of all endpoints together whose answers last; one tenant may have half of them.
    pub lasting_per_pool: usize,
    /// Of those for requests, idle ones.
    pub idle_per_endpoint: usize,
    /// Idle ones of all endpoints together.
    pub idle_per_pool: usize,
    /// How long one may lie idle.
    pub idle_ms: u64,
    /// How long connecting may take.
    pub connect_ms: u64,
    /// How long to wait for a connection when all are in use.
    pub wait_ms: u64,
    /// How long an abandoned request may go on.
    pub abandoned_ms: u64,
    /// How long a peer may take to end an answer after it was hung up on.
    pub hung_up_ms: u64,
}

impl PoolLimits {
    /// Those of one of so many pools of a process, one for each thread: what the process keeps is divided among them. Of
    /// the `connections` that each thread takes from clients, what lasts has a quarter at most, and their files: it takes
    /// two.
    #[must_use]
    pub fn of_threads(self, threads: usize, connections: usize) -> Self {
        Self {
            idle_per_pool: (self.idle_per_pool / threads.max(1)).max(1),
            lasting_per_pool: self.lasting_per_pool.min(connections / 4),
            ..self
        }
    }
}

impl Default for PoolLimits {
    fn default() -> Self {
        Self {
            open_per_endpoint: OPEN_PER_ENDPOINT_MAX,
            used_per_tenant: USED_PER_TENANT_MAX,
            lasting_per_pool: LASTING_PER_POOL_MAX,
            idle_per_endpoint: IDLE_PER_ENDPOINT_MAX,
            idle_per_pool: IDLE_PER_PROCESS_MAX,
            idle_ms: IDLE_MS,
            connect_ms: CONNECT_MS,
            wait_ms: WAIT_MS,
            abandoned_ms: ABANDONED_MS,
            hung_up_ms: HUNG_UP_MS,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_thread_has_its_part_of_what_the_process_keeps_and_its_clients_most_of_their_files() {
        let limits = PoolLimits::default().of_threads(4, 4_000);
        assert_eq!((limits.idle_per_pool, limits.lasting_per_pool), (IDLE_PER_PROCESS_MAX / 4, 1_000));
        assert_eq!(PoolLimits::default().of_threads(1, usize::MAX).lasting_per_pool, LASTING_PER_POOL_MAX);
    }
}
