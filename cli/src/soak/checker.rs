//! What must hold for everything that was observed: functions of the observations alone.

use super::history::Owners;
use serde::Deserialize;
use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

/// An entry as the app stores it.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
pub(crate) struct Entry {
    pub(crate) id: String,
    pub(crate) seq: i64,
    pub(crate) length: u64,
    pub(crate) sha256: String,
    pub(crate) cell: String,
    pub(crate) epoch: Option<u64>,
}

/// A write that was sent.
#[derive(Debug, Clone)]
pub(crate) struct Write {
    pub(crate) id: String,
    pub(crate) length: u64,
    pub(crate) sha256: String,
    /// When it was sent, on the run's one counter of events.
    pub(crate) sent_at: u64,
    pub(crate) outcome: Outcome,
}

/// What a client knows about a write.
#[derive(Debug, Clone)]
pub(crate) enum Outcome {
    /// Nothing, or it was refused, or the answer never came: it may be there or not.
    Unknown,
    /// The app has said that it is stored.
    Acknowledged {
        /// As the app answered it.
        entry: Entry,
        /// When, on the run's one counter of events.
        at: u64,
    },
    /// The app has said that it is there already, although it was sent once.
    TakenAlready,
}

/// A promise that was broken.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Breach {
    pub(crate) kind: BreachKind,
    pub(crate) tenant: String,
    pub(crate) what: String,
}

/// How a promise can be broken.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum BreachKind {
    /// An acknowledged write is not in the log.
    LostWrite,
    /// A write is in the log twice, or was delivered twice.
    DuplicatedWrite,
    /// A write that was acknowledged before another one was sent comes after it.
    OutOfOrder,
    /// What is stored is not what was sent.
    Corrupt,
    /// The log has a write of this run that was never sent to this tenant.
    UnexpectedWrite,
    /// A later entry has a lower epoch than an earlier one.
    EpochFell,
    /// Two cells wrote in one epoch.
    TwoCellsInOneEpoch,
    /// A cell wrote in an epoch in which the placement names another one.
    WrongCell,
    /// A read did not see a write that was acknowledged before it.
    StaleRead,
    /// A tenant's log could not be read back.
    UnreadableLog,
}

impl BreachKind {
    /// The guarantee that it breaks.
    pub(crate) fn promise(self) -> &'static str {
        match self {
            Self::LostWrite | Self::DuplicatedWrite | Self::OutOfOrder | Self::Corrupt | Self::StaleRead => {
                "no_acknowledged_write_is_lost"
            }
            Self::UnexpectedWrite => "no_tenant_sees_another_tenants_data",
            Self::EpochFell | Self::TwoCellsInOneEpoch | Self::WrongCell => "no_two_cells_serve_one_tenant",
            Self::UnreadableLog => "no_request_fails_because_of_a_move",
        }
    }
}

impl fmt::Display for BreachKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::LostWrite => "lost write",
            Self::DuplicatedWrite => "duplicated write",
            Self::OutOfOrder => "write out of order",
            Self::Corrupt => "corrupt write",
            Self::UnexpectedWrite => "unexpected write",
            Self::EpochFell => "epoch fell",
            Self::TwoCellsInOneEpoch => "two cells in one epoch",
            Self::WrongCell => "wrong cell",
            Self::StaleRead => "stale read",
            Self::UnreadableLog => "unreadable log",
        })
    }
}

impl fmt::Display for Breach {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}: {}", self.kind, self.tenant, self.what)
    }
}

/// All that is known of one tenant at the end.
#[derive(Debug)]
pub(crate) struct Observed<'a> {
    pub(crate) tenant: &'a str,
    /// What was sent in this run.
    pub(crate) writes: &'a [Write],
    /// What the app has of this run, as it was read back.
    pub(crate) log: &'a [Entry],
    /// Who owned the tenant when, by its placements.
    pub(crate) owners: &'a Owners,
}

/// Holds everything observed of a tenant against the promises.
pub(crate) fn check(observed: &Observed<'_>) -> Vec<Breach> {
    let mut found = Findings { tenant: observed.tenant, breaches: Vec::new() };
    let mut log: Vec<&Entry> = observed.log.iter().collect();
    log.sort_by_key(|entry| entry.seq);
    check_presence(observed.writes, &log, &mut found);
    check_order(observed.writes, &log, &mut found);
    check_epochs(&log, observed.owners, &mut found);
    check_owners(observed, &mut found);
    found.breaches
}

struct Findings<'a> {
    tenant: &'a str,
    breaches: Vec<Breach>,
}

impl Findings<'_> {
    fn add(&mut self, kind: BreachKind, what: String) {
        self.breaches.push(Breach { kind, tenant: self.tenant.to_owned(), what });
    }
}

/// Acknowledged: there once, as sent and as answered. Unknown: there once at most, and then as sent. Nothing else.
fn check_presence(writes: &[Write], log: &[&Entry], found: &mut Findings<'_>) {
    let mut stored: BTreeMap<&str, Vec<&Entry>> = BTreeMap::new();
    for &entry in log {
        stored.entry(&entry.id).or_default().push(entry);
    }
    for write in writes {
        let entries = stored.remove(write.id.as_str()).unwrap_or_default();
        if entries.len() > 1 {
            let seqs: Vec<_> = entries.iter().map(|entry| entry.seq.to_string()).collect();
            found.add(BreachKind::DuplicatedWrite, format!("{} is stored as {}", write.id, seqs.join(" and ")));
        }
        if let Some(what) = entries.iter().find_map(|entry| difference(write, entry)) {
            found.add(BreachKind::Corrupt, what);
        }
        match &write.outcome {
            Outcome::Acknowledged { entry, .. } => match entries.first() {
                None => found.add(BreachKind::LostWrite, format!("{} was acknowledged as {}", write.id, entry.seq)),
                Some(first) if entries.len() == 1 && *first != entry => {
                    let what = format!("{} was acknowledged as {entry:?} and is stored as {first:?}", write.id);
                    found.add(BreachKind::Corrupt, what);
                }
                Some(_) => {}
            },
            Outcome::TakenAlready => {
                found.add(BreachKind::DuplicatedWrite, format!("{} was sent once and delivered twice", write.id));
            }
            Outcome::Unknown => {}
        }
    }
    for id in stored.keys() {
        found.add(BreachKind::UnexpectedWrite, format!("{id} was never sent to it"));
    }
}

/// How an entry differs from what was sent.
fn difference(write: &Write, entry: &Entry) -> Option<String> {
    if write.length != entry.length {
        return Some(format!("{}: {} bytes were sent, {} are stored", write.id, write.length, entry.length));
    }
    (write.sha256 != entry.sha256).then(|| format!("{}: the SHA-256 of what is stored differs", write.id))
}

/// If A was acknowledged before B was sent, A comes before B.
fn check_order(writes: &[Write], log: &[&Entry], found: &mut Findings<'_>) {
    let by_id: BTreeMap<&str, &Write> = writes.iter().map(|write| (write.id.as_str(), write)).collect();
    let mut latest_sent: Option<&Write> = None;
    for entry in log {
        let Some(&write) = by_id.get(entry.id.as_str()) else { continue };
        if let (Outcome::Acknowledged { at, .. }, Some(before)) = (&write.outcome, latest_sent)
            && *at < before.sent_at
        {
            let what = format!("{} was acknowledged before {} was sent, but comes after it", write.id, before.id);
            found.add(BreachKind::OutOfOrder, what);
        }
        if latest_sent.is_none_or(|latest| write.sent_at > latest.sent_at) {
            latest_sent = Some(write);
        }
    }
}

/// Epochs never fall, but for one case that is no breach: a move that was undone after its hold leaves the tenant in
/// its cell at the next epoch, and what was admitted before the hold may end after what was admitted then.
fn check_epochs(log: &[&Entry], owners: &Owners, found: &mut Findings<'_>) {
    let mut highest: Option<(u64, &Entry)> = None;
    for entry in log {
        let Some(epoch) = entry.epoch else { continue };
        match highest {
            Some((before, _)) if epoch < before && owners.never_left(epoch, before) => {}
            Some((before, at)) if epoch < before => {
                let what = format!("{} has epoch {before}, and after it {} has {epoch}", at.id, entry.id);
                found.add(BreachKind::EpochFell, what);
            }
            _ => highest = Some((epoch, entry)),
        }
    }
}

/// One epoch means one cell, and the one that the placement names. What was acknowledged counts like what is stored:
/// a cell that acknowledged a write which is now lost has served.
fn check_owners(observed: &Observed<'_>, found: &mut Findings<'_>) {
    let acknowledged = observed.writes.iter().filter_map(|write| match &write.outcome {
        Outcome::Acknowledged { entry, .. } => Some(entry),
        Outcome::Unknown | Outcome::TakenAlready => None,
    });
    let mut served: BTreeMap<u64, BTreeMap<&str, &str>> = BTreeMap::new();
    let mut without_epoch = BTreeSet::new();
    for entry in observed.log.iter().chain(acknowledged) {
        match entry.epoch {
            Some(epoch) => _ = served.entry(epoch).or_default().entry(&entry.cell).or_insert(&entry.id),
            None => _ = without_epoch.insert(entry.id.as_str()),
        }
    }
    for id in without_epoch {
        found.add(BreachKind::WrongCell, format!("{id} was written without an epoch"));
    }
    for (epoch, cells) in &served {
        if cells.len() > 1 {
            let named: Vec<_> = cells.iter().map(|(cell, id)| format!("{cell} ({id})")).collect();
            found.add(BreachKind::TwoCellsInOneEpoch, format!("in epoch {epoch} wrote {}", named.join(" and ")));
        }
        for (cell, id) in cells {
            match observed.owners.of(*epoch) {
                Some(owner) if owner == *cell => {}
                Some(owner) => {
                    let what = format!("{id} was written by {cell} in epoch {epoch}, which is {owner}'s");
                    found.add(BreachKind::WrongCell, what);
                }
                None => {
                    let what = format!("{id} was written by {cell} in epoch {epoch}, which no placement had");
                    found.add(BreachKind::WrongCell, what);
                }
            }
        }
    }
    for contradiction in observed.owners.contradictions() {
        found.add(BreachKind::TwoCellsInOneEpoch, contradiction.to_owned());
    }
}

/// A read of a write that had been acknowledged before the read was sent must see it, as it was sent.
pub(crate) fn check_read(tenant: &str, write: &Write, seen: Option<&Entry>) -> Option<Breach> {
    let (kind, what) = match seen {
        None => (BreachKind::StaleRead, format!("{} was acknowledged, but a later read did not find it", write.id)),
        Some(entry) => (BreachKind::Corrupt, difference(write, entry)?),
    };
    Some(Breach { kind, tenant: tenant.to_owned(), what })
}

/// A count must be at least what was there before the read was sent.
pub(crate) fn check_count(tenant: &str, at_least: i64, seen: i64) -> Option<Breach> {
    (seen < at_least).then(|| Breach {
        kind: BreachKind::StaleRead,
        tenant: tenant.to_owned(),
        what: format!("a count said {seen} when {at_least} entries had been acknowledged or counted before"),
    })
}

#[cfg(test)]
mod tests;
