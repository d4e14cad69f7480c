//! The books that are kept in the database itself, schema `cellway`: which homes stand there, at which epochs they were
//! fenced and released, which streams come in and go out. All changes of a tenant's homes are made under one lock.

use super::error::PostgresError;
use super::sql::{Ask, Typed};
use super::tally;
use cellway_core::ids::{Epoch, HomeId, TenantId};
use tokio_postgres::{Client, Row, Transaction};

/// Taken by every agent before the books are made, and per tenant for each change.
const BOOKS_LOCK: i32 = 0x0ce1;
const HOMES_LOCK: i32 = 0x0ce2;
const STREAMS_LOCK: i32 = 0x0ce3;

/// How long a step waits for another agent of the cell that is at the same tenant.
const LOCK_WAIT_MS: u64 = 5_000;

const BOOKS: &str = "
CREATE SCHEMA IF NOT EXISTS cellway;
CREATE TABLE IF NOT EXISTS cellway.homes (
    tenant text NOT NULL, home text NOT NULL,
    schema text,
    fenced bigint, released bigint,
    made boolean NOT NULL DEFAULT false, dropped boolean NOT NULL DEFAULT false,
    grants jsonb, can_login boolean NOT NULL DEFAULT true,
    PRIMARY KEY (tenant, home)
);
CREATE TABLE IF NOT EXISTS cellway.streams (
    name text NOT NULL, direction text NOT NULL CHECK (direction IN ('in', 'out')),
    tenant text NOT NULL, home text NOT NULL, other_home text NOT NULL, other_cell text NOT NULL, move_id text NOT NULL,
    complete boolean NOT NULL DEFAULT false, fingerprint text, start_lsn pg_lsn, tally jsonb,
    paused boolean NOT NULL DEFAULT false,
    made_at timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (name, direction)
);
CREATE TABLE IF NOT EXISTS cellway.marks (stream text PRIMARY KEY, id bigint NOT NULL, payload jsonb);
REVOKE ALL ON SCHEMA cellway FROM PUBLIC";

/// Makes the books if they are not there.
pub(crate) async fn make_books(client: &mut Client) -> Result<(), PostgresError> {
    let failed = || PostgresError::sql("the schema `cellway` cannot be made");
    let transaction = client.transaction().await.map_err(failed())?;
    transaction.run("SELECT pg_advisory_xact_lock($1, 0)", &[&BOOKS_LOCK]).await.map_err(failed())?;
    let sql = "SELECT to_regclass('cellway.marks') IS NOT NULL";
    if !transaction.one(sql, &[]).await.map_err(failed())?.get::<_, bool>(0) {
        transaction.batch_execute(BOOKS).await.map_err(failed())?;
        transaction.batch_execute(tally::BOOKS).await.map_err(failed())?;
    }
    transaction.commit().await.map_err(failed())
}

/// One home in the books.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Home {
    pub(crate) home: String,
    /// The schema that it stands in, if it has one.
    pub(crate) schema: Option<String>,
    pub(crate) fenced: Option<i64>,
    pub(crate) released: Option<i64>,
    pub(crate) made: bool,
    pub(crate) dropped: bool,
    /// Who may use the schema once it is released; kept while it is closed.
    pub(crate) grants: Option<serde_json::Value>,
    /// Whether the tenant's role logs in by itself.
    pub(crate) can_login: bool,
}

impl Home {
    /// Whether the app may write to it.
    pub(crate) fn is_released(&self) -> bool {
        !self.dropped && self.released.is_some_and(|released| self.fenced.is_none_or(|fenced| fenced < released))
    }
}

/// What the books say of an order that would change who writes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Verdict {
    /// Go on.
    Current,
    /// A later epoch was seen.
    Late,
    /// The home was dropped.
    Dropped,
}

/// `release(epoch)` is late once anything was fenced at or above it, or released above it.
pub(crate) fn may_release(homes: &[Home], home: &HomeId, epoch: Epoch) -> Verdict {
    let epoch = epoch.0.cast_signed();
    let later = |row: &Home| row.fenced.is_some_and(|at| at >= epoch) || row.released.is_some_and(|at| at > epoch);
    judge(homes, home, later)
}

/// `fence(epoch)` is late once any home of the tenant was released above it: they share the role that is locked out.
pub(crate) fn may_fence(homes: &[Home], home: &HomeId, epoch: Epoch) -> Verdict {
    let epoch = epoch.0.cast_signed();
    judge(homes, home, |row| row.released.is_some_and(|at| at > epoch))
}

fn judge(homes: &[Home], home: &HomeId, later: impl Fn(&Home) -> bool) -> Verdict {
    if homes.iter().any(later) {
        return Verdict::Late;
    }
    let dropped = homes.iter().any(|row| row.home == home.as_str() && row.dropped);
    if dropped { Verdict::Dropped } else { Verdict::Current }
}

fn home_of(row: &Row) -> Home {
    Home {
        home: row.get(0),
        schema: row.get(1),
        fenced: row.get(2),
        released: row.get(3),
        made: row.get(4),
        dropped: row.get(5),
        grants: row.get(6),
        can_login: row.get(7),
    }
}

const HOMES: &str = "SELECT home, schema, fenced, released, made, dropped, grants, can_login FROM cellway.homes";

/// The tenant's homes, with the right to change them until the transaction ends.
pub(crate) async fn lock_homes(on: &Transaction<'_>, tenant: &TenantId) -> Result<Vec<Home>, PostgresError> {
    // One round trip, one after the other: what is read is what stands there once the lock is held.
    let limit = format!("SET LOCAL lock_timeout = {LOCK_WAIT_MS}");
    let (tenant, homes) = (tenant.as_str(), format!("{HOMES} WHERE tenant = $1"));
    let (lock, of): ([&dyn Typed; 2], [&dyn Typed; 1]) = ([&HOMES_LOCK, &tenant], [&tenant]);
    let lock = on.run("SELECT pg_advisory_xact_lock($1, hashtext($2))", &lock);
    let done = tokio::try_join!(biased; on.batch_execute(&limit), lock, on.rows(&homes, &of));
    let (_, _, rows) = done.map_err(PostgresError::sql("the books of the tenant cannot be locked"))?;
    Ok(rows.iter().map(home_of).collect())
}

/// The tenant's homes as they stand.
pub(crate) async fn homes(on: &Client, tenant: &TenantId) -> Result<Vec<Home>, PostgresError> {
    let failed = PostgresError::sql("the books of the tenant cannot be read");
    let rows = on.rows(&format!("{HOMES} WHERE tenant = $1"), &[&tenant.as_str()]).await.map_err(failed)?;
    Ok(rows.iter().map(home_of).collect())
}

/// Keeps other agents of the cell from making or removing streams of this tenant, until the connection is let go of
/// with [`unlock_streams`] or closed.
pub(crate) async fn lock_streams(on: &Client, tenant: &TenantId) -> Result<(), PostgresError> {
    let failed = || PostgresError::sql("another agent of the cell is at this tenant");
    on.batch_execute(&format!("SET lock_timeout = {LOCK_WAIT_MS}")).await.map_err(failed())?;
    let lock = "SELECT pg_advisory_lock($1, hashtext($2))";
    on.run(lock, &[&STREAMS_LOCK, &tenant.as_str()]).await.map_err(failed())?;
    on.batch_execute("RESET lock_timeout").await.map_err(failed())
}

pub(crate) async fn unlock_streams(on: &Client, tenant: &TenantId) -> Result<(), PostgresError> {
    let failed = PostgresError::sql("the lock of the tenant's streams cannot be let go of");
    let unlock = "SELECT pg_advisory_unlock($1, hashtext($2))";
    on.run(unlock, &[&STREAMS_LOCK, &tenant.as_str()]).await.map_err(failed).map(drop)
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    fn row(home: &str, fenced: Option<i64>, released: Option<i64>) -> Home {
        let home = home.to_owned();
        let (schema, grants) = (None, None);
        Home { home, schema, fenced, released, made: true, dropped: false, grants, can_login: true }
    }

    fn id(home: &str) -> HomeId {
        home.parse().unwrap()
    }

    #[test]
    fn what_was_fenced_is_released_only_above() {
        let homes = [row("h1", Some(7), Some(7))];
        assert_eq!(may_release(&homes, &id("h1"), Epoch(7)), Verdict::Late);
        assert_eq!(may_release(&homes, &id("h1"), Epoch(8)), Verdict::Current);
        assert!(!homes[0].is_released());
    }

    #[test]
    fn a_late_fence_of_an_old_home_does_not_lock_out_the_one_in_service() {
        let homes = [row("h1", Some(5), Some(5)), row("h3", None, Some(7))];
        assert_eq!(may_fence(&homes, &id("h1"), Epoch(5)), Verdict::Late);
        assert_eq!(may_fence(&homes, &id("h3"), Epoch(7)), Verdict::Current);
    }

    #[test]
    fn a_dropped_home_never_comes_back() {
        let homes = [Home { dropped: true, ..row("h1", Some(5), Some(5)) }];
        assert_eq!(may_release(&homes, &id("h1"), Epoch(9)), Verdict::Dropped);
        assert_eq!(may_release(&homes, &id("h2"), Epoch(9)), Verdict::Current);
    }
}
