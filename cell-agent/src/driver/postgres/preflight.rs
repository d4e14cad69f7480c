//! What a tenant's schema is made of, what of it cannot be moved, and whether it was changed meanwhile.

use super::error::PostgresError;
use super::names::{TenantNames, ident, literal, qualified};
use super::sql::Ask;
use serde_json::{Map, Value, json};
use std::collections::BTreeMap;
use tokio_postgres::{Client, Row};

/// The first version whose publications take row filters, and whose subscriptions stop at an error.
const VERSION_MIN: i32 = 150_000;

/// How many names stand in one reason.
const NAMES_MAX: usize = 8;

fn failed(what: &'static str) -> impl FnOnce(tokio_postgres::Error) -> PostgresError {
    PostgresError::sql(what)
}

/// What is known of a server.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct ServerFacts {
    pub(crate) version: i32,
    pub(crate) wal_level: String,
    pub(crate) encoding: String,
    pub(crate) may_subscribe: bool,
    pub(crate) free_slots: i64,
    /// `None`: there is no such role.
    pub(crate) role_is_superuser: Option<bool>,
}

/// What is known of the source's schema.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct SchemaFacts {
    pub(crate) exists: bool,
    pub(crate) without_identity: Vec<String>,
    pub(crate) unlogged: Vec<String>,
    /// Foreign tables and materialized views.
    pub(crate) not_replicated: Vec<String>,
    pub(crate) always_triggers: Vec<String>,
    pub(crate) foreign_keys_out: Vec<String>,
    pub(crate) large_objects: i64,
}

/// What the tables of the tenant's schema take on disk.
pub(crate) async fn size_bytes(on: &Client, names: &TenantNames) -> Result<u64, PostgresError> {
    let sql = "SELECT coalesce(sum(pg_total_relation_size(c.oid)), 0)::bigint FROM pg_class c
            JOIN pg_namespace n ON n.oid = c.relnamespace WHERE n.nspname = $1 AND c.relkind IN ('r', 'm')";
    let row = on.one(sql, &[&names.schema]).await.map_err(failed("the size of the schema cannot be read"))?;
    Ok(u64::try_from(row.get::<_, i64>(0)).unwrap_or(0))
}

/// Reads what is known of a server.
pub(crate) async fn server_facts(on: &Client, names: &TenantNames) -> Result<ServerFacts, PostgresError> {
    let sql = "SELECT current_setting('server_version_num')::int, current_setting('wal_level'),
            pg_encoding_to_char((SELECT encoding FROM pg_database WHERE datname = current_database())),
            (SELECT rolsuper FROM pg_roles WHERE rolname = current_user)
                OR EXISTS (SELECT FROM pg_roles WHERE rolname IN ('pg_create_subscription', 'rds_superuser',
                    'cloudsqlsuperuser', 'azure_pg_admin') AND pg_has_role(current_user, oid, 'member')),
            current_setting('max_replication_slots')::bigint - (SELECT count(*) FROM pg_replication_slots),
            (SELECT rolsuper FROM pg_roles WHERE rolname = $1)";
    let row = on.one(sql, &[&names.role]).await.map_err(failed("the server's settings cannot be read"))?;
    Ok(ServerFacts {
        version: row.get(0),
        wal_level: row.get(1),
        encoding: row.get(2),
        may_subscribe: row.get(3),
        free_slots: row.get(4),
        role_is_superuser: row.get(5),
    })
}

/// Reads what is known of the schema.
pub(crate) async fn schema_facts(on: &Client, names: &TenantNames) -> Result<SchemaFacts, PostgresError> {
    let unreadable = || failed("the schema cannot be read");
    let schema = "(SELECT oid FROM pg_namespace WHERE nspname = $1)";
    let list = |from: String| list(on, names, from);
    let exists = "SELECT EXISTS (SELECT FROM pg_namespace WHERE nspname = $1)";
    let large = "SELECT count(*) FROM pg_largeobject_metadata m JOIN pg_roles r ON r.oid = m.lomowner
        WHERE r.rolname = $1";
    Ok(SchemaFacts {
        exists: on.one(exists, &[&names.schema]).await.map_err(unreadable())?.get(0),
        without_identity: list(format!(
            "SELECT relname FROM pg_class c WHERE relnamespace = {schema} AND relkind = 'r' AND (relreplident = 'n'
                OR relreplident = 'd' AND NOT EXISTS (SELECT FROM pg_index WHERE indrelid = c.oid AND indisprimary)
                OR relreplident = 'i' AND NOT EXISTS (SELECT FROM pg_index WHERE indrelid = c.oid AND indisreplident))"
        ))
        .await?,
        unlogged: list(format!(
            "SELECT relname FROM pg_class WHERE relnamespace = {schema} AND relkind IN ('r', 'S') AND relpersistence = 'u'"
        ))
        .await?,
        not_replicated: list(format!(
            "SELECT relname FROM pg_class WHERE relnamespace = {schema} AND relkind IN ('f', 'm')"
        ))
        .await?,
        always_triggers: list(format!(
            "SELECT relname || '.' || tgname FROM pg_trigger t JOIN pg_class c ON c.oid = tgrelid
             WHERE relnamespace = {schema} AND NOT tgisinternal AND tgenabled IN ('A', 'R')
                AND tgname NOT LIKE 'cellway\\_%'"
        ))
        .await?,
        foreign_keys_out: list(format!(
            "SELECT conname FROM pg_constraint k JOIN pg_class c ON c.oid = conrelid JOIN pg_class f ON f.oid = confrelid
             WHERE contype = 'f' AND c.relnamespace <> f.relnamespace AND {schema} IN (c.relnamespace, f.relnamespace)"
        ))
        .await?,
        large_objects: on.one(large, &[&names.role]).await.map_err(unreadable())?.get(0),
    })
}

/// The names that `from` selects.
async fn list(on: &Client, names: &TenantNames, from: String) -> Result<Vec<String>, PostgresError> {
    let sql = format!("SELECT name::text FROM ({from}) AS found (name) ORDER BY 1");
    let rows = on.rows(&sql, &[&names.schema]).await.map_err(failed("the schema cannot be read"))?;
    Ok(rows.iter().map(|row| row.get(0)).collect())
}

/// Everything that speaks against the move, each with what to do about it; empty if nothing does.
pub(crate) fn objections(
    names: &TenantNames,
    (source, target): (&ServerFacts, &ServerFacts),
    schema: &SchemaFacts,
) -> Vec<String> {
    let mut found = Vec::new();
    for (side, server) in [("source", source), ("target", target)] {
        if server.version < VERSION_MIN {
            let version = server.version / 10_000;
            found.push(format!("the {side}'s server is PostgreSQL {version}: 15 or later is needed"));
        }
        if server.wal_level != "logical" {
            found.push(format!("wal_level is {} at the {side}: set it to logical and restart", server.wal_level));
        }
        if !server.may_subscribe {
            found.push(format!("the mover's role may not subscribe at the {side}: see docs/operate/postgres.md"));
        }
        // One for the stream, one for the proof of the way back.
        if server.free_slots < 2 {
            found.push(format!("no free replication slots at the {side}: raise max_replication_slots"));
        }
        match server.role_is_superuser {
            None => found.push(format!(
                "the role {:?} does not exist at the {side}: CREATE ROLE {} with its password there",
                names.role,
                ident(&names.role)
            )),
            Some(true) => {
                found.push(format!("the role {:?} is a superuser at the {side}, whom nothing can fence", names.role));
            }
            Some(false) => {}
        }
    }
    if source.encoding != target.encoding {
        found.push(format!("the databases' encodings differ: {} and {}", source.encoding, target.encoding));
    }
    if !schema.exists {
        found.push(format!("the source has no schema {:?}", names.schema));
    }
    let mut object = |what: &[String], why: &str| {
        if !what.is_empty() {
            found.push(format!("{}: {why}", few(what)));
        }
    };
    object(
        &schema.without_identity,
        "without a replica identity, updates would fail once published: add a primary key, or ALTER TABLE … REPLICA \
         IDENTITY FULL",
    );
    object(&schema.unlogged, "unlogged, so not replicated: ALTER TABLE … SET LOGGED");
    object(
        &schema.not_replicated,
        "foreign tables and materialized views are not replicated: drop them, or make them views",
    );
    object(
        &schema.always_triggers,
        "triggers that also fire on replicated rows would act twice: ENABLE TRIGGER (origin)",
    );
    object(&schema.foreign_keys_out, "foreign keys to or from another schema cannot move with this one: drop them");
    if schema.large_objects > 0 {
        found.push(format!(
            "{} large objects of role {:?}: they are not replicated; keep them in bytea columns (lo_get) and lo_unlink them",
            schema.large_objects, names.role
        ));
    }
    found
}

fn few(names: &[String]) -> String {
    let shown = names.iter().take(NAMES_MAX).map(|name| format!("{name:?}")).collect::<Vec<_>>().join(", ");
    if names.len() > NAMES_MAX { format!("{shown} and {} more", names.len() - NAMES_MAX) } else { shown }
}

/// A table to copy.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Table {
    pub(crate) name: String,
    /// The columns that are stored as they are: not the generated ones.
    pub(crate) columns: Vec<String>,
    /// Whether all of them have a binary form.
    pub(crate) binary: bool,
    pub(crate) bytes: i64,
    pub(crate) index_bytes: i64,
}

/// Their names.
pub(crate) async fn table_names(on: &impl Ask, schema: &str) -> Result<Vec<String>, PostgresError> {
    Ok(tables(on, schema).await?.into_iter().map(|table| table.name).collect())
}

/// The tables of the schema that have rows of their own, largest first.
pub(crate) async fn tables(on: &impl Ask, schema: &str) -> Result<Vec<Table>, PostgresError> {
    let sql = "SELECT c.relname::text,
            coalesce(array_agg(a.attname::text ORDER BY attnum) FILTER (WHERE attgenerated = ''), '{}'),
            coalesce(bool_and(t.typsend <> 0 AND t.typreceive <> 0), true), pg_table_size(c.oid), pg_indexes_size(c.oid)
        FROM pg_class c LEFT JOIN pg_attribute a ON attrelid = c.oid AND attnum > 0 AND NOT attisdropped
        LEFT JOIN pg_type t ON t.oid = atttypid
        WHERE relnamespace = (SELECT oid FROM pg_namespace WHERE nspname = $1) AND relkind = 'r'
        GROUP BY c.oid, c.relname ORDER BY 4 DESC, 1";
    let rows = on.rows(sql, &[&schema]).await.map_err(failed("the tables cannot be listed"))?;
    let table = |row: &Row| Table {
        name: row.get(0),
        columns: row.get(1),
        binary: row.get(2),
        bytes: row.get(3),
        index_bytes: row.get(4),
    };
    Ok(rows.iter().map(table).collect())
}

/// What the schema looks like, but for its rows. It changes with every DDL that could matter to a copy or a stream.
pub(crate) async fn fingerprint(on: &impl Ask, schema: &str) -> Result<String, PostgresError> {
    let sql = "WITH ns AS (SELECT oid FROM pg_namespace WHERE nspname = $1),
        rel AS (SELECT c.* FROM pg_class c, ns WHERE relnamespace = ns.oid),
        parts (part) AS (
            SELECT ROW(oid, relname, relkind, relpersistence, relreplident, reloptions, relrowsecurity)::text FROM rel
            UNION ALL SELECT ROW(attrelid, attnum, attname, atttypid, atttypmod, attnotnull, attisdropped, attgenerated,
                attidentity)::text FROM pg_attribute WHERE attrelid IN (SELECT oid FROM rel) AND attnum > 0
            UNION ALL SELECT ROW(oid, adbin)::text FROM pg_attrdef WHERE adrelid IN (SELECT oid FROM rel)
            UNION ALL SELECT ROW(k.oid, conname, conrelid, convalidated)::text FROM pg_constraint k, ns
                WHERE connamespace = ns.oid
            UNION ALL SELECT ROW(t.oid, tgname, tgenabled)::text FROM pg_trigger t
                WHERE tgrelid IN (SELECT oid FROM rel) AND NOT tgisinternal AND tgname NOT LIKE 'cellway\\_%'
            UNION ALL SELECT ROW(p.oid, proname, md5(prosrc))::text FROM pg_proc p, ns WHERE pronamespace = ns.oid
            UNION ALL SELECT ROW(t.oid, typname, enumlabel, enumsortorder)::text FROM pg_type t
                JOIN ns ON typnamespace = ns.oid LEFT JOIN pg_enum ON enumtypid = t.oid WHERE typtype IN ('e', 'd')
            UNION ALL SELECT ROW(p.oid, polname, polrelid)::text FROM pg_policy p
                WHERE polrelid IN (SELECT oid FROM rel))
        SELECT md5(coalesce(string_agg(md5(part), '' ORDER BY part), '')) FROM parts";
    Ok(on.one(sql, &[&schema]).await.map_err(failed("the schema cannot be read"))?.get(0))
}

/// Where each sequence of the schema is: `{name: [last value, whether it was given out]}`.
pub(crate) async fn sequences(on: &impl Ask, schema: &str) -> Result<Value, PostgresError> {
    let unreadable = || failed("the sequences cannot be read");
    let sql = "SELECT relname::text FROM pg_class WHERE relkind = 'S'
        AND relnamespace = (SELECT oid FROM pg_namespace WHERE nspname = $1)";
    let rows = on.rows(sql, &[&schema]).await.map_err(unreadable())?;
    let one = |row: &Row| {
        let name: String = row.get(0);
        format!("SELECT {}::text, last_value, is_called FROM {}", literal(&name), qualified(schema, &name))
    };
    let sql = rows.iter().map(one).collect::<Vec<_>>().join(" UNION ALL ");
    let mut values = Map::new();
    if !sql.is_empty() {
        for row in on.rows(&sql, &[]).await.map_err(unreadable())? {
            values.insert(row.get(0), json!([row.get::<_, i64>(1), row.get::<_, bool>(2)]));
        }
    }
    Ok(Value::Object(values))
}

/// The statement that brings the sequences to where they were; `None` if there are none.
pub(crate) fn set_sequences(schema: &str, sequences: &Value) -> Option<String> {
    let one = |(name, value): (&String, &Value)| {
        let (last, called) = (value.get(0)?.as_i64()?, value.get(1)?.as_bool()?);
        Some(format!("setval({}, {last}, {called})", literal(&qualified(schema, name))))
    };
    let calls: Vec<String> = sequences.as_object()?.iter().filter_map(one).collect();
    (!calls.is_empty()).then(|| format!("SELECT {}", calls.join(", ")))
}

/// Per table: how many rows, and the sum of their hashes where it was asked for.
pub(crate) async fn sums(
    on: &impl Ask,
    schema: &str,
    tables: &[String],
    with_hashes: bool,
) -> Result<BTreeMap<String, (i64, String)>, PostgresError> {
    let hash = if with_hashes { "coalesce(sum(hashtextextended(t::text, 0)::numeric), 0)::text" } else { "'0'" };
    let one = |table: &String| {
        let from = qualified(schema, table);
        format!("SELECT {}::text, count(*), {hash} FROM ONLY {from} AS t", literal(table))
    };
    let sql = tables.iter().map(one).collect::<Vec<_>>().join(" UNION ALL ");
    if sql.is_empty() {
        return Ok(BTreeMap::new());
    }
    let rows = on.rows(&sql, &[]).await.map_err(failed("the rows cannot be counted"))?;
    Ok(rows.iter().map(|row| (row.get(0), (row.get(1), row.get(2)))).collect())
}

/// Tables that are not the same, in words.
pub(crate) fn differences(
    source: &BTreeMap<String, (i64, String)>,
    target: &BTreeMap<String, (i64, String)>,
) -> Vec<String> {
    let names: std::collections::BTreeSet<&String> = source.keys().chain(target.keys()).collect();
    let one = |name: &String| match (source.get(name), target.get(name)) {
        (Some(at_source), Some(at_target)) if at_source == at_target => None,
        (Some((rows, _)), Some((arrived, _))) if rows == arrived => Some(format!("{name:?} has other values")),
        (Some((rows, _)), Some((arrived, _))) => Some(format!("{name:?} has {rows} rows, {arrived} arrived")),
        (_, at_target) => {
            let there = if at_target.is_some() { "target" } else { "source" };
            Some(format!("{name:?} is only at the {there}"))
        }
    };
    names.into_iter().filter_map(one).take(NAMES_MAX).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn server() -> ServerFacts {
        ServerFacts {
            version: 150_000,
            wal_level: "logical".to_owned(),
            encoding: "UTF8".to_owned(),
            may_subscribe: true,
            free_slots: 8,
            role_is_superuser: Some(false),
        }
    }

    fn names() -> TenantNames {
        TenantNames { schema: "acme".to_owned(), role: "acme".to_owned() }
    }

    #[test]
    fn what_can_be_moved_meets_no_objection() {
        let schema = SchemaFacts { exists: true, ..SchemaFacts::default() };
        assert_eq!(objections(&names(), (&server(), &server()), &schema), Vec::<String>::new());
    }

    #[test]
    fn every_objection_says_what_to_do() {
        let one = |name: &str| vec![name.to_owned()];
        let schema = SchemaFacts {
            exists: true,
            without_identity: one("log"),
            unlogged: one("cache"),
            not_replicated: one("totals"),
            always_triggers: one("t.audit"),
            foreign_keys_out: one("fk"),
            large_objects: 3,
        };
        let old = ServerFacts { version: 140_011, wal_level: "replica".to_owned(), ..server() };
        let poor = ServerFacts { may_subscribe: false, free_slots: 1, role_is_superuser: None, ..server() };
        let found = objections(&names(), (&old, &poor), &schema).join("\n");
        for said in [
            "PostgreSQL 14",
            "wal_level is replica",
            "postgres.md",
            "max_replication_slots",
            "CREATE ROLE \"acme\"",
            "REPLICA IDENTITY FULL",
            "SET LOGGED",
            "make them views",
            "ENABLE TRIGGER",
            "drop them",
            "lo_unlink",
        ] {
            assert!(found.contains(said), "{said} is not in\n{found}");
        }
    }

    #[test]
    fn sequences_go_on_where_they_were() {
        let sequences = json!({"orders_id_seq": [41, true], "o'x": [1, false]});
        let sql = set_sequences("acme", &sequences);
        let expected = r#"SELECT setval(E'"acme"."o''x"', 1, false), setval(E'"acme"."orders_id_seq"', 41, true)"#;
        assert_eq!(sql.as_deref(), Some(expected));
        assert_eq!(set_sequences("acme", &json!({})), None);
    }

    #[test]
    fn a_difference_is_told_by_table() {
        let sums = |rows, sum: &str| BTreeMap::from([("t".to_owned(), (rows, sum.to_owned()))]);
        assert_eq!(differences(&sums(3, "7"), &sums(3, "7")), Vec::<String>::new());
        assert_eq!(differences(&sums(3, "7"), &sums(2, "7")), ["\"t\" has 3 rows, 2 arrived"]);
        assert_eq!(differences(&sums(3, "7"), &sums(3, "8")), ["\"t\" has other values"]);
        assert_eq!(differences(&sums(3, "7"), &BTreeMap::new()), ["\"t\" is only at the source"]);
    }
}
