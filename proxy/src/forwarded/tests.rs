//! Who is believed what, and that nothing foreign is written.

#![allow(clippy::unwrap_used)]

use super::*;
use cellway_core::network::Network;
use http::Request;
use proptest::prelude::*;

fn forwarding(field: TrustedField) -> Forwarding {
    let trusted = ["10.0.0.0/8", "fd00::/8"].map(|text| text.parse::<Network>().unwrap()).into_iter().collect();
    Forwarding { trusted, field, x_forwarded: true }
}

fn headers(name: &HeaderName, lines: &[&str]) -> HeaderMap {
    let mut headers = HeaderMap::new();
    for line in lines {
        headers.append(name, HeaderValue::from_str(line).unwrap());
    }
    headers
}

fn ip(text: &str) -> IpAddr {
    text.parse().unwrap()
}

fn authority(host: &str) -> Authority {
    let request = Request::builder().uri("/").header("host", host).body(()).unwrap();
    crate::hygiene::authority(&request.into_parts().0).unwrap()
}

/// The client, and the proxies in the order of the way.
fn seen(field: TrustedField, lines: &[&str]) -> (String, Vec<String>) {
    let name = if field == TrustedField::Forwarded { header::FORWARDED } else { X_FORWARDED_FOR };
    let client = forwarding(field).client(&headers(&name, lines), ip("10.0.0.1"), Scheme::HTTP);
    (client.address.to_string(), client.proxies.iter().map(ToString::to_string).collect())
}

#[test]
fn a_strangers_word_counts_for_nothing() {
    for field in [TrustedField::XForwardedFor, TrustedField::Forwarded] {
        let mut said = headers(&X_FORWARDED_FOR, &["192.0.2.1"]);
        said.insert(X_FORWARDED_PROTO, HeaderValue::from_static("https"));
        said.insert(header::FORWARDED, HeaderValue::from_static("for=192.0.2.1;proto=https"));
        for trust in [forwarding(field), Forwarding { field, ..Forwarding::default() }] {
            let client = trust.client(&said, ip("192.0.2.9"), Scheme::HTTP);
            assert_eq!(client, Client { address: ip("192.0.2.9"), scheme: Scheme::HTTP, proxies: Vec::new() });
        }
    }
}

#[test]
fn the_client_is_the_last_address_that_is_not_trusted() {
    for (lines, client, proxies) in [
        (&["192.0.2.1"][..], "192.0.2.1", &["10.0.0.1"][..]),
        (&["9.9.9.9, 192.0.2.1"], "192.0.2.1", &["10.0.0.1"]),
        (&["9.9.9.9", "192.0.2.1 ,10.0.0.2"], "192.0.2.1", &["10.0.0.2", "10.0.0.1"]),
        (&["garbage, 192.0.2.1, ,"], "192.0.2.1", &["10.0.0.1"]),
        (&["192.0.2.1, garbage"], "10.0.0.1", &[]),
        (&["192.0.2.1, garbage, fd00::2"], "fd00::2", &["10.0.0.1"]),
        (&["unknown"], "10.0.0.1", &[]),
        (&["10.0.0.3, 10.0.0.2"], "10.0.0.3", &["10.0.0.2", "10.0.0.1"]),
        (&["192.0.2.1:4711"], "192.0.2.1", &["10.0.0.1"]),
        (&["2001:db8::1"], "2001:db8::1", &["10.0.0.1"]),
        (&["[2001:db8::1]:443"], "2001:db8::1", &["10.0.0.1"]),
        (&["::ffff:192.0.2.1, ::ffff:10.0.0.2"], "192.0.2.1", &["10.0.0.2", "10.0.0.1"]),
        (&[""], "10.0.0.1", &[]),
        (&[], "10.0.0.1", &[]),
    ] {
        let wanted = (client.to_owned(), proxies.iter().map(|proxy| (*proxy).to_owned()).collect());
        assert_eq!(seen(TrustedField::XForwardedFor, lines), wanted, "{lines:?}");
    }
}

#[test]
fn forwarded_is_read_as_the_rfc_writes_it() {
    for (lines, client, proxies) in [
        (&["for=192.0.2.1"][..], "192.0.2.1", &["10.0.0.1"][..]),
        (&["For=\"[2001:db8::1]:4711\""], "2001:db8::1", &["10.0.0.1"]),
        (&["for=192.0.2.1;proto=http;by=203.0.113.43;ext=\"a,b;\\\"c\""], "192.0.2.1", &["10.0.0.1"]),
        (&["for=9.9.9.9", "for=192.0.2.1; proto=https , for=10.0.0.2"], "192.0.2.1", &["10.0.0.2", "10.0.0.1"]),
        (&["for=\"192.0.2.1:_port\""], "192.0.2.1", &["10.0.0.1"]),
        (&["for=192.0.2.1, , "], "192.0.2.1", &["10.0.0.1"]),
        (&["for=9.9.9.9, for=_hidden, for=10.0.0.2"], "10.0.0.2", &["10.0.0.1"]),
        (&["for=9.9.9.9, for=unknown"], "10.0.0.1", &[]),
        (&["for=9.9.9.9, proto=https"], "10.0.0.1", &[]),
        // A client cannot reach into what the proxy writes behind it.
        (&["for=\"9.9.9.9", "for=192.0.2.1"], "192.0.2.1", &["10.0.0.1"]),
        (&["for=\", for=192.0.2.1"], "10.0.0.1", &[]),
        (&["for=\", for=\"[2001:db8::1]\""], "10.0.0.1", &[]),
        (&["for=9.9.9.9;for=192.0.2.1"], "10.0.0.1", &[]),
        (&["for=2001:db8::1"], "10.0.0.1", &[]),
        (&["for"], "10.0.0.1", &[]),
        (&["for="], "10.0.0.1", &[]),
        (&["for=192.0.2.1 x"], "10.0.0.1", &[]),
    ] {
        let wanted = (client.to_owned(), proxies.iter().map(|proxy| (*proxy).to_owned()).collect());
        assert_eq!(seen(TrustedField::Forwarded, lines), wanted, "{lines:?}");
    }
}

#[test]
fn the_scheme_is_what_the_proxy_was_spoken_to() {
    let scheme = |field, said: &HeaderMap| forwarding(field).client(said, ip("10.0.0.1"), Scheme::HTTP).scheme;
    for (line, wanted) in
        [("HTTPS", Scheme::HTTPS), ("http, https", Scheme::HTTPS), ("https, ws", Scheme::HTTP), ("", Scheme::HTTP)]
    {
        assert_eq!(scheme(TrustedField::XForwardedFor, &headers(&X_FORWARDED_PROTO, &[line])), wanted, "{line}");
    }
    let said =
        headers(&header::FORWARDED, &["for=9.9.9.9;proto=http, for=192.0.2.1;proto=https, for=10.0.0.2;proto=http"]);
    assert_eq!(scheme(TrustedField::Forwarded, &said), Scheme::HTTPS);
}

#[test]
fn the_field_that_proxies_do_not_write_is_not_looked_at() {
    let mut said = headers(&X_FORWARDED_FOR, &["192.0.2.1"]);
    said.insert(header::FORWARDED, HeaderValue::from_static("for=9.9.9.9"));
    let client = |field| forwarding(field).client(&said, ip("10.0.0.1"), Scheme::HTTP).address;
    assert_eq!(client(TrustedField::XForwardedFor), ip("192.0.2.1"));
    assert_eq!(client(TrustedField::Forwarded), ip("9.9.9.9"));
}

#[test]
fn a_loop_of_trusted_proxies_is_followed_so_far_and_no_further() {
    let line = vec!["10.0.0.7"; 1_000].join(", ");
    assert_eq!(seen(TrustedField::XForwardedFor, &[&line]).1.len(), PROXIES_MAX);
}

#[test]
fn cells_are_told_who_asked_for_what() {
    let written = |client: &Client, host: &str, x_forwarded| {
        let (mut lines, mut headers) = (FieldLines::default(), HeaderMap::new());
        client.write(&mut lines, &authority(host), x_forwarded);
        lines.insert_into(&mut headers);
        headers
    };
    let direct = |address: &str| Client { address: ip(address), scheme: Scheme::HTTP, proxies: Vec::new() };
    let headers = written(&direct("::1"), "a.example:81", false);
    assert_eq!(headers["forwarded"], "for=\"[::1]\";host=\"a.example:81\";proto=http");
    assert_eq!(headers.len(), 1);
    let proxies = vec![ip("fd00::2"), ip("10.0.0.1")];
    let client = Client { scheme: Scheme::HTTPS, proxies, ..direct("192.0.2.1") };
    let headers = written(&client, "a.example", true);
    assert_eq!(headers["forwarded"], "for=192.0.2.1;host=a.example;proto=https, for=\"[fd00::2]\", for=10.0.0.1");
    assert_eq!(headers["x-forwarded-for"], "192.0.2.1, fd00::2, 10.0.0.1");
    assert_eq!(headers["x-forwarded-proto"], "https");
    assert_eq!(headers["x-forwarded-host"], "a.example");
}

/// Lines made of the pieces that the grammar gives a meaning.
fn lines() -> impl Strategy<Value = Vec<String>> {
    let piece = prop_oneof![
        prop::sample::select(vec![
            "for=",
            "proto=",
            "host=",
            "\"",
            ",",
            ";",
            "\\",
            " ",
            "[",
            "]",
            ":",
            "10.0.0.2",
            "192.0.2.1",
            "fd00::2",
            "[2001:db8::1]",
            "https",
            "_x",
            "unknown",
            "=",
            "by=",
        ])
        .prop_map(str::to_owned),
        "[ -~]{0,3}",
    ];
    prop::collection::vec(prop::collection::vec(piece, 0..14).prop_map(|pieces| pieces.concat()), 0..4)
}

fn for_text(address: IpAddr) -> String {
    match address {
        IpAddr::V4(address) => format!("for={address}"),
        IpAddr::V6(address) => format!("for=\"[{address}]\""),
    }
}

proptest! {
    #[test]
    fn whatever_comes_in_only_addresses_go_out(lines in lines(), mapped in any::<bool>(), rfc in any::<bool>()) {
        let field = if rfc { TrustedField::Forwarded } else { TrustedField::XForwardedFor };
        let name = if rfc { header::FORWARDED } else { X_FORWARDED_FOR };
        let lines: Vec<&str> = lines.iter().map(String::as_str).collect();
        let mut said = headers(&name, &lines);
        said.insert(X_FORWARDED_PROTO, HeaderValue::from_str(lines.first().unwrap_or(&"")).unwrap());
        let peer = ip(if mapped { "::ffff:10.0.0.1" } else { "10.0.0.1" });
        let client = forwarding(field).client(&said, peer, Scheme::HTTP);
        prop_assert!(client.proxies.len() <= PROXIES_MAX);
        prop_assert!(client.proxies.iter().all(|proxy| forwarding(field).trusted.contain(*proxy)));

        let mut written = HeaderMap::new();
        let mut lines = FieldLines::default();
        client.write(&mut lines, &authority("a.example"), true);
        lines.insert_into(&mut written);
        // Every byte is accounted for: the elements are those of the addresses, with one host and one scheme.
        let text = written["forwarded"].to_str().unwrap();
        let mut elements = text.split(", ");
        let first = elements.next().unwrap().strip_prefix(&for_text(client.address)).unwrap().to_owned();
        prop_assert_eq!(first, format!(";host=a.example;proto={}", client.scheme));
        prop_assert!(elements.eq(client.proxies.iter().map(|proxy| for_text(*proxy))));
        let x: Vec<IpAddr> = written["x-forwarded-for"].to_str().unwrap().split(", ").map(ip).collect();
        prop_assert_eq!((x[0], &x[1..]), (client.address, &client.proxies[..]));

        // A router behind this one that trusts it comes to the same client.
        let next = forwarding(field).client(&written, ip("10.0.0.9"), Scheme::HTTP);
        if client.proxies.len() < PROXIES_MAX {
            prop_assert_eq!((next.address, next.scheme), (client.address, client.scheme));
            prop_assert_eq!(&next.proxies[..client.proxies.len()], &client.proxies[..]);
        }
    }
}
