//! The table as JSON lines: the file feed, and the body of the snapshot.
//!
//! One entry per line, in any order, empty lines allowed:
//!
//! ```text
//! {"cell":"cell-a","endpoints":["127.0.0.1:9001"],"kind":"agent"}
//! {"tenant":"acme","cell":"cell-a","epoch":1}
//! {"host":"shop.example","tenant":"acme"}
//! {"tenant":"acme","limits":{"requests":{"per_second":100,"burst":200},"mode":"read_only","message":"Until noon."}}
//! {"certificate":{"name":"shop.example","chain":["MIIB…"],"sealed_with":"0123456789abcdef","sealed_key":"Zm9v…"}}
//! ```
//!
//! - a cell: `endpoints` (addresses `ip:port`) and `kind` (`agent` or `origin`) are needed; `condition` is `open`
//!   unless given; `uid` is its identity, if it has one;
//! - a tenant: `cell` and `epoch` are needed; `held` is `true` while its traffic is held; `uid` is that of the cell;
//!   `revision` is the store's. A deleted one has `"gone":true` and no cell;
//! - a host: `tenant` owns it;
//! - limits, on a line of their own: `requests` (`per_second`, `burst`), `concurrency`, `bandwidth_bytes_per_second`,
//!   `mode` (`open`, `read_only`, `paused`), `message`, `retry_after_s`, `error_text`; what is left out is not limited;
//! - a certificate, as the store has it: its `chain` in base64, and its key under the seal of a secret. `name` is a host,
//!   or `_.` and a host for the wildcard below it.
//!
//! The first line may name the cluster that the table is of, which guards a router against those of another one:
//! `{"cluster":"eu-1"}`.
//!
//! An unknown field, a missing one, a bad value or a second line about the same thing makes the whole text invalid.

use std::borrow::Cow;
use std::collections::HashMap;
use std::net::SocketAddr;
use std::ops::Deref;

use cellway_core::cell::{CellCondition, CellKind};
use cellway_core::hostname::Hostname;
use cellway_core::ids::{CellName, CellUid, ClusterId, Epoch, Revision};
use serde::{Deserialize, Serialize};

use crate::table::{CellRoute, Change, Subject, TenantRoute};
use certificate::CertificateLine;
use limits::LimitsLine;

mod certificate;
mod limits;

/// Why a text is not a table.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("line {line}: {reason}")]
pub struct BadLine {
    /// Its number, from 1.
    pub line: usize,
    /// What is wrong with it.
    pub reason: String,
}

impl BadLine {
    /// It is about what another line is about.
    pub(crate) fn repeated(line: usize, first: usize) -> Self {
        Self { line, reason: format!("about the same as line {first}") }
    }
}

/// Lies in the line, unless something in it is escaped.
#[derive(PartialEq, Serialize, Deserialize)]
#[serde(transparent)]
struct Text<'a>(#[serde(borrow)] Cow<'a, str>);

impl Deref for Text<'_> {
    type Target = str;

    fn deref(&self) -> &str {
        &self.0
    }
}

#[derive(Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Line<'a> {
    #[serde(borrow, default, skip_serializing_if = "Option::is_none")]
    host: Option<Text<'a>>,
    #[serde(borrow, default, skip_serializing_if = "Option::is_none")]
    tenant: Option<Text<'a>>,
    #[serde(borrow, default, skip_serializing_if = "Option::is_none")]
    cell: Option<Text<'a>>,
    #[serde(borrow, default, skip_serializing_if = "Option::is_none")]
    uid: Option<Text<'a>>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    epoch: Option<u64>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    held: Option<bool>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    gone: Option<bool>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    revision: Option<u64>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    endpoints: Option<Vec<SocketAddr>>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    kind: Option<Kind>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    condition: Option<Condition>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    limits: Option<LimitsLine>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    certificate: Option<CertificateLine>,
}

#[derive(Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
enum Kind {
    Agent,
    Origin,
}

#[derive(Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
enum Condition {
    Open,
    Cordoned,
    Draining,
    Lost,
    Retired,
}

/// The first line of a listing that names its cluster.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct First {
    cluster: String,
}

/// Reads a whole listing: a table, whose first line may name the cluster that it is of.
pub fn parse_listing(text: &str) -> Result<(Option<ClusterId>, Vec<Change>), BadLine> {
    let (first, rest) = text.split_once('\n').unwrap_or((text, ""));
    let cluster = parse_cluster(first.as_bytes()).map_err(|reason| BadLine { line: 1, reason })?;
    let Some(cluster) = cluster else { return Ok((None, parse(text)?)) };
    let table = parse(rest).map_err(|bad| BadLine { line: bad.line + 1, ..bad })?;
    Ok((Some(cluster), table))
}

/// The cluster that a listing's first line names, if it is one that does.
pub(crate) fn parse_cluster(line: &[u8]) -> Result<Option<ClusterId>, String> {
    let Ok(First { cluster }) = serde_json::from_slice(line) else { return Ok(None) };
    id(&cluster).map(Some)
}

/// Appends the line that names a listing's cluster, as its first.
pub fn write_cluster(cluster: &ClusterId, text: &mut Vec<u8>) {
    // An id has nothing that JSON would escape.
    text.extend_from_slice(format!("{{\"cluster\":\"{cluster}\"}}\n").as_bytes());
}

/// Reads a table.
pub fn parse(text: &str) -> Result<Vec<Change>, BadLine> {
    let mut changes = Vec::new();
    let mut seen: HashMap<Subject, usize> = HashMap::new();
    for (index, text) in text.lines().enumerate() {
        if text.trim().is_empty() {
            continue;
        }
        let line = index + 1;
        let change = parse_line(text.as_bytes()).map_err(|reason| BadLine { line, reason })?;
        if let Some(first) = seen.insert(change.subject(), line) {
            return Err(BadLine::repeated(line, first));
        }
        changes.push(change);
    }
    Ok(changes)
}

const NO_ENTRY: &str = "neither a tenant (tenant, cell, epoch), nor a cell (cell, endpoints, kind), nor a host (host, \
                        tenant), nor limits (tenant, limits), nor a certificate (certificate)";

/// Reads one line.
pub(crate) fn parse_line(text: &[u8]) -> Result<Change, String> {
    let mut line: Line<'_> = serde_json::from_slice(text).map_err(text_of)?;
    if let Some(certificate) = line.certificate.take() {
        return if line == Line::default() { certificate.change() } else { Err(NO_ENTRY.into()) };
    }
    if let Some(limits) = line.limits.take() {
        let tenant = line.tenant.take().filter(|_| line == Line::default()).ok_or(NO_ENTRY)?;
        return Ok(Change::Limits { tenant: id(&tenant)?, limits: limits.limits().map_err(text_of)? });
    }
    match line {
        Line {
            host: Some(host),
            tenant: Some(tenant),
            cell: None,
            uid: None,
            epoch: None,
            held: None,
            gone: None,
            revision: None,
            endpoints: None,
            kind: None,
            condition: None,
            limits: None,
            certificate: None,
        } => Ok(Change::Host { host: Hostname::from_text(&host).map_err(text_of)?, tenant: id(&tenant)? }),
        Line {
            host: None,
            tenant: Some(tenant),
            cell,
            uid,
            epoch,
            held,
            gone,
            revision,
            endpoints: None,
            kind: None,
            condition: None,
            limits: None,
            certificate: None,
        } => {
            let route = tenant_route(cell, uid, epoch, held, gone)?;
            Ok(Change::Tenant { tenant: id(&tenant)?, route, revision: Revision(revision.unwrap_or(0)) })
        }
        Line {
            host: None,
            tenant: None,
            cell: Some(cell),
            uid,
            epoch: None,
            held: None,
            gone: None,
            revision: None,
            endpoints: Some(endpoints),
            kind: Some(kind),
            condition,
            limits: None,
            certificate: None,
        } => Ok(Change::Cell(CellRoute {
            name: id::<CellName>(&cell)?,
            uid: uid.as_deref().map(id).transpose()?,
            endpoints,
            condition: condition_of(condition.unwrap_or(Condition::Open)),
            kind: kind_of(kind),
        })),
        _ => Err(NO_ENTRY.into()),
    }
}

fn tenant_route(
    cell: Option<Text<'_>>,
    uid: Option<Text<'_>>,
    epoch: Option<u64>,
    held: Option<bool>,
    gone: Option<bool>,
) -> Result<TenantRoute, String> {
    let epoch = Epoch(epoch.ok_or("a tenant needs an epoch")?);
    match (cell, gone.unwrap_or(false)) {
        (Some(cell), false) => Ok(TenantRoute::Placed {
            cell: id(&cell)?,
            uid: uid.as_deref().map(id::<CellUid>).transpose()?,
            epoch,
            held: held.unwrap_or(false),
        }),
        (None, true) if uid.is_none() && held.is_none() => Ok(TenantRoute::Gone { epoch }),
        _ => Err("a tenant has either a cell or \"gone\":true".into()),
    }
}

fn id<T: std::str::FromStr<Err = cellway_core::ids::InvalidId>>(text: &str) -> Result<T, String> {
    text.parse().map_err(text_of)
}

fn text_in(text: &str) -> Option<Text<'_>> {
    Some(Text(Cow::Borrowed(text)))
}

fn text_of(error: impl std::error::Error) -> String {
    error.to_string()
}

fn kind_of(kind: Kind) -> CellKind {
    match kind {
        Kind::Agent => CellKind::Agent,
        Kind::Origin => CellKind::Origin,
    }
}

fn condition_of(condition: Condition) -> CellCondition {
    match condition {
        Condition::Open => CellCondition::Open,
        Condition::Cordoned => CellCondition::Cordoned,
        Condition::Draining => CellCondition::Draining,
        Condition::Lost => CellCondition::Lost,
        Condition::Retired => CellCondition::Retired,
    }
}

/// Whether a line is about where a tenant is, as [`write`] writes it.
pub(crate) fn is_of_tenant(line: &[u8]) -> bool {
    let name = line.strip_prefix(b"{\"tenant\":\"").unwrap_or_default();
    let end = name.iter().position(|byte| *byte == b'"');
    end.is_some_and(|end| !name[end..].starts_with(b"\",\"limits\""))
}

/// Appends the line that says what `change` made; a removal has none, nor has a route that nobody could read.
#[expect(clippy::expect_used, reason = "a line has text keys, and a vector takes every write")]
pub fn write(change: &Change, text: &mut Vec<u8>) {
    let line = match change {
        Change::Tenant { tenant, route, revision } => {
            let mut line = Line { tenant: text_in(tenant.as_str()), ..Line::default() };
            line.epoch = Some(route.epoch().0);
            line.revision = (revision.0 > 0).then_some(revision.0);
            match route {
                TenantRoute::Placed { cell, uid, held, .. } => {
                    line.cell = text_in(cell.as_str());
                    line.uid = uid.as_ref().and_then(|uid| text_in(uid.as_str()));
                    line.held = held.then_some(true);
                }
                TenantRoute::Gone { .. } => line.gone = Some(true),
                TenantRoute::Unreadable => return,
            }
            line
        }
        Change::Host { host, tenant } => {
            Line { host: text_in(host.as_str()), tenant: text_in(tenant.as_str()), ..Line::default() }
        }
        Change::Cell(cell) => Line {
            cell: text_in(cell.name.as_str()),
            uid: cell.uid.as_ref().and_then(|uid| text_in(uid.as_str())),
            endpoints: Some(cell.endpoints.clone()),
            kind: Some(match cell.kind {
                CellKind::Agent => Kind::Agent,
                CellKind::Origin => Kind::Origin,
            }),
            condition: Some(match cell.condition {
                CellCondition::Open => Condition::Open,
                CellCondition::Cordoned => Condition::Cordoned,
                CellCondition::Draining => Condition::Draining,
                CellCondition::Lost => Condition::Lost,
                CellCondition::Retired => Condition::Retired,
            }),
            ..Line::default()
        },
        Change::Limits { tenant, limits } => {
            Line { tenant: text_in(tenant.as_str()), limits: Some(LimitsLine::of(limits)), ..Line::default() }
        }
        Change::Certificate { name, sealed } => {
            Line { certificate: Some(CertificateLine::of(name, sealed)), ..Line::default() }
        }
        Change::TenantRemoved(_)
        | Change::HostRemoved(_)
        | Change::CellRemoved(_)
        | Change::LimitsRemoved(_)
        | Change::CertificateRemoved(_) => return,
    };
    serde_json::to_writer(&mut *text, &line).expect("a line has text keys, and a vector takes every write");
    text.push(b'\n');
}

#[cfg(test)]
mod tests;
