//! What becomes of cookies that a tenant's app sets for more hosts than the tenant's own.
//!
//! A cookie with `Domain=example.com` set on `acme.example.com` is sent by browsers to every other tenant below
//! `example.com`, and read, overwritten or planted there. Attributes are read as browsers read them (RFC 6265bis), and
//! where browsers differ, as the one that sends the cookie the furthest.

use cellway_core::hostname::Hostname;
use http::header::{HeaderMap, HeaderValue, SET_COOKIE};

/// What to do with a cookie that goes beyond the tenant's own host.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum CookiePolicy {
    /// Nothing.
    Pass,
    /// Take the cookie out of the answer.
    Deny,
    /// Take its `Domain` away, so that it stays with the host that set it.
    #[default]
    Narrow,
}

impl CookiePolicy {
    /// Keeps the cookies of an answer to a request for `host` within what is the tenant's: the host itself, what is
    /// below it, and hosts that `is_own` says are the tenant's too. Returns how many cookies were denied or narrowed.
    pub fn apply(self, headers: &mut HeaderMap, host: &Hostname, is_own: impl Fn(&Hostname) -> bool) -> usize {
        if self == Self::Pass {
            return 0;
        }
        let goes_too_far = |cookie: &HeaderValue| {
            let mut domains = domains(cookie.as_bytes());
            domains.any(|domain| !stays(domain, host, &is_own))
        };
        if !headers.get_all(SET_COOKIE).iter().any(goes_too_far) {
            return 0;
        }
        let mut changed = 0;
        let before: Vec<HeaderValue> = headers.get_all(SET_COOKIE).iter().cloned().collect();
        headers.remove(SET_COOKIE);
        for cookie in before {
            if !goes_too_far(&cookie) {
                headers.append(SET_COOKIE, cookie);
                continue;
            }
            changed += 1;
            // What is left of a value after whole attributes were taken out is one too.
            if self == Self::Narrow
                && let Ok(cookie) = HeaderValue::from_bytes(&narrowed(cookie.as_bytes()))
            {
                headers.append(SET_COOKIE, cookie);
            }
        }
        changed
    }
}

/// The attributes behind the cookie's name and value. Quotes mean nothing to browsers here.
fn attributes(cookie: &[u8]) -> impl Iterator<Item = &[u8]> {
    cookie.split(|byte| *byte == b';').skip(1)
}

/// The value of the attribute, if it is a `Domain`.
fn domain(attribute: &[u8]) -> Option<&[u8]> {
    let equals = attribute.iter().position(|byte| *byte == b'=').unwrap_or(attribute.len());
    let (name, value) = attribute.split_at(equals);
    name.trim_ascii().eq_ignore_ascii_case(b"domain").then(|| value.get(1..).unwrap_or_default().trim_ascii())
}

/// All of them: browsers take the last one, or the last one that is not empty.
fn domains(cookie: &[u8]) -> impl Iterator<Item = &[u8]> {
    attributes(cookie).filter_map(domain)
}

fn narrowed(cookie: &[u8]) -> Vec<u8> {
    let mut parts = cookie.split(|byte| *byte == b';');
    let mut kept = parts.next().unwrap_or_default().to_vec();
    for attribute in parts.filter(|attribute| domain(attribute).is_none()) {
        kept.push(b';');
        kept.extend_from_slice(attribute);
    }
    kept
}

/// Whether a cookie with this `Domain`, set on `host`, reaches no host that is another's.
fn stays(domain: &[u8], host: &Hostname, is_own: &impl Fn(&Hostname) -> bool) -> bool {
    let Ok(text) = std::str::from_utf8(domain) else { return false };
    // A leading dot means nothing, and further ones, or trailing ones, mean nothing good.
    let text = text.trim_matches('.');
    if text.is_empty() {
        return true;
    }
    // Not a host name to us: a browser may still make one of it, of escapes for example.
    let Ok(domain) = Hostname::from_text(text) else { return false };
    // Browsers refuse a cookie for a domain that the host is not in.
    let is_above = host.as_str().strip_suffix(domain.as_str()).is_some_and(|below| below.ends_with('.'));
    !is_above || is_own(&domain)
}

#[cfg(test)]
mod tests;
