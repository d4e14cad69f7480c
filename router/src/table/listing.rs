//! What a full listing names, without its names: a table knows which of its tenants are named, and of all else a hash is
//! kept. Two hashes of 64 bits with keys of their own make one that no two names have.

use std::hash::BuildHasher;

use cellway_core::ids::TenantId;
use cellway_proxy::Hashes;

use super::rows::{Kind, Marked};
use super::{Change, Subject, Table, TenantRoute};

/// A listing that is being read. At most one at a time marks a table.
#[derive(Debug, Default)]
pub struct Listing {
    hashes: [Hashes; 2],
    /// Of all that is not a tenant in the table. In order once it is closed.
    named: Vec<u128>,
    /// What was named more than once.
    repeated: Vec<u128>,
    /// Tenants that the table does not have.
    unknown_tenants: usize,
    is_closed: bool,
}

impl Listing {
    /// That it names this, as a number.
    pub(crate) fn hash(&self, subject: &Subject) -> u128 {
        let [one, other] = self.hashes.each_ref().map(|hashes| u128::from(hashes.hash_one(subject)));
        one << 64 | other
    }

    /// Tenants that it names and the table does not have.
    pub(crate) fn unknown_tenants(&self) -> usize {
        self.unknown_tenants
    }

    /// All is named. Says what more than once, in the order of the hashes.
    pub fn close(&mut self) -> &[u128] {
        self.named.sort_unstable();
        self.repeated.extend(self.named.windows(2).filter(|pair| pair[0] == pair[1]).map(|pair| pair[0]));
        self.repeated.sort_unstable();
        self.repeated.dedup();
        self.is_closed = true;
        &self.repeated
    }

    fn names(&self, subject: &Subject) -> bool {
        debug_assert!(self.is_closed, "its hashes are in no order yet");
        self.named.binary_search(&self.hash(subject)).is_ok()
    }
}

impl Table {
    /// A new listing, which names nothing yet.
    pub fn begin_listing(&self) -> Listing {
        self.tenants.begin_listing();
        Listing::default()
    }

    /// The listing names this. Changes nothing that is known of it.
    pub fn name(&self, listing: &mut Listing, subject: &Subject) {
        if let Subject::Tenant(tenant) = subject {
            match self.long_names.find(tenant.as_str()).map(|name| self.tenants.mark(name)) {
                Some(Marked::First) => return,
                Some(Marked::Again) => return listing.repeated.push(listing.hash(subject)),
                Some(Marked::Unknown) | None => listing.unknown_tenants += 1,
            }
        }
        listing.named.push(listing.hash(subject));
    }

    /// Whether the table says already what the change would make it say. Not known of certificates.
    pub(crate) fn says(&self, change: &Change) -> bool {
        match change {
            Change::Tenant { tenant, route, .. } => {
                let Some(name) = self.long_names.find(tenant.as_str()) else { return false };
                *route == TenantRoute::Unreadable && self.tenants.read(name, |_| ()).is_some()
                    || self.tenants.read(name, |row| self.route(row)).flatten().as_ref() == Some(route)
            }
            Change::Host { host, tenant } => self.hosts.pin().get(host) == Some(tenant),
            Change::Cell(route) => self.cells.pin().get(&route.name).is_some_and(|cell| cell.route == *route),
            Change::Limits { tenant, limits } => {
                self.limits.of(tenant).map(|limited| limited.limits()).unwrap_or_default() == *limits
            }
            _ => false,
        }
    }

    /// How many tenants the listing does not name.
    pub fn unnamed_tenants(&self) -> usize {
        let mut count = 0;
        self.tenants.each(|_, row, is_named| count += usize::from(!is_named && row.kind != Kind::Gone));
        count
    }

    /// The changes that remove what a closed listing does not name. A tenant that it named counts as named also if it has
    /// come into the table since.
    pub fn unnamed(&self, listing: &Listing, mut each: impl FnMut(Change)) {
        self.tenants.each(|name, row, is_named| {
            if !is_named
                && row.kind != Kind::Gone
                && let Some(tenant) = self.long_names.tenant(name)
            {
                each(Change::TenantRemoved(tenant));
            }
        });
        let mut gone = |subject: Subject, change: Change| {
            if !listing.names(&subject) {
                each(change);
            }
        };
        for host in self.hosts.pin().keys() {
            gone(Subject::Host(host.clone()), Change::HostRemoved(host.clone()));
        }
        for cell in self.cells.pin().keys() {
            gone(Subject::Cell(cell.clone()), Change::CellRemoved(cell.clone()));
        }
        self.limits.each_tenant(|tenant: &TenantId| {
            gone(Subject::Limits(tenant.clone()), Change::LimitsRemoved(tenant.clone()));
        });
        if let Some(certificates) = &self.certificates {
            for name in certificates.vanished(|name| listing.names(&Subject::Certificate(name.clone()))) {
                each(Change::CertificateRemoved(name));
            }
        }
    }
}
