//! Streams of changes: publication and slot at one end (`out`), subscription at the other (`in`), a row in the books of
//! both. A row is entered before what it stands for is made, and struck after that is gone, so that nothing leaks unseen.

use super::error::PostgresError;
use super::names::{ident, literal, qualified};
use super::sql::{Ask, Typed};
use super::tally;
use cellway_core::ids::{HomeId, MoveId, TenantId};
use serde_json::Value;
use std::time::{Duration, Instant};
use tokio_postgres::error::SqlState;
use tokio_postgres::{Client, Row, Transaction};

/// How often a mark is looked for.
const MARK_INTERVAL_MS: u64 = 2;

/// How long a slot that is in use may take to be let go of.
const SLOT_FREE_MS: u64 = 3_000;

/// How long the triggers of a stream that ends may wait for their tables; the janitor goes on where this stops.
const TALLY_END_MS: u64 = 3_000;

/// How often it is looked at.
const SLOT_LOOK_INTERVAL_MS: u64 = 20;

/// Which end of a stream.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum End {
    In,
    Out,
}

impl End {
    fn as_str(self) -> &'static str {
        match self {
            Self::In => "in",
            Self::Out => "out",
        }
    }
}

/// A row of the books.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Stream {
    pub(crate) name: String,
    pub(crate) end: End,
    pub(crate) tenant: String,
    /// The home at this end.
    pub(crate) home: String,
    pub(crate) other_home: String,
    pub(crate) other_cell: String,
    pub(crate) move_id: String,
    /// What was there before the stream has been copied.
    pub(crate) complete: bool,
    /// What the source's schema looked like when it was copied.
    pub(crate) fingerprint: Option<String>,
    /// From where the other end has to read on; text of a `pg_lsn`.
    pub(crate) start_lsn: Option<String>,
    /// What its tally was when the copy began; nothing if it has none.
    pub(crate) tally: Option<Value>,
    /// Disabled by us: it has brought everything up to the fence, and its worker would only be in the way of the release.
    pub(crate) paused: bool,
    /// How old it is.
    pub(crate) age_ms: i64,
}

const STREAMS: &str = "SELECT name, direction, tenant, home, other_home, other_cell, move_id, complete, fingerprint,
    start_lsn::text, tally, paused, (extract(epoch FROM now() - made_at) * 1000)::bigint FROM cellway.streams";

fn stream_of(row: &Row) -> Stream {
    Stream {
        name: row.get(0),
        end: if row.get::<_, &str>(1) == "in" { End::In } else { End::Out },
        tenant: row.get(2),
        home: row.get(3),
        other_home: row.get(4),
        other_cell: row.get(5),
        move_id: row.get(6),
        complete: row.get(7),
        fingerprint: row.get(8),
        start_lsn: row.get(9),
        tally: row.get(10),
        paused: row.get(11),
        age_ms: row.get(12),
    }
}

fn failed(what: &'static str) -> impl FnOnce(tokio_postgres::Error) -> PostgresError {
    PostgresError::sql(what)
}

async fn select(on: &impl Ask, condition: &str, values: &[&dyn Typed]) -> Result<Vec<Stream>, PostgresError> {
    let sql = format!("{STREAMS} WHERE {condition} ORDER BY made_at, name");
    let rows = on.rows(&sql, values).await.map_err(failed("the books of streams cannot be read"))?;
    Ok(rows.iter().map(stream_of).collect())
}

/// All streams in the books of this database.
pub(crate) async fn all(on: &Client) -> Result<Vec<Stream>, PostgresError> {
    select(on, "true", &[]).await
}

/// What ends, or begins, at a home.
pub(crate) async fn of_home(on: &impl Ask, end: End, tenant: &str, home: &str) -> Result<Vec<Stream>, PostgresError> {
    select(on, "direction = $1 AND tenant = $2 AND home = $3", &[&end.as_str(), &tenant, &home]).await
}

/// The stream of this name.
pub(crate) async fn by_name(on: &Client, end: End, name: &str) -> Result<Option<Stream>, PostgresError> {
    Ok(select(on, "direction = $1 AND name = $2", &[&end.as_str(), &name]).await?.pop())
}

/// What a stream is about.
#[derive(Debug, Clone, Copy)]
pub(crate) struct About<'a> {
    pub(crate) tenant: &'a TenantId,
    /// The home at this end.
    pub(crate) home: &'a HomeId,
    pub(crate) other_home: &'a HomeId,
    pub(crate) other_cell: &'a str,
    pub(crate) move_id: &'a MoveId,
    pub(crate) complete: bool,
}

/// Enters a stream; one that is there stays, with the move that uses it now.
pub(crate) async fn enter(on: &Client, end: End, name: &str, about: About<'_>) -> Result<(), PostgresError> {
    let sql = "INSERT INTO cellway.streams (name, direction, tenant, home, other_home, other_cell, move_id, complete)
        VALUES ($1, $2, $3, $4, $5, $6, $7, $8)
        ON CONFLICT (name, direction) DO UPDATE SET move_id = excluded.move_id";
    let About { tenant, home, other_home, other_cell, move_id, complete } = about;
    let values: [&dyn Typed; 8] = [
        &name,
        &end.as_str(),
        &tenant.as_str(),
        &home.as_str(),
        &other_home.as_str(),
        &other_cell,
        &move_id.as_str(),
        &complete,
    ];
    on.run(sql, &values).await.map_err(failed("a stream cannot be entered")).map(drop)
}

/// Another move goes on with the stream.
pub(crate) async fn adopt(on: &Client, end: End, name: &str, move_id: &MoveId) -> Result<(), PostgresError> {
    let sql = "UPDATE cellway.streams SET move_id = $3 WHERE direction = $1 AND name = $2 AND move_id <> $3";
    let values: [&dyn Typed; 3] = [&end.as_str(), &name, &move_id.as_str()];
    on.run(sql, &values).await.map_err(failed("a stream cannot be taken over")).map(drop)
}

/// The copy is whole, and of a schema of this shape.
pub(crate) async fn complete(on: &Client, name: &str, fingerprint: &str) -> Result<(), PostgresError> {
    let sql = "UPDATE cellway.streams SET complete = true, fingerprint = $2 WHERE direction = 'in' AND name = $1";
    on.run(sql, &[&name, &fingerprint]).await.map_err(failed("no change of books")).map(drop)
}

/// What the schema looks like from which the stream goes out.
pub(crate) async fn shaped(on: &Client, name: &str, fingerprint: &str) -> Result<(), PostgresError> {
    let sql = "UPDATE cellway.streams SET fingerprint = $2 WHERE direction = 'out' AND name = $1";
    on.run(sql, &[&name, &fingerprint]).await.map_err(failed("no change of books"))
}

/// From now on the stream is tallied, from what stood there `before` on.
pub(crate) async fn tallied(on: &Client, end: End, name: &str, before: &Value) -> Result<(), PostgresError> {
    let sql = "UPDATE cellway.streams SET tally = $3 WHERE direction = $1 AND name = $2";
    on.run(sql, &[&end.as_str(), &name, before]).await.map_err(failed("no change of books")).map(drop)
}

/// Publishes these tables, and the marks of the stream.
pub(crate) async fn publish(on: &Client, name: &str, schema: &str, tables: &[String]) -> Result<(), PostgresError> {
    let mut parts: Vec<String> = tables.iter().map(|table| qualified(schema, table)).collect();
    parts.push(format!("cellway.marks WHERE (stream = {})", literal(name)));
    let name = ident(name);
    let sql = format!("DROP PUBLICATION IF EXISTS {name}; CREATE PUBLICATION {name} FOR TABLE {}", parts.join(", "));
    on.batch_execute(&sql).await.map_err(failed("the tables cannot be published"))
}

/// Makes the slot of a stream, if it is not there. `on` has a limit of time for its statements.
pub(crate) async fn make_slot(on: &Client, name: &str, wait_ms: u64) -> Result<(), PostgresError> {
    let exists = "SELECT EXISTS (SELECT FROM pg_replication_slots WHERE slot_name = $1)";
    if on.one(exists, &[&name]).await.map_err(failed("slots cannot be read"))?.get(0) {
        return Ok(());
    }
    on.batch_execute(&format!("SET statement_timeout = {wait_ms}")).await.map_err(failed("no limit of time"))?;
    let made = on.run("SELECT pg_create_logical_replication_slot($1, 'pgoutput')", &[&name]).await;
    match made {
        Err(error) if error.code() == Some(&SqlState::QUERY_CANCELED) => {
            Err(PostgresError::Blocked { what: "a replication slot", waited_ms: wait_ms, who: blockers(on).await? })
        }
        Err(error) if error.code() == Some(&SqlState::DUPLICATE_OBJECT) => Ok(()),
        Err(error) => Err(PostgresError::sql("the replication slot cannot be made")(error)),
        Ok(_) => Ok(()),
    }
}

/// Whether the slot of a stream is there, and still has everything that was not read.
pub(crate) async fn has_slot(on: &Client, name: &str) -> Result<bool, PostgresError> {
    let sql = "SELECT EXISTS (SELECT FROM pg_replication_slots WHERE slot_name = $1 AND wal_status <> 'lost')";
    Ok(on.one(sql, &[&name]).await.map_err(failed("slots cannot be read"))?.get(0))
}

/// Whom a new slot of this server waits for, oldest first.
pub(crate) async fn blockers(on: &Client) -> Result<String, PostgresError> {
    let sql = "SELECT format('pid %s (application %s, user %s, database %s, %s), in a transaction for %s s', pid,
            coalesce(nullif(application_name, ''), '-'), usename, datname, state,
            extract(epoch FROM now() - xact_start)::int)
        FROM pg_stat_activity WHERE backend_xid IS NOT NULL AND pid <> pg_backend_pid()
        UNION ALL SELECT format('prepared transaction %L', gid) FROM pg_prepared_xacts LIMIT 5";
    let rows = on.rows(sql, &[]).await.map_err(failed("the server's sessions cannot be read"))?;
    let who: Vec<String> = rows.iter().map(|row| row.get(0)).collect();
    Ok(if who.is_empty() { "a transaction that has just ended".to_owned() } else { who.join(", ") })
}

/// Whether the subscription is enabled; `None` if there is none.
pub(crate) async fn subscription(on: &impl Ask, name: &str) -> Result<Option<bool>, PostgresError> {
    let sql = "SELECT subenabled FROM pg_subscription WHERE subname = $1
        AND subdbid = (SELECT oid FROM pg_database WHERE datname = current_database())";
    let row = on.maybe(sql, &[&name]).await.map_err(failed("subscriptions cannot be read"))?;
    Ok(row.map(|row| row.get(0)))
}

/// Subscribes to what has the same name at the other end, reading on from `from_lsn` or from where the slot begins.
pub(crate) async fn subscribe(
    on: &Client,
    name: &str,
    conninfo: &str,
    from_lsn: Option<&str>,
) -> Result<(), PostgresError> {
    let quoted = ident(name);
    if subscription(on, name).await?.is_none() {
        let sql = format!(
            "CREATE SUBSCRIPTION {quoted} CONNECTION {} PUBLICATION {quoted} WITH (create_slot = false, slot_name = {},
                enabled = false, copy_data = false, disable_on_error = true, streaming = false)",
            literal(conninfo),
            literal(name)
        );
        on.batch_execute(&sql).await.map_err(failed("the server cannot subscribe to the other cell's"))?;
    }
    if let Some(lsn) = from_lsn {
        let sql = format!(
            "SELECT pg_replication_origin_advance('pg_' || s.oid, {}::pg_lsn) FROM pg_subscription s
                WHERE s.subname = {} AND NOT s.subenabled
                AND coalesce(pg_replication_origin_progress('pg_' || s.oid, false), '0/0') < {}::pg_lsn",
            literal(lsn),
            literal(name),
            literal(lsn)
        );
        on.batch_execute(&sql).await.map_err(failed("the subscription cannot be told where to begin"))?;
    }
    on.batch_execute(&format!("ALTER SUBSCRIPTION {quoted} ENABLE")).await.map_err(failed("no subscription enabled"))
}

/// As a part of the commit that completes a home: the worker of the stream that filled it is to end, see [`end_worker`].
pub(crate) async fn pause(on: &Transaction<'_>, name: &str) -> Result<(), PostgresError> {
    let sql = format!(
        "ALTER SUBSCRIPTION {} DISABLE;
         UPDATE cellway.streams SET paused = true WHERE direction = 'in' AND name = {}",
        ident(name),
        literal(name)
    );
    on.batch_execute(&sql).await.map_err(failed("the subscription cannot be paused"))
}

/// Ends the worker of a paused stream, without waiting for it.
pub(crate) async fn end_worker(on: &Client, name: &str) -> Result<(), PostgresError> {
    let sql = "SELECT pg_terminate_backend(pid) FROM pg_stat_subscription WHERE subname = $1 AND pid IS NOT NULL";
    on.run(sql, &[&name]).await.map_err(failed("the worker of a subscription cannot be ended"))
}

/// Goes on with a paused stream: the source was released again.
pub(crate) async fn resume(on: &Client, name: &str) -> Result<(), PostgresError> {
    let sql = format!(
        "BEGIN; ALTER SUBSCRIPTION {} ENABLE;
         UPDATE cellway.streams SET paused = false WHERE direction = 'in' AND name = {}; COMMIT",
        ident(name),
        literal(name)
    );
    on.batch_execute(&sql).await.map_err(failed("the subscription cannot go on"))
}

/// Ends everything that comes into a home: no worker writes to it once this is committed. What stands at the other ends is
/// removed by whoever has them; the triggers of its tally, which fire for nothing that the app writes, by the janitor.
pub(crate) async fn end_incoming(on: &Transaction<'_>, tenant: &TenantId, home: &HomeId) -> Result<(), PostgresError> {
    for stream in of_home(on, End::In, tenant.as_str(), home.as_str()).await? {
        if subscription(on, &stream.name).await?.is_some() {
            let name = ident(&stream.name);
            let sql = format!(
                "ALTER SUBSCRIPTION {name} DISABLE; ALTER SUBSCRIPTION {name} SET (slot_name = NONE);
                 DROP SUBSCRIPTION {name}"
            );
            on.batch_execute(&sql).await.map_err(failed("a subscription cannot be dropped"))?;
        }
        strike(on, End::In, &stream.name).await?;
    }
    Ok(())
}

async fn strike(on: &impl Ask, end: End, name: &str) -> Result<(), PostgresError> {
    let sql = "WITH marks AS (DELETE FROM cellway.marks WHERE stream = $2)
        DELETE FROM cellway.streams WHERE direction = $1 AND name = $2";
    on.run(sql, &[&end.as_str(), &name]).await.map_err(failed("a stream cannot be struck from the books"))
}

/// Removes the subscription and its row.
pub(crate) async fn remove_incoming(client: &mut Client, name: &str) -> Result<(), PostgresError> {
    let on = client.transaction().await.map_err(failed("no transaction"))?;
    if subscription(&on, name).await?.is_some() {
        let quoted = ident(name);
        let sql = format!(
            "ALTER SUBSCRIPTION {quoted} DISABLE; ALTER SUBSCRIPTION {quoted} SET (slot_name = NONE);
             DROP SUBSCRIPTION {quoted}"
        );
        on.batch_execute(&sql).await.map_err(failed("a subscription cannot be dropped"))?;
    }
    strike(&on, End::In, name).await?;
    on.commit().await.map_err(failed("the books cannot be committed"))?;
    tally::end_where_free(client, name, TALLY_END_MS).await
}

/// Removes slot, publication and row.
pub(crate) async fn remove_outgoing(on: &Client, name: &str) -> Result<(), PostgresError> {
    let begun = Instant::now();
    let sql = "SELECT CASE WHEN active THEN pg_terminate_backend(active_pid)::text
            ELSE pg_drop_replication_slot(slot_name)::text END
        FROM pg_replication_slots WHERE slot_name = $1 AND database = current_database()";
    loop {
        match on.rows(sql, &[&name]).await {
            Ok(rows) if rows.is_empty() => break,
            Ok(_) => {}
            // Somebody came back to it, or it was just dropped by another agent.
            Err(error) if matches!(error.code(), Some(state) if *state == SqlState::OBJECT_IN_USE || *state == SqlState::UNDEFINED_OBJECT) =>
                {}
            Err(error) => return Err(PostgresError::sql("a slot cannot be dropped")(error)),
        }
        if begun.elapsed() >= Duration::from_millis(SLOT_FREE_MS) {
            return Err(PostgresError::Missing(format!("the slot {name} stays in use: it is dropped later")));
        }
        tokio::time::sleep(Duration::from_millis(SLOT_LOOK_INTERVAL_MS)).await;
    }
    let sql = format!("DROP PUBLICATION IF EXISTS {}", ident(name));
    on.batch_execute(&sql).await.map_err(failed("a publication cannot be dropped"))?;
    tally::end_where_free(on, name, TALLY_END_MS).await?;
    strike(on, End::Out, name).await
}

/// Sends a mark down the stream; its number rises with each.
pub(crate) async fn mark(on: &Client, name: &str, payload: Option<&Value>) -> Result<i64, PostgresError> {
    let sql = "INSERT INTO cellway.marks AS known (stream, id, payload) VALUES ($1, 1, $2)
        ON CONFLICT (stream) DO UPDATE SET id = known.id + 1, payload = coalesce(excluded.payload, known.payload)
        RETURNING id";
    let row = on.one(sql, &[&name, &payload]).await.map_err(failed("no mark can be set"))?;
    Ok(row.get(0))
}

/// Waits until a mark has arrived; its payload comes back, or nothing after `wait_ms`.
pub(crate) async fn await_mark(
    on: &Client,
    name: &str,
    id: i64,
    wait_ms: u64,
) -> Result<Option<Option<Value>>, PostgresError> {
    let unreadable = || failed("marks cannot be read");
    let sql = "SELECT payload FROM cellway.marks WHERE stream = $1 AND id >= $2";
    let statement = on.prepare(sql).await.map_err(unreadable())?;
    let begun = Instant::now();
    loop {
        if let Some(row) = on.query_opt(&statement, &[&name, &id]).await.map_err(unreadable())? {
            return Ok(Some(row.get(0)));
        }
        if begun.elapsed() >= Duration::from_millis(wait_ms) {
            return Ok(None);
        }
        tokio::time::sleep(Duration::from_millis(MARK_INTERVAL_MS)).await;
    }
}

/// Names of ours that this database has beside the books: publications and slots without a row at the `out` end,
/// subscriptions without one at the `in` end.
pub(crate) async fn unbooked(on: &Client) -> Result<(Vec<String>, Vec<String>), PostgresError> {
    let unreadable = || failed("what is left behind cannot be read");
    let out = "SELECT name FROM (SELECT slot_name::text AS name FROM pg_replication_slots
                WHERE database = current_database() AND NOT active AND NOT temporary
                UNION SELECT pubname::text FROM pg_publication) found
        WHERE name LIKE 'cellway\\_%'
            AND NOT EXISTS (SELECT FROM cellway.streams s WHERE s.name = found.name AND direction = 'out')";
    let incoming = "SELECT subname::text FROM pg_subscription p WHERE subname LIKE 'cellway\\_%'
        AND subdbid = (SELECT oid FROM pg_database WHERE datname = current_database())
        AND NOT EXISTS (SELECT FROM cellway.streams s WHERE s.name = p.subname AND direction = 'in')";
    let names = |rows: Vec<Row>| rows.iter().map(|row| row.get(0)).collect();
    let out = on.rows(out, &[]).await.map_err(unreadable())?;
    let incoming = on.rows(incoming, &[]).await.map_err(unreadable())?;
    Ok((names(out), names(incoming)))
}

/// Drops the origins of subscriptions that are gone. A worker that starts while its subscription is dropped makes its
/// origin anew, and PostgreSQL leaves that for ever.
pub(crate) async fn drop_orphaned_origins(on: &Client) -> Result<(), PostgresError> {
    let sql = "SELECT pg_replication_origin_drop(roname) FROM pg_replication_origin o WHERE roname ~ '^pg_[0-9]+$'
        AND NOT EXISTS (SELECT FROM pg_subscription s WHERE o.roname = 'pg_' || s.oid)";
    match on.rows(sql, &[]).await {
        // Its worker is about to end, or another agent was faster: the next look finds what is left.
        Err(error) if matches!(error.code(), Some(state) if *state == SqlState::OBJECT_IN_USE || *state == SqlState::UNDEFINED_OBJECT) => {
            Ok(())
        }
        dropped => dropped.map(drop).map_err(PostgresError::sql("an origin cannot be dropped")),
    }
}
