//! Every form of the header, cut anywhere, followed by anything.

#![allow(clippy::unwrap_used)]

use super::*;
use cellway_core::network::Network;
use proptest::prelude::*;
use std::net::IpAddr;
use tokio::io::AsyncWriteExt;
use tokio::net::TcpListener;

const FIELD_NOOP: u8 = 0x04;

fn v1(from: SocketAddr, to: SocketAddr) -> Vec<u8> {
    let family = if from.is_ipv4() { 4 } else { 6 };
    format!("PROXY TCP{family} {} {} {} {}\r\n", from.ip(), to.ip(), from.port(), to.port()).into_bytes()
}

fn v2(command: u8, family: u8, payload: &[u8]) -> Vec<u8> {
    let mut header = V2_SIGNATURE.to_vec();
    header.extend([command, family]);
    header.extend(u16::try_from(payload.len()).unwrap().to_be_bytes());
    header.extend(payload);
    header
}

fn v2_of(from: SocketAddr, to: SocketAddr, fields: &[u8]) -> Vec<u8> {
    let mut payload = Vec::new();
    for end in [from, to] {
        match end.ip() {
            IpAddr::V4(address) => payload.extend(address.octets()),
            IpAddr::V6(address) => payload.extend(address.octets()),
        }
    }
    payload.extend(from.port().to_be_bytes());
    payload.extend(to.port().to_be_bytes());
    payload.extend(fields);
    v2(0x21, if from.is_ipv4() { 0x11 } else { 0x21 }, &payload)
}

fn field(kind: u8, value: &[u8]) -> Vec<u8> {
    let mut field = vec![kind];
    field.extend(u16::try_from(value.len()).unwrap().to_be_bytes());
    field.extend(value);
    field
}

/// The header with a last field that holds its checksum.
fn with_checksum(from: SocketAddr, to: SocketAddr) -> Vec<u8> {
    let mut header = v2_of(from, to, &field(TYPE_CRC32C, &[0; 4]));
    let checksum = crc32c(header.iter().copied()).to_be_bytes();
    let at = header.len() - 4;
    header[at..].copy_from_slice(&checksum);
    header
}

fn ends(text: [&str; 2]) -> (SocketAddr, SocketAddr) {
    (text[0].parse().unwrap(), text[1].parse().unwrap())
}

fn done(header: &[u8], ends: Option<(SocketAddr, SocketAddr)>) -> Progress {
    let (source, destination) = ends.unzip();
    Progress::Done { consumed: header.len(), source, destination }
}

#[test]
fn both_versions_name_the_client() {
    for ends in [ends(["192.0.2.1:56324", "198.51.100.7:443"]), ends(["[2001:db8::1]:1", "[::1]:65535"])] {
        let (from, to) = ends;
        let noops: Vec<u8> = [field(FIELD_NOOP, b"pad"), field(0xEA, &[1; 30])].concat();
        for header in [v1(from, to), v2_of(from, to, &[]), v2_of(from, to, &noops), with_checksum(from, to)] {
            assert_eq!(parse(&header), done(&header, Some(ends)));
            let followed = [&header[..], b"GET / HTTP/1.1\r\n\r\n"].concat();
            assert_eq!(parse(&followed), done(&header, Some(ends)), "what follows is not looked at");
        }
    }
}

#[test]
fn a_mapped_address_is_the_ipv4_address() {
    let header = b"PROXY TCP6 ::ffff:192.0.2.1 ::1 1 2\r\n";
    assert_eq!(parse(header), done(header, Some(ends(["192.0.2.1:1", "[::1]:2"]))));
    let from: IpAddr = "::ffff:192.0.2.1".parse().unwrap();
    let header = v2_of(SocketAddr::new(from, 1), "[::1]:2".parse().unwrap(), &[]);
    assert_eq!(parse(&header), done(&header, Some(ends(["192.0.2.1:1", "[::1]:2"]))));
}

#[test]
fn a_header_without_a_client_leaves_the_connections_own_address() {
    let mut longest = b"PROXY UNKNOWN ffff:f...f:ffff ffff:f...f:ffff 65535 65535".to_vec();
    longest.resize(V1_MAX_BYTES - 2, b'x');
    longest.extend(b"\r\n");
    let unix = [b'/'; 216];
    for header in [
        b"PROXY UNKNOWN\r\n".to_vec(),
        b"PROXY UNKNOWN any\x00thing\r\n".to_vec(),
        longest,
        v2(0x20, 0x00, &[]),
        v2(0x20, 0x11, b"ignored"),
        v2(0x20, 0xFF, &field(TYPE_CRC32C, b"nope")),
        v2(0x21, 0x00, b"ignored"),
        v2(0x21, 0x12, &[1; 12]),
        v2(0x21, 0x22, &[1; 36]),
        v2(0x21, 0x31, &unix),
        v2(0x21, 0x32, &unix),
    ] {
        assert_eq!(parse(&header), done(&header, None), "{header:?}");
    }
}

#[test]
fn version_1_is_read_to_the_letter() {
    use BadHeader::{Addresses, LineEnd, Protocol, Signature};
    let too_long = format!("PROXY UNKNOWN {}\r\n", "x".repeat(V1_MAX_BYTES));
    for (line, why) in [
        ("GET / HTTP/1.1\r\n", Signature),
        ("proxy TCP4 1.2.3.4 1.2.3.4 1 1\r\n", Signature),
        ("PROXY\r\n", Signature),
        ("PROXY  TCP4 1.2.3.4 1.2.3.4 1 1\r\n", Protocol),
        ("PROXY tcp4 1.2.3.4 1.2.3.4 1 1\r\n", Protocol),
        ("PROXY UDP4 1.2.3.4 1.2.3.4 1 1\r\n", Protocol),
        ("PROXY UNKNOWNX\r\n", Protocol),
        ("PROXY \r\n", Protocol),
        ("PROXY TCP4\r\n", Addresses),
        ("PROXY TCP4 \r\n", Addresses),
        ("PROXY TCP4 1.2.3.4 1.2.3.4 1\r\n", Addresses),
        ("PROXY TCP4 1.2.3.4 1.2.3.4 1 1 \r\n", Addresses),
        ("PROXY TCP4 1.2.3.4  1.2.3.4 1 1\r\n", Addresses),
        ("PROXY TCP4 1.2.3.4\t1.2.3.4 1 1\r\n", Addresses),
        ("PROXY TCP4 1.2.3.04 1.2.3.4 1 1\r\n", Addresses),
        ("PROXY TCP4 1.2.3.4 1.2.3.4 01 1\r\n", Addresses),
        ("PROXY TCP4 1.2.3.4 1.2.3.4 +1 1\r\n", Addresses),
        ("PROXY TCP4 1.2.3.4 1.2.3.4 1 65536\r\n", Addresses),
        ("PROXY TCP4 1.2.3.4 1.2.3.4 1 \r\n", Addresses),
        ("PROXY TCP4 ::1 ::1 1 1\r\n", Addresses),
        ("PROXY TCP6 1.2.3.4 1.2.3.4 1 1\r\n", Addresses),
        ("PROXY TCP6 [::1] ::1 1 1\r\n", Addresses),
        ("PROXY TCP6 fe80::1%eth0 ::1 1 1\r\n", Addresses),
        ("PROXY TCP4 1.2.3.4 1.2.3.4 1 1\n", LineEnd),
        ("PROXY TCP4 1.2.3.4 1.2.3.4 1 1\rX", LineEnd),
        ("PROXY TCP4 1.2.3.4\r1.2.3.4 1 1\r\n", LineEnd),
        (&too_long, LineEnd),
    ] {
        assert_eq!(parse(line.as_bytes()), Progress::Bad(why), "{line:?}");
    }
    assert_eq!(parse(&[b"PROXY UNKNOWN ", &[b'x'; 92][..]].concat()), Progress::Bad(LineEnd), "no room for CR LF");
    let zero = b"PROXY TCP4 0.0.0.0 255.255.255.255 0 65535\r\n";
    assert_eq!(parse(zero), done(zero, Some(ends(["0.0.0.0:0", "255.255.255.255:65535"]))));
}

#[test]
fn version_2_is_read_to_the_letter() {
    use BadHeader::{Checksum, Fields, Length, Unassigned};
    let (from, to) = ends(["192.0.2.1:1", "192.0.2.2:2"]);
    let mut wrong = with_checksum(from, to);
    wrong[16] ^= 1;
    let twice = [field(TYPE_CRC32C, &[0; 4]), field(TYPE_CRC32C, &[0; 4])].concat();
    for (header, why) in [
        (v2(0x11, 0x11, &[0; 12]), Unassigned),
        (v2(0x22, 0x11, &[0; 12]), Unassigned),
        (v2(0x21, 0x10, &[0; 12]), Unassigned),
        (v2(0x21, 0x01, &[0; 12]), Unassigned),
        (v2(0x21, 0x13, &[0; 12]), Unassigned),
        (v2(0x21, 0x41, &[0; 12]), Unassigned),
        (v2(0x21, 0x11, &[0; 11]), Length(11)),
        (v2(0x21, 0x21, &[0; 35]), Length(35)),
        (v2(0x21, 0x31, &[0; 215]), Length(215)),
        (v2(0x20, 0x00, &[0; V2_PAYLOAD_MAX_BYTES + 1]), Length(V2_PAYLOAD_MAX_BYTES + 1)),
        (v2_of(from, to, &[FIELD_NOOP]), Fields),
        (v2_of(from, to, &[FIELD_NOOP, 0]), Fields),
        (v2_of(from, to, &[FIELD_NOOP, 0, 2, 0]), Fields),
        (v2_of(from, to, &field(TYPE_CRC32C, &[0; 3])), Fields),
        (v2_of(from, to, &field(TYPE_CRC32C, &[0; 4])), Checksum),
        (v2_of(from, to, &twice), Checksum),
        (wrong, Checksum),
    ] {
        assert_eq!(parse(&header), Progress::Bad(why), "{header:?}");
    }
    let longest = v2(0x21, 0x00, &[0; V2_PAYLOAD_MAX_BYTES]);
    assert_eq!(longest.len(), HEADER_MAX_BYTES);
    assert_eq!(parse(&longest), done(&longest, None));
}

#[test]
fn a_wrong_length_is_refused_before_its_bytes_are_waited_for() {
    let header = v2(0x21, 0x11, &[0; V2_PAYLOAD_MAX_BYTES + 1]);
    assert_eq!(parse(&header[..16]), Progress::Bad(BadHeader::Length(V2_PAYLOAD_MAX_BYTES + 1)));
}

#[test]
fn the_checksum_is_castagnolis() {
    assert_eq!(crc32c(b"123456789".iter().copied()), 0xE306_9283);
}

fn pair() -> impl Strategy<Value = (SocketAddr, SocketAddr)> {
    let v4 = any::<(u32, u32)>().prop_map(|(a, b)| (IpAddr::V4(a.into()), IpAddr::V4(b.into())));
    let v6 = any::<(u128, u128)>().prop_map(|(a, b)| (IpAddr::V6(a.into()), IpAddr::V6(b.into())));
    (prop_oneof![v4, v6], any::<(u16, u16)>())
        .prop_map(|((from, to), (from_port, to_port))| (SocketAddr::new(from, from_port), SocketAddr::new(to, to_port)))
}

proptest! {
    #[test]
    fn what_is_written_reads_back_and_nothing_less_is_enough(
        (from, to) in pair(), fields in prop::collection::vec((4u8.., prop::collection::vec(any::<u8>(), 0..40)), 0..6),
        behind in prop::collection::vec(any::<u8>(), 0..40),
    ) {
        let fields: Vec<u8> = fields.iter().flat_map(|(kind, value)| field(*kind, value)).collect();
        let canonical = |end: SocketAddr| SocketAddr::new(end.ip().to_canonical(), end.port());
        for header in [v1(from, to), v2_of(from, to, &fields), with_checksum(from, to)] {
            for cut in 0..header.len() {
                prop_assert_eq!(parse(&header[..cut]), Progress::NeedMore);
            }
            let whole = done(&header, Some((canonical(from), canonical(to))));
            prop_assert_eq!(parse(&[&header[..], &behind].concat()), whole);
        }
    }

    #[test]
    fn arbitrary_bytes_never_panic_and_never_take_more_than_a_header(
        begin in prop_oneof![Just(&b""[..]), Just(V1_BEGIN), Just(&b"PROXY TCP4 "[..]), Just(V2_SIGNATURE)],
        rest in prop::collection::vec(any::<u8>(), 0..1_500),
    ) {
        let bytes = [begin, &rest].concat();
        match parse(&bytes) {
            Progress::Done { consumed, .. } => {
                prop_assert!(consumed <= bytes.len().min(HEADER_MAX_BYTES));
                prop_assert_eq!(parse(&bytes[..consumed]), parse(&bytes));
                prop_assert_eq!(parse(&bytes[..consumed - 1]), Progress::NeedMore);
            }
            Progress::NeedMore => prop_assert!(bytes.len() < HEADER_MAX_BYTES),
            // A refusal is final: more bytes never make a header of it.
            Progress::Bad(bad) => prop_assert_eq!(parse(&[&bytes[..], b"\r\n"].concat()), Progress::Bad(bad)),
        }
    }
}

async fn connected() -> (TcpStream, TcpStream, SocketAddr) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let client = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
    client.set_nodelay().unwrap();
    let (server, peer) = listener.accept().await.unwrap();
    (client, server.into(), peer)
}

fn trusting(network: &str) -> ProxyProtocol {
    ProxyProtocol { trusted: [network.parse::<Network>().unwrap()].into_iter().collect() }
}

#[tokio::test]
async fn not_one_byte_behind_the_header_is_taken() {
    let (from, to) = ends(["192.0.2.1:56324", "198.51.100.7:443"]);
    for header in [v1(from, to), v2_of(from, to, &field(FIELD_NOOP, &[0; 200])), with_checksum(from, to)] {
        for cut in [0, 1, 7, 13, 16, header.len() - 1, header.len()] {
            let (mut client, mut server, peer) = connected().await;
            let (first, second) = header.split_at(cut);
            client.write_all(first).await.unwrap();
            let protocol = trusting("127.0.0.0/8");
            let reading = protocol.client(&mut server, peer);
            let writing = async {
                tokio::task::yield_now().await;
                client.write_all(&[second, b"\x16\x03\x01rest"].concat()).await.unwrap();
                client.shutdown().await.unwrap();
            };
            let (source, ()) = tokio::join!(reading, writing);
            assert_eq!(source.unwrap(), from);
            let mut rest = Vec::new();
            server.read_to_end(&mut rest).await.unwrap();
            assert_eq!(rest, b"\x16\x03\x01rest", "cut at {cut}");
        }
    }
}

#[tokio::test]
async fn only_who_is_trusted_speaks_and_must_begin_with_a_header() {
    let (mut client, mut server, peer) = connected().await;
    client.write_all(b"PROXY TCP4 192.0.2.1 192.0.2.2 1 2\r\n").await.unwrap();
    let stranger = trusting("10.0.0.0/8").client(&mut server, peer).await;
    assert!(matches!(stranger, Err(NoClient::Untrusted(_))), "{stranger:?}");

    let (mut client, mut server, peer) = connected().await;
    client.write_all(b"GET / HTTP/1.1\r\n\r\n").await.unwrap();
    let plain = trusting("127.0.0.1").client(&mut server, peer).await;
    assert!(matches!(plain, Err(NoClient::Bad(BadHeader::Signature))), "{plain:?}");

    let (mut client, mut server, peer) = connected().await;
    client.write_all(b"PROXY UNKNOWN\r\n").await.unwrap();
    assert_eq!(trusting("127.0.0.1").client(&mut server, peer).await.unwrap(), peer);

    let (client, mut server, peer) = connected().await;
    drop(client);
    let gone = trusting("127.0.0.1").client(&mut server, peer).await;
    assert!(matches!(gone, Err(NoClient::Closed)), "{gone:?}");
}

#[tokio::test]
async fn a_header_that_does_not_come_in_time_is_given_up() {
    let (mut client, mut server, _) = connected().await;
    client.write_all(b"PROXY ").await.unwrap();
    let late = read_within(&mut server, Duration::from_millis(20)).await;
    assert!(matches!(late, Err(NoClient::Late)), "{late:?}");
}
