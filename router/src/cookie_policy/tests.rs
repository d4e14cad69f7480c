//! What becomes of cookies that reach above their tenant.

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
