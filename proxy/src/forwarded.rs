//! Who the client is, and what cells are told of it: `Forwarded` (RFC 7239) and the `X-Forwarded-*` fields.
//!
//! A client's own word counts for nothing. Where the connection comes from a trusted proxy, the addresses that trusted
//! proxies have added are followed from the last one back, up to the first address that is not trusted: that is the
//! client. What stands before it is anybody's word, and goes no further. Everything written here is written anew from
//! addresses and a normalised host, so no byte of a field that came in goes out again.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use cellway_core::network::Networks;
use http::header::{self, HeaderMap, HeaderName, HeaderValue};
use http::uri::Scheme;

use crate::field_lines::{FieldLines, FieldText};
use crate::hygiene::Authority;

/// The addresses that a request came through, the client's first.
pub const X_FORWARDED_FOR: HeaderName = HeaderName::from_static("x-forwarded-for");
/// What the client spoke: `http` or `https`.
pub const X_FORWARDED_PROTO: HeaderName = HeaderName::from_static("x-forwarded-proto");
/// The host that the client asked for.
pub const X_FORWARDED_HOST: HeaderName = HeaderName::from_static("x-forwarded-host");

/// All that [`Client::write`] may write.
pub const WRITTEN: [HeaderName; 4] = [header::FORWARDED, X_FORWARDED_FOR, X_FORWARDED_PROTO, X_FORWARDED_HOST];

/// The most proxies that are followed back: longer chains are loops.
pub const PROXIES_MAX: usize = 16;

/// Which field trusted proxies write. The other one is not looked at: a proxy passes it on as the client sent it.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum TrustedField {
    /// `X-Forwarded-For` and `X-Forwarded-Proto`, which nearly every proxy writes.
    #[default]
    XForwardedFor,
    /// `Forwarded`.
    Forwarded,
}

/// Whom to believe, and what to tell cells.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Forwarding {
    /// The proxies that are believed; nobody, unless configured.
    pub trusted: Networks,
    /// What they write.
    pub field: TrustedField,
    /// Whether cells are told in `X-Forwarded-*` too: many apps know nothing else.
    pub x_forwarded: bool,
}

impl Default for Forwarding {
    fn default() -> Self {
        Self { trusted: Networks::default(), field: TrustedField::default(), x_forwarded: true }
    }
}

/// Who asked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Client {
    /// The client, as far as it can be known.
    pub address: IpAddr,
    /// What the client spoke, to the router or to the proxy that it reached.
    pub scheme: Scheme,
    /// The trusted proxies in between, in the order that the request took.
    pub proxies: Vec<IpAddr>,
}

impl Forwarding {
    /// The client of a request that came from `peer` over a connection that spoke `scheme`.
    pub fn client(&self, headers: &HeaderMap, peer: IpAddr, scheme: Scheme) -> Client {
        let mut client = Client { address: peer.to_canonical(), scheme, proxies: Vec::new() };
        if self.trusted.contain(peer) {
            match self.field {
                TrustedField::XForwardedFor => self.follow_x_forwarded(headers, &mut client),
                TrustedField::Forwarded => self.follow_forwarded(headers, &mut client),
            }
        }
        client.proxies.reverse();
        client
    }

    /// Goes one proxy back. Says whether to go on: what a client says is not followed.
    fn step(&self, client: &mut Client, address: IpAddr) -> bool {
        client.proxies.push(client.address);
        client.address = address.to_canonical();
        self.trusted.contain(client.address) && client.proxies.len() < PROXIES_MAX
    }

    fn follow_x_forwarded(&self, headers: &HeaderMap, client: &mut Client) {
        let last_first = |name| headers.get_all(name).iter().rev().map(HeaderValue::to_str);
        if let Some(Ok(line)) = last_first(X_FORWARDED_PROTO).next()
            && let Some(said) = scheme(line.rsplit(',').next().unwrap_or_default().trim())
        {
            client.scheme = said;
        }
        for line in last_first(X_FORWARDED_FOR) {
            let Ok(line) = line else { return };
            for text in line.rsplit(',').map(str::trim).filter(|text| !text.is_empty()) {
                match x_address(text) {
                    Some(address) if self.step(client, address) => {}
                    _ => return,
                }
            }
        }
    }

    fn follow_forwarded(&self, headers: &HeaderMap, client: &mut Client) {
        for line in headers.get_all(header::FORWARDED).iter().rev() {
            let Some(hops) = line.to_str().ok().and_then(hops) else { return };
            for hop in hops.into_iter().rev() {
                let Some(address) = hop.node else { return };
                let go_on = self.step(client, address);
                // Each proxy says what it was spoken to, so what the first one says is what the client spoke.
                if let Some(said) = hop.scheme {
                    client.scheme = said;
                }
                if !go_on {
                    return;
                }
            }
        }
    }
}

impl Client {
    /// Writes who asked for which host, over what, and through whom. Fields that said so before must be gone.
    pub fn write(&self, lines: &mut FieldLines, authority: &Authority, x_forwarded: bool) {
        lines.put(&header::FORWARDED, |to| self.put_forwarded(to, authority));
        if x_forwarded {
            lines.put(&X_FORWARDED_FOR, |to| self.put_addresses(to));
            lines.put(&X_FORWARDED_PROTO, |to| to.words(self.scheme_text()));
            lines.put(&X_FORWARDED_HOST, |to| authority.put(to));
        }
    }

    fn scheme_text(&self) -> &'static str {
        if self.scheme == Scheme::HTTPS { "https" } else { "http" }
    }

    /// The value of `Forwarded`.
    fn put_forwarded(&self, to: &mut FieldText<'_>, authority: &Authority) {
        put_for(to, self.address);
        // A colon makes a value one that must be quoted.
        let (before, behind) = if authority.port.is_some() { (";host=\"", "\";proto=") } else { (";host=", ";proto=") };
        to.words(before);
        authority.put(to);
        to.words(behind);
        to.words(self.scheme_text());
        for proxy in &self.proxies {
            to.words(", ");
            put_for(to, *proxy);
        }
    }

    /// The value of `X-Forwarded-For`.
    fn put_addresses(&self, to: &mut FieldText<'_>) {
        to.address(self.address);
        for proxy in &self.proxies {
            to.words(", ");
            to.address(*proxy);
        }
    }
}

/// An address as `Forwarded` has it.
fn put_for(to: &mut FieldText<'_>, address: IpAddr) {
    let (begin, end) = if address.is_ipv4() { ("for=", "") } else { ("for=\"[", "]\"") };
    to.words(begin);
    to.address(address);
    to.words(end);
}

fn scheme(text: &str) -> Option<Scheme> {
    if text.eq_ignore_ascii_case("https") {
        Some(Scheme::HTTPS)
    } else if text.eq_ignore_ascii_case("http") {
        Some(Scheme::HTTP)
    } else {
        None
    }
}

/// An address of `X-Forwarded-For`: bare, or as a node of `Forwarded`.
fn x_address(text: &str) -> Option<IpAddr> {
    text.parse().ok().or_else(|| node(text))
}

/// `1.2.3.4`, `[::1]`, either with a port. Anything else names no address: `unknown`, `_hidden`.
fn node(text: &str) -> Option<IpAddr> {
    let (address, rest) = match text.strip_prefix('[') {
        Some(text) => {
            let (address, rest) = text.split_once(']')?;
            (IpAddr::V6(address.parse::<Ipv6Addr>().ok()?), rest)
        }
        None => {
            let (address, rest) = text.split_at(text.find(':').unwrap_or(text.len()));
            (IpAddr::V4(address.parse::<Ipv4Addr>().ok()?), rest)
        }
    };
    let is_port = |port: &str| port.starts_with('_') || port.parse::<u16>().is_ok();
    (rest.is_empty() || rest.strip_prefix(':').is_some_and(is_port)).then_some(address)
}

/// What one proxy says of the connection that it was asked over.
#[derive(Default)]
struct Hop {
    node: Option<IpAddr>,
    scheme: Option<Scheme>,
    has_node: bool,
    has_scheme: bool,
}

/// The elements of one line of `Forwarded`; `None` if any of it is malformed, for then who wrote which part of it is
/// not clear.
fn hops(line: &str) -> Option<Vec<Hop>> {
    let mut found = Vec::new();
    let mut rest = line;
    loop {
        let (hop, behind) = hop(rest)?;
        found.extend(hop);
        match behind.strip_prefix(',') {
            Some(next) => rest = next,
            None if behind.is_empty() => return Some(found),
            None => return None,
        }
    }
}

/// One element, and what is behind it; an empty one is none.
fn hop(mut rest: &str) -> Option<(Option<Hop>, &str)> {
    let mut hop = Hop::default();
    let mut empty = true;
    loop {
        rest = rest.trim_start_matches([' ', '\t']);
        let (name, behind) = rest.split_at(token_length(rest));
        if !name.is_empty() {
            let (value, behind) = value(behind.strip_prefix('=')?)?;
            let twice = match () {
                () if name.eq_ignore_ascii_case("for") => {
                    hop.node = node(value);
                    std::mem::replace(&mut hop.has_node, true)
                }
                () if name.eq_ignore_ascii_case("proto") => {
                    hop.scheme = scheme(value);
                    std::mem::replace(&mut hop.has_scheme, true)
                }
                () => false,
            };
            if twice {
                return None;
            }
            empty = false;
            rest = behind;
        }
        rest = rest.trim_start_matches([' ', '\t']);
        match rest.strip_prefix(';') {
            Some(next) => rest = next,
            None => return Some(((!empty).then_some(hop), rest)),
        }
    }
}

/// A value, and what is behind it. What is escaped in it is left so: no address and no scheme needs that.
fn value(text: &str) -> Option<(&str, &str)> {
    let Some(quoted) = text.strip_prefix('"') else {
        let length = token_length(text);
        return (length > 0).then(|| text.split_at(length));
    };
    let mut escaped = false;
    let end = quoted.bytes().position(|byte| {
        let ends = byte == b'"' && !escaped;
        escaped = byte == b'\\' && !escaped;
        ends
    })?;
    Some((&quoted[..end], &quoted[end + 1..]))
}

fn token_length(text: &str) -> usize {
    let is_token = |byte: u8| byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&byte);
    text.bytes().position(|byte| !is_token(byte)).unwrap_or(text.len())
}

#[cfg(test)]
mod tests;
