//! Whose request it is: the host says so, or, where configured, a header or the path of a trusted peer.

use std::net::IpAddr;
use std::str::FromStr;

use cellway_core::hostname::Hostname;
use cellway_core::network::Networks;
use cellway_core::route::{HostMeaning, PathPrefix, is_plain_path};
use cellway_proxy::hygiene::BadRequest;
use http::header::{HeaderMap, HeaderName};
use http::request::Parts;
use http::uri::PathAndQuery;
use http::{HeaderValue, Uri};

use crate::failure::Failure;
use crate::settings::Settings;
use crate::shared::Shared;
use crate::table::Found;
use crate::under_way::Tally;

/// Names that have a meaning of their own, with `-` for `_`: what begins like this cannot name a tenant.
const NEVER_NAMING: [&str; 6] = ["x-cellway-", "x-forwarded-", "forwarded", "host", "x-request-id", "connection"];

/// The name of a header that may name a tenant.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NamingHeader(HeaderName);

/// Why a header may not name a tenant.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum InvalidNamingHeader {
    /// Not the name of a header.
    #[error("{0:?} is no name of a header")]
    Name(String),
    /// It says something else, and is taken away or written by the router.
    #[error("{0:?} has a meaning of its own: name a tenant in another header, such as x-tenant")]
    Taken(String),
}

impl FromStr for NamingHeader {
    type Err = InvalidNamingHeader;
    fn from_str(text: &str) -> Result<Self, InvalidNamingHeader> {
        let name: HeaderName = text.parse().map_err(|_| InvalidNamingHeader::Name(text.to_owned()))?;
        let plain = plain(&name);
        if NEVER_NAMING.iter().any(|never| plain.starts_with(never)) {
            return Err(InvalidNamingHeader::Taken(text.to_owned()));
        }
        Ok(Self(name))
    }
}

/// How a trusted peer names a tenant otherwise than by its host. Nobody may, unless configured.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct TenantNaming {
    /// Who is trusted with it.
    pub trusted: Networks,
    /// The header that holds a tenant's id. It comes before path and host. From others it is removed.
    pub header: Option<NamingHeader>,
    /// The path below which the first segment is a tenant's id. It comes before the host.
    pub path_prefix: Option<PathPrefix>,
    /// Whether the app is sent only what is behind the tenant's id.
    pub strip_path_prefix: bool,
}

/// Whose request it is, and where that is counted; `None` for the base domain itself and its reserved labels.
pub(crate) fn tenant_of(
    shared: &Shared,
    settings: &Settings,
    head: &mut Parts,
    host: &Hostname,
    peer: IpAddr,
) -> Result<Option<(Found, Tally)>, Failure> {
    let find = |label: &str| {
        let tally = shared.under_way.tally(label);
        Some((shared.table.find(label)?, tally))
    };
    let of_host = || find(shared.table.tenant_of_host(host)?.as_str());
    let found = match settings.naming.named(head, peer)? {
        Some(label) => find(&label),
        None => match settings.domains.meaning(host) {
            HostMeaning::Origin => return Ok(None),
            // A name below the base domain that is no tenant's own may be claimed: that is how a tenant is renamed.
            HostMeaning::Tenant(label) => find(label).or_else(of_host),
            HostMeaning::Custom => of_host(),
        },
    };
    match found {
        Some(found) => Ok(Some(found)),
        None if shared.is_loaded() => Err(Failure::UnknownHost),
        None => Err(Failure::NoRoutesYet),
    }
}

impl TenantNaming {
    /// The label by which a trusted peer names the tenant. Takes out of the head what must not be passed on.
    fn named(&self, head: &mut Parts, peer: IpAddr) -> Result<Option<String>, Failure> {
        let trusted = self.trusted.contain(peer);
        if let Some(NamingHeader(name)) = &self.header {
            remove_twins(&mut head.headers, name);
            if !trusted {
                head.headers.remove(name);
            } else if let Some(label) = only(&head.headers, name)? {
                return Ok(Some(label));
            }
        }
        match &self.path_prefix {
            Some(prefix) if trusted => self.named_by_path(prefix, &mut head.uri),
            _ => Ok(None),
        }
    }

    fn named_by_path(&self, prefix: &PathPrefix, uri: &mut Uri) -> Result<Option<String>, Failure> {
        let Some((label, rest)) = prefix.split(uri.path()) else { return Ok(None) };
        if !is_plain_path(uri.path()) {
            return Err(BadRequest::Target.into());
        }
        let label = label.to_owned();
        if self.strip_path_prefix {
            let path = if rest.is_empty() { "/" } else { rest };
            let query = uri.query().map(|query| format!("?{query}")).unwrap_or_default();
            let target = PathAndQuery::try_from(format!("{path}{query}")).map_err(|_| BadRequest::Target)?;
            *uri = Uri::from(target);
        }
        Ok(Some(label))
    }
}

/// The one value of a header. Two would name two tenants, and what cannot be read names none.
fn only(headers: &HeaderMap, name: &HeaderName) -> Result<Option<String>, Failure> {
    let mut values = headers.get_all(name).iter().map(HeaderValue::to_str);
    match (values.next(), values.next()) {
        (None, _) => Ok(None),
        (Some(Ok(label)), None) => Ok(Some(label.to_owned())),
        _ => Err(Failure::UnknownHost),
    }
}

/// The name with `-` for any `_`: many apps cannot tell the two apart.
fn plain(name: &HeaderName) -> String {
    name.as_str().replace('_', "-")
}

/// Removes what an app may take for `name`.
fn remove_twins(headers: &mut HeaderMap, name: &HeaderName) {
    let wanted = plain(name);
    let is_twin = |other: &&HeaderName| *other != name && plain(other) == wanted;
    let twins: Vec<HeaderName> = headers.keys().filter(is_twin).cloned().collect();
    for twin in twins {
        headers.remove(twin);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use http::Request;

    fn naming() -> TenantNaming {
        TenantNaming {
            trusted: ["10.0.0.0/8".parse().unwrap()].into_iter().collect(),
            header: Some("x-tenant".parse().unwrap()),
            path_prefix: Some(PathPrefix::new("/t/").unwrap()),
            strip_path_prefix: false,
        }
    }

    fn head(target: &str, fields: &[(&str, &str)]) -> Parts {
        let mut request = Request::builder().uri(target);
        for (name, value) in fields {
            request = request.header(*name, *value);
        }
        request.body(()).unwrap().into_parts().0
    }

    fn named(naming: &TenantNaming, head: &mut Parts, peer: &str) -> Result<Option<String>, Failure> {
        naming.named(head, peer.parse().unwrap())
    }

    #[test]
    fn only_who_is_trusted_names_a_tenant() {
        let fields = [("x-tenant", "acme"), ("x_tenant", "beta")];
        let mut stranger = head("/t/gamma/x", &fields);
        assert_eq!(named(&naming(), &mut stranger, "192.0.2.1"), Ok(None));
        assert!(stranger.headers.is_empty(), "nor does the app hear it");
        assert_eq!(stranger.uri, "/t/gamma/x");
        let mut trusted = head("/t/gamma/x", &fields);
        assert_eq!(named(&naming(), &mut trusted, "::ffff:10.0.0.1"), Ok(Some("acme".into())));
        assert_eq!(trusted.headers.len(), 1);
        assert_eq!(named(&TenantNaming::default(), &mut head("/t/a", &fields), "10.0.0.1"), Ok(None));
    }

    #[test]
    fn a_name_that_is_not_clear_names_nobody() {
        let twice = [("x-tenant", "acme"), ("x-tenant", "acme")];
        assert_eq!(named(&naming(), &mut head("/", &twice), "10.0.0.1"), Err(Failure::UnknownHost));
        for target in ["/t/acme/../beta/", "/t/acme/%2e%2e/beta", "/t/acme%2f..%2fbeta"] {
            let refused = named(&naming(), &mut head(target, &[]), "10.0.0.1");
            assert_eq!(refused, Err(BadRequest::Target.into()), "{target}");
        }
    }

    #[test]
    fn a_header_with_a_meaning_of_its_own_names_no_tenant() {
        for name in ["Host", "X_Forwarded_Host", "x-cellway-tenant", "forwarded", "a b", ""] {
            assert!(name.parse::<NamingHeader>().is_err(), "{name}");
        }
    }

    #[test]
    fn the_path_is_kept_unless_it_is_to_be_stripped() {
        let strip = TenantNaming { strip_path_prefix: true, ..naming() };
        for (target, stripped) in [
            ("/t/acme/page?x=/t/beta", "/page?x=/t/beta"),
            ("/t/acme", "/"),
            ("/t/acme?x", "/?x"),
            ("http://a.example/t/acme/p", "/p"),
        ] {
            let mut kept = head(target, &[]);
            assert_eq!(named(&naming(), &mut kept, "10.0.0.1"), Ok(Some("acme".into())));
            assert_eq!(kept.uri, target);
            let mut head = head(target, &[]);
            assert_eq!(named(&strip, &mut head, "10.0.0.1"), Ok(Some("acme".into())));
            assert_eq!(head.uri, stripped);
        }
        assert_eq!(named(&strip, &mut head("/other", &[]), "10.0.0.1"), Ok(None));
    }
}
