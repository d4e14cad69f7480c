//! The line format, and texts that are not in it.

#![allow(clippy::unwrap_used)]

use super::*;
use cellway_core::certificate::{CertificateName, SealedCertificate, SecretId};
use cellway_core::limit::{Mode, Rate, TenantLimits};
use proptest::prelude::*;

#[test]
fn the_documented_example_is_read() {
    let text = "{\"cell\":\"cell-a\",\"endpoints\":[\"127.0.0.1:9001\"],\"kind\":\"agent\"}\n\n\
                {\"tenant\":\"acme\",\"cell\":\"cell-a\",\"epoch\":1}\n{\"host\":\"Shop.Example.\",\"tenant\":\"acme\"}\n";
    let changes = parse(text).unwrap();
    assert_eq!(changes.len(), 3);
    assert!(matches!(&changes[2], Change::Host { host, .. } if host.as_str() == "shop.example"));
}

#[test]
fn only_the_first_line_names_the_cluster() {
    let acme = "{\"tenant\":\"acme\",\"cell\":\"a\",\"epoch\":1}";
    let (cluster, table) = parse_listing(&format!("{{\"cluster\":\"eu-1\"}}\n{acme}\n")).unwrap();
    assert_eq!((cluster.unwrap().as_str(), table.len()), ("eu-1", 1));
    assert_eq!(parse_listing(acme).unwrap(), (None, parse(acme).unwrap()));
    assert_eq!(parse_listing("").unwrap(), (None, Vec::new()));
    let cases = [
        (format!("{acme}\n{{\"cluster\":\"eu-1\"}}"), 2),
        ("{\"cluster\":\"EU 1\"}".to_owned(), 1),
        (format!("{{\"cluster\":\"eu-1\"}}\n\n{acme}\n{acme}"), 4),
    ];
    for (bad, line) in cases {
        assert_eq!(parse_listing(&bad).unwrap_err().line, line, "{bad}");
    }
}

#[test]
fn an_error_names_its_line() {
    let good = "{\"tenant\":\"acme\",\"cell\":\"a\",\"epoch\":1}";
    for bad in [
        "{",
        "[]",
        "{}",
        "{\"tenant\":\"acme\"}",
        "{\"tenant\":\"acme\",\"cell\":\"a\",\"epoch\":-1}",
        "{\"tenant\":\"beta\",\"cell\":\"a\",\"epoch\":1,\"gone\":true}",
        "{\"tenant\":\"beta\",\"cell\":\"a\",\"epoch\":1,\"kind\":\"agent\"}",
        "{\"tenant\":\"Beta\",\"cell\":\"a\",\"epoch\":1}",
        "{\"tenant\":\"beta\",\"cell\":\"a\",\"epoch\":1,\"more\":1}",
        "{\"cell\":\"a\",\"endpoints\":[\"localhost:1\"],\"kind\":\"agent\"}",
        "{\"cell\":\"a\",\"endpoints\":[]}",
        "{\"host\":\"127.0.0.1\",\"tenant\":\"acme\"}",
        "{\"limits\":{}}",
        "{\"tenant\":\"beta\",\"epoch\":1,\"limits\":{}}",
        "{\"tenant\":\"beta\",\"limits\":{\"concurency\":1}}",
        "{\"tenant\":\"beta\",\"limits\":{\"concurrency\":0}}",
        "{\"certificate\":{\"name\":\"a.example\"}}",
        "{\"certificate\":{\"name\":\"a.example\",\"chain\":[],\"sealed_with\":\"0123456789abcdef\",\"sealed_key\":\"AA==\"}}",
        "{\"certificate\":{\"name\":\"a.example\",\"chain\":[\"AA==\"],\"sealed_with\":\"0123\",\"sealed_key\":\"AA==\"}}",
        good,
    ] {
        let error = parse(&format!("{good}\n\n{bad}\n")).unwrap_err();
        assert_eq!(error.line, 3, "{bad}: {error}");
    }
}

fn change() -> impl Strategy<Value = Change> {
    let label = "[a-z][a-z0-9]{0,8}";
    let placed = (label, label, any::<u64>(), any::<bool>(), proptest::option::of(label)).prop_map(
        |(tenant, cell, epoch, held, uid)| Change::Tenant {
            tenant: tenant.parse().unwrap(),
            route: TenantRoute::Placed {
                cell: cell.parse().unwrap(),
                uid: uid.map(|uid| uid.parse().unwrap()),
                epoch: Epoch(epoch),
                held,
            },
            revision: Revision(epoch / 2),
        },
    );
    let gone = (label, any::<u64>()).prop_map(|(tenant, epoch)| Change::Tenant {
        tenant: tenant.parse().unwrap(),
        route: TenantRoute::Gone { epoch: Epoch(epoch) },
        revision: Revision(0),
    });
    let host = ("[a-z]{1,8}\\.[a-z]{1,8}", label).prop_map(|(host, tenant)| Change::Host {
        host: Hostname::from_text(&host).unwrap(),
        tenant: tenant.parse().unwrap(),
    });
    let cell =
        (label, proptest::collection::vec(any::<u16>(), 0..3), any::<bool>()).prop_map(|(name, ports, agent)| {
            Change::Cell(CellRoute {
                name: name.parse().unwrap(),
                uid: None,
                endpoints: ports.into_iter().map(|port| SocketAddr::from(([127, 0, 0, 1], port))).collect(),
                condition: CellCondition::Draining,
                kind: if agent { CellKind::Agent } else { CellKind::Origin },
            })
        });
    let limits =
        (label, proptest::option::of((1u32..9, 1u32..9)), proptest::option::of(1u32..9), "[a-z<]{1,9}", any::<bool>())
            .prop_map(|(tenant, requests, concurrency, text, paused)| Change::Limits {
                tenant: tenant.parse().unwrap(),
                limits: TenantLimits {
                    requests: requests.map(|(per_second, burst)| Rate { per_second, burst }),
                    concurrency,
                    bandwidth_bytes_per_second: concurrency.map(|count| 100_000 * u64::from(count)),
                    mode: if paused { Mode::Paused } else { Mode::Open },
                    message: Some(text.clone()),
                    retry_after_s: concurrency,
                    error_text: Some(text),
                },
            });
    let bytes = || proptest::collection::vec(any::<u8>(), 1..40).prop_map(Box::<[u8]>::from);
    let chain = proptest::collection::vec(bytes(), 1..3).prop_map(Box::from);
    let certificate = (label, any::<bool>(), chain, any::<[u8; 8]>(), bytes()).prop_map(
        |(label, wildcard, chain, id, sealed_key)| Change::Certificate {
            name: CertificateName::from_text(&format!("{}{label}.example", if wildcard { "*." } else { "" })).unwrap(),
            sealed: SealedCertificate { chain, sealed_with: SecretId(id), sealed_key }.into(),
        },
    );
    prop_oneof![placed, gone, host, cell, limits, certificate]
}

proptest! {
    #[test]
    fn what_is_written_is_read_back(change in change()) {
        let mut text = Vec::new();
        write(&change, &mut text);
        prop_assert_eq!(is_of_tenant(&text), matches!(change, Change::Tenant { .. }));
        prop_assert_eq!(parse(std::str::from_utf8(&text).unwrap()), Ok(vec![change]));
    }

    #[test]
    fn no_text_makes_the_parser_panic(text in "\\PC{0,200}", at in 0usize..60, byte in any::<char>()) {
        let _ = parse(&text);
        let mut good = "{\"tenant\":\"acme\",\"cell\":\"a\",\"epoch\":1,\"held\":true}".to_owned();
        good.insert(at.min(good.len()), byte);
        let _ = parse(&good);
    }
}
