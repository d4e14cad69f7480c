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
mod tests {
    use super::*;
    use proptest::prelude::*;

    const HOST: &str = "acme.cells.example";

    fn host(text: &str) -> Hostname {
        Hostname::from_text(text).unwrap()
    }

    fn after(policy: CookiePolicy, cookies: &[&str]) -> Vec<String> {
        let mut headers = HeaderMap::new();
        for cookie in cookies {
            headers.append(SET_COOKIE, HeaderValue::from_bytes(cookie.as_bytes()).unwrap());
        }
        policy.apply(&mut headers, &host(HOST), |_| false);
        let text = |value: &HeaderValue| String::from_utf8(value.as_bytes().to_vec()).unwrap();
        headers.get_all(SET_COOKIE).iter().map(text).collect()
    }

    #[test]
    fn a_cookie_for_every_tenant_is_kept_to_the_one_that_set_it() {
        for (cookie, narrow) in [
            ("a=1; Domain=cells.example; Path=/", "a=1; Path=/"),
            ("a=1;domain=.CELLS.example", "a=1"),
            ("a=1; Path=/; DOMAIN = \t cells.example ;Secure", "a=1; Path=/;Secure"),
            ("a=1; Domain=example", "a=1"),
            ("a=1; Domain=cells.example.", "a=1"),
            ("a=1; Domain=..cells.example", "a=1"),
            ("a=1; Domain=acme.cells.example; Domain=cells.example", "a=1"),
            ("a=1; Domain=cells.example; Domain=; HttpOnly", "a=1; HttpOnly"),
            ("a=1; Domain=cells.example; Domain", "a=1"),
            ("a=\"x; Domain=cells.example\"; Domain=cells.example", "a=\"x"),
            ("Domain=x; Domain=cells.example", "Domain=x"),
            ("a=1; Domain=\u{ff43}ells.example", "a=1"),
            ("a=1; Domain=\u{80}", "a=1"),
            ("a=1; Domain=%63ells.example", "a=1"),
        ] {
            assert_eq!(after(CookiePolicy::Narrow, &["b=2", cookie]), ["b=2", narrow], "{cookie}");
            assert_eq!(after(CookiePolicy::Deny, &[cookie, "b=2"]), ["b=2"], "{cookie}");
            assert_eq!(after(CookiePolicy::Pass, &[cookie]), [cookie]);
        }
    }

    #[test]
    fn a_cookie_that_stays_is_left_as_it_is() {
        for cookie in [
            "a=1",
            "a=1; Path=/; Secure; HttpOnly; SameSite=Lax",
            "a=1; Domain=acme.cells.example",
            "a=1; Domain=.Acme.Cells.Example",
            "a=1; Domain=sub.acme.cells.example",
            "a=1; Domain=other.example",
            "a=1; Domain=ells.example",
            "a=1; Domain=",
            "a=1; Domain",
            "Domain=cells.example",
            "a=Domain=cells.example",
            "a=1; Path=/;Domainx=cells.example",
            "",
        ] {
            assert_eq!(after(CookiePolicy::Narrow, &[cookie]), [cookie]);
            assert_eq!(after(CookiePolicy::Deny, &[cookie]), [cookie]);
        }
    }

    #[test]
    fn a_tenants_own_domains_share_cookies() {
        let mut headers = HeaderMap::new();
        headers.append(SET_COOKIE, HeaderValue::from_static("a=1; Domain=acme.example"));
        headers.append(SET_COOKIE, HeaderValue::from_static("b=1; Domain=example"));
        let own = host("acme.example");
        let changed = CookiePolicy::Deny.apply(&mut headers, &host("www.acme.example"), |domain| *domain == own);
        assert_eq!((changed, headers.get_all(SET_COOKIE).iter().count()), (1, 1));
        assert_eq!(headers[SET_COOKIE], "a=1; Domain=acme.example");
    }

    /// The domain that a browser takes: of the last attribute, or of the last that is not empty.
    fn taken(cookie: &[u8], empty_counts: bool) -> Option<String> {
        let last = domains(cookie).filter(|domain| empty_counts || !domain.is_empty()).last()?;
        let text = String::from_utf8_lossy(last).to_ascii_lowercase();
        Some(text.strip_prefix('.').unwrap_or(&text).to_owned())
    }

    proptest! {
        #[test]
        fn no_browser_sends_a_narrowed_cookie_to_another_tenant(
            pieces in prop::collection::vec(prop_oneof![
                prop::sample::select(vec![
                    "Domain", "=", ";", " ", "\t", ".", "cells", "example", "acme", "cells.example", "domain=", "\"", ",",
                ]).prop_map(str::to_owned),
                "[ -~é。]{0,3}",
            ], 0..20),
        ) {
            let cookie = pieces.concat();
            let mut headers = HeaderMap::new();
            headers.append(SET_COOKIE, HeaderValue::from_bytes(cookie.as_bytes()).unwrap());
            let changed = CookiePolicy::Narrow.apply(&mut headers, &host(HOST), |_| false);
            let left = headers[SET_COOKIE].as_bytes();
            prop_assert_eq!(changed == 0, left == cookie.as_bytes());
            for empty_counts in [false, true] {
                if let Some(domain) = taken(left, empty_counts) {
                    prop_assert!(!HOST.ends_with(&format!(".{domain}")), "{domain}");
                }
            }
            let again = CookiePolicy::Narrow.apply(&mut headers, &host(HOST), |_| false);
            prop_assert_eq!(again, 0, "what was narrowed stays");
            let denied = CookiePolicy::Deny.apply(&mut headers, &host(HOST), |_| false);
            prop_assert_eq!(denied, 0);
        }
    }
}
