//! Counts and checksums that are kept as rows are written: by triggers, at both ends of a stream, so that the comparison
//! after the fence reads no table. At the publishing end they fire for what the app writes, at the subscribing end for what
//! replication applies. What both had in the beginning is compared when it is copied.

use super::error::PostgresError;
use super::names::{ident, literal, qualified};
use super::sql::Ask;
use super::streams::End;
use std::collections::BTreeMap;
use std::time::{Duration, Instant};
use tokio_postgres::error::SqlState;
use tokio_postgres::{Client, Row};

/// How long a trigger may wait for the table, and so hold up whoever comes after it.
const TABLE_WAIT_MS: u64 = 100;

/// The pause before it is tried again.
const TABLE_PAUSE_MS: u64 = 300;

/// Changes that are kept one by one before they are summed up.
const ROWS_MAX: i64 = 2_000;

/// Part of the books. Values are hashed as text, and that must not depend on who writes.
pub(crate) const BOOKS: &str = "
CREATE TABLE IF NOT EXISTS cellway.tally (stream text NOT NULL, tab text NOT NULL, rows bigint, hash numeric);
CREATE INDEX IF NOT EXISTS tally_stream ON cellway.tally (stream);
CREATE OR REPLACE FUNCTION cellway.tally() RETURNS trigger LANGUAGE plpgsql SECURITY DEFINER
    SET search_path = pg_catalog SET \"TimeZone\" = 'UTC' SET \"DateStyle\" = 'ISO' SET \"IntervalStyle\" = 'postgres'
    SET extra_float_digits = 1 SET bytea_output = 'hex' AS $tally$
DECLARE rows bigint := 0; hash numeric := 0;
BEGIN
    IF TG_OP = 'TRUNCATE' THEN
        rows := NULL; hash := NULL;
    ELSE
        IF TG_OP <> 'INSERT' THEN
            rows := rows - 1;
            IF TG_ARGV[1] = 'hash' THEN hash := hash - hashtextextended(OLD::text, 0); END IF;
        END IF;
        IF TG_OP <> 'DELETE' THEN
            rows := rows + 1;
            IF TG_ARGV[1] = 'hash' THEN hash := hash + hashtextextended(NEW::text, 0); END IF;
        END IF;
        IF rows = 0 AND hash = 0 THEN RETURN NULL; END IF;
    END IF;
    INSERT INTO cellway.tally VALUES (TG_ARGV[0], TG_TABLE_NAME, rows, hash);
    RETURN NULL;
END $tally$;
REVOKE ALL ON FUNCTION cellway.tally() FROM PUBLIC;";

/// Rows more or less, and the difference of their hashes; nothing of a table that was truncated.
pub(crate) type Sum = (Option<i64>, Option<String>);
pub(crate) type Tally = BTreeMap<String, Sum>;

fn failed(what: &'static str) -> impl FnOnce(tokio_postgres::Error) -> PostgresError {
    PostgresError::sql(what)
}

/// Begins to count what goes into a stream, or comes out of it. The triggers have the stream's name.
pub(crate) async fn begin(
    on: &Client,
    (stream, end): (&str, End),
    (schema, tables): (&str, &[String]),
    with_hashes: bool,
    wait_ms: u64,
) -> Result<(), PostgresError> {
    let (name, truncated) = (ident(stream), ident(&truncate_name(stream)));
    let hash = if with_hashes { "hash" } else { "" };
    let enable = match end {
        End::Out => "ENABLE",
        End::In => "ENABLE REPLICA",
    };
    for table in tables {
        let at = qualified(schema, table);
        let run = format!("EXECUTE FUNCTION cellway.tally({}, '{hash}')", literal(stream));
        let sql = format!(
            "CREATE OR REPLACE TRIGGER {name} AFTER INSERT OR UPDATE OR DELETE ON {at} FOR EACH ROW {run};
             CREATE OR REPLACE TRIGGER {truncated} AFTER TRUNCATE ON {at} FOR EACH STATEMENT {run};
             ALTER TABLE {at} {enable} TRIGGER {name}; ALTER TABLE {at} {enable} TRIGGER {truncated}"
        );
        patiently(on, &sql, table, wait_ms).await?;
    }
    Ok(())
}

/// A change of a table that is in use: it waits shortly, and often, so that nobody waits long behind it.
async fn patiently(on: &Client, sql: &str, table: &str, wait_ms: u64) -> Result<(), PostgresError> {
    let begun = Instant::now();
    let sql = format!("BEGIN; SET LOCAL lock_timeout = {TABLE_WAIT_MS}; {sql}; COMMIT");
    loop {
        let Err(error) = on.batch_execute(&sql).await else { return Ok(()) };
        on.batch_execute("ROLLBACK").await.map_err(failed("no transaction can be ended"))?;
        if error.code() != Some(&SqlState::LOCK_NOT_AVAILABLE) && error.code() != Some(&SqlState::T_R_DEADLOCK_DETECTED)
        {
            return Err(PostgresError::sql(format!("the trigger of {table:?} cannot be changed"))(error));
        }
        if begun.elapsed() >= Duration::from_millis(wait_ms) {
            let who = super::streams::blockers(on).await?;
            return Err(PostgresError::Blocked { what: "a trigger", waited_ms: wait_ms, who });
        }
        tokio::time::sleep(Duration::from_millis(TABLE_PAUSE_MS)).await;
    }
}

fn truncate_name(stream: &str) -> String {
    format!("{stream}_t")
}

/// Ends the counting of a stream, wherever its triggers are.
async fn end(on: &Client, stream: &str, wait_ms: u64) -> Result<(), PostgresError> {
    for (table, sql) in drops(on, stream).await? {
        patiently(on, &sql, &table, wait_ms).await?;
    }
    forget(on, stream).await
}

/// Ends the counting of a stream. Triggers of tables that are in use, by a backup say, stay: without the stream in the
/// books nobody looks at what they count, and the janitor drops them.
pub(crate) async fn end_where_free(on: &Client, stream: &str, wait_ms: u64) -> Result<(), PostgresError> {
    match end(on, stream, wait_ms).await {
        Err(error @ PostgresError::Blocked { .. }) => {
            tracing::info!(stream, %error, "triggers are dropped later");
            forget(on, stream).await
        }
        ended => ended,
    }
}

async fn forget(on: &Client, stream: &str) -> Result<(), PostgresError> {
    let sql = "DELETE FROM cellway.tally WHERE stream = $1";
    on.run(sql, &[&stream]).await.map_err(failed("the tally cannot be struck")).map(drop)
}

async fn drops(on: &Client, stream: &str) -> Result<Vec<(String, String)>, PostgresError> {
    let sql = "SELECT nspname::text, relname::text, tgname::text FROM pg_trigger t
        JOIN pg_class c ON c.oid = tgrelid JOIN pg_namespace n ON n.oid = relnamespace
        WHERE tgname IN ($1, $2) AND NOT tgisinternal ORDER BY 1, 2, 3";
    let rows = on.rows(sql, &[&stream, &truncate_name(stream)]).await.map_err(failed("triggers cannot be read"))?;
    let one = |row: &Row| {
        let (schema, table, trigger): (String, String, String) = (row.get(0), row.get(1), row.get(2));
        let sql = format!("DROP TRIGGER IF EXISTS {} ON {}", ident(&trigger), qualified(&schema, &table));
        (table, sql)
    };
    Ok(rows.iter().map(one).collect())
}

/// Streams that are counted here although the books do not have them; either of a stream's triggers shows it.
pub(crate) async fn unbooked(on: &Client) -> Result<Vec<String>, PostgresError> {
    let sql = "SELECT stream FROM (
            SELECT regexp_replace(tgname, '_t$', '') AS stream FROM pg_trigger WHERE tgfoid = 'cellway.tally'::regproc
            UNION SELECT stream FROM cellway.tally) AS tallied
        WHERE NOT EXISTS (SELECT FROM cellway.streams s WHERE s.name = stream)";
    let rows = on.rows(sql, &[]).await.map_err(failed("triggers cannot be read"))?;
    Ok(rows.iter().map(|row| row.get(0)).collect())
}

/// The triggers of ours that a schema has, of whichever stream.
pub(crate) async fn triggers(on: &Client, schema: &str) -> Result<Vec<String>, PostgresError> {
    let sql = "SELECT DISTINCT tgname::text FROM pg_trigger t JOIN pg_class c ON c.oid = tgrelid
        WHERE relnamespace = (SELECT oid FROM pg_namespace WHERE nspname = $1)
            AND tgfoid = to_regprocedure('cellway.tally()') AND NOT tgisinternal";
    let rows = on.rows(sql, &[&schema]).await.map_err(failed("triggers cannot be read"))?;
    Ok(rows.iter().map(|row| row.get(0)).collect())
}

/// What was counted so far.
pub(crate) async fn read(on: &impl Ask, stream: &str) -> Result<Tally, PostgresError> {
    let sql = "SELECT tab, CASE WHEN bool_or(rows IS NULL) THEN NULL ELSE sum(rows)::bigint END,
            CASE WHEN bool_or(rows IS NULL) THEN NULL ELSE sum(hash)::text END
        FROM cellway.tally WHERE stream = $1 GROUP BY tab";
    let rows = on.rows(sql, &[&stream]).await.map_err(failed("the tally cannot be read"))?;
    Ok(rows.iter().map(|row| (row.get(0), (row.get(1), row.get(2)))).collect())
}

/// Sums up what has come together, so that reading it stays quick.
pub(crate) async fn sum_up(on: &Client, stream: &str) -> Result<(), PostgresError> {
    let sql = "WITH gone AS (DELETE FROM cellway.tally WHERE stream = $1
                AND (SELECT count(*) FROM (SELECT FROM cellway.tally WHERE stream = $1 LIMIT $2) AS first) = $2
                RETURNING *)
        INSERT INTO cellway.tally SELECT stream, tab, CASE WHEN bool_or(rows IS NULL) THEN NULL ELSE sum(rows) END,
            CASE WHEN bool_or(rows IS NULL) THEN NULL ELSE sum(hash) END FROM gone GROUP BY stream, tab";
    on.run(sql, &[&stream, &ROWS_MAX]).await.map_err(failed("the tally cannot be summed up")).map(drop)
}

/// Tables of which only a look at all of their rows can tell: they were truncated on the way.
pub(crate) fn unknown(tally: &Tally) -> Vec<String> {
    tally.iter().filter(|(_, sum)| sum.0.is_none()).map(|(table, _)| table.clone()).collect()
}

/// Tables whose changes are not the same at both ends since the source's tally was `before`, in words. Those in `looked_at`
/// are compared otherwise.
pub(crate) fn differences(before: &Tally, source: &Tally, target: &Tally, looked_at: &[String]) -> Vec<String> {
    let none: Sum = (Some(0), Some("0".to_owned()));
    let of = |tally: &Tally, table: &String| {
        let (rows, hash) = tally.get(table).unwrap_or(&none);
        (rows.unwrap_or(0), hash.as_deref().and_then(|hash| hash.parse::<i128>().ok()).unwrap_or(0))
    };
    let tables: std::collections::BTreeSet<&String> = source.keys().chain(target.keys()).chain(before.keys()).collect();
    let one = |table: &&String| {
        let (was, is, arrived) = (of(before, table), of(source, table), of(target, table));
        let sent = (is.0 - was.0, is.1.wrapping_sub(was.1));
        let same_count = sent.0 == arrived.0;
        let how = if same_count {
            "other values".to_owned()
        } else {
            format!("{} rows more than arrived", sent.0 - arrived.0)
        };
        (sent != arrived).then(|| format!("{table:?} of the source has {how}"))
    };
    let compared = tables.into_iter().filter(|table| !looked_at.contains(table));
    compared.filter_map(|table| one(&table)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tally(rows: i64, hash: i128) -> Tally {
        BTreeMap::from([("t".to_owned(), (Some(rows), Some(hash.to_string())))])
    }

    #[test]
    fn what_was_counted_before_the_copy_does_not_count() {
        assert_eq!(differences(&tally(3, 30), &tally(5, 50), &tally(2, 20), &[]), Vec::<String>::new());
        assert_eq!(differences(&Tally::new(), &Tally::new(), &Tally::new(), &[]), Vec::<String>::new());
        let fewer = differences(&tally(3, 30), &tally(5, 50), &tally(1, 20), &[]);
        assert_eq!(fewer, ["\"t\" of the source has 1 rows more than arrived"]);
        let other = differences(&Tally::new(), &tally(0, 5), &Tally::new(), &[]);
        assert_eq!(other, ["\"t\" of the source has other values"]);
    }

    #[test]
    fn a_truncated_table_is_looked_at_instead() {
        let truncated = BTreeMap::from([("t".to_owned(), (None, None))]);
        assert_eq!(unknown(&truncated), ["t"]);
        assert_eq!(differences(&Tally::new(), &truncated, &tally(1, 1), &unknown(&truncated)), Vec::<String>::new());
    }
}
