//! What a router says about HTTPS: where a request in clear is sent, and what browsers are told to remember.

use cellway_core::hostname::Hostname;
use cellway_proxy::ResponseBody;
use http::uri::PathAndQuery;
use http::{HeaderMap, HeaderValue, Response, StatusCode, Uri, header};

/// Certificate authorities fetch their challenges in clear, and may follow no redirect to a name that has no
/// certificate yet.
const ACME_CHALLENGE: &str = "/.well-known/acme-challenge/";

/// The port that a URL need not name.
const HTTPS_PORT: u16 = 443;

/// What `Strict-Transport-Security` tells browsers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Hsts {
    /// How long they remember it. 0 makes them forget.
    pub max_age_s: u64,
    /// Whether it is also for all names below.
    pub include_subdomains: bool,
    /// Whether browsers may ship it.
    pub preload: bool,
}

/// The policy of one router.
#[derive(Debug, Clone, Default)]
pub(crate) struct HttpsPolicy {
    redirect_port: Option<u16>,
    hsts: Option<HeaderValue>,
}

impl HttpsPolicy {
    pub(crate) fn new(redirect_port: Option<u16>, hsts: Option<Hsts>) -> Self {
        Self { redirect_port, hsts: hsts.map(|hsts| hsts.value()) }
    }

    /// The answer to a request in clear that is not served in clear.
    pub(crate) fn redirected(&self, host: &Hostname, uri: &Uri) -> Option<Response<ResponseBody>> {
        let location = redirect(host, uri.path_and_query(), self.redirect_port?)?;
        let mut response = Response::new(ResponseBody::Empty);
        *response.status_mut() = StatusCode::PERMANENT_REDIRECT;
        response.headers_mut().insert(header::LOCATION, location);
        Some(response)
    }

    /// Adds the policy to an answer over TLS, unless the app has its own.
    pub(crate) fn mark(&self, headers: &mut HeaderMap) {
        if let Some(hsts) = &self.hsts {
            headers.entry(header::STRICT_TRANSPORT_SECURITY).or_insert_with(|| hsts.clone());
        }
    }
}

impl Hsts {
    /// The header's value.
    #[expect(clippy::expect_used, reason = "digits and fixed words are a header's value")]
    pub fn value(&self) -> HeaderValue {
        let mut text = format!("max-age={}", self.max_age_s);
        if self.include_subdomains {
            text.push_str("; includeSubDomains");
        }
        if self.preload {
            text.push_str("; preload");
        }
        HeaderValue::from_str(&text).expect("digits and fixed words are a header's value")
    }
}

/// Where a request in clear is sent (308: with its method and body), unless it is one that has to be served in clear.
/// `https_port` is the port that browsers reach HTTPS at.
pub fn redirect(host: &Hostname, target: Option<&PathAndQuery>, https_port: u16) -> Option<HeaderValue> {
    let (path, query) = target.map_or(("/", None), |target| (target.path(), target.query()));
    if path.strip_prefix(ACME_CHALLENGE).is_some_and(is_token) {
        return None;
    }
    // `OPTIONS *` is about the server; there is no such place to be sent to.
    let path = if path.starts_with('/') { path } else { "/" };
    let mut location = match https_port {
        HTTPS_PORT => format!("https://{host}{path}"),
        port => format!("https://{host}:{port}{path}"),
    };
    if let Some(query) = query {
        location.push('?');
        location.push_str(query);
    }
    HeaderValue::from_str(&location).ok()
}

/// Whether this is the token of a challenge (RFC 8555, section 8.3): no other path may pass in clear.
fn is_token(text: &str) -> bool {
    !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_'))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sent_to(host: &str, target: &str, port: u16) -> Option<String> {
        let host = Hostname::from_text(host).expect("a host");
        let target: PathAndQuery = target.parse().expect("a target");
        redirect(&host, Some(&target), port).map(|value| value.to_str().expect("ASCII").to_owned())
    }

    #[test]
    fn a_redirect_keeps_host_path_and_query() {
        assert_eq!(sent_to("acme.example", "/a/b?c=d&e", 443).as_deref(), Some("https://acme.example/a/b?c=d&e"));
        assert_eq!(sent_to("acme.example", "/", 8443).as_deref(), Some("https://acme.example:8443/"));
        let without_path = Uri::from_static("http://acme.example?c=d");
        let host = Hostname::from_text("acme.example").expect("a host");
        let location = redirect(&host, without_path.path_and_query(), 443).expect("a place");
        assert_eq!(location, "https://acme.example/?c=d");
        assert_eq!(sent_to("acme.example", "*", 443).as_deref(), Some("https://acme.example/"));
    }

    #[test]
    fn no_path_leads_to_another_host() {
        for path in ["//evil.example/x", "/\\evil.example", "/@evil.example", "/%2e%2e//evil"] {
            let Ok(target) = path.parse::<PathAndQuery>() else { continue };
            let host = Hostname::from_text("acme.example").expect("a host");
            let location = redirect(&host, Some(&target), 443).expect("a location");
            assert!(location.as_bytes().starts_with(b"https://acme.example/"), "{path}");
        }
    }

    #[test]
    fn challenges_of_certificate_authorities_are_served_in_clear() {
        assert_eq!(sent_to("acme.example", "/.well-known/acme-challenge/token", 443), None);
        assert!(sent_to("acme.example", "/.well-known/acme-challenge", 443).is_some());
        assert!(sent_to("acme.example", "/x/.well-known/acme-challenge/token", 443).is_some());
        for path in ["", "../../secret", "..%2f..%2fsecret", "%2e%2e/secret", "..;/secret", "a/b", "/secret", "."] {
            assert!(sent_to("acme.example", &format!("{ACME_CHALLENGE}{path}"), 443).is_some(), "{path}");
        }
    }

    #[test]
    fn hsts_is_as_the_policy_says() {
        let short = Hsts { max_age_s: 300, include_subdomains: false, preload: false };
        assert_eq!(short.value(), "max-age=300");
        let full = Hsts { max_age_s: 63_072_000, include_subdomains: true, preload: true };
        assert_eq!(full.value(), "max-age=63072000; includeSubDomains; preload");
    }
}
