//! The copy: the schema by `pg_dump` and `pg_restore`, the rows by `COPY` from server to server through this agent, all of
//! it as one snapshot shows it, from which the stream of changes goes on.

use super::error::PostgresError;
use super::names::{ident, literal, qualified};
use super::preflight::{Table, differences, fingerprint, sums, tables};
use super::servers::Servers;
use super::sql::Ask;
use super::streams;
use super::tally::{self, Tally};
use crate::config::PostgresVerify;
use crate::driver::Progress;
use bytes::Bytes;
use futures_util::future::try_join_all;
use futures_util::{SinkExt, StreamExt, pin_mut};
use parking_lot::Mutex;
use std::collections::VecDeque;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::process::{Child, ChildStdin, Command};
use tokio::time::timeout;
use tokio_postgres::Client;

/// How often the progress of indexes is looked at.
const LOOK_INTERVAL_MS: u64 = 500;

/// How long `pg_dump` waits for a lock that somebody else's DDL holds.
const DUMP_LOCK_MS: u64 = 5_000;

/// How much of a tool's last words is kept.
const WHY_MAX_BYTES: usize = 2_048;

/// What sessions that load have set.
const LOADING: &str = "SET synchronous_commit = off; SET maintenance_work_mem = '256MB'";

/// One copy.
pub(crate) struct Copy<'a> {
    pub(crate) servers: &'a Servers,
    pub(crate) own: &'a str,
    pub(crate) source: &'a str,
    pub(crate) schema: &'a str,
    /// The stream that goes on where the copy ends; its sessions bear this name, so that they can be found and ended.
    pub(crate) stream: &'a str,
    pub(crate) jobs: usize,
    pub(crate) slot_wait_ms: u64,
    /// For the dump of the schema.
    pub(crate) dir: &'a Path,
    pub(crate) verify: PostgresVerify,
    pub(crate) progress: &'a Progress,
}

/// A snapshot of the source, for as long as this is kept.
struct Snapshot {
    name: String,
    _child: Child,
    _stdin: ChildStdin,
}

/// The schema without its rows, and what is known of it.
pub(crate) struct Shape {
    snapshot: Snapshot,
    _reader: Client,
    tables: Vec<Table>,
    fingerprint: String,
    before: Tally,
    /// Triggers of ours that the source has, and the copy must not get: those of earlier moves too.
    tallied_by: Vec<String>,
    data: u64,
    total: u64,
    dump: PathBuf,
}

/// What the copy is of.
pub(crate) struct Copied {
    pub(crate) fingerprint: String,
    /// What was tallied before the snapshot.
    pub(crate) before: Tally,
    pub(crate) bytes: u64,
}

impl Copy<'_> {
    /// Ends what an earlier attempt at this stream may still run, at both ends: an agent that was killed leaves its tools.
    pub(crate) async fn end_earlier(&self, own: &Client, source: &Client) -> Result<(), PostgresError> {
        let sql = "SELECT pg_terminate_backend(pid, 1000) FROM pg_stat_activity
            WHERE application_name = $1 AND pid <> pg_backend_pid()";
        for client in [own, source] {
            let failed = PostgresError::sql("what an earlier copy has left cannot be ended");
            client.run(sql, &[&self.stream]).await.map_err(failed)?;
        }
        Ok(())
    }

    /// Makes slot and snapshot, and the empty tables in the place of the schema.
    pub(crate) async fn shape(&self, source: &Client) -> Result<Shape, PostgresError> {
        let snapshot = self.snapshot(source).await?;
        let reader = self.reader(&snapshot).await?;
        let tables = tables(&reader, self.schema).await?;
        let fingerprint = fingerprint(&reader, self.schema).await?;
        let before = tally::read(&reader, self.stream).await?;
        let tallied_by = tally::triggers(&reader, self.schema).await?;
        let data: u64 = tables.iter().map(|table| table.bytes.cast_unsigned()).sum();
        let indexes: u64 = tables.iter().map(|table| table.index_bytes.cast_unsigned()).sum();
        self.progress.set(1, data + indexes);
        let dump = self.dir.join(format!("{}.dump", self.stream));
        self.dump(&snapshot, &dump).await?;
        self.restore(&dump, None).await?;
        let total = data + indexes;
        Ok(Shape { snapshot, _reader: reader, tables, fingerprint, before, tallied_by, data, total, dump })
    }

    /// Brings the rows, then what stands on them.
    pub(crate) async fn fill(&self, shape: Shape) -> Result<Copied, PostgresError> {
        let Shape { snapshot, _reader: reader, tables, fingerprint, before, tallied_by, data, total, dump } = shape;
        self.copy_tables(&snapshot, &tables, total).await?;
        drop((reader, snapshot));
        let list = self.list(&dump, &tallied_by).await?;
        self.build_indexes((&dump, &list), (data, total)).await?;
        // They hold no rows; one that stays behind is overwritten by the next attempt.
        let _ = std::fs::remove_file(&dump);
        let _ = std::fs::remove_file(&list);
        self.analyze(&tables).await?;
        self.progress.set(total, total);
        Ok(Copied { fingerprint, before, bytes: total })
    }

    /// Makes the stream's slot, which every running transaction of the source's server holds up, and exports what it
    /// sees. Only a connection of the replication protocol can, and only `psql` has one for us.
    async fn snapshot(&self, source: &Client) -> Result<Snapshot, PostgresError> {
        let mut command = self.servers.program("psql", self.source, self.stream)?;
        command.args(["-X", "-q", "-A", "-t", "-v", "ON_ERROR_STOP=1", "-d", "replication=database"]);
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let lost = |why: &str| PostgresError::Tool { tool: "psql", why: why.to_owned() };
        let mut child = command.spawn().map_err(|error| lost(&error.to_string()))?;
        let mut stdin = child.stdin.take().ok_or_else(|| lost("no pipe"))?;
        let mut stdout = BufReader::new(child.stdout.take().ok_or_else(|| lost("no pipe"))?);
        let mut stderr = child.stderr.take().ok_or_else(|| lost("no pipe"))?;
        let order = format!("CREATE_REPLICATION_SLOT {} LOGICAL pgoutput (SNAPSHOT 'export');\n", ident(self.stream));
        stdin.write_all(order.as_bytes()).await.map_err(|error| lost(&error.to_string()))?;
        let mut line = String::new();
        match timeout(Duration::from_millis(self.slot_wait_ms), stdout.read_line(&mut line)).await {
            Ok(_) if !line.trim().is_empty() => {}
            Ok(_) => {
                let mut why = String::new();
                let _ = timeout(Duration::from_secs(1), stderr.read_to_string(&mut why)).await;
                return Err(lost(why.trim()));
            }
            Err(_) => {
                let who = streams::blockers(source).await?;
                drop(child);
                let end = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name = $1";
                let failed = PostgresError::sql("a slot that waits cannot be ended");
                source.run(end, &[&self.stream]).await.map_err(failed)?;
                return Err(PostgresError::Blocked { what: "a replication slot", waited_ms: self.slot_wait_ms, who });
            }
        }
        let name = line.trim().split('|').nth(2).ok_or_else(|| lost(&format!("it said {line:?}")))?.to_owned();
        Ok(Snapshot { name, _child: child, _stdin: stdin })
    }

    /// A connection to the source that sees the snapshot.
    async fn reader(&self, snapshot: &Snapshot) -> Result<Client, PostgresError> {
        let client = self.servers.connect_for_long(self.source, self.stream).await?;
        let name = literal(&snapshot.name);
        let sql = format!("BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY; SET TRANSACTION SNAPSHOT {name}");
        client.batch_execute(&sql).await.map_err(PostgresError::sql("the snapshot cannot be read"))?;
        Ok(client)
    }

    async fn dump(&self, snapshot: &Snapshot, file: &Path) -> Result<(), PostgresError> {
        let mut command = self.servers.program("pg_dump", self.source, self.stream)?;
        command.args(["--format=custom", "--schema-only", "--no-publications", "--no-subscriptions"]);
        command.arg(format!("--lock-wait-timeout={DUMP_LOCK_MS}")).arg(format!("--snapshot={}", snapshot.name));
        command.arg(format!("--schema={}", ident(self.schema))).arg("--file").arg(file);
        run("pg_dump", command).await
    }

    /// Makes the empty tables, or, with a list of what the copy gets, what stands on their rows.
    async fn restore(&self, dump: &Path, list: Option<&Path>) -> Result<(), PostgresError> {
        let mut command = self.servers.program("pg_restore", self.own, self.stream)?;
        command.arg("--exit-on-error");
        match list {
            None => command.args(["--section=pre-data", "--single-transaction"]),
            Some(list) => {
                command.arg("--section=post-data").arg(format!("--jobs={}", self.jobs)).arg("--use-list").arg(list)
            }
        };
        command.env("PGOPTIONS", "-c synchronous_commit=off -c maintenance_work_mem=256MB -c statement_timeout=0");
        command.arg("--dbname").arg(self.servers.database(self.own)?).arg(dump);
        run("pg_restore", command).await
    }

    /// What the dump has, without these triggers.
    async fn list(&self, dump: &Path, triggers: &[String]) -> Result<PathBuf, PostgresError> {
        let failed = |why: String| PostgresError::Tool { tool: "pg_restore", why };
        let mut command = self.servers.program("pg_restore", self.own, self.stream)?;
        let listed = command.arg("--list").arg(dump).output().await.map_err(|error| failed(error.to_string()))?;
        if !listed.status.success() {
            return Err(failed(String::from_utf8_lossy(&listed.stderr).into_owned()));
        }
        // "… TRIGGER schema table name owner"
        let is_ours = |line: &str| {
            line.contains(" TRIGGER ") && triggers.iter().any(|trigger| line.contains(&format!(" {trigger} ")))
        };
        let listed = String::from_utf8_lossy(&listed.stdout).into_owned();
        let kept: String = listed.lines().filter(|line| !is_ours(line)).flat_map(|line| [line, "\n"]).collect();
        let path = dump.with_extension("list");
        std::fs::write(&path, kept).map_err(|error| failed(error.to_string()))?;
        Ok(path)
    }

    async fn copy_tables(&self, snapshot: &Snapshot, tables: &[Table], total: u64) -> Result<(), PostgresError> {
        let queue: Mutex<VecDeque<&Table>> = Mutex::new(tables.iter().collect());
        let copied = AtomicU64::new(1);
        let workers = (0..self.jobs.max(1)).map(|_| self.copy_from(&queue, snapshot, (&copied, total)));
        try_join_all(workers).await.map(drop)
    }

    /// Copies tables of the queue, one after the other, until there are none.
    async fn copy_from(
        &self,
        queue: &Mutex<VecDeque<&Table>>,
        snapshot: &Snapshot,
        (copied, total): (&AtomicU64, u64),
    ) -> Result<(), PostgresError> {
        let source = self.reader(snapshot).await?;
        let target = self.servers.connect_for_long(self.own, self.stream).await?;
        target.batch_execute(LOADING).await.map_err(PostgresError::sql("the session cannot be set up"))?;
        loop {
            let Some(table) = queue.lock().pop_front() else { return Ok(()) };
            let arrived = |bytes: u64| {
                let copied = copied.fetch_add(bytes, Ordering::Relaxed) + bytes;
                self.progress.set(copied, total);
            };
            self.copy_table(&source, &target, table, arrived).await?;
            self.compare(&source, &target, table).await?;
        }
    }

    /// `arrived` is told of as many bytes as the table has at the source, as they come.
    async fn copy_table(
        &self,
        source: &Client,
        target: &Client,
        table: &Table,
        arrived: impl Fn(u64),
    ) -> Result<(), PostgresError> {
        let failed = || PostgresError::sql(format!("the table {:?} cannot be copied", table.name));
        let columns = table.columns.iter().map(|column| ident(column)).collect::<Vec<_>>().join(", ");
        let columns = if columns.is_empty() { columns } else { format!("({columns})") };
        let what = format!("{} {columns}", qualified(self.schema, &table.name));
        let format = if table.binary { "WITH (FORMAT binary)" } else { "" };
        let rows = source.copy_out(&format!("COPY {what} TO STDOUT {format}")).await.map_err(failed())?;
        let sink = target.copy_in::<_, Bytes>(&format!("COPY {what} FROM STDIN {format}")).await.map_err(failed())?;
        pin_mut!(rows, sink);
        let size = table.bytes.cast_unsigned();
        let mut told = 0;
        while let Some(row) = rows.next().await {
            let row = row.map_err(failed())?;
            let bytes = (row.len() as u64).min(size - told);
            told += bytes;
            arrived(bytes);
            sink.feed(row).await.map_err(failed())?;
        }
        sink.finish().await.map_err(failed())?;
        arrived(size - told);
        Ok(())
    }

    /// What has arrived is read again, and compared with what the snapshot shows: later only changes are.
    async fn compare(&self, source: &Client, target: &Client, table: &Table) -> Result<(), PostgresError> {
        let with_hashes = match self.verify {
            PostgresVerify::None => return Ok(()),
            PostgresVerify::Counts => false,
            PostgresVerify::Checksums => true,
        };
        let table = [table.name.clone()];
        let read = |on| sums(on, self.schema, &table, with_hashes);
        let (there, here) = tokio::try_join!(read(source), read(target))?;
        let found = differences(&there, &here);
        if found.is_empty() { Ok(()) } else { Err(PostgresError::Differs(found)) }
    }

    /// Indexes, keys and triggers. The copy does not stand still while they are built: that is told as bytes of indexes.
    async fn build_indexes(
        &self,
        (dump, list): (&Path, &Path),
        (data, total): (u64, u64),
    ) -> Result<(), PostgresError> {
        let watcher = self.servers.connect_for_long(self.own, "cellway").await?;
        let sql = "SELECT (SELECT coalesce(sum(pg_indexes_size(c.oid)), 0)::bigint FROM pg_class c
                    WHERE relkind = 'r' AND relnamespace = (SELECT oid FROM pg_namespace WHERE nspname = $1)),
                (SELECT count(*) FROM pg_stat_activity
                    WHERE application_name = $2 AND state = 'active' AND wait_event_type IS DISTINCT FROM 'Lock')";
        let restoring = self.restore(dump, Some(list));
        tokio::pin!(restoring);
        let mut beats = 0;
        loop {
            tokio::select! {
                restored = &mut restoring => return restored,
                () = tokio::time::sleep(Duration::from_millis(LOOK_INTERVAL_MS)) => {
                    let failed = PostgresError::sql("the progress of indexes cannot be read");
                    let row = watcher.one(sql, &[&self.schema, &self.stream]).await.map_err(failed)?;
                    // A key that is checked has no bytes; while it is at work, it counts as one at each look.
                    beats += row.get::<_, i64>(1).min(1).cast_unsigned();
                    let built = row.get::<_, i64>(0).cast_unsigned();
                    self.progress.set(data + built + beats, total);
                }
            }
        }
    }

    async fn analyze(&self, tables: &[Table]) -> Result<(), PostgresError> {
        let client = self.servers.connect_for_long(self.own, self.stream).await?;
        client.batch_execute(LOADING).await.map_err(PostgresError::sql("the session cannot be set up"))?;
        for table in tables {
            let sql = format!("ANALYZE {}", qualified(self.schema, &table.name));
            client.batch_execute(&sql).await.map_err(PostgresError::sql("what was copied cannot be analyzed"))?;
        }
        Ok(())
    }
}

/// Runs a tool to its end. It is killed if this is dropped.
async fn run(tool: &'static str, mut command: Command) -> Result<(), PostgresError> {
    let failed = |why: String| PostgresError::Tool { tool, why };
    command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped());
    let mut child = command.spawn().map_err(|error| failed(error.to_string()))?;
    let mut stderr = child.stderr.take().ok_or_else(|| failed("no pipe".to_owned()))?;
    let mut why = Vec::new();
    stderr.read_to_end(&mut why).await.map_err(|error| failed(error.to_string()))?;
    let status = child.wait().await.map_err(|error| failed(error.to_string()))?;
    if status.success() {
        return Ok(());
    }
    let from = why.len().saturating_sub(WHY_MAX_BYTES);
    Err(failed(String::from_utf8_lossy(why.get(from..).unwrap_or_default()).trim().replace('\n', "; ")))
}
