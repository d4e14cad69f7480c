//! Who may write: homes released, fenced, parked and dropped, each in one transaction with the books.

use super::error::PostgresError;
use super::ledger::{Home, Verdict, lock_homes, may_fence, may_release};
use super::names::{TenantNames, ident, literal, parked_schema};
use super::sql::{Ask, Typed};
use super::streams;
use crate::driver::DriverError;
use cellway_core::ids::{Epoch, HomeId, TenantId};
use serde_json::Value;
use std::time::{Duration, Instant};
use tokio_postgres::{Client, Transaction};

/// How long the fence waits for the tenant's sessions to end: somewhat less than traffic is held, so that who stays is named.
const SESSIONS_END_MS: u64 = 1_500;

/// How often it looks. Waiting for each session in turn (`pg_terminate_backend` with a time limit) costs 100 ms apiece.
const LOOK_INTERVAL_MS: u64 = 2;

fn check(verdict: Verdict, home: &HomeId) -> Result<(), DriverError> {
    match verdict {
        Verdict::Current => Ok(()),
        Verdict::Late => Err(DriverError::Superseded),
        Verdict::Dropped => Err(DriverError::Dropped(home.clone())),
    }
}

/// The home's row, if there is one. Nothing is written to a home that was dropped, or is in service.
pub(crate) fn check_unserved<'a>(homes: &'a [Home], home: &HomeId) -> Result<Option<&'a Home>, DriverError> {
    match check_droppable(homes, home)? {
        Some(row) if row.dropped => Err(DriverError::Dropped(home.clone())),
        row => Ok(row),
    }
}

/// The home's row, if there is one, and unless it is in service.
pub(crate) fn check_droppable<'a>(homes: &'a [Home], home: &HomeId) -> Result<Option<&'a Home>, DriverError> {
    match homes.iter().find(|row| row.home == home.as_str()) {
        Some(row) if row.is_released() => Err(DriverError::Served(home.clone())),
        row => Ok(row),
    }
}

fn failed(what: &'static str) -> impl FnOnce(tokio_postgres::Error) -> PostgresError {
    PostgresError::sql(what)
}

async fn schema_exists(on: &Transaction<'_>, schema: &str) -> Result<bool, PostgresError> {
    let sql = "SELECT EXISTS (SELECT FROM pg_namespace WHERE nspname = $1)";
    Ok(on.one(sql, &[&schema]).await.map_err(failed("pg_namespace cannot be read"))?.get(0))
}

/// Lets the app write to `home`. A home that nobody knows is taken for the tenant's first one if `may_begin`.
pub(crate) async fn release(
    client: &mut Client,
    (tenant, names): (&TenantId, &TenantNames),
    home: &HomeId,
    epoch: Epoch,
    may_begin: bool,
) -> Result<(), DriverError> {
    let on = client.transaction().await.map_err(failed("no transaction"))?;
    let homes = lock_homes(&on, tenant).await?;
    check(may_release(&homes, home, epoch), home)?;
    let lost = |why| DriverError::Lost { tenant: tenant.clone(), home: home.clone(), why };
    let known = homes.iter().find(|row| row.home == home.as_str());
    match known {
        Some(row) if !row.made => return Err(lost("it was never completed")),
        Some(row) => {
            let Some(stands) = &row.schema else { return Err(lost("it has no schema")) };
            if !schema_exists(&on, stands).await? {
                return Err(lost("its schema is gone"));
            }
            if *stands != names.schema {
                park_occupant(&on, tenant, &homes, names, home).await?;
                rename(&on, tenant, home, stands, &names.schema).await?;
            }
        }
        None if !may_begin => return Err(lost("this database never had it")),
        None => begin(&on, tenant, &homes, names, home).await?,
    }
    // What still came in from elsewhere would be mixed with what the app writes.
    streams::end_incoming(&on, tenant, home).await?;
    let update = "UPDATE cellway.homes SET released = $3 WHERE tenant = $1 AND home = $2";
    let epoch_value = epoch.0.cast_signed();
    on.run(update, &[&tenant.as_str(), &home.as_str(), &epoch_value]).await.map_err(failed("no release"))?;
    if let Some(row) = known.filter(|row| row.grants.is_some()) {
        open_schema(&on, (tenant, names), row).await?;
    }
    on.commit().await.map_err(failed("the release cannot be committed"))?;
    Ok(())
}

/// The first home of a tenant: the schema that is there, or an empty one of the tenant's role.
async fn begin(
    on: &Transaction<'_>,
    tenant: &TenantId,
    homes: &[Home],
    names: &TenantNames,
    home: &HomeId,
) -> Result<(), PostgresError> {
    park_occupant(on, tenant, homes, names, home).await?;
    if !schema_exists(on, &names.schema).await? {
        let sql = format!("CREATE SCHEMA {} AUTHORIZATION {}", ident(&names.schema), ident(&names.role));
        let what = format!("the schema cannot be made: does the role {:?} exist?", names.role);
        on.batch_execute(&sql).await.map_err(PostgresError::sql(what))?;
    }
    let sql = "INSERT INTO cellway.homes (tenant, home, schema, made) VALUES ($1, $2, $3, true)";
    on.run(sql, &[&tenant.as_str(), &home.as_str(), &names.schema]).await.map_err(failed("no new home")).map(drop)
}

/// Makes the tenant's schema free for `home`. What stands there is kept under another name, unless it is in service.
async fn park_occupant(
    on: &Transaction<'_>,
    tenant: &TenantId,
    homes: &[Home],
    names: &TenantNames,
    home: &HomeId,
) -> Result<(), PostgresError> {
    let stands_there = |row: &&Home| row.schema.as_deref() == Some(&names.schema) && row.home != home.as_str();
    let Some(occupant) = homes.iter().find(stands_there) else { return Ok(()) };
    let broken = |_| PostgresError::Missing(format!("the books hold {:?}, which is no home", occupant.home));
    let occupant_id: HomeId = occupant.home.parse().map_err(broken)?;
    if occupant.is_released() {
        return Err(PostgresError::Occupied(occupant_id));
    }
    // Its streams would write into whatever has the name next.
    streams::end_incoming(on, tenant, &occupant_id).await?;
    if schema_exists(on, &names.schema).await? {
        rename(on, tenant, &occupant_id, &names.schema, &parked_schema(tenant, &occupant_id)).await?;
    } else {
        set_schema(on, tenant, &occupant_id, None).await?;
    }
    Ok(())
}

async fn rename(
    on: &Transaction<'_>,
    tenant: &TenantId,
    home: &HomeId,
    from: &str,
    to: &str,
) -> Result<(), PostgresError> {
    let sql = format!("ALTER SCHEMA {} RENAME TO {}", ident(from), ident(to));
    on.batch_execute(&sql).await.map_err(failed("a schema cannot be renamed"))?;
    set_schema(on, tenant, home, Some(to)).await
}

async fn set_schema(
    on: &Transaction<'_>,
    tenant: &TenantId,
    home: &HomeId,
    schema: Option<&str>,
) -> Result<(), PostgresError> {
    let sql = "UPDATE cellway.homes SET schema = $3 WHERE tenant = $1 AND home = $2";
    on.run(sql, &[&tenant.as_str(), &home.as_str(), &schema]).await.map_err(failed("no change of books")).map(drop)
}

/// Enters a home that is going to arrive, and makes the tenant's schema free for it. Never empties one.
pub(crate) async fn prepare(
    client: &mut Client,
    (tenant, names): (&TenantId, &TenantNames),
    home: &HomeId,
) -> Result<(), DriverError> {
    let on = client.transaction().await.map_err(failed("no transaction"))?;
    let homes = lock_homes(&on, tenant).await?;
    let known = check_unserved(&homes, home)?;
    park_occupant(&on, tenant, &homes, names, home).await?;
    if known.and_then(|row| row.schema.as_deref()).is_none() && schema_exists(&on, &names.schema).await? {
        let why =
            format!("in the target a schema {:?} stands that belongs to no home: rename or drop it", names.schema);
        return Err(PostgresError::Preflight(vec![why]).into());
    }
    let sql = "INSERT INTO cellway.homes (tenant, home) VALUES ($1, $2) ON CONFLICT DO NOTHING";
    on.run(sql, &[&tenant.as_str(), &home.as_str()]).await.map_err(failed("no new home"))?;
    // Nobody of the tenant has anything to do here before its home is released.
    lock_out(&on, names).await?;
    on.commit().await.map_err(failed("the books cannot be committed"))?;
    Ok(())
}

async fn lock_out(on: &Transaction<'_>, names: &TenantNames) -> Result<(), PostgresError> {
    let sql = format!("ALTER ROLE {} NOLOGIN", ident(&names.role));
    let what = format!("the role {:?} cannot be locked out", names.role);
    on.batch_execute(&sql).await.map_err(PostgresError::sql(what))
}

/// Everything of `home` that was there is removed, so that it can be copied anew; what comes next may stand in the
/// tenant's schema. It must not be in service.
pub(crate) async fn empty(
    client: &mut Client,
    (tenant, names): (&TenantId, &TenantNames),
    home: &HomeId,
    can_login: bool,
) -> Result<(), DriverError> {
    let on = client.transaction().await.map_err(failed("no transaction"))?;
    let homes = lock_homes(&on, tenant).await?;
    let Some(row) = check_unserved(&homes, home)? else {
        return Err(PostgresError::Missing(format!("home {home} was never prepared")).into());
    };
    park_occupant(&on, tenant, &homes, names, home).await?;
    streams::end_incoming(&on, tenant, home).await?;
    if let Some(stands) = &row.schema {
        let sql = format!("DROP SCHEMA IF EXISTS {} CASCADE", ident(stands));
        on.batch_execute(&sql).await.map_err(failed("what was copied before cannot be dropped"))?;
    }
    let sql = "UPDATE cellway.homes SET schema = $3, made = false, grants = NULL, can_login = $4
        WHERE tenant = $1 AND home = $2";
    let values: [&dyn Typed; 4] = [&tenant.as_str(), &home.as_str(), &names.schema, &can_login];
    on.run(sql, &values).await.map_err(failed("no change of books"))?;
    on.commit().await.map_err(failed("the books cannot be committed"))?;
    Ok(())
}

/// The schema has arrived: nobody may use it before it is released.
pub(crate) async fn close_arrived(
    client: &mut Client,
    (tenant, names): (&TenantId, &TenantNames),
    home: &HomeId,
) -> Result<(), DriverError> {
    let on = client.transaction().await.map_err(failed("no transaction"))?;
    let homes = lock_homes(&on, tenant).await?;
    let row = homes.iter().find(|row| row.home == home.as_str());
    if let Some(row) = row.filter(|row| row.grants.is_none() && !row.is_released()) {
        close_schema(&on, (tenant, names), row).await?;
    }
    on.commit().await.map_err(failed("the books cannot be committed"))?;
    Ok(())
}

/// The home has everything. From what is written after this, the way back (`back`) has to read. The commit also brings to
/// the medium what replication has applied before.
pub(crate) async fn complete(
    client: &mut Client,
    tenant: &TenantId,
    home: &HomeId,
    sequences: Option<&str>,
    (stream, back): (&str, &str),
) -> Result<(), DriverError> {
    let on = client.transaction().await.map_err(failed("no transaction"))?;
    let homes = lock_homes(&on, tenant).await?;
    check_droppable(&homes, home)?;
    let durably = format!("SET LOCAL synchronous_commit = on; {}", sequences.unwrap_or_default());
    let set = async { on.batch_execute(&durably).await.map_err(failed("the sequences cannot be set")) };
    let sql = "UPDATE cellway.streams SET start_lsn = pg_current_wal_insert_lsn()
        WHERE direction = 'out' AND name = $1";
    let made = "UPDATE cellway.homes SET made = true WHERE tenant = $1 AND home = $2";
    let (tenant, home) = (tenant.as_str(), home.as_str());
    let (back, home): ([&dyn Typed; 1], [&dyn Typed; 2]) = ([&back], [&tenant, &home]);
    let change = async {
        let done = tokio::try_join!(biased; on.run(sql, &back), on.run(made, &home));
        done.map_err(failed("no change of books"))
    };
    tokio::try_join!(biased; set, change, streams::pause(&on, stream))?;
    on.commit().await.map_err(failed("the books cannot be committed"))?;
    Ok(())
}

/// From the end of this nobody writes to `home`: the role may not log in, nobody may use the schema, and whoever was at it
/// is gone. Without a schema of the home there is only the epoch to write down.
pub(crate) async fn fence(
    client: &mut Client,
    (tenant, names): (&TenantId, &TenantNames),
    home: &HomeId,
    epoch: Epoch,
) -> Result<(), DriverError> {
    let on = client.transaction().await.map_err(failed("no transaction"))?;
    let homes = lock_homes(&on, tenant).await?;
    check(may_fence(&homes, home, epoch), home)?;
    let sql = "INSERT INTO cellway.homes AS known (tenant, home, fenced) VALUES ($1, $2, $3)
        ON CONFLICT (tenant, home) DO UPDATE SET fenced = greatest(known.fenced, excluded.fenced)";
    let epoch_value = epoch.0.cast_signed();
    on.run(sql, &[&tenant.as_str(), &home.as_str(), &epoch_value]).await.map_err(failed("no fence"))?;
    let row = homes.iter().find(|row| row.home == home.as_str());
    let row = row.filter(|row| row.schema.as_deref() == Some(&names.schema));
    let Some(row) = row else {
        on.commit().await.map_err(failed("the fence cannot be committed"))?;
        return Ok(());
    };
    let close = async {
        match row.grants {
            None => close_schema(&on, (tenant, names), row).await,
            Some(_) => Ok(()),
        }
    };
    // In this order: whether the role logs in is noted before it may not.
    // The mark that follows is on the medium before it is told, and with it what was written before.
    let quickly = async {
        on.batch_execute("SET LOCAL synchronous_commit = off").await.map_err(failed("the commit cannot be made quick"))
    };
    tokio::try_join!(biased; close, lock_out(&on, names), quickly)?;
    on.commit().await.map_err(failed("the fence cannot be committed"))?;
    end_sessions(client, names).await?;
    Ok(())
}

/// Notes who may use the schema, and takes it from them. Even the owner: what runs as it may not look a table up.
async fn close_schema(
    on: &Transaction<'_>,
    (tenant, names): (&TenantId, &TenantNames),
    row: &Home,
) -> Result<(), PostgresError> {
    let sql = "SELECT coalesce(jsonb_agg(jsonb_build_object(
            'to', CASE grantee WHEN 0 THEN NULL ELSE pg_get_userbyid(grantee) END,
            'what', privilege_type, 'on', is_grantable)), '[]'),
            coalesce((SELECT rolcanlogin FROM pg_roles WHERE rolname = $2), true)
        FROM pg_namespace, aclexplode(coalesce(nspacl, acldefault('n', nspowner))) WHERE nspname = $1";
    let found = on.one(sql, &[&names.schema, &names.role]).await.map_err(failed("no grants can be read"))?;
    let grants: Value = found.get(0);
    let can_login: bool = if row.is_released() { found.get(1) } else { row.can_login };
    let sql = "UPDATE cellway.homes SET grants = $3, can_login = $4 WHERE tenant = $1 AND home = $2";
    let values: [&dyn Typed; 4] = [&tenant.as_str(), &row.home, &grants, &can_login];
    let note = async { on.run(sql, &values).await.map_err(failed("no change of books")) };
    let schema = ident(&names.schema);
    let statements = grants
        .as_array()
        .into_iter()
        .flatten()
        .map(|grant| format!("REVOKE ALL ON SCHEMA {schema} FROM {} CASCADE;", grantee(grant)));
    let sql = statements.collect::<String>();
    let revoke = async { on.batch_execute(&sql).await.map_err(failed("the schema cannot be taken from its users")) };
    tokio::try_join!(biased; note, revoke).map(drop)
}

fn grantee(grant: &Value) -> String {
    grant.get("to").and_then(Value::as_str).map_or_else(|| "PUBLIC".to_owned(), ident)
}

/// The statement that gives the schema back to whoever had it.
fn regrants(schema: &str, grants: &Value) -> String {
    let statements = grants.as_array().into_iter().flatten().filter_map(|grant| {
        // Two words are all that a schema has.
        let what = grant.get("what")?.as_str().filter(|what| matches!(*what, "USAGE" | "CREATE"))?;
        let option = if grant.get("on")?.as_bool()? { " WITH GRANT OPTION" } else { "" };
        Some(format!("GRANT {what} ON SCHEMA {} TO {}{option};", ident(schema), grantee(grant)))
    });
    statements.collect()
}

async fn open_schema(
    on: &Transaction<'_>,
    (tenant, names): (&TenantId, &TenantNames),
    row: &Home,
) -> Result<(), PostgresError> {
    let mut sql = regrants(&names.schema, row.grants.as_ref().unwrap_or(&Value::Null));
    if row.can_login {
        sql.push_str(&format!("ALTER ROLE {} LOGIN;", ident(&names.role)));
    }
    on.batch_execute(&sql).await.map_err(failed("the schema cannot be given back to its users"))?;
    let sql = "UPDATE cellway.homes SET grants = NULL WHERE tenant = $1 AND home = $2";
    on.run(sql, &[&tenant.as_str(), &row.home]).await.map_err(failed("no change of books")).map(drop)
}

/// Ends the role's sessions, and any other that has begun to write to the schema, whoever it logged in as.
async fn end_sessions(client: &Client, names: &TenantNames) -> Result<(), PostgresError> {
    let sql = format!(
        "WITH at_it AS (
            SELECT pid FROM pg_stat_activity WHERE usename = {role} AND backend_type = 'client backend'
            UNION SELECT l.pid FROM pg_locks l
                JOIN pg_class c ON c.oid = l.relation JOIN pg_namespace n ON n.oid = c.relnamespace
                LEFT JOIN pg_stat_activity a USING (pid)
            WHERE n.nspname = {schema} AND l.database = (SELECT oid FROM pg_database WHERE datname = current_database())
                AND l.mode IN ('RowExclusiveLock', 'ShareRowExclusiveLock', 'ExclusiveLock', 'AccessExclusiveLock')
                AND (a.backend_type IS NULL OR a.backend_type = 'client backend'))
        SELECT coalesce(pid, 0), coalesce(pg_terminate_backend(pid), false) FROM at_it
        WHERE pid IS DISTINCT FROM pg_backend_pid()",
        role = literal(&names.role),
        schema = literal(&names.schema),
    );
    let begun = Instant::now();
    loop {
        let left = client.rows(&sql, &[]).await.map_err(failed("sessions cannot be ended"))?;
        if left.is_empty() {
            return Ok(());
        }
        if begun.elapsed() >= Duration::from_millis(SESSIONS_END_MS) {
            let who = left.iter().map(|row| match row.get::<_, i32>(0) {
                0 => "a prepared transaction (see pg_prepared_xacts)".to_owned(),
                pid => format!("the session with pid {pid}, which does not end"),
            });
            let who = who.collect::<Vec<_>>().join(", ");
            return Err(PostgresError::Blocked { what: "the fence", waited_ms: SESSIONS_END_MS, who });
        }
        tokio::time::sleep(Duration::from_millis(LOOK_INTERVAL_MS)).await;
    }
}

/// Drops what a home has in this database, unless it is in service.
pub(crate) async fn drop_home(client: &mut Client, tenant: &TenantId, home: &HomeId) -> Result<(), DriverError> {
    let on = client.transaction().await.map_err(failed("no transaction"))?;
    let homes = lock_homes(&on, tenant).await?;
    let row = check_droppable(&homes, home)?;
    if let Some(schema) = row.and_then(|row| row.schema.as_deref()) {
        let sql = format!("DROP SCHEMA IF EXISTS {} CASCADE", ident(schema));
        on.batch_execute(&sql).await.map_err(failed("the home cannot be dropped"))?;
    }
    let sql = "INSERT INTO cellway.homes (tenant, home, dropped) VALUES ($1, $2, true)
        ON CONFLICT (tenant, home) DO UPDATE SET dropped = true, schema = NULL, grants = NULL";
    on.run(sql, &[&tenant.as_str(), &home.as_str()]).await.map_err(failed("no change of books"))?;
    on.commit().await.map_err(failed("the drop cannot be committed"))?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_taken_is_given_back_and_no_more() {
        let grants = serde_json::json!([
            {"to": "acme", "what": "USAGE", "on": false},
            {"to": null, "what": "CREATE", "on": true},
            {"to": "x", "what": "ALL; DROP", "on": false},
        ]);
        let expected = "GRANT USAGE ON SCHEMA \"acme\" TO \"acme\";\
            GRANT CREATE ON SCHEMA \"acme\" TO PUBLIC WITH GRANT OPTION;";
        assert_eq!(regrants("acme", &grants), expected);
    }
}
