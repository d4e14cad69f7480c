//! Where each thing is kept (relative to the store's prefix).

use cellway_core::certificate::CertificateName;
use cellway_core::hostname::Hostname;
use cellway_core::ids::{CellName, HomeId, MoveId, TenantId};

/// Everything a router follows.
pub const ROUTES: &str = "routes/";
/// Which cell a tenant is in.
pub const PLACEMENTS: &str = "routes/placements/";
/// Which tenant a host belongs to.
pub const HOSTS: &str = "routes/hosts/";
/// Cells: endpoints, condition, version.
pub const CELLS: &str = "routes/cells/";
/// Limits and switches of tenants.
pub const LIMITS: &str = "routes/limits/";
/// Certificates of hosts, their keys sealed.
pub const CERTIFICATES: &str = "routes/certificates/";
/// The leader's clock: shows when a feed is silent but dead.
pub const HEARTBEAT: &str = "routes/heartbeat";
/// The registered gate instances of each cell.
pub const GATES: &str = "gates/";
/// Tenants.
pub const TENANTS: &str = "tenants/";
/// Move records.
pub const MOVES: &str = "moves/";
/// Which move a tenant is in.
pub const MOVING: &str = "moving/";
/// Who was last given a place in a cell.
pub const PLACES: &str = "places/";
/// Homes to drop later.
pub const LEFTOVERS: &str = "leftovers/";
/// Findings.
pub const FINDINGS: &str = "findings/";
/// Who leads, under a lease.
pub const LEADER: &str = "leader";
/// Present while nothing may start.
pub const BRAKE: &str = "brake";
/// Who did what.
pub const AUDIT: &str = "audit/";

/// `routes/placements/{bucket}/{tenant}`.
pub fn placement(tenant: &TenantId) -> String {
    format!("{PLACEMENTS}{:02x}/{tenant}", bucket(tenant.as_str()))
}

/// The prefix of one bucket of placements.
pub fn placement_bucket(bucket: u8) -> String {
    format!("{PLACEMENTS}{bucket:02x}/")
}

/// The tenant that a placement key is about.
pub fn tenant_of_placement(key: &str) -> Option<TenantId> {
    let (_, tenant) = key.strip_prefix(PLACEMENTS)?.split_once('/')?;
    TenantId::new(tenant).ok()
}

/// `routes/hosts/{hostname}`.
pub fn host(host: &Hostname) -> String {
    format!("{HOSTS}{host}")
}

/// `routes/cells/{cell}`.
pub fn cell(cell: &CellName) -> String {
    format!("{CELLS}{cell}")
}

/// `routes/limits/{tenant}`.
pub fn limits(tenant: &TenantId) -> String {
    format!("{LIMITS}{tenant}")
}

/// `routes/certificates/{name}`: a host, or `_.` and a host for the wildcard below it.
pub fn certificate(name: &CertificateName) -> String {
    format!("{CERTIFICATES}{}", name.as_key())
}

/// `gates/{cell}`.
pub fn gates(cell: &CellName) -> String {
    format!("{GATES}{cell}")
}

/// `tenants/{tenant}`.
pub fn tenant(tenant: &TenantId) -> String {
    format!("{TENANTS}{tenant}")
}

/// `moves/{move}`.
pub fn a_move(id: &MoveId) -> String {
    format!("{MOVES}{id}")
}

/// `moving/{tenant}`.
pub fn moving(tenant: &TenantId) -> String {
    format!("{MOVING}{tenant}")
}

/// `places/{cell}`.
pub fn places(cell: &CellName) -> String {
    format!("{PLACES}{cell}")
}

/// `leftovers/{cell}/{tenant}/{home}`: a home's name is its tenant's own.
pub fn leftover(cell: &CellName, tenant: &TenantId, home: &HomeId) -> String {
    format!("{LEFTOVERS}{cell}/{tenant}/{home}")
}

/// What a leftover's key is about.
pub fn parts_of_leftover(key: &str) -> Option<(CellName, TenantId, HomeId)> {
    let mut parts = key.strip_prefix(LEFTOVERS)?.splitn(3, '/');
    let (cell, tenant, home) = (parts.next()?, parts.next()?, parts.next()?);
    Some((CellName::new(cell).ok()?, TenantId::new(tenant).ok()?, HomeId::new(home).ok()?))
}

/// `findings/{id}`.
pub fn finding(id: &str) -> String {
    format!("{FINDINGS}{id}")
}

/// `audit/{time}-{id}`: the time in ms with leading zeros, so that keys sort by time.
pub fn audit(at_ms: u64, id: &str) -> String {
    format!("{AUDIT}{at_ms:015}-{id}")
}

/// Spreads tenants over 256 ranges, because paging one long range by `limit` is slow in etcd: FNV-1a, 64 bit, its
/// bytes folded into one.
fn bucket(tenant: &str) -> u8 {
    let hash = tenant
        .bytes()
        .fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| (hash ^ u64::from(byte)).wrapping_mul(0x0000_0100_0000_01b3));
    hash.to_be_bytes().into_iter().fold(0, |folded, byte| folded ^ byte)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_placement_key_names_its_tenant() {
        let tenant = TenantId::new("acme").expect("legal");
        let key = placement(&tenant);
        assert_eq!(tenant_of_placement(&key), Some(tenant));
        assert!(key.starts_with(PLACEMENTS) && key.starts_with(ROUTES));
    }

    #[test]
    fn tenants_spread_over_the_buckets() {
        let used: std::collections::BTreeSet<u8> = (0..4_000).map(|i| bucket(&format!("tenant-{i}"))).collect();
        assert!(used.len() > 250, "{}", used.len());
    }
}
