//! How a host becomes a tenant, and when a router may believe a gate that sends it elsewhere.

use crate::hostname::Hostname;
use crate::ids::{CellName, Epoch};
use std::collections::BTreeSet;

/// Labels below the base domain that are never tenants, unless configured otherwise.
pub const RESERVED_LABELS: [&str; 4] = ["www", "api", "admin", "status"];

/// How often one request may be sent on because a gate said `elsewhere`.
pub const ELSEWHERE_HOPS_MAX: u32 = 2;

/// The domains that a router serves.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Domains {
    /// Tenants are one label below one of these.
    pub base: Vec<Hostname>,
    /// Labels that are never tenants.
    pub reserved: BTreeSet<String>,
}

/// What a host stands for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum HostMeaning<'a> {
    /// The tenant with this label as its id, if there is one.
    Tenant(&'a str),
    /// The bare base domain or a reserved label: the configured origin.
    Origin,
    /// A name outside of the base domains: a tenant's own domain, if someone claimed it.
    Custom,
}

impl Domains {
    /// What `host` stands for.
    pub fn meaning<'a>(&self, host: &'a Hostname) -> HostMeaning<'a> {
        for base in &self.base {
            if host == base {
                return HostMeaning::Origin;
            }
            match host.label_under(base) {
                Some(label) if self.reserved.contains(label) => return HostMeaning::Origin,
                Some(label) => return HostMeaning::Tenant(label),
                None => {}
            }
        }
        HostMeaning::Custom
    }
}

/// A path below which the first segment names the tenant: below `/t/`, `/t/acme/page` is tenant acme's.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PathPrefix(Box<str>);

/// Why a text is no path prefix.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "{0:?} is no path prefix: it begins and ends with '/', like /t/, and its segments are of a-z, 0-9, '-' and '_'"
)]
pub struct InvalidPathPrefix(String);

impl PathPrefix {
    /// Checks `text` and makes it a prefix.
    pub fn new(text: &str) -> Result<Self, InvalidPathPrefix> {
        let legal = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-' || byte == b'_';
        let is_segment = |part: &str| !part.is_empty() && part.bytes().all(legal);
        let inner = text.strip_prefix('/').and_then(|text| text.strip_suffix('/'));
        if text == "/" || inner.is_some_and(|inner| inner.split('/').all(is_segment)) {
            return Ok(Self(text.into()));
        }
        Err(InvalidPathPrefix(text.to_owned()))
    }

    /// The label that `path` names, and the path behind it, which is empty or begins with `/`.
    pub fn split<'a>(&self, path: &'a str) -> Option<(&'a str, &'a str)> {
        let rest = path.strip_prefix(&*self.0)?;
        Some(rest.split_at(rest.find('/').unwrap_or(rest.len())))
    }
}

/// Whether everyone who reads `path` comes to the same segments: none is `.` or `..`, and no dot or separator is hidden
/// in an escape. A path that names a tenant must be like this, or the app could read another tenant's name in it.
pub fn is_plain_path(path: &str) -> bool {
    let hides = |escape: &str| ["2e", "2f", "5c"].iter().any(|hidden| escape.eq_ignore_ascii_case(hidden));
    let escapes = path.match_indices('%').all(|(at, _)| path.get(at + 1..at + 3).is_some_and(|escape| !hides(escape)));
    // Some servers take `..;x` for `..`.
    let is_dots = |segment: &str| matches!(segment.split(';').next(), Some("." | ".."));
    escapes && !path.contains('\\') && !path.split('/').any(is_dots)
}

/// Where a router sends a tenant's requests, as it knows: from its feed, or from a gate's hint.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Owner {
    /// The cell.
    pub cell: CellName,
    /// At this epoch.
    pub epoch: Epoch,
}

/// Whether a router may follow `hint`, which the gate of cell `said_by` gave in answer to a request that was sent on
/// `hops` times before.
///
/// Only the cell that the router itself holds for the owner may point elsewhere, only to a known cell, and only to a
/// higher epoch: so a gate cannot take a tenant, and a router never goes back.
pub fn may_follow(held: &Owner, said_by: &CellName, hint: &Owner, hint_cell_is_known: bool, hops: u32) -> bool {
    held.cell == *said_by && hint_cell_is_known && hint.epoch > held.epoch && hops < ELSEWHERE_HOPS_MAX
}

/// Puts a cell's endpoints into the order in which they are tried. Of the first, whose turn it is, and the one at `other`, drawn
/// by chance, the less busy comes first; those that are away come last.
pub fn in_order<T>(endpoints: &mut [T], other: usize, in_use: impl Fn(&T) -> usize, is_away: impl FnMut(&T) -> bool) {
    if other < endpoints.len() && in_use(&endpoints[other]) < in_use(&endpoints[0]) {
        endpoints.swap(0, other);
    }
    endpoints.sort_by_key(is_away);
}

#[cfg(test)]
mod tests {
    use super::*;

    fn host(text: &str) -> Hostname {
        Hostname::from_text(text).expect("legal")
    }

    fn owner(cell: &str, epoch: u64) -> Owner {
        Owner { cell: CellName::new(cell).expect("legal"), epoch: Epoch(epoch) }
    }

    #[test]
    fn reserved_labels_and_the_bare_base_are_never_tenants() {
        let domains =
            Domains { base: vec![host("cells.localhost")], reserved: RESERVED_LABELS.map(str::to_owned).into() };
        assert_eq!(domains.meaning(&host("acme.cells.localhost")), HostMeaning::Tenant("acme"));
        for name in ["cells.localhost", "www.cells.localhost", "API.cells.localhost."] {
            assert_eq!(domains.meaning(&host(name)), HostMeaning::Origin, "{name}");
        }
        for name in ["acme.example", "x.acme.cells.localhost"] {
            assert_eq!(domains.meaning(&host(name)), HostMeaning::Custom, "{name}");
        }
    }

    #[test]
    fn a_path_names_the_tenant_behind_the_prefix() {
        let prefix = PathPrefix::new("/t/").expect("legal");
        for (path, split) in [
            ("/t/acme/page", Some(("acme", "/page"))),
            ("/t/acme/", Some(("acme", "/"))),
            ("/t/acme", Some(("acme", ""))),
            ("/t/", Some(("", ""))),
            ("/t//acme", Some(("", "/acme"))),
            ("/t", None),
            ("/T/acme", None),
            ("/x/t/acme", None),
        ] {
            assert_eq!(prefix.split(path), split, "{path}");
        }
        assert_eq!(PathPrefix::new("/").expect("legal").split("/acme/t"), Some(("acme", "/t")));
        assert_eq!(PathPrefix::new("/a/b-1/").expect("legal").split("/a/b-1/acme"), Some(("acme", "")));
        for bad in ["", "t", "/t", "t/", "//", "/t//", "/../", "/t%2f/", "/T/"] {
            assert!(PathPrefix::new(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn a_path_that_can_be_read_in_two_ways_is_not_plain() {
        for path in ["/", "/t/acme/a.b/..c/%20%C3%A4", "/t/acme//x", "/t/acme/..."] {
            assert!(is_plain_path(path), "{path}");
        }
        for path in [
            "/t/acme/../beta",
            "/t/acme/./x",
            "/t/acme/..",
            "/t/acme/..;/beta",
            "/t/acme/%2e%2E/beta",
            "/t/acme%2fx",
            "/t/acme/..\\x",
            "/t/acme/%5C",
            "/t/acme/%",
            "/t/acme/%2",
        ] {
            assert!(!is_plain_path(path), "{path}");
        }
    }

    #[test]
    fn the_less_busy_of_two_endpoints_is_tried_first_and_those_away_last() {
        let ordered = |in_use: [usize; 4], other, away: &[usize]| {
            let mut endpoints = [0, 1, 2, 3];
            in_order(&mut endpoints, other, |at| in_use[*at], |at| away.contains(at));
            endpoints
        };
        assert_eq!(ordered([5, 9, 4, 0], 2, &[]), [2, 1, 0, 3], "the least busy of all was not drawn");
        assert_eq!(ordered([5, 9, 5, 0], 2, &[]), [0, 1, 2, 3], "it is not less busy");
        assert_eq!(ordered([5, 9, 4, 0], 2, &[2]), [1, 0, 3, 2]);
        assert_eq!(ordered([5, 9, 4, 0], 1, &[0, 3]), [1, 2, 0, 3], "in their turn among themselves");
    }

    #[test]
    fn a_cell_cannot_take_a_tenant_by_its_word() {
        let held = owner("a", 5);
        let follow = |said_by: &str, hint: Owner, known, hops| {
            may_follow(&held, &CellName::new(said_by).expect("legal"), &hint, known, hops)
        };
        assert!(follow("a", owner("b", 6), true, 0));
        assert!(!follow("evil", owner("evil", u64::MAX), true, 0));
        assert!(!follow("a", owner("b", 6), false, 0));
        assert!(!follow("a", owner("b", 5), true, 0));
        assert!(!follow("a", owner("b", 6), true, ELSEWHERE_HOPS_MAX));
    }
}
