//! What each fuzz target feeds, and what must hold whatever it is fed. `router/tests/hostile.rs` runs the same functions
//! over the seeds and many mutations of them.

use std::net::{IpAddr, Ipv4Addr};

use cellway_core::hostname::Hostname;
use cellway_core::ids::Revision;
use cellway_core::network::Network;
use cellway_core::route::{PathPrefix, is_plain_path};
use cellway_proxy::proxy_protocol::{self, HEADER_MAX_BYTES, Progress};
use cellway_proxy::{FieldLines, Forwarding, TrustedField, forwarded, hygiene, pool, serve};
use cellway_router::CookiePolicy;
use cellway_router::feed::lines;
use cellway_router::snapshot::certificates::{self, SavedCertificates};
use cellway_router::snapshot::{self, Snapshot};
use http::Request;
use http::header::{HeaderMap, HeaderValue, SET_COOKIE};
use http::uri::Scheme;

/// All targets, by the names of their folders in `fuzz/seeds`.
pub const TARGETS: [(&str, fn(&[u8])); 10] = [
    ("answer", answer),
    ("authority", authority),
    ("certificates", certificates),
    ("cookies", cookies),
    ("forwarded", forwarded),
    ("hygiene", hygiene),
    ("path", path),
    ("proxy_protocol", proxy_protocol),
    ("request", request),
    ("snapshot", snapshot),
];

const TENANT_HOST: &str = "acme.cells.example";

/// A request line's target, then fields, one a line; `None` if no HTTP parser would let it through.
fn head(bytes: &[u8]) -> Option<http::request::Parts> {
    let mut lines = bytes.split(|byte| *byte == b'\n');
    let mut request = Request::builder().uri(lines.next()?);
    for line in lines {
        let colon = line.iter().position(|byte| *byte == b':')?;
        request = request.header(&line[..colon], line[colon + 1..].trim_ascii());
    }
    Some(request.body(()).ok()?.into_parts().0)
}

/// A cell's answer: it says the same however it arrives, and no more than was sent.
pub fn answer(bytes: &[u8]) {
    let whole = pool::read_answer(bytes, bytes.len());
    if let Ok(Some(answer)) = &whole {
        assert!(answer.body.len() + answer.left_bytes <= bytes.len());
        assert!(answer.head.status.as_u16() >= 100);
    }
    for part_bytes in [1, 7] {
        match (&whole, pool::read_answer(bytes, part_bytes)) {
            (Ok(Some(whole)), Ok(Some(parts))) => {
                assert_eq!(whole.head.headers, parts.head.headers);
                assert_eq!(whole.body, parts.body);
                assert_eq!((&whole.trailers, whole.left_bytes), (&parts.trailers, parts.left_bytes));
            }
            (Ok(None), Ok(None)) | (Err(_), Err(_)) => {}
            (whole, parts) => panic!("{whole:?} at once, and {parts:?} in parts of {part_bytes}"),
        }
    }
}

/// A client's request: it says the same however it arrives, and no more than was sent.
pub fn request(bytes: &[u8]) {
    let whole = serve::read_request(bytes, bytes.len());
    if let Ok(Some(request)) = &whole {
        assert!(request.body.len() + request.left_bytes < bytes.len());
    }
    for part_bytes in [1, 7] {
        match (&whole, serve::read_request(bytes, part_bytes)) {
            (Ok(Some(whole)), Ok(Some(parts))) => {
                assert_eq!(whole.head.headers(), parts.head.headers());
                assert_eq!((whole.head.method(), whole.head.uri()), (parts.head.method(), parts.head.uri()));
                assert_eq!(whole.body, parts.body);
                assert_eq!((&whole.trailers, whole.left_bytes), (&parts.trailers, parts.left_bytes));
            }
            (Ok(None), Ok(None)) | (Err(_), Err(_)) => {}
            (whole, parts) => panic!("{whole:?} at once, and {parts:?} in parts of {part_bytes}"),
        }
    }
}

/// A target and its `Host`: one normal host name comes out, or a refusal.
pub fn authority(bytes: &[u8]) {
    if let Ok(text) = std::str::from_utf8(bytes)
        && let Ok(host) = Hostname::from_text(text)
    {
        assert_eq!(Hostname::from_authority(host.as_str()).as_ref(), Ok(&host), "normal names stay as they are");
    }
    let Some(head) = head(bytes) else { return };
    let Ok(authority) = hygiene::authority(&head) else { return };
    let text = authority.host.as_str();
    let legal = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || b"-_.".contains(&byte);
    assert!(text.bytes().all(legal) && text.parse::<IpAddr>().is_err(), "{text}");
    let mut lines = FieldLines::default();
    lines.put(&http::header::HOST, |to| authority.put(to));
    let mut again = Request::new(()).into_parts().0;
    lines.insert_into(&mut again.headers);
    assert_eq!(hygiene::authority(&again), Ok(authority));
}

/// A file of certificates, or one record of it: what is read is written, and read back the same.
pub fn certificates(bytes: &[u8]) {
    let Ok(folder) = tempfile::tempdir() else { return };
    let (path, again) = (folder.path().join("read"), folder.path().join("written"));
    let first = b"cellway-certificates 1\n".as_slice();
    // Past the checksums, which mutations do not get right.
    let record = [format!("{:08x} ", crc32fast::hash(bytes)).as_bytes(), bytes].concat();
    let end = format!("{:016x} {:016x}", 1, first.len() + record.len());
    let end = format!("{end} {:08x}\n", crc32fast::hash(end.as_bytes()));
    let place = (first.len() as u64).to_le_bytes();
    for file in [bytes.to_vec(), [first, &record, &place, end.as_bytes()].concat()] {
        if std::fs::write(&path, file).is_err() {
            return;
        }
        let (saved, _) = SavedCertificates::open(&path);
        let all = saved.all();
        let _ = saved.find("acme.example");
        if !all.is_empty() && certificates::save(&again, all.clone()).is_ok() {
            let (read, refused) = SavedCertificates::open(&again);
            assert!(refused.is_empty() && read.all() == all);
            assert!(all.iter().all(|named| read.find(named.0.as_key()).as_ref() == Some(named)));
        }
    }
}

/// Lines of `Set-Cookie`: none that is left reaches above the tenant's host.
pub fn cookies(bytes: &[u8]) {
    let Ok(host) = Hostname::from_text(TENANT_HOST) else { return };
    let values = bytes.split(|byte| *byte == b'\n').filter_map(|line| HeaderValue::from_bytes(line).ok());
    let before: HeaderMap = values.map(|value| (SET_COOKIE, value)).collect();
    for policy in [CookiePolicy::Narrow, CookiePolicy::Deny] {
        let mut after = before.clone();
        let changed = policy.apply(&mut after, &host, |_| false);
        assert_eq!(changed == 0, before == after);
        assert!(policy == CookiePolicy::Deny || after.len() == before.len());
        for cookie in after.get_all(SET_COOKIE) {
            for attribute in cookie.as_bytes().split(|byte| *byte == b';').skip(1) {
                let text = String::from_utf8_lossy(attribute).to_ascii_lowercase();
                let Some((name, domain)) = text.split_once('=') else { continue };
                let domain = domain.trim().trim_matches('.');
                let reaches = !domain.is_empty() && TENANT_HOST.ends_with(&format!(".{domain}"));
                assert!(name.trim() != "domain" || !reaches, "{text}");
            }
        }
        assert_eq!(policy.apply(&mut after, &host, |_| false), 0, "once is enough");
    }
}

/// Fields of trusted proxies: only addresses come out, and what is written reads back.
pub fn forwarded(bytes: &[u8]) {
    let Some(head) = head(bytes) else { return };
    let trusted = Network::around(Ipv4Addr::new(10, 0, 0, 0).into(), 8);
    for field in [TrustedField::Forwarded, TrustedField::XForwardedFor] {
        let forwarding = Forwarding { trusted: trusted.into_iter().collect(), field, x_forwarded: true };
        let peer = IpAddr::V4(Ipv4Addr::new(10, 0, 0, 1));
        let client = forwarding.client(&head.headers, peer, Scheme::HTTP);
        assert!(client.proxies.iter().all(|proxy| forwarding.trusted.contain(*proxy)));
        assert!(client.proxies.len() <= forwarded::PROXIES_MAX);
        let Ok(authority) = hygiene::authority(&head) else { continue };
        let mut written = HeaderMap::new();
        let mut lines = FieldLines::default();
        client.write(&mut lines, &authority, true);
        lines.insert_into(&mut written);
        assert_eq!(written.len(), forwarded::WRITTEN.len());
        for value in written.values() {
            let legal = |byte: &u8| byte.is_ascii_alphanumeric() || b"-_.:;=,[]\" ".contains(byte);
            assert!(value.as_bytes().iter().all(legal), "{value:?}");
        }
        if client.proxies.len() < forwarded::PROXIES_MAX {
            let next = forwarding.client(&written, Ipv4Addr::new(10, 0, 0, 2).into(), Scheme::HTTP);
            assert_eq!((next.address, next.scheme), (client.address, client.scheme));
            assert_eq!(&next.proxies[..client.proxies.len()], &client.proxies[..]);
        }
    }
}

/// Any fields: nothing that only cellway may say is left, and stripping twice changes nothing.
pub fn hygiene(bytes: &[u8]) {
    let Some(mut head) = head(bytes) else { return };
    let _ = (hygiene::check_framing(&head, None), hygiene::asks_for_websocket(&head));
    hygiene::strip_request(&mut head.headers);
    for name in head.headers.keys() {
        let plain = name.as_str().replace('_', "-");
        let never = ["x-cellway-", "x-forwarded-", "forwarded", "connection", "transfer-encoding", "upgrade"];
        assert!(
            !never.iter().any(|never| plain.starts_with(never) && (plain == *never || never.ends_with('-'))),
            "{name}"
        );
    }
    let once = head.headers.clone();
    hygiene::strip_request(&mut head.headers);
    assert_eq!(head.headers, once);
    hygiene::strip_response(&mut head.headers);
    hygiene::strip_trailers(&mut head.headers);
    assert!(!head.headers.contains_key("content-length") && !head.headers.contains_key("host"));
}

/// A path that names a tenant: whoever decodes and resolves it comes to the same name.
pub fn path(bytes: &[u8]) {
    let (Ok(path), Ok(prefix)) = (std::str::from_utf8(bytes), PathPrefix::new("/t/")) else { return };
    let Some((label, rest)) = prefix.split(path) else { return };
    assert_eq!(path.strip_prefix("/t/"), Some(format!("{label}{rest}").as_str()));
    assert!(!label.contains('/') && (rest.is_empty() || rest.starts_with('/')));
    if !is_plain_path(path) {
        return;
    }
    // Decoded once, with the parameters of segments dropped as some servers drop them.
    let mut resolved: Vec<Vec<u8>> = Vec::new();
    for segment in decoded(path.as_bytes()).split(|byte| matches!(byte, b'/' | b'\\')).skip(1) {
        match segment.split(|byte| *byte == b';').next() {
            Some(b"..") => drop(resolved.pop()),
            Some(b".") => {}
            _ => resolved.push(segment.to_vec()),
        }
    }
    assert_eq!(resolved.get(1), Some(&decoded(label.as_bytes())), "{path}");
}

fn decoded(text: &[u8]) -> Vec<u8> {
    let mut out = Vec::new();
    let mut at = 0;
    while let Some(byte) = text.get(at) {
        let digits = text.get(at + 1..at + 3).and_then(|digits| std::str::from_utf8(digits).ok());
        match digits.map(|digits| u8::from_str_radix(digits, 16)) {
            Some(Ok(escaped)) if *byte == b'%' => {
                out.push(escaped);
                at += 3;
            }
            _ => {
                out.push(*byte);
                at += 1;
            }
        }
    }
    out
}

/// The first bytes of a connection: a verdict is final, and a header is no longer than it may be.
pub fn proxy_protocol(bytes: &[u8]) {
    match proxy_protocol::parse(bytes) {
        Progress::Done { consumed, .. } => {
            assert!(consumed <= bytes.len().min(HEADER_MAX_BYTES));
            assert_eq!(proxy_protocol::parse(&bytes[..consumed]), proxy_protocol::parse(bytes));
            assert_eq!(proxy_protocol::parse(&bytes[..consumed - 1]), Progress::NeedMore);
        }
        Progress::NeedMore => assert!(bytes.len() < HEADER_MAX_BYTES),
        bad => assert_eq!(proxy_protocol::parse(&[bytes, b"\r\n"].concat()), bad),
    }
}

/// A snapshot, or the lines of one: what is read is written, and read back the same.
pub fn snapshot(bytes: &[u8]) {
    if let Ok(read) = snapshot::decode(bytes) {
        assert_eq!(snapshot::decode(&snapshot::encode(&read)).ok(), Some(read));
    }
    // Past the checksum, which mutations do not get right.
    if let Ok(text) = std::str::from_utf8(bytes)
        && let Ok((cluster, contents)) = lines::parse_listing(text)
    {
        let read = Snapshot { revision: Revision(7), cluster, contents };
        assert_eq!(snapshot::decode(&snapshot::encode(&read)).ok(), Some(read));
    }
}
