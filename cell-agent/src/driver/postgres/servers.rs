//! Connections to the servers of the cells: kept open between steps, for a login costs what a tenant would feel.

use super::error::PostgresError;
use super::names::conninfo_value;
use super::tls::Tls;
use crate::config::{PostgresConfig, PostgresServer};
use cellway_core::ids::CellName;
use parking_lot::Mutex;
use std::collections::BTreeMap;
use std::ops::{Deref, DerefMut};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;
use tokio_postgres::{Client, Config, NoTls};

/// Connections that are kept per server.
const IDLE_MAX: usize = 8;

/// How long a server may take to let us in.
const CONNECT_MS: u64 = 5_000;

/// The longest statement that is not expected to be long.
const STATEMENT_MS: u64 = 30_000;

/// What all sessions of the mover have set: names are written out, and values read the same everywhere.
const SESSION: &str = "-c search_path=pg_catalog -c TimeZone=UTC -c DateStyle=ISO -c IntervalStyle=postgres \
    -c extra_float_digits=1 -c bytea_output=hex -c row_security=off -c idle_in_transaction_session_timeout=0";

type Idle = Arc<Mutex<Vec<Client>>>;

/// The servers that the agent's file names.
#[derive(Debug)]
pub(crate) struct Servers {
    servers: BTreeMap<CellName, (PostgresServer, Idle)>,
    bin_dir: Option<PathBuf>,
}

/// A connection of the pool. It goes back if [`Lease::keep`] is called, and is closed if it is dropped.
pub(crate) struct Lease {
    client: Client,
    idle: Idle,
}

impl Lease {
    /// There is nothing left open on it: the next step may have it.
    pub(crate) fn keep(self) {
        let mut idle = self.idle.lock();
        if idle.len() < IDLE_MAX {
            idle.push(self.client);
        }
    }
}

impl Deref for Lease {
    type Target = Client;
    fn deref(&self) -> &Client {
        &self.client
    }
}

impl DerefMut for Lease {
    fn deref_mut(&mut self) -> &mut Client {
        &mut self.client
    }
}

impl Servers {
    pub(crate) fn new(config: &PostgresConfig) -> Self {
        let servers = config.servers.iter().map(|(cell, server)| (cell.clone(), (server.clone(), Idle::default())));
        Self { servers: servers.collect(), bin_dir: config.bin_dir.clone() }
    }

    fn of(&self, cell: &str) -> Result<&(PostgresServer, Idle), PostgresError> {
        self.servers.get(cell).ok_or_else(|| PostgresError::NoServer(cell.to_owned()))
    }

    /// The database of a cell.
    pub(crate) fn database(&self, cell: &str) -> Result<&str, PostgresError> {
        Ok(&self.of(cell)?.0.database)
    }

    /// A connection, an old one if there is any.
    pub(crate) async fn lease(&self, cell: &str) -> Result<Lease, PostgresError> {
        let (_, idle) = self.of(cell)?;
        loop {
            let known = idle.lock().pop();
            match known {
                Some(client) if client.is_closed() => {}
                Some(client) => return Ok(Lease { client, idle: Arc::clone(idle) }),
                None => break,
            }
        }
        let client = self.connect(cell, "cellway", STATEMENT_MS).await?;
        Ok(Lease { client, idle: Arc::clone(idle) })
    }

    /// A connection of its own, whose statements may take as long as they like.
    pub(crate) async fn connect_for_long(&self, cell: &str, application: &str) -> Result<Client, PostgresError> {
        self.connect(cell, application, 0).await
    }

    async fn connect(&self, cell: &str, application: &str, statement_ms: u64) -> Result<Client, PostgresError> {
        let (server, _) = self.of(cell)?;
        let mut config = Config::new();
        if server.host.starts_with('/') {
            config.host_path(&server.host)
        } else {
            config.host(&server.host)
        };
        config.port(server.port).dbname(&server.database).user(&server.user).application_name(application);
        config.connect_timeout(Duration::from_millis(CONNECT_MS));
        config.options(format!("{SESSION} -c statement_timeout={statement_ms}"));
        if let Some(password) = password(server)? {
            config.password(password);
        }
        let failed = |source| PostgresError::Connect { cell: cell.to_owned(), source };
        match &server.ca_file {
            Some(ca_file) => {
                config.ssl_mode(tokio_postgres::config::SslMode::Require);
                let (client, connection) = config.connect(Tls::trusting(ca_file)?).await.map_err(failed)?;
                tokio::spawn(connection);
                Ok(client)
            }
            None => {
                config.ssl_mode(tokio_postgres::config::SslMode::Disable);
                let (client, connection) = config.connect(NoTls).await.map_err(failed)?;
                tokio::spawn(connection);
                Ok(client)
            }
        }
    }

    /// How the server of another cell subscribes to this one. It has the password in it: for a statement, not for a log.
    pub(crate) fn conninfo(&self, cell: &str) -> Result<String, PostgresError> {
        let (server, _) = self.of(cell)?;
        if let Some(path) = &server.replication_file {
            return read_line(path);
        }
        let port = server.port.to_string();
        let mut fields =
            vec![("host", server.host.as_str()), ("port", &port), ("dbname", &server.database), ("user", &server.user)];
        let password = password(server)?;
        if let Some(password) = &password {
            fields.push(("password", password));
        }
        let ca_file = server.ca_file.as_ref().map(|path| path.display().to_string());
        if let Some(ca_file) = &ca_file {
            fields.extend([("sslmode", "verify-full"), ("sslrootcert", ca_file)]);
        }
        let fields = fields.iter().map(|(key, value)| format!("{key}={}", conninfo_value(value)));
        Ok(fields.collect::<Vec<_>>().join(" "))
    }

    /// The program, with the server in its environment, which other users cannot read.
    pub(crate) fn program(
        &self,
        tool: &str,
        cell: &str,
        application: &str,
    ) -> Result<tokio::process::Command, PostgresError> {
        let (server, _) = self.of(cell)?;
        let program = self.bin_dir.as_ref().map_or_else(|| PathBuf::from(tool), |dir| dir.join(tool));
        let mut command = tokio::process::Command::new(program);
        for (name, _) in std::env::vars_os() {
            if name.to_string_lossy().starts_with("PG") {
                command.env_remove(name);
            }
        }
        command.env("PGHOST", &server.host).env("PGPORT", server.port.to_string());
        command.env("PGDATABASE", &server.database).env("PGUSER", &server.user).env("PGAPPNAME", application);
        command.env("PGOPTIONS", "-c statement_timeout=0 -c row_security=off");
        if let Some(password) = password(server)? {
            command.env("PGPASSWORD", password);
        }
        match &server.ca_file {
            Some(ca_file) => command.env("PGSSLMODE", "verify-full").env("PGSSLROOTCERT", ca_file),
            None => command.env("PGSSLMODE", "disable"),
        };
        command.kill_on_drop(true);
        Ok(command)
    }
}

fn password(server: &PostgresServer) -> Result<Option<String>, PostgresError> {
    server.password_file.as_deref().map(read_line).transpose()
}

fn read_line(path: &Path) -> Result<String, PostgresError> {
    let text = std::fs::read_to_string(path);
    let text = text.map_err(|source| PostgresError::File { path: path.to_owned(), source })?;
    Ok(text.trim_end_matches(['\r', '\n']).to_owned())
}
