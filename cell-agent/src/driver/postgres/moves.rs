//! The steps of a move at the cell that receives: prepare, pull, reach; and the way back, at the cell that has sent.

use super::copy::Copy;
use super::ledger::{self, lock_streams, unlock_streams};
use super::names::{Purpose, TenantNames, stream_name};
use super::preflight::{self, differences, objections, set_sequences};
use super::servers::Lease;
use super::sql::Ask;
use super::streams::{self, About, End, Stream};
use super::tally::{self, Tally};
use super::{MEASURED_MAX, Measured, PostgresDriver, PostgresError, Sums, homes, source_cell};
use crate::config::PostgresVerify;
use crate::driver::{DriverError, Fetch, Progress, Pulled};
use cellway_core::ids::{Epoch, HomeId, MoveId, TenantId};
use cellway_core::tenant_move::Position;
use std::time::{Duration, Instant};

/// How long a pass waits for its mark: beyond it, the freeze is said to be at least this long.
const PASS_WAIT_MS: u64 = 3_000;

/// How long `reach` waits for the last mark before it looks whether the stream still runs.
const REACH_WAIT_MS: u64 = 500;

/// How long the proof of the way back may take.
const CANARY_WAIT_MS: u64 = 10_000;

/// The class of what a server says when it cannot reach another one.
const CONNECTION_CLASS: &str = "08";

/// What a freeze takes beside the last changes and the comparison: the fence, the sequences, the release.
const FREEZE_BASE_MS: u64 = 100;

/// How often the comparison is measured again, which reads every row.
const VERIFY_MEASURE_INTERVAL_MS: u64 = 60_000;

impl PostgresDriver {
    /// Finds out what speaks against the move, makes room, and proves that the way back will work.
    pub(crate) async fn prepare(
        &self,
        move_id: &MoveId,
        tenant: &TenantId,
        home: &HomeId,
        from_cell: Option<&str>,
    ) -> Result<(), DriverError> {
        let _turn = self.turns.take(tenant).await;
        self.disk.kept_home(tenant, home)?;
        let no_cell = || PostgresError::Missing("the order names no cell to fetch from".to_owned());
        let from_cell = from_cell.ok_or_else(no_cell)?;
        let names = self.names(tenant)?;
        let mut own = self.own().await?;
        let mut source = self.lease(from_cell).await?;
        self.check_movable(&own, &source, &names).await?;
        self.disk.enter_home(tenant, home)?;
        homes::prepare(&mut own, (tenant, &names), home).await?;
        lock_streams(&own, tenant).await?;
        let about = About { tenant, home, other_home: home, other_cell: from_cell, move_id, complete: true };
        self.prove_way_back(&mut own, &mut source, about).await?;
        unlock_streams(&own, tenant).await?;
        own.keep();
        source.keep();
        Ok(())
    }

    async fn check_movable(&self, own: &Lease, source: &Lease, names: &TenantNames) -> Result<(), PostgresError> {
        let servers = (preflight::server_facts(source, names).await?, preflight::server_facts(own, names).await?);
        let schema = preflight::schema_facts(source, names).await?;
        let found = objections(names, (&servers.0, &servers.1), &schema);
        if found.is_empty() { Ok(()) } else { Err(PostgresError::Preflight(found)) }
    }

    /// One row goes from here to the source's server, as later everything will that is written here.
    async fn prove_way_back(&self, own: &mut Lease, source: &mut Lease, about: About<'_>) -> Result<(), PostgresError> {
        let name = stream_name(about.move_id, Purpose::Canary);
        streams::remove_incoming(source, &name).await?;
        streams::remove_outgoing(own, &name).await?;
        self.make_outgoing(own, source, &name, about, None).await?;
        let objection = self.send_canary(own, source, &name, about.other_cell).await;
        streams::remove_incoming(source, &name).await?;
        streams::remove_outgoing(own, &name).await?;
        match objection? {
            None => Ok(()),
            Some(why) => Err(PostgresError::Preflight(vec![format!("the way back does not work: {why}")])),
        }
    }

    /// What keeps a row of ours from the server of `to`.
    async fn send_canary(
        &self,
        own: &Lease,
        source: &Lease,
        name: &str,
        to: &str,
    ) -> Result<Option<String>, PostgresError> {
        let conninfo = self.servers.conninfo(self.own.as_str())?;
        match streams::subscribe(source, name, &conninfo, None).await {
            Err(PostgresError::Sql(what, error)) => {
                // It is the server that says so; a connection of ours that broke may be made again.
                let unreached = error.as_db_error().filter(|said| said.code().code().starts_with(CONNECTION_CLASS));
                let said = unreached.map(|said| format!("{what}: the server of {to} says: {}", said.message()));
                return said.map(Some).ok_or(PostgresError::Sql(what, error));
            }
            subscribed => subscribed?,
        }
        let id = streams::mark(own, name, None).await?;
        if streams::await_mark(source, name, id, CANARY_WAIT_MS).await?.is_some() {
            return Ok(None);
        }
        Ok(Some(format!(
            "a row did not get from {} to {to} within {CANARY_WAIT_MS} ms (see the server's log at {to}; are \
             max_logical_replication_workers and max_wal_senders high enough?)",
            self.own
        )))
    }

    /// Rows in both books, then publication and slot.
    async fn make_outgoing(
        &self,
        own: &Lease,
        other: &Lease,
        name: &str,
        about: About<'_>,
        schema: Option<&str>,
    ) -> Result<(), PostgresError> {
        streams::enter(own, End::Out, name, about).await?;
        let there = About { home: about.other_home, other_home: about.home, other_cell: self.own.as_str(), ..about };
        streams::enter(other, End::In, name, there).await?;
        if let Some(schema) = schema {
            let tables = preflight::table_names(&**own, schema).await?;
            streams::publish(own, name, schema, &tables).await?;
            self.tally(own, (name, End::Out), (schema, &tables), &Tally::new()).await?;
            streams::shaped(own, name, &preflight::fingerprint(&**own, schema).await?).await?;
        } else {
            streams::publish(own, name, "", &[]).await?;
        }
        let patient = self.servers.connect_for_long(self.own.as_str(), "cellway").await?;
        streams::make_slot(&patient, name, self.config.slot_wait_ms).await
    }

    /// Begins to tally a stream at one end, if anything is to be compared.
    async fn tally(
        &self,
        on: &Lease,
        (name, end): (&str, End),
        (schema, tables): (&str, &[String]),
        before: &Tally,
    ) -> Result<(), PostgresError> {
        if self.config.verify == PostgresVerify::None {
            return Ok(());
        }
        let with_hashes = self.config.verify == PostgresVerify::Checksums;
        tally::begin(on, (name, end), (schema, tables), with_hashes, self.config.slot_wait_ms).await?;
        streams::tallied(on, end, name, &serde_json::json!(before)).await
    }

    /// The whole copy, if there is no stream that goes on; then one pass over what has changed.
    pub(crate) async fn pull(&self, fetch: &Fetch, progress: &Progress) -> Result<Pulled, DriverError> {
        let turn = self.turns.take(&fetch.tenant).await;
        self.disk.check_unserved(&fetch.tenant, &fetch.home)?;
        let from_cell = source_cell(fetch)?;
        let names = self.names(&fetch.tenant)?;
        let mut own = self.own().await?;
        self.check_books(&own, &fetch.tenant, &fetch.home, None).await?;
        let source = self.lease(from_cell).await?;
        lock_streams(&own, &fetch.tenant).await?;
        let stream = match self.stream_that_goes_on(&own, &source, fetch, &names).await? {
            Some(stream) => stream,
            None => self.copy(&mut own, &source, fetch, &names, progress).await?,
        };
        streams::adopt(&own, End::In, &stream.name, &fetch.move_id).await?;
        streams::adopt(&source, End::Out, &stream.name, &fetch.move_id).await?;
        self.ensure_way_back(&own, &source, fetch, &names).await?;
        unlock_streams(&own, &fetch.tenant).await?;
        drop(turn);
        let (freeze_ms, longest) = self.pass(&own, &source, fetch, &names, &stream).await?;
        own.keep();
        source.keep();
        Ok(Pulled { bytes: progress.get().0, freeze_ms: Some(freeze_ms), longest: Some(longest) })
    }

    /// The stream into the home, from the copy on or as the way back of an earlier move, if it has everything.
    async fn stream_that_goes_on(
        &self,
        own: &Lease,
        source: &Lease,
        fetch: &Fetch,
        names: &TenantNames,
    ) -> Result<Option<Stream>, DriverError> {
        let known = streams::of_home(&**own, End::In, fetch.tenant.as_str(), fetch.home.as_str()).await?;
        let ours = |stream: &Stream| stream.other_home == fetch.from.as_str() && stream.complete;
        for stream in known.into_iter().filter(ours) {
            let is_forward = stream.fingerprint.is_some();
            match streams::subscription(&**own, &stream.name).await? {
                Some(true) if is_forward => return Ok(Some(stream)),
                Some(false) if stream.paused => {
                    streams::resume(own, &stream.name).await?;
                    let fingerprint = match stream.fingerprint {
                        None => streams::by_name(source, End::Out, &stream.name).await?.and_then(|out| out.fingerprint),
                        known => known,
                    };
                    return Ok(Some(Stream { fingerprint, paused: false, ..stream }));
                }
                Some(false) if is_forward => return Err(PostgresError::ApplyStopped(stream.name).into()),
                Some(false) => continue,
                Some(true) | None => {}
            }
            // A way back: it has everything from the moment on that this home was left, if the slot was made in time and
            // no DDL came in between.
            let Some(other) = streams::by_name(source, End::Out, &stream.name).await? else { continue };
            let Some(start) = &other.start_lsn else { continue };
            let shape = preflight::fingerprint(&**source, &names.schema).await?;
            if other.fingerprint.as_deref() != Some(&shape) || !streams::has_slot(source, &stream.name).await? {
                continue;
            }
            if streams::subscription(&**own, &stream.name).await?.is_none() {
                self.follow_back(own, source_cell(fetch)?, &stream.name, start, &names.schema, other.tally.is_some())
                    .await?;
            }
            return Ok(Some(Stream { fingerprint: other.fingerprint, ..stream }));
        }
        Ok(None)
    }

    /// Subscribes to a way back from `start` on, tallied if its other end is.
    async fn follow_back(
        &self,
        own: &Lease,
        from_cell: &str,
        name: &str,
        start: &str,
        schema: &str,
        is_tallied: bool,
    ) -> Result<(), PostgresError> {
        if is_tallied {
            let tables = preflight::table_names(&**own, schema).await?;
            self.tally(own, (name, End::In), (schema, &tables), &Tally::new()).await?;
        }
        streams::subscribe(own, name, &self.servers.conninfo(from_cell)?, Some(start)).await
    }

    /// Copies the home from its beginning. What an earlier attempt has left is removed.
    async fn copy(
        &self,
        own: &mut Lease,
        source: &Lease,
        fetch: &Fetch,
        names: &TenantNames,
        progress: &Progress,
    ) -> Result<Stream, DriverError> {
        let Fetch { move_id, tenant, home, from, .. } = fetch;
        let (own_cell, from_cell) = (self.own.as_str(), source_cell(fetch)?);
        let name = stream_name(move_id, Purpose::Forward);
        let at_source = ledger::homes(source, tenant).await?;
        let stands = |row: &&ledger::Home| row.home == from.as_str() && row.schema.as_deref() == Some(&names.schema);
        let Some(from_row) = at_source.iter().find(stands) else {
            return Err(PostgresError::Preflight(vec![format!("{from_cell} has no home {from} in its schema")]).into());
        };
        self.check_movable(own, source, names).await?;
        let copy = Copy {
            servers: &self.servers,
            own: own_cell,
            source: from_cell,
            schema: &names.schema,
            stream: &name,
            jobs: self.config.copy_jobs,
            slot_wait_ms: self.config.slot_wait_ms,
            dir: self.disk.dir(),
            verify: self.config.verify,
            progress,
        };
        copy.end_earlier(own, source).await?;
        streams::remove_incoming(own, &name).await?;
        streams::remove_outgoing(source, &name).await?;
        let can_login = if from_row.is_released() { role_can_login(source, names).await? } else { from_row.can_login };
        homes::empty(own, (tenant, names), home, can_login).await?;
        let about = About { tenant, home, other_home: from, other_cell: from_cell, move_id, complete: false };
        streams::enter(own, End::In, &name, about).await?;
        let there = About { home: from, other_home: home, other_cell: own_cell, ..about };
        streams::enter(source, End::Out, &name, there).await?;
        let tables = preflight::table_names(&**source, &names.schema).await?;
        streams::publish(source, &name, &names.schema, &tables).await?;
        self.tally(source, (&name, End::Out), (&names.schema, &tables), &Tally::new()).await?;
        let shape = copy.shape(source).await?;
        homes::close_arrived(own, (tenant, names), home).await?;
        let copied = copy.fill(shape).await?;
        self.tally(own, (&name, End::In), (&names.schema, &tables), &copied.before).await?;
        streams::subscribe(own, &name, &self.servers.conninfo(from_cell)?, None).await?;
        streams::complete(own, &name, &copied.fingerprint).await?;
        tracing::info!(%tenant, %home, %move_id, bytes = copied.bytes, "copied");
        let found = streams::by_name(own, End::In, &name).await?;
        Ok(found.ok_or_else(|| PostgresError::Missing("the stream has vanished from the books".to_owned()))?)
    }

    /// From the moment that this home is served, everything must be kept that the old one will want.
    async fn ensure_way_back(
        &self,
        own: &Lease,
        source: &Lease,
        fetch: &Fetch,
        names: &TenantNames,
    ) -> Result<(), PostgresError> {
        let name = stream_name(&fetch.move_id, Purpose::Back);
        if streams::by_name(own, End::Out, &name).await?.is_some() && streams::has_slot(own, &name).await? {
            return Ok(());
        }
        let about = About {
            tenant: &fetch.tenant,
            home: &fetch.home,
            other_home: &fetch.from,
            other_cell: source_cell(fetch)?,
            move_id: &fetch.move_id,
            complete: true,
        };
        self.make_outgoing(own, source, &name, about, Some(&names.schema)).await
    }

    /// How long the tenant would be frozen now, and the part of it that takes longest.
    async fn pass(
        &self,
        own: &Lease,
        source: &Lease,
        fetch: &Fetch,
        names: &TenantNames,
        stream: &Stream,
    ) -> Result<(u64, (&'static str, u64)), DriverError> {
        let shape = preflight::fingerprint(&**source, &names.schema).await?;
        check_shape(stream, &shape)?;
        let begun = Instant::now();
        let id = streams::mark(source, &stream.name, None).await?;
        let arrived = streams::await_mark(own, &stream.name, id, PASS_WAIT_MS).await?.is_some();
        if !arrived && streams::subscription(&**own, &stream.name).await? == Some(false) {
            return Err(PostgresError::ApplyStopped(stream.name.clone()).into());
        }
        let lag_ms = u64::try_from(begun.elapsed().as_millis()).unwrap_or(u64::MAX);
        let verify_ms = match stream.tally {
            Some(_) => tally_ms(own, source, &stream.name).await?,
            None => self.verify_ms(own, &fetch.home, names).await?,
        };
        let freeze_ms = lag_ms.saturating_add(verify_ms).saturating_add(FREEZE_BASE_MS);
        tracing::debug!(tenant = %fetch.tenant, lag_ms, verify_ms, freeze_ms, "pass");
        let fixed = ("for fence and release", FREEZE_BASE_MS);
        let parts = [("for a row to get to the target", lag_ms), ("to compare the copies", verify_ms)];
        let longest = parts.into_iter().fold(fixed, |longest, part| if part.1 > longest.1 { part } else { longest });
        Ok((freeze_ms, longest))
    }

    /// How long the comparison takes, at both ends one after the other.
    async fn verify_ms(&self, own: &Lease, home: &HomeId, names: &TenantNames) -> Result<u64, PostgresError> {
        if self.config.verify == PostgresVerify::None {
            return Ok(0);
        }
        let fresh = Duration::from_millis(VERIFY_MEASURE_INTERVAL_MS);
        if let Some(known) = self.measured.lock().get(home).filter(|known| known.at.elapsed() < fresh) {
            return Ok(known.verify_ms);
        }
        let begun = Instant::now();
        self.sums(own, names, &preflight::table_names(&**own, &names.schema).await?).await?;
        let verify_ms = u64::try_from(begun.elapsed().as_millis()).unwrap_or(u64::MAX).saturating_mul(2);
        let mut measured = self.measured.lock();
        if measured.len() >= MEASURED_MAX {
            measured.clear();
        }
        measured.insert(home.clone(), Measured { at: Instant::now(), verify_ms });
        Ok(verify_ms)
    }

    /// Waits for the mark, compares, and writes down from where the way back has to read.
    pub(crate) async fn reach(&self, fetch: &Fetch, epoch: Epoch, position: &Position) -> Result<(), DriverError> {
        let Fetch { move_id, tenant, home, .. } = fetch;
        let _turn = self.turns.take(tenant).await;
        self.disk.check_not_released_above(tenant, epoch)?;
        self.disk.check_unserved(tenant, home)?;
        let names = self.names(tenant)?;
        let mut own = self.own().await?;
        self.check_books(&own, tenant, home, Some(epoch)).await?;
        let not_there = || PostgresError::NotThere(position.0.clone());
        let (name, id) = position.0.rsplit_once('@').ok_or_else(not_there)?;
        let id: i64 = id.parse().map_err(|_| not_there())?;
        let Some(stream) = streams::by_name(&own, End::In, name).await?.filter(|stream| stream.home == home.as_str())
        else {
            return Err(PostgresError::Missing(format!("no stream {name} comes into home {home}")).into());
        };
        let Some(payload) = streams::await_mark(&own, name, id, REACH_WAIT_MS).await?.flatten() else {
            if stream.paused {
                // This mark came after the one that the home was completed with.
                streams::resume(&own, name).await?;
                own.keep();
                return Err(not_there().into());
            }
            let stopped = streams::subscription(&*own, name).await? == Some(false);
            return Err(if stopped { PostgresError::ApplyStopped(stream.name) } else { not_there() }.into());
        };
        let fenced = payload.get("fenced").and_then(serde_json::Value::as_i64);
        if fenced < Some(epoch.0.cast_signed()) {
            return Err(not_there().into());
        }
        let shape = payload.get("fingerprint").and_then(serde_json::Value::as_str).unwrap_or_default();
        check_shape(&stream, shape)?;
        self.compare(&own, &stream, &names, &payload).await?;
        let sequences = payload.get("sequences").and_then(|sequences| set_sequences(&names.schema, sequences));
        let back = stream_name(move_id, Purpose::Back);
        homes::complete(&mut own, tenant, home, sequences.as_deref(), (name, &back)).await?;
        streams::end_worker(&own, name).await?;
        own.keep();
        tracing::info!(%tenant, %home, "home complete");
        Ok(())
    }

    /// What was counted as it was written at one end and applied at the other, and what had to be read at both.
    async fn compare(
        &self,
        own: &Lease,
        stream: &Stream,
        names: &TenantNames,
        payload: &serde_json::Value,
    ) -> Result<(), PostgresError> {
        let broken =
            |error: serde_json::Error| PostgresError::Missing(format!("the last mark cannot be read: {error}"));
        let field = |name: &str| payload.get(name).cloned().unwrap_or_default();
        let mut found = Vec::new();
        let sent: Option<Tally> = serde_json::from_value(field("tally")).map_err(broken)?;
        if let (Some(sent), Some(before)) = (sent, &stream.tally) {
            let before: Tally = serde_json::from_value(before.clone()).map_err(broken)?;
            let arrived = tally::read(&**own, &stream.name).await?;
            found = tally::differences(&before, &sent, &arrived, &tally::unknown(&sent));
        }
        let read: Option<Sums> = serde_json::from_value(field("sums")).map_err(broken)?;
        if let Some(read) = read {
            let tables: Vec<String> = read.keys().cloned().collect();
            let here = self.sums(own, names, &tables).await?;
            found.extend(here.map(|here| differences(&read, &here)).unwrap_or_default());
        }
        if found.is_empty() { Ok(()) } else { Err(PostgresError::Differs(found)) }
    }

    /// Keeps the old home current: what is written at the new one comes back. Makes the stream, or sees that it runs.
    pub(crate) async fn reverse(&self, fetch: &Fetch, epoch: Epoch) -> Result<(), DriverError> {
        let Fetch { move_id, tenant, home, .. } = fetch;
        let _turn = self.turns.take(tenant).await;
        self.disk.check_not_released_above(tenant, epoch)?;
        self.disk.check_unserved(tenant, home)?;
        let from_cell = source_cell(fetch)?;
        let own = self.own().await?;
        self.check_books(&own, tenant, home, Some(epoch)).await?;
        lock_streams(&own, tenant).await?;
        let name = stream_name(move_id, Purpose::Back);
        match streams::subscription(&*own, &name).await? {
            Some(true) => {}
            Some(false) => return Err(PostgresError::ApplyStopped(name).into()),
            None => {
                let other = self.lease(from_cell).await?;
                let out = streams::by_name(&other, End::Out, &name).await?;
                let is_tallied = out.as_ref().is_some_and(|out| out.tally.is_some());
                let none = || PostgresError::Missing(format!("{from_cell} keeps no stream {name}"));
                let start = out.and_then(|out| out.start_lsn).ok_or_else(none)?;
                other.keep();
                let schema = self.names(tenant)?.schema;
                self.follow_back(&own, from_cell, &name, &start, &schema, is_tallied).await?;
                tracing::info!(%tenant, %home, %move_id, start, "the old home is kept current");
            }
        }
        // What went out of this home while it was the source has arrived, or never will.
        for stream in streams::of_home(&*own, End::Out, tenant.as_str(), home.as_str()).await? {
            streams::remove_outgoing(&own, &stream.name).await?;
        }
        unlock_streams(&own, tenant).await?;
        own.keep();
        Ok(())
    }
}

fn check_shape(stream: &Stream, shape: &str) -> Result<(), PostgresError> {
    match &stream.fingerprint {
        Some(copied) if copied != shape => Err(PostgresError::SchemaChanged(format!("it was {copied}, it is {shape}"))),
        Some(_) | None => Ok(()),
    }
}

/// Sums the tallies up, and tells how long they take to be read.
async fn tally_ms(own: &Lease, source: &Lease, stream: &str) -> Result<u64, PostgresError> {
    tally::sum_up(own, stream).await?;
    tally::sum_up(source, stream).await?;
    let begun = Instant::now();
    tally::read(&**own, stream).await?;
    tally::read(&**source, stream).await?;
    Ok(u64::try_from(begun.elapsed().as_millis()).unwrap_or(u64::MAX))
}

async fn role_can_login(on: &Lease, names: &TenantNames) -> Result<bool, PostgresError> {
    let failed = PostgresError::sql("the tenant's role cannot be read");
    let sql = "SELECT rolcanlogin FROM pg_roles WHERE rolname = $1";
    let row = on.maybe(sql, &[&names.role]).await.map_err(failed)?;
    Ok(row.is_none_or(|row| row.get(0)))
}
