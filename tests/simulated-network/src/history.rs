//! What happened: the log, and what clients asked, were told, and had done for them. Its rules are checked on the way.

use crate::store::Stored;
use crate::world::Host;
use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::rc::Rc;
use std::time::Duration;

/// What became of a request, as its client knows it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Outcome {
    /// It has an answer.
    Answered {
        /// Its status.
        status: u16,
        /// What it says; of an app, its cell.
        by: String,
    },
    /// It may have been done or not.
    Broken(String),
}

impl fmt::Display for Outcome {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Answered { status, .. } => write!(f, "status {status}"),
            Self::Broken(why) => f.write_str(why),
        }
    }
}

impl Outcome {
    pub(crate) fn is_broken(&self) -> bool {
        matches!(self, Self::Broken(_))
    }
}

/// A request at work in an app, until it is dropped.
pub(crate) struct Begun {
    history: Rc<History>,
    tenant: String,
    id: u64,
}

impl Drop for Begun {
    fn drop(&mut self) {
        self.history.0.borrow_mut().running.remove(&(self.tenant.clone(), self.id));
    }
}

/// The history.
#[derive(Debug, Default)]
pub(crate) struct History(RefCell<Inner>);

#[derive(Debug, Default)]
struct Inner {
    now: Duration,
    is_ready: bool,
    may_move: bool,
    may_ask: bool,
    /// Nothing is broken, so nothing may fail.
    is_calm: bool,
    healed_at: Option<Duration>,
    asked: BTreeMap<u64, Asked>,
    /// The cell that each request ran in.
    ran: BTreeMap<u64, Host>,
    /// Where and at which epoch the tenants' requests run.
    running: BTreeMap<(String, u64), (Host, u64)>,
    /// The highest epoch at which a tenant's request was run.
    epochs: BTreeMap<String, u64>,
    placed: BTreeMap<(String, u64), String>,
    /// Where requests of this step ran, and at which epoch.
    unjudged: Vec<(String, u64, Host)>,
    violations: Vec<String>,
    /// Tenants that were served after everything was healed.
    served: BTreeSet<String>,
    failed: u64,
}

#[derive(Debug)]
struct Asked {
    tenant: String,
    at: Duration,
    told: bool,
}

impl Inner {
    fn say(&self, text: &str) {
        print_line(self.now, text);
    }

    fn violates(&mut self, rule: String) {
        self.say(&format!("VIOLATED: {rule}"));
        self.violations.push(rule);
    }
}

/// One line of the log.
#[allow(clippy::print_stdout, reason = "the log is what this program prints")]
pub(crate) fn print_line(now: Duration, text: &str) {
    println!("{:>6}.{:03} {text}", now.as_secs(), now.subsec_millis());
}

impl History {
    /// Writes a line.
    pub(crate) fn say(&self, text: &str) {
        self.0.borrow().say(text);
    }

    /// So late is it.
    pub(crate) fn is_now(&self, now: Duration) {
        self.0.borrow_mut().now = now;
    }

    pub(crate) fn is_ready(&self) -> bool {
        self.0.borrow().is_ready
    }

    /// Cells and tenants are there.
    pub(crate) fn get_ready(&self) {
        let mut inner = self.0.borrow_mut();
        (inner.is_ready, inner.may_move, inner.may_ask) = (true, true, true);
        inner.say("cells and tenants are there");
    }

    /// Nothing is going to be broken.
    pub(crate) fn will_be_calm(&self) {
        self.0.borrow_mut().is_calm = true;
    }

    pub(crate) fn may_move(&self) -> bool {
        self.0.borrow().may_move
    }

    /// No move begins any more.
    pub(crate) fn stop_moving(&self) {
        self.0.borrow_mut().may_move = false;
    }

    /// No request begins any more.
    pub(crate) fn stop_asking(&self) {
        self.0.borrow_mut().may_ask = false;
    }

    /// Nothing is broken any more.
    pub(crate) fn is_healed(&self) {
        let mut inner = self.0.borrow_mut();
        inner.healed_at = Some(inner.now);
        inner.say("everything is healed");
    }

    /// A client begins a request; its id, if it may.
    pub(crate) fn asks(&self, tenant: &str) -> Option<u64> {
        let mut inner = self.0.borrow_mut();
        if !inner.may_ask {
            return None;
        }
        let id = inner.asked.len() as u64 + 1;
        let asked = Asked { tenant: tenant.to_owned(), at: inner.now, told: false };
        inner.asked.insert(id, asked);
        Some(id)
    }

    /// A client knows what became of its request.
    pub(crate) fn is_told(&self, id: u64, outcome: Outcome) {
        let mut inner = self.0.borrow_mut();
        let Some(asked) = inner.asked.get_mut(&id) else { return };
        asked.told = true;
        let (tenant, at) = (asked.tenant.clone(), asked.at);
        let is_good = matches!(outcome, Outcome::Answered { status: 200, .. });
        if !is_good {
            inner.failed += 1;
            inner.say(&format!("client: request {id} of {tenant}: {outcome}"));
            if inner.is_calm {
                inner.violates(format!("request {id} of {tenant} failed although nothing was broken: {outcome}"));
            }
        }
        match outcome {
            Outcome::Answered { status: 200, by } => {
                let cell = inner.ran.get(&id).map(|host| host.name());
                if cell != Some(by.as_str()) {
                    inner.violates(format!("request {id} of {tenant} was answered by {by:?}, but ran in {cell:?}"));
                }
                if inner.healed_at.is_some_and(|healed| at >= healed) {
                    inner.served.insert(tenant);
                }
            }
            Outcome::Answered { status: 421, .. } => {
                inner.violates(format!("a gate's verdict reached the client of request {id} of {tenant}"));
            }
            Outcome::Answered { .. } | Outcome::Broken(_) => {}
        }
    }

    /// An app begins a request.
    pub(crate) fn begins(self: &Rc<Self>, host: Host, tenant: &str, epoch: u64, id: u64) -> Begun {
        let mut inner = self.0.borrow_mut();
        inner.say(&format!("{}: request {id} of {tenant} at epoch {epoch}", host.name()));
        if let Some(before) = inner.ran.insert(id, host) {
            inner.violates(format!("request {id} of {tenant} ran in {} and again in {}", before.name(), host.name()));
        }
        if inner.asked.get(&id).is_none_or(|asked| asked.tenant != tenant) {
            inner.violates(format!("request {id} ran for {tenant}, who did not ask"));
        }
        let of_tenant = inner.running.iter().filter(|((of, _), _)| of == tenant);
        let elsewhere = of_tenant.map(|((_, other), (at, _))| (*other, *at)).find(|(_, at)| *at != host);
        if let Some((other, at)) = elsewhere {
            let (at, host) = (at.name(), host.name());
            inner.violates(format!("two cells serve {tenant}: request {other} in {at}, request {id} in {host}"));
        }
        let highest = inner.epochs.get(tenant).copied().unwrap_or(0);
        if highest > epoch {
            inner.violates(format!("request {id} of {tenant} ran at epoch {epoch}, after one at epoch {highest}"));
        }
        inner.epochs.insert(tenant.to_owned(), highest.max(epoch));
        inner.unjudged.push((tenant.to_owned(), epoch, host));
        inner.running.insert((tenant.to_owned(), id), (host, epoch));
        Begun { history: Rc::clone(self), tenant: tenant.to_owned(), id }
    }

    /// The store has changed.
    pub(crate) fn stores(&self, stored: &Stored, changes: &[String]) {
        let mut inner = self.0.borrow_mut();
        changes.iter().for_each(|change| inner.say(&format!("store: {change}")));
        for (tenant, placed) in &stored.placements {
            let known = inner.placed.insert((tenant.clone(), placed.epoch), placed.cell.clone());
            if known.as_ref().is_some_and(|known| *known != placed.cell) {
                let epoch = placed.epoch;
                inner.violates(format!("{tenant} is placed in {} and {known:?} at epoch {epoch}", placed.cell));
            }
        }
    }

    /// A step is over, and the store was looked at. What it has committed may be acted on within the same step, so only now
    /// is it judged where requests ran.
    pub(crate) fn looked(&self) {
        let mut inner = self.0.borrow_mut();
        for (tenant, epoch, host) in std::mem::take(&mut inner.unjudged) {
            let placed = inner.placed.get(&(tenant.clone(), epoch)).cloned();
            if placed.as_deref() != Some(host.name()) {
                inner.violates(format!("{tenant} was placed in {placed:?} at epoch {epoch}, not in {}", host.name()));
            }
        }
    }

    /// Whether all tenants were served since everything was healed.
    pub(crate) fn all_are_served(&self, tenants: &[&str]) -> bool {
        let inner = self.0.borrow();
        tenants.iter().all(|tenant| inner.served.contains(*tenant))
    }

    /// Whether every request has its answer.
    pub(crate) fn all_are_told(&self) -> bool {
        self.0.borrow().asked.values().all(|asked| asked.told)
    }

    /// A rule that was found broken otherwise.
    pub(crate) fn violates(&self, rule: String) {
        self.0.borrow_mut().violates(rule);
    }

    /// What was broken.
    pub(crate) fn violations(&self) -> Vec<String> {
        self.0.borrow().violations.clone()
    }

    /// Requests, those that ran, and those that failed.
    pub(crate) fn counts(&self) -> (usize, usize, u64) {
        let inner = self.0.borrow();
        (inner.asked.len(), inner.ran.len(), inner.failed)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::Placed;

    #[test]
    fn a_commit_may_be_acted_on_within_its_step_and_no_other_placement_may() {
        let (history, host) = (Rc::new(History::default()), Host::Cell(0));
        history.0.borrow_mut().may_ask = true;
        let runs_at = |epoch| {
            let id = history.asks("acme").expect("it may be asked");
            drop(history.begins(host, "acme", epoch, id));
        };
        runs_at(10);
        let placed = Placed { cell: host.name().to_owned(), epoch: 10, is_held: false };
        let mut stored = Stored::default();
        stored.placements.insert("acme".to_owned(), placed);
        history.stores(&stored, &[]);
        history.looked();
        assert_eq!(history.violations(), Vec::<String>::new());
        runs_at(11);
        history.looked();
        assert_eq!(history.violations().len(), 1);
    }
}
