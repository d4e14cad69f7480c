//! What dead moves have left in the servers is found and removed: publications, slots, subscriptions and their origins.
//!
//! The end that subscribes decides: it is the one that is ordered something while a move needs the stream. The end that
//! publishes removes what the other one has no row for any more.

use super::PostgresDriver;
use super::error::PostgresError;
use super::servers::Lease;
use super::streams::{self, End, Stream};
use super::tally;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Weak;
use std::time::{Duration, Instant};

/// The longest pause between two looks.
const LOOK_INTERVAL_MAX_MS: u64 = 30_000;

/// Looks within the time after which a move counts as dead.
const LOOKS_PER_DEATH: u64 = 4;

/// How long the server of the other cell may be away before a slot that only it could read is dropped: until then it
/// keeps the write-ahead log.
const OTHER_SILENT_MAX_MS: i64 = 86_400_000;

/// How long a trigger that is in no books may wait for its table; it is tried again at the next look.
const TABLE_WAIT_MS: u64 = 1_000;

/// Which moves have orders in this cell, and since when others have none.
#[derive(Debug, Default)]
pub(crate) struct Standing {
    heard: bool,
    now: BTreeSet<String>,
    ended: BTreeMap<String, Instant>,
}

impl Standing {
    /// Moves that are remembered after their last order; a forgotten one counts as long gone.
    const ENDED_MAX: usize = 10_000;

    /// All orders of the cell, as they stand at `now`.
    pub(crate) fn set<'a>(&mut self, moves: impl Iterator<Item = &'a str>, now: Instant) {
        self.heard = true;
        let moves: BTreeSet<String> = moves.map(str::to_owned).collect();
        for gone in std::mem::take(&mut self.now) {
            if !moves.contains(&gone) {
                self.ended.insert(gone, now);
            }
        }
        while self.ended.len() > Self::ENDED_MAX {
            self.ended.pop_first();
        }
        self.now = moves;
    }

    /// Whether nobody has ordered anything of the move for `dead_after_ms`. Before the first list of orders was heard,
    /// and about what is younger, nothing is known.
    pub(crate) fn is_dead(&self, move_id: &str, age_ms: i64, dead_after_ms: u64, now: Instant) -> bool {
        let old = u64::try_from(age_ms).is_ok_and(|age_ms| age_ms >= dead_after_ms);
        let recent =
            self.ended.get(move_id).is_some_and(|&at| now.duration_since(at) < Duration::from_millis(dead_after_ms));
        self.heard && old && !self.now.contains(move_id) && !recent
    }
}

/// Looks again and again, for as long as the driver is there.
pub(crate) async fn run(driver: Weak<PostgresDriver>) {
    // What the run before knew of standing orders is not known to this one.
    loop {
        let Some(strong) = driver.upgrade() else { return };
        let interval_ms = (strong.config.dead_after_ms / LOOKS_PER_DEATH).clamp(1, LOOK_INTERVAL_MAX_MS);
        drop(strong);
        tokio::time::sleep(Duration::from_millis(interval_ms)).await;
        let Some(driver) = driver.upgrade() else { return };
        if let Err(error) = driver.sweep().await {
            let error = format!("{:#}", anyhow::Error::from(error));
            tracing::warn!(error, "what dead moves have left in Postgres was not looked at");
        }
    }
}

impl PostgresDriver {
    /// One look at everything that is there.
    pub(crate) async fn sweep(&self) -> Result<(), PostgresError> {
        let mut own = self.lease(self.own.as_str()).await?;
        for stream in streams::all(&own).await? {
            let dead =
                self.standing.lock().is_dead(&stream.move_id, stream.age_ms, self.config.dead_after_ms, Instant::now());
            if !dead || (stream.end == End::Out && !self.is_orphan(&stream).await) {
                continue;
            }
            tracing::info!(move_id = stream.move_id, stream = stream.name, end = ?stream.end, "what a dead move left is removed");
            let removed = match stream.end {
                End::In => self.end_stream_in(&mut own, &stream).await,
                End::Out => streams::remove_outgoing(&own, &stream.name).await,
            };
            if let Err(error) = removed {
                let error = format!("{:#}", anyhow::Error::from(error));
                tracing::warn!(
                    stream = stream.name,
                    error,
                    "what a dead move left could not be removed; tried again at the next look"
                );
            }
        }
        self.sweep_unbooked(&mut own).await?;
        own.keep();
        Ok(())
    }

    /// Whether nobody at the other end reads the stream, nor will.
    async fn is_orphan(&self, stream: &Stream) -> bool {
        match self.lease(&stream.other_cell).await {
            Err(PostgresError::NoServer(_)) => true,
            Err(_) => stream.age_ms > OTHER_SILENT_MAX_MS,
            Ok(other) => match streams::by_name(&other, End::In, &stream.name).await {
                Ok(row) => {
                    other.keep();
                    row.is_none()
                }
                Err(_) => false,
            },
        }
    }

    /// Things of ours that the books do not know: from a database that was restored, say.
    async fn sweep_unbooked(&self, own: &mut Lease) -> Result<(), PostgresError> {
        let (out, incoming) = streams::unbooked(own).await?;
        for name in incoming {
            tracing::info!(stream = name, "a subscription that is in no books is removed");
            streams::remove_incoming(own, &name).await?;
        }
        streams::drop_orphaned_origins(own).await?;
        for name in tally::unbooked(own).await? {
            tally::end_where_free(own, &name, TABLE_WAIT_MS).await?;
        }
        for name in out {
            tracing::info!(stream = name, "a publication or slot that is in no books is removed");
            streams::remove_outgoing(own, &name).await?;
        }
        Ok(())
    }

    /// Removes a stream that comes in, and what it read from, if that can be reached now.
    pub(crate) async fn end_stream_in(&self, own: &mut Lease, stream: &Stream) -> Result<(), PostgresError> {
        streams::remove_incoming(own, &stream.name).await?;
        self.end_elsewhere(&stream.other_cell, End::Out, &stream.name).await;
        Ok(())
    }

    /// Removes a stream that goes out, and who reads it, if that can be reached now.
    pub(crate) async fn end_stream_out(&self, own: &Lease, stream: &Stream) -> Result<(), PostgresError> {
        self.end_elsewhere(&stream.other_cell, End::In, &stream.name).await;
        streams::remove_outgoing(own, &stream.name).await
    }

    /// Removes an end that another cell's server has. Its own agents do if this fails.
    async fn end_elsewhere(&self, cell: &str, end: End, name: &str) {
        let ended = async {
            let mut other = self.lease(cell).await?;
            match end {
                End::In => streams::remove_incoming(&mut other, name).await?,
                End::Out => streams::remove_outgoing(&other, name).await?,
            }
            other.keep();
            Ok::<(), PostgresError>(())
        };
        if let Err(error) = ended.await {
            let error = format!("{:#}", anyhow::Error::from(error));
            tracing::warn!(stream = name, cell, error, "the other end of a stream is left to the other cell's agents");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_move_is_dead_once_it_had_no_orders_for_long_enough() {
        let mut standing = Standing::default();
        let begun = Instant::now();
        let later = |ms| begun + Duration::from_millis(ms);
        assert!(!standing.is_dead("m1", 9_000, 1_000, begun), "nothing was heard yet");
        standing.set(["m1"].into_iter(), begun);
        assert!(!standing.is_dead("m1", 9_000, 1_000, later(9_000)), "it has orders");
        standing.set(std::iter::empty(), later(9_000));
        assert!(!standing.is_dead("m1", 9_000, 1_000, later(9_500)), "it had orders just now");
        assert!(standing.is_dead("m1", 9_000, 1_000, later(10_000)));
        assert!(standing.is_dead("m0", 9_000, 1_000, later(9_000)), "of an earlier run");
        assert!(!standing.is_dead("m2", 10, 1_000, later(9_000)), "its orders may not have been heard yet");
    }
}
