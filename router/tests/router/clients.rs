//! Who is believed about clients, how tenants are named, what cookies stay, and IPv6 on every side.

use std::net::SocketAddr;

use cellway_core::network::Network;
use cellway_core::route::PathPrefix;
use cellway_proxy::proxy_protocol::ProxyProtocol;
use cellway_router::tls::TlsConfig;
use cellway_router::{CookiePolicy, Forwarding, HttpsConfig, RouterConfig, TenantNaming, TrustedField};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;

use crate::support::{Client, Gate, TestRouter, ask, cell, config, get, origin, placed};

fn trusted(network: &str) -> cellway_core::network::Networks {
    [network.parse::<Network>().unwrap()].into_iter().collect()
}

fn two_tenants(gate: &Gate) -> String {
    cell("a", &[gate]) + &placed("acme", "a", 5) + &placed("beta", "a", 1)
}

/// An origin that gives every request this answer.
pub(crate) async fn answering(address: &str, answer: &'static str) -> SocketAddr {
    let listener = TcpListener::bind(address).await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        while let Ok((mut tcp, _)) = listener.accept().await {
            tokio::spawn(async move {
                let mut head = [0; 16 * 1024];
                while tcp.read(&mut head).await.is_ok_and(|length| length > 0) {
                    if tcp.write_all(answer.as_bytes()).await.is_err() {
                        return;
                    }
                }
            });
        }
    });
    address
}

#[tokio::test]
async fn only_trusted_proxies_say_who_the_client_is() {
    let text = "GET / HTTP/1.1\r\nhost: acme.cells.localhost\r\nx-forwarded-for: 9.9.9.9, 192.0.2.1\r\n\
                x-forwarded-proto: https\r\nx-forwarded-host: evil.example\r\nforwarded: for=8.8.8.8\r\n\r\n";
    for (networks, client, proto, chain) in
        [("127.0.0.0/8", "192.0.2.1", "https", ", 127.0.0.1"), ("10.0.0.0/8", "127.0.0.1", "http", "")]
    {
        let gate = Gate::open().await;
        let forwarding = Forwarding { trusted: trusted(networks), ..Forwarding::default() };
        let router = TestRouter::knowing(RouterConfig { forwarding, ..config() }, &two_tenants(&gate)).await;
        assert_eq!(ask(router.address, text).await.status, 200);
        let headers = &gate.admitted()[0].headers;
        assert_eq!(headers["x-forwarded-for"], format!("{client}{chain}"));
        assert_eq!(headers["x-forwarded-proto"], proto);
        assert_eq!(headers["x-forwarded-host"], "acme.cells.localhost");
        let chain = chain.replace(", ", ", for=");
        assert_eq!(headers["forwarded"], format!("for={client};host=acme.cells.localhost;proto={proto}{chain}"));
    }
}

#[tokio::test]
async fn cells_can_be_told_in_forwarded_alone() {
    let gate = Gate::open().await;
    let forwarding = Forwarding { trusted: trusted("127.0.0.1"), field: TrustedField::Forwarded, x_forwarded: false };
    let router = TestRouter::knowing(RouterConfig { forwarding, ..config() }, &two_tenants(&gate)).await;
    let text = "GET / HTTP/1.1\r\nhost: acme.cells.localhost\r\nforwarded: for=\"[2001:db8::1]\"\r\n\
                x-forwarded-for: 8.8.8.8\r\n\r\n";
    assert_eq!(ask(router.address, text).await.status, 200);
    let headers = &gate.admitted()[0].headers;
    assert!(!headers.contains_key("x-forwarded-for"));
    assert_eq!(headers["forwarded"], "for=\"[2001:db8::1]\";host=acme.cells.localhost;proto=http, for=127.0.0.1");
}

#[tokio::test]
async fn a_trusted_peer_names_a_tenant_by_header_or_path() {
    let naming = |networks: &str, strip| TenantNaming {
        trusted: trusted(networks),
        header: Some("x-tenant".parse().unwrap()),
        path_prefix: Some(PathPrefix::new("/t/").unwrap()),
        strip_path_prefix: strip,
    };
    let by_header = "GET /t/acme/h HTTP/1.1\r\nhost: any.example\r\nx-tenant: beta\r\n\r\n";
    let by_path = "GET /t/acme/p?q HTTP/1.1\r\nhost: any.example\r\n\r\n";
    let by_host = "GET /x HTTP/1.1\r\nhost: acme.cells.localhost\r\nx_tenant: beta\r\n\r\n";
    let unknown = "GET / HTTP/1.1\r\nhost: acme.cells.localhost\r\nx-tenant: nobody\r\n\r\n";
    let unclear = "GET /t/acme/../beta HTTP/1.1\r\nhost: any.example\r\n\r\n";
    for (networks, strip, statuses, seen) in [
        (
            "127.0.0.1",
            false,
            [200, 200, 200, 404, 400],
            &["beta GET /t/acme/h", "acme GET /t/acme/p?q", "acme GET /x"][..],
        ),
        ("127.0.0.1", true, [200, 200, 200, 404, 400], &["beta GET /t/acme/h", "acme GET /p?q", "acme GET /x"]),
        ("10.0.0.0/8", true, [404, 404, 200, 200, 404], &["acme GET /x", "acme GET /"]),
    ] {
        let gate = Gate::open().await;
        let naming = naming(networks, strip);
        let router = TestRouter::knowing(RouterConfig { naming, ..config() }, &two_tenants(&gate)).await;
        for (text, status) in [by_header, by_path, by_host, unknown, unclear].into_iter().zip(statuses) {
            assert_eq!(ask(router.address, text).await.status, status, "{networks} {text:?}");
        }
        let line = |(tenant, line): (String, String)| format!("{tenant} {line}");
        let admitted = gate.admitted();
        let of = |admitted: &crate::support::Admitted| {
            assert!(!admitted.headers.contains_key("x_tenant"));
            (admitted.headers["x-cellway-tenant"].to_str().unwrap().to_owned(), admitted.line.clone())
        };
        assert_eq!(admitted.iter().map(of).map(line).collect::<Vec<_>>(), seen);
    }
}

#[tokio::test]
async fn cookies_stay_with_the_tenant_that_set_them() {
    let answer = "HTTP/1.1 200 OK\r\nset-cookie: a=1; Domain=cells.localhost; Path=/\r\nset-cookie: b=2\r\n\
                  set-cookie: c=3; Domain=acme.example\r\ncontent-length: 0\r\n\r\n";
    let app = answering("127.0.0.1:0", answer).await;
    let table = origin("a", app)
        + &placed("acme", "a", 5)
        + "{\"host\":\"acme.example\",\"tenant\":\"acme\"}\n{\"host\":\"www.acme.example\",\"tenant\":\"acme\"}\n";
    let cookies = |head: &str| {
        let cookie = |line: &str| line.strip_prefix("set-cookie: ").map(str::to_owned);
        head.lines().filter_map(cookie).collect::<Vec<_>>()
    };
    let ask_as = async |policy: CookiePolicy, host: &str| {
        let router = TestRouter::knowing(RouterConfig { cookies: policy, ..config() }, &table).await;
        let answer = ask(router.address, &format!("GET / HTTP/1.1\r\nhost: {host}\r\n\r\n")).await;
        (cookies(&answer.head), router.metric("cookies_changed_total"))
    };
    let (all, kept, third) = ("a=1; Domain=cells.localhost; Path=/", "b=2", "c=3; Domain=acme.example");
    let tenant = "acme.cells.localhost";
    let own = |cookies: &[&str], changed: f64| (cookies.iter().map(|c| (*c).to_owned()).collect::<Vec<_>>(), changed);
    assert_eq!(ask_as(CookiePolicy::Pass, tenant).await, own(&[all, kept, third], 0.0));
    assert_eq!(ask_as(CookiePolicy::Deny, tenant).await, own(&[kept, third], 1.0));
    assert_eq!(ask_as(CookiePolicy::default(), tenant).await, own(&["a=1; Path=/", kept, third], 1.0));
    // The parent is a host of the same tenant.
    assert_eq!(ask_as(CookiePolicy::Deny, "www.acme.example").await, own(&[all, kept, third], 0.0));
}

#[tokio::test]
async fn the_operators_own_site_sets_cookies_for_all() {
    let answer = "HTTP/1.1 200 OK\r\nset-cookie: s=1; Domain=cells.localhost\r\ncontent-length: 0\r\n\r\n";
    let site = answering("127.0.0.1:0", answer).await;
    let router = TestRouter::knowing(RouterConfig { origin: Some(site), ..config() }, "").await;
    let answer = ask(router.address, &get("www", "/login")).await;
    assert_eq!(answer.header("set-cookie"), Some("s=1; Domain=cells.localhost"));
}

#[tokio::test]
async fn ipv6_works_on_every_side() {
    if TcpListener::bind("[::1]:0").await.is_err() {
        eprintln!("skipped: this machine has no ::1");
        return;
    }
    let gate = Gate::at("[::1]:0".parse().unwrap()).await;
    let site = answering("[::1]:0", "HTTP/1.1 200 OK\r\ncontent-length: 4\r\n\r\nsite").await;
    let config = RouterConfig { listen: "[::1]:0".parse().unwrap(), origin: Some(site), ..config() };
    let table = two_tenants(&gate) + &origin("o", site) + &placed("gamma", "o", 1);
    let router = TestRouter::knowing(config, &table).await;
    assert!(router.address.is_ipv6());
    assert_eq!(ask(router.address, &get("acme", "/")).await.text(), "ok");
    let headers = &gate.admitted()[0].headers;
    assert_eq!(headers["forwarded"], "for=\"[::1]\";host=acme.cells.localhost;proto=http");
    assert_eq!(headers["x-forwarded-for"], "::1");
    assert_eq!(ask(router.address, &get("gamma", "/")).await.text(), "site");
    assert_eq!(ask(router.address, &get("www", "/")).await.text(), "site");
    let literal = "GET / HTTP/1.1\r\nhost: [::1]:8080\r\n\r\n";
    assert_eq!(ask(router.address, literal).await.status, 400);
}

#[tokio::test]
async fn a_balancer_names_the_client_by_the_proxy_protocol() {
    for (networks, reaches) in [("127.0.0.0/8", true), ("10.0.0.0/8", false)] {
        let gate = Gate::open().await;
        let mut config = config();
        config.serve.proxy_protocol = Some(ProxyProtocol { trusted: trusted(networks) });
        let router = TestRouter::knowing(config, &two_tenants(&gate)).await;
        let mut client = Client::connect(router.address).await;
        let header = "PROXY TCP6 2001:db8::7 ::1 56324 443\r\n";
        // The balancer was told nothing of HTTP, so the header of one connection counts for all of its requests.
        let sent = client.tcp.write_all(format!("{header}{}", get("acme", "/one")).as_bytes()).await;
        if !reaches {
            assert!(sent.is_err() || client.is_closed().await);
            continue;
        }
        assert_eq!(client.answer().await.unwrap().status, 200);
        assert_eq!(client.ask(&get("acme", "/two")).await.status, 200);
        for admitted in gate.admitted() {
            assert_eq!(admitted.headers["x-forwarded-for"], "2001:db8::7");
        }
        assert_eq!(gate.admitted().len(), 2);
        // Without the header nobody is served.
        let mut plain = Client::connect(router.address).await;
        plain.send(&get("acme", "/")).await;
        assert!(plain.is_closed().await);
    }
}

#[tokio::test]
async fn a_client_that_reached_its_proxy_over_https_is_not_sent_to_https_again() {
    let folder = tempfile::tempdir().unwrap();
    let gate = Gate::open().await;
    let https = HttpsConfig {
        listen: "127.0.0.1:0".parse().unwrap(),
        public_port: Some(443),
        tls: TlsConfig { folder: Some(folder.path().to_owned()), ..TlsConfig::default() },
        redirect: true,
        hsts: None,
    };
    for (networks, statuses) in [("127.0.0.1", [200, 308]), ("10.0.0.0/8", [308, 308])] {
        let forwarding = Forwarding { trusted: trusted(networks), ..Forwarding::default() };
        let config = RouterConfig { https: Some(https.clone()), forwarding, ..config() };
        let router = TestRouter::knowing(config, &two_tenants(&gate)).await;
        for (proto, status) in ["https", "http"].into_iter().zip(statuses) {
            let text = format!("GET /p?q HTTP/1.1\r\nhost: acme.cells.localhost\r\nx-forwarded-proto: {proto}\r\n\r\n");
            let answer = ask(router.address, &text).await;
            assert_eq!(answer.status, status, "{networks} {proto}");
            let location = (status == 308).then_some("https://acme.cells.localhost/p?q");
            assert_eq!(answer.header("location"), location);
            assert!(answer.header("x-request-id").is_some(), "whoever answers, the request has a name");
        }
    }
}
