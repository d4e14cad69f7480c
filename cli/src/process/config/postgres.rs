//! The agent's file, `driver: postgres`.

use super::fields::CellField;
use cellway_cell_agent::{
    POSTGRES_COPY_JOBS, POSTGRES_DEAD_AFTER_MS, POSTGRES_SLOT_WAIT_MS, POSTGRES_TENANT, PostgresConfig, PostgresServer,
    PostgresVerify,
};
use cellway_core::ids::CellName;
use serde::Deserialize;
use std::collections::BTreeMap;
use std::path::PathBuf;

/// Where Postgres listens if nothing else is said.
const PORT: u16 = 5432;

/// See `docs/operate/postgres.md`.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct PostgresFields {
    #[serde(default = "tenant")]
    schema: String,
    #[serde(default = "tenant")]
    role: String,
    #[serde(default)]
    bin_dir: Option<PathBuf>,
    #[serde(default)]
    verify: VerifyField,
    #[serde(default = "copy_jobs")]
    copy_jobs: usize,
    #[serde(default = "slot_wait_ms")]
    slot_wait_ms: u64,
    #[serde(default = "dead_after_ms")]
    dead_after_ms: u64,
    servers: BTreeMap<String, ServerFields>,
}

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
enum VerifyField {
    None,
    #[default]
    Counts,
    Checksums,
}

#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
struct ServerFields {
    host: String,
    #[serde(default = "port")]
    port: u16,
    database: String,
    user: String,
    #[serde(default)]
    password_file: Option<PathBuf>,
    #[serde(default)]
    sslmode: SslMode,
    #[serde(default)]
    ca_file: Option<PathBuf>,
    #[serde(default)]
    replication_file: Option<PathBuf>,
}

/// There is nothing in between: TLS that does not check whom it talks to keeps nobody out.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
enum SslMode {
    #[default]
    VerifyFull,
    Disable,
}

fn tenant() -> String {
    POSTGRES_TENANT.to_owned()
}

fn copy_jobs() -> usize {
    POSTGRES_COPY_JOBS
}

fn slot_wait_ms() -> u64 {
    POSTGRES_SLOT_WAIT_MS
}

fn dead_after_ms() -> u64 {
    POSTGRES_DEAD_AFTER_MS
}

fn port() -> u16 {
    PORT
}

impl PostgresFields {
    pub(super) fn check(&self, cell: &CellField) -> Result<(), String> {
        for (key, pattern) in [("schema", &self.schema), ("role", &self.role)] {
            if !pattern.contains(POSTGRES_TENANT) {
                return Err(format!(
                    "driver: postgres: {key}: {pattern:?} has no {POSTGRES_TENANT} in it, so tenants would share one"
                ));
            }
        }
        for (key, value) in [("slot_wait_ms", self.slot_wait_ms), ("dead_after_ms", self.dead_after_ms)] {
            if value == 0 {
                return Err(format!("driver: postgres: {key}: 0 would leave no time for anything"));
            }
        }
        if self.copy_jobs == 0 {
            return Err("driver: postgres: copy_jobs: 0 would copy nothing".to_owned());
        }
        if !self.servers.contains_key(cell.0.as_str()) {
            return Err(format!("driver: postgres: servers: none for {}, the agent's own cell", cell.0));
        }
        for (name, server) in &self.servers {
            let wrong = |why: String| Err(format!("driver: postgres: servers: {name}: {why}"));
            if let Err(error) = name.parse::<CellName>() {
                return wrong(error.to_string());
            }
            let is_socket = server.host.starts_with('/');
            match (server.sslmode, &server.ca_file) {
                _ if is_socket => {}
                (SslMode::VerifyFull, None) => {
                    return wrong("sslmode verify-full needs `ca_file`, the certificates that vouch for it".to_owned());
                }
                (SslMode::Disable, Some(_)) => return wrong("sslmode disable has no use for `ca_file`".to_owned()),
                (SslMode::VerifyFull, Some(_)) | (SslMode::Disable, None) => {}
            }
        }
        Ok(())
    }

    /// As the agent takes it; it was checked before.
    pub(crate) fn into_config(self) -> PostgresConfig {
        let server = |(name, fields): (String, ServerFields)| {
            let ServerFields { host, port, database, user, password_file, sslmode: _, ca_file, replication_file } =
                fields;
            let server = PostgresServer { host, port, database, user, password_file, ca_file, replication_file };
            Some((name.parse().ok()?, server))
        };
        PostgresConfig {
            schema: self.schema,
            role: self.role,
            bin_dir: self.bin_dir,
            verify: match self.verify {
                VerifyField::None => PostgresVerify::None,
                VerifyField::Counts => PostgresVerify::Counts,
                VerifyField::Checksums => PostgresVerify::Checksums,
            },
            copy_jobs: self.copy_jobs,
            slot_wait_ms: self.slot_wait_ms,
            dead_after_ms: self.dead_after_ms,
            servers: self.servers.into_iter().filter_map(server).collect(),
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    fn read(yaml: &str) -> Result<PostgresConfig, String> {
        let fields: PostgresFields = serde_saphyr::from_str(yaml).map_err(|error| error.to_string())?;
        fields.check(&CellField("cell-a".parse().unwrap()))?;
        Ok(fields.into_config())
    }

    #[test]
    fn defaults_are_a_schema_and_a_role_per_tenant_and_tls() {
        let config = read("servers: {cell-a: {host: db-a, database: app, user: cellway, ca_file: /ca}}").unwrap();
        assert_eq!((config.schema.as_str(), config.role.as_str()), ("{tenant}", "{tenant}"));
        assert_eq!((config.verify, config.servers.len()), (PostgresVerify::Counts, 1));
    }

    #[test]
    fn what_would_mix_tenants_or_trust_anybody_is_refused() {
        let server = "{host: db-a, database: app, user: cellway, ca_file: /ca}";
        for (yaml, said) in [
            (format!("schema: app\nservers: {{cell-a: {server}}}"), "tenants would share"),
            (format!("role: app\nservers: {{cell-a: {server}}}"), "tenants would share"),
            (format!("servers: {{cell-b: {server}}}"), "none for cell-a"),
            ("servers: {cell-a: {host: db-a, database: app, user: cellway}}".to_owned(), "needs `ca_file`"),
            ("servers: {cell-a: {host: a, database: b, user: c, sslmode: require}}".to_owned(), "require"),
            (format!("copy_jobs: 0\nservers: {{cell-a: {server}}}"), "copy nothing"),
        ] {
            let error = read(&yaml).unwrap_err();
            assert!(error.contains(said), "{error}");
        }
    }
}
